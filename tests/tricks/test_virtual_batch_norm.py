"""Virtual batch normalisation against BatchNorm on the reference batch and the sample, torchgan's layer, and a step
written by hand."""

from __future__ import annotations

import copy
import io
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, softplus
from torchgan.layers import VirtualBatchNorm as TorchganVirtualBatchNorm

import stabilgan
from stabilgan import R1, SpectralNorm, VirtualBatchNorm
from stabilgan.tricks.virtual_batch_norm import VirtualNorm, virtual_statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normed(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5, **options)
    d = nn.Sequential(nn.Linear(3, 5), norm, nn.LeakyReLU(0.2), nn.Linear(5, 1)).double()
    if norm.weight is not None:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return d


def game_of(d: nn.Module, *tricks: stabilgan.Trick) -> stabilgan.Game:
    g = nn.Linear(2, 3).double()
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
    return stabilgan.attach(g, d, opt_g, opt_d, [VirtualBatchNorm(), *tricks])


def meet(game: stabilgan.Game, reference: Tensor) -> None:
    """D sees its first real batch, and something else, as in any loop."""
    game.d(game.real(reference))
    game.d(game.fake(reference))


@pytest.mark.parametrize("shape", [(), (6,), (3, 4)])
def test_statistics_are_those_of_the_reference_and_the_sample_weighed_as_one_more(shape: tuple[int, ...]) -> None:
    """The authors' form: the weighed mean of means, and of mean squares less its square."""
    reference, x = 2 + draw(7, 5, *shape), draw(4, 5, *shape, seed=1)
    over = (0, *range(2, x.dim()))
    var, mean = torch.var_mean(reference, over, correction=0, keepdim=True)
    found = virtual_statistics(x, mean, var, 7)
    for n in range(4):
        own = x[n : n + 1]
        first = own.mean(over, keepdim=True) / 8 + 7 / 8 * reference.mean(over, keepdim=True)
        second = own.square().mean(over, keepdim=True) / 8 + 7 / 8 * reference.square().mean(over, keepdim=True)
        torch.testing.assert_close(found[0][n : n + 1], first)
        torch.testing.assert_close(found[1][n : n + 1], second - first.square())


def test_each_sample_is_normalised_as_by_batchnorm_on_the_reference_batch_and_itself() -> None:
    """One layer: torch's BatchNorm on N + 1 samples, of which the last is looked at."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    d = nn.Sequential(copy.deepcopy(norm), nn.Flatten(), nn.Linear(3 * 4, 1).double())
    game = game_of(d)
    reference, x = 3 * draw(6, 3, 2, 2), draw(4, 3, 2, 2, seed=1)
    meet(game, reference)
    kept: list[Tensor] = []
    hook = d[0].register_forward_hook(lambda m, args, out: kept.append(out))
    d(game.fake(x))
    hook.remove()
    ours = kept[-1]
    for n in range(4):
        torch.testing.assert_close(ours[n], norm(torch.cat([reference, x[n : n + 1]]))[-1])


def test_with_a_large_reference_batch_it_is_torchgans_layer() -> None:
    """Theirs takes the reference batch alone, without the sample; the difference falls as one over its size."""
    norm = TorchganVirtualBatchNorm(5).double()
    reference, x = 2 + 3 * draw(20_000, 5), draw(4, 5, seed=1)
    d = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1)).double()
    g = nn.Linear(2, 5).double()
    opt_g, opt_d = (torch.optim.SGD(net.parameters()) for net in (g, d))
    game = stabilgan.attach(g, d, opt_g, opt_d, [VirtualBatchNorm()])
    meet(game, reference)
    norm(reference)
    torch.testing.assert_close(d(game.fake(x)), d[1](norm(x)), rtol=2e-3, atol=2e-3)


def by_hand(d: nn.Sequential, reference: Tensor, x: Tensor) -> Tensor:
    """Two layers and the norm between them, each sample with the reference batch behind it."""
    first, norm, last = d[0], d[1], d[3]
    h, r = linear(x, first.weight, first.bias), linear(reference, first.weight, first.bias)
    scores = []
    for row in h:
        joint = torch.cat([r, row.unsqueeze(0)])
        scaled = (row - joint.mean(0)) / (joint.var(0, correction=0) + norm.eps).sqrt()
        scores.append(linear(leaky_relu(scaled * norm.weight + norm.bias, 0.2), last.weight, last.bias))
    return torch.stack(scores)


def test_the_step_is_that_of_the_loss_with_the_reference_batch_in_the_graph() -> None:
    d = normed()
    game = game_of(d)
    reference, real, fake = draw(6, 3), draw(5, 3, seed=1), draw(5, 3, seed=2)
    meet(game, reference)
    twin = copy.deepcopy(d)
    (softplus(-d(game.real(real))).mean() + softplus(d(game.fake(fake))).mean()).backward()
    loss = softplus(-by_hand(twin, reference, real)).mean() + softplus(by_hand(twin, reference, fake)).mean()
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    for p, gradient in zip(d.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-10, atol=1e-12)


def test_a_penalty_on_slopes_is_that_of_the_normalised_scores() -> None:
    d = normed()
    game = game_of(d, R1(2.0))
    reference = draw(6, 3)
    meet(game, reference)
    twin = copy.deepcopy(d)
    game.opt_d.zero_grad()
    real = draw(5, 3, seed=1)
    d(game.real(real)).sum().mul(0).backward()
    game.opt_d.step()
    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(by_hand(twin, reference, x).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(slope.square().sum(1).mean(), twin[0].weight)
    torch.testing.assert_close(d[0].weight.grad, expected, rtol=1e-9, atol=1e-12)


def test_the_first_real_batch_is_normalised_by_its_own_statistics_as_batchnorm_does() -> None:
    d, plain = normed(), normed()
    game = game_of(d)
    x = draw(6, 3)
    torch.testing.assert_close(d(game.real(x)), plain(x))


def test_scores_depend_neither_on_the_rest_of_the_batch_nor_on_the_mode() -> None:
    d = normed()
    game = game_of(d)
    meet(game, draw(6, 3))
    x = draw(4, 3, seed=1)
    whole = d(game.fake(x))
    torch.testing.assert_close(torch.cat([d(row.unsqueeze(0)) for row in x]), whole)
    torch.testing.assert_close(d.eval()(x), whole)


def test_the_layer_keeps_the_weights_and_their_place() -> None:
    d = normed()
    weight, keys = d[1].weight, [k for k in d.state_dict() if "running" not in k and "tracked" not in k]
    game_of(d)
    assert isinstance(d[1], VirtualNorm)
    assert d[1].weight is weight
    assert list(d.state_dict()) == keys
    game_of(plain := normed(affine=False, eps=0.1))
    assert plain[1].eps == 0.1
    assert plain(draw(4, 3)).isfinite().all()


def test_the_reference_stays_the_first_and_is_saved() -> None:
    d = normed()
    game = game_of(d)
    first = draw(6, 3)
    meet(game, first)
    d(game.fake(draw(6, 3, seed=1)))
    meet(game, draw(6, 3, seed=2))
    file = io.BytesIO()
    torch.save(game.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert torch.equal(state["tricks"][0]["state"]["args"][0], first)
    d2 = normed()
    again = game_of(d2)
    d2.load_state_dict(d.state_dict())
    again.load_state_dict(state)
    x = draw(3, 3, seed=3)
    assert torch.equal(d2(x), d(x))


def test_the_reference_pass_leaves_no_trace() -> None:
    """Dropout's draws and spectral norm's vectors are those of the loop's own passes."""
    torch.manual_seed(0)
    hidden = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 5)), nn.BatchNorm1d(5), nn.Dropout(0.5)
    d = nn.Sequential(*hidden, nn.Linear(5, 1)).double()
    bare = copy.deepcopy(d)
    game = game_of(d)
    x = draw(6, 3)
    ends = []
    for net, see in ((d, game.real), (bare, nn.Identity())):
        torch.manual_seed(5)
        net(see(x))
        net(x)
        ends.append((torch.get_rng_state(), net[0].parametrizations.weight[0]._u.clone()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert d[1].statistics is None  # nothing holds the graph


def test_a_loop_that_shows_d_real_and_fake_together_finds_its_reference_too() -> None:
    d = normed()
    game = game_of(d)
    first = draw(4, 3)
    for seed in (0, 5):
        d(game.cat([game.real(draw(4, 3, seed=seed)), game.fake(draw(4, 3, seed=9))])).sum().backward()
        game.opt_d.step()
    torch.testing.assert_close(d[1].reference.call[0][0], first)


def test_labels_are_kept_with_the_reference() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.embed, self.norm = nn.Linear(3, 4), nn.Embedding(2, 4), nn.BatchNorm1d(4)
            self.asked: Counter[str] = Counter()

        def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
            self.asked[str(y.tolist())] += 1
            return self.norm(self.net(x) * self.embed(y)).sum(1)

    d = Conditional().double()
    game = game_of(d)
    x, y = game.real(draw(4, 3), torch.tensor([0, 1, 1, 0]))
    d(x, y=y)
    game.critic(draw(2, 3, seed=1), y=torch.tensor([1, 1]))
    assert d.asked == {"[0, 1, 1, 0]": 2, "[1, 1]": 1}


def test_a_copy_of_d_has_a_reference_of_its_own() -> None:
    d = normed()
    game = game_of(d, SpectralNorm())
    meet(game, draw(6, 3))
    d(game.fake(draw(6, 3, seed=1)))
    twin = copy.deepcopy(d)
    assert twin[1].reference is not d[1].reference
    x = draw(3, 3, seed=2)
    torch.testing.assert_close(twin.eval()(x), d.eval()(x))


def test_it_goes_on_when_the_game_is_detached() -> None:
    d = normed()
    game = game_of(d)
    meet(game, draw(6, 3))
    x = draw(3, 3, seed=1)
    before = d(game.fake(x))
    game.detach()
    assert torch.equal(d(x), before)


def test_a_discriminator_without_batchnorm_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^virtual_batch_norm: no BatchNorm layer was found in Sequential; .*$"):
        game_of(nn.Sequential(nn.Linear(3, 1)))
