"""Packing against a discriminator that was written for packs, and what it asks of D."""

from __future__ import annotations

import copy
from typing import Any

import play
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils import parametrize

import stabilgan
from stabilgan import MinibatchStddev, Packing, SpectralNorm, surgery
from stabilgan.tricks.packing import Packed, pack, unpack, widened


def dense() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def images() -> nn.Sequential:
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="reflect")
    return nn.Sequential(conv, nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(4 * 4, 1))


def game_of(d: nn.Module, *tricks: stabilgan.Trick, lr: float = 0.1) -> stabilgan.Game:
    g, _ = play.players()
    return stabilgan.attach(g, d, play.sgd(g), torch.optim.SGD(d.parameters(), lr=lr), list(tricks))


@pytest.mark.parametrize("n", range(1, 14))
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_packs_share_no_sample_and_hold_each_once_or_fill_up(n: int, m: int) -> None:
    packs = pack(torch.arange(n).unsqueeze(1), m)
    assert packs.shape == (-(-n // m), m)
    times = packs.flatten().bincount(minlength=n)
    assert times.min() >= 1
    assert times.sum() - n < m  # fillers, in the last pack's stead
    if n >= m:
        assert all(len(row.unique()) == m for row in packs)
        assert packs.flatten()[:n].tolist() == list(range(n))
    if n % m == 0:
        assert times.max() == 1


@pytest.mark.parametrize("n", [1, 4, 7])
def test_each_sample_gets_what_its_own_pack_got(n: int) -> None:
    packs = pack(torch.arange(n).unsqueeze(1), 3)
    got = unpack(packs, 3, n)
    assert all(i in row for i, row in enumerate(got.tolist()))


@pytest.mark.parametrize(("make", "shape"), [(dense, (3,)), (images, (2, 4, 4))])
def test_a_step_is_that_of_a_discriminator_written_for_packs(make: Any, shape: tuple[int, ...]) -> None:
    """The mean over packs of PacGAN's loss, by the weights that the grown layer has."""
    torch.manual_seed(0)
    d = make().double()
    game = game_of(d, Packing(m=3))
    wide, by_hand = d[0].layer, copy.deepcopy(d)
    by_hand[0] = by_hand[0].layer
    real, fake = torch.randn(2, 6, *shape).double()

    def packs(x: Tensor) -> Tensor:
        return torch.stack([torch.cat([x[0], x[1], x[2]]), torch.cat([x[3], x[4], x[5]])])

    loss = softplus(-by_hand(packs(real))).mean() + softplus(by_hand(packs(fake))).mean()
    loss.backward()
    (softplus(-d(game.real(real))).mean() + softplus(d(game.fake(fake))).mean()).backward()
    for p, q in zip(d.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-12)
    before = wide.weight.detach().clone()
    game.opt_d.step()
    torch.testing.assert_close(wide.weight, before - 0.1 * by_hand[0].weight.grad, rtol=1e-10, atol=1e-12)


def test_gs_gradient_is_that_of_the_loss_over_packs() -> None:
    torch.manual_seed(0)
    d = dense().double()
    game = game_of(d, Packing(m=2))
    x = torch.randn(4, 3).double().requires_grad_()
    (ours,) = torch.autograd.grad(softplus(-game.critic(x)).mean(), x)
    by_hand = nn.Sequential(d[0].layer, *d[1:])
    loss = softplus(-by_hand(torch.cat([x[::2], x[1::2]], 1))).mean()
    torch.testing.assert_close(ours, torch.autograd.grad(loss, x)[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", [dense, images])
def test_the_grown_layer_gives_at_the_scale_it_had(make: Any) -> None:
    torch.manual_seed(0)
    d = make()
    old = copy.deepcopy(d[0])
    game_of(d, Packing(m=4))
    new = d[0].layer
    assert new.weight.shape[1] == 4 * old.weight.shape[1]
    assert new.bias is d[0].layer.bias
    # Each quarter is the old weights over √4: as they were, then in other orders.
    quarters = new.weight.chunk(4, 1)
    torch.testing.assert_close(quarters[0], old.weight / 2)
    for quarter in quarters[1:]:
        assert not torch.equal(quarter, quarters[0])
        torch.testing.assert_close(quarter.flatten().sort().values, quarters[0].flatten().sort().values)
    fresh = type(new)(new.in_channels, 4, 3) if make is images else nn.Linear(12, 8)
    assert new.weight.std().item() == pytest.approx(fresh.weight.std().item(), rel=0.25)


def test_the_optimizer_moves_the_grown_weights_in_the_place_of_the_old_ones() -> None:
    d = dense()
    optimizer = torch.optim.Adam([{"params": d[0].parameters(), "lr": 1e-3}, {"params": d[2].parameters(), "lr": 1e-2}])
    d(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    old = d[0].weight
    g, _ = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), optimizer, [Packing()])
    held = optimizer.param_groups[0]["params"]
    assert held[0] is d[0].layer.weight
    assert len(held) == 2
    assert old not in optimizer.state
    optimizer.zero_grad()
    before = d[0].layer.weight.detach().clone()
    d(game.real(torch.randn(4, 3))).sum().backward()
    optimizer.step()
    assert (d[0].layer.weight - before).abs().max().item() == pytest.approx(1e-3, rel=1e-3)  # Adam's first step


def test_the_output_keeps_its_shape_whatever_the_batch() -> None:
    d = images()
    game = game_of(d, Packing(m=3))
    for n in (1, 2, 3, 7, 9):
        assert d(game.real(torch.randn(n, 2, 4, 4))).shape == (n, 1)


def test_torchs_spectral_norm_is_put_on_the_grown_layer() -> None:
    torch.manual_seed(0)
    d = dense()
    nn.utils.parametrizations.spectral_norm(d[0], n_power_iterations=15)
    g, _ = play.players()
    state = torch.get_rng_state()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [Packing(m=2)])
    assert torch.equal(torch.get_rng_state(), state)
    d(game.real(torch.randn(4, 3)))
    assert torch.linalg.matrix_norm(d[0].layer.weight, 2).item() == pytest.approx(1, abs=1e-3)
    assert any(p is d[0].layer.parametrizations.weight.original for p in game.opt_d.param_groups[0]["params"])


def test_spectral_norm_as_a_trick_sees_the_grown_layer_in_any_order() -> None:
    for tricks in ([Packing(), SpectralNorm()], [SpectralNorm(), Packing()]):
        d = dense()
        game_of(d, *tricks)
        assert parametrize.is_parametrized(d[0].layer)
        assert torch.linalg.matrix_norm(d[0].layer.weight, 2).item() == pytest.approx(1, abs=1e-3)


def test_features_beside_the_first_layer_are_those_of_packs() -> None:
    d = nn.Sequential(nn.Linear(3, 1))
    game_of(d, Packing(), MinibatchStddev())
    assert d(torch.randn(5, 3)).shape == (5, 1)
    assert isinstance(d[0], Packed)


def labelled(by: str) -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.embed = nn.Linear(3, 4), nn.Embedding(2, 4)

        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return (self.net(x) * self.embed(y)).sum(1)

    d, x, y = Conditional(), torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    game = game_of(d, Packing())
    if by == "real":
        game.real(x, y)
    elif by == "fake":
        game.fake(x, y)
    elif by == "critic":
        game.critic(x, y=y)
    else:
        d(game.real(x), y).sum().backward()
        game.opt_d.step()


@pytest.mark.parametrize("by", ["real", "fake", "critic", "d"])
def test_labels_are_refused_however_they_come(by: str) -> None:
    with pytest.raises(ValueError, match="a pack of 2 has the labels of 2 samples"):
        labelled(by)


def annotated(x: Tensor, classes: Tensor) -> Tensor: ...
def by_keyword(x: torch.Tensor, *, of: torch.Tensor) -> Tensor: ...
def named(x, labels): ...  # type: ignore[no-untyped-def]
def with_default(x: Tensor, labels: Tensor | None = None) -> Tensor: ...
def of_a_number(x: Tensor, alpha: float, step: int) -> Tensor: ...
def of_whatever(x, alpha): ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("forward", "needed"),
    [
        (annotated, "classes"),
        (by_keyword, "of"),
        (named, "labels"),
        (with_default, None),
        (of_a_number, None),
        (of_whatever, None),
    ],
)
def test_a_d_that_can_not_do_without_labels_is_refused_at_attach(forward: Any, needed: str | None) -> None:
    d = nn.Sequential(nn.Linear(3, 1))
    d.forward = forward
    if needed is None:
        game_of(d, Packing())
        return
    with pytest.raises(ValueError, match=f"D's forward asks for {needed} beside the samples, but a pack of 2 has"):
        game_of(d, Packing())
    assert isinstance(d[0], nn.Linear)  # nothing has grown
    game_of(d, Packing(m=1))


@pytest.mark.parametrize("name", sorted(Packing.conflicts))
def test_what_rests_on_slopes_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=r"can't be played together: each sample's slope is counted once for every"):
        game_of(dense(), Packing(), play.trick(name))


def test_that_reason_is_true() -> None:
    """The slope of all scores with respect to one sample is m times that of its pack's."""
    torch.manual_seed(0)
    d = dense()
    game_of(d, Packing(m=3))
    x = torch.randn(3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(d(x).sum(), x)
    (of_pack,) = torch.autograd.grad(nn.Sequential(d[0].layer, *d[1:])(x.reshape(1, 9)).sum(), x)
    torch.testing.assert_close(slope, 3 * of_pack)


@pytest.mark.parametrize(
    ("d", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten()), "'0' has 2 groups; expected a convolution of one"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 1))), "computed from other parameters"),
        (nn.Linear(3, 1), "D is a single layer; wrap it in nn.Sequential"),
        (nn.Sequential(nn.Flatten()), "no linear or convolutional layer"),
    ],
)
def test_what_can_not_grow_is_refused(d: nn.Module, message: str) -> None:
    g, _ = play.players()
    opt_d = torch.optim.SGD([*d.parameters(), nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ValueError, match=message):
        stabilgan.attach(g, d, play.sgd(g), opt_d, [Packing()])


def test_a_refusal_by_the_optimizer_leaves_d_as_it_was() -> None:
    g, _ = play.players()
    d = dense().requires_grad_(False)
    with pytest.raises(ValueError, match="does not hold the layer whose weights were replaced"):
        stabilgan.attach(g, d, play.sgd(g), torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), [Packing()])
    assert isinstance(d[0], nn.Linear)
    assert d[0].weight.shape == (8, 3)


def test_an_exchange_keeps_the_place_of_the_parameter() -> None:
    old, other, new = (nn.Parameter(torch.ones(1)) for _ in range(3))
    optimizer = torch.optim.SGD([old, other], lr=0.1)
    surgery.exchange(optimizer, old, new)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(new), id(other)]


def test_the_random_order_is_the_generators() -> None:
    weight = torch.randn(4, 5)
    first, second = (widened(weight, 2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_one_sample_to_a_pack_leaves_d_as_it_was_and_none_is_refused() -> None:
    d = dense()
    game_of(d, Packing(m=1))
    assert isinstance(d[0], nn.Linear)
    with pytest.raises(ValueError, match="m is 0; expected the number of samples to a pack"):
        Packing(m=0)
