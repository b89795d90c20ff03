"""Minibatch stddev against the authors' reshape, a loop over groups, finite differences, and a game."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stabilgan.game import attach
from stabilgan.tricks.minibatch import Minibatch
from stabilgan.tricks.minibatch_stddev import MinibatchStddev, MinibatchStddevLayer, minibatch_stddev
from stabilgan.tricks.r1 import R1, gradient_norm_penalty


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_groups(x: Any, group: int, channels: int) -> Any:
    """Group by group with numpy's own standard deviation; sample i is in group i mod M."""
    n, features = x.shape[:2]
    groups = max(1, n // group)
    out = np.zeros((n, channels))
    for k in range(groups):
        members = [i for i in range(n) if i % groups == k]
        spread = np.sqrt(np.std(x[members], axis=0) ** 2 + 1e-8)
        for c in range(channels):
            width = features // channels
            out[members, c] = spread[c * width : (c + 1) * width].mean()
    return out


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 19])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_group_sees_the_mean_spread_of_its_features(n: int, channels: int) -> None:
    x = draw(n, 6, 2, 3).double()
    expected = by_groups(x.numpy(), 4, channels)
    np.testing.assert_allclose(minibatch_stddev(x, 4, channels).numpy(), expected, rtol=1e-12)


def test_where_groups_divide_the_batch_it_is_the_papers_reshape() -> None:
    x = draw(12, 6, 4, 4)
    y = x.reshape(4, 3, 2, 3, 4, 4)  # group, M, channels, features / channels, H, W
    y = (y - y.mean(0)).square().mean(0).add(1e-8).sqrt().mean([2, 3, 4])
    torch.testing.assert_close(minibatch_stddev(x, 4, 2), y.repeat(4, 1))


@pytest.mark.parametrize(("n", "size"), [(5, 5), (7, 7), (8, 4), (9, 5), (11, 6)])
def test_no_group_is_smaller_than_asked_for_unless_the_batch_is(n: int, size: int) -> None:
    # All samples alike but the first: only its own group has a spread.
    x = torch.zeros(n, 1)
    x[0] = 1
    assert int((minibatch_stddev(x) > 1e-3).sum()) == size


def test_a_batch_of_one_has_no_spread() -> None:
    assert minibatch_stddev(draw(1, 6)).item() == pytest.approx(1e-4)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_gradients_and_their_gradients_pass_finite_differences(n: int) -> None:
    x = draw(n, 4, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: minibatch_stddev(x, 3, 2), x)
    assert torch.autograd.gradgradcheck(lambda x: minibatch_stddev(x, 3, 2), x)


def test_a_collapsed_batch_has_finite_gradients_of_gradients() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(minibatch_stddev(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert gradient.isfinite().all()
    assert second.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = (100 + draw(8, 6)).to(dtype)
    assert torch.equal(minibatch_stddev(x), minibatch_stddev(x.float()).to(dtype))


def test_the_layer_gives_a_channel_constant_over_positions() -> None:
    x = draw(8, 6, 2, 3)
    out = MinibatchStddevLayer(channels=2)(x)
    assert out.shape == (8, 2, 2, 3)
    assert torch.equal(out, minibatch_stddev(x, 4, 2)[:, :, None, None].expand(-1, -1, 2, 3))


def dense() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def styled() -> nn.Sequential:
    """A convolution, then a linear head, as in StyleGAN's D."""
    return nn.Sequential(
        nn.Unflatten(1, (2, 1, 1)),
        nn.Conv2d(2, 6, 1, padding=2),
        nn.LeakyReLU(0.2),
        nn.Conv2d(6, 3, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.Linear(27, 1),
    )


def play(d: nn.Module, tricks: list[Any]) -> Any:
    g = nn.Linear(3, 2)
    return attach(g, d, torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters(), 1e-2), tricks)


@pytest.mark.parametrize(("make", "at"), [(dense, 2), (styled, 3)])
def test_ds_output_does_not_change_when_the_trick_is_attached(make: Any, at: int) -> None:
    d = make()
    x, before, last = draw(8, 2), list(d.parameters()), d[at]
    out = d(x)
    game = play(d, [MinibatchStddev()])
    assert torch.equal(d(x), out)
    assert d[at].last is last
    held = {id(p) for p in game.opt_d.param_groups[0]["params"]}
    assert held == {id(p) for p in before} | {id(d[at].extra.weight)}


def test_nothing_is_drawn_from_the_global_generator() -> None:
    states = []
    for tricks in ([], [MinibatchStddev()]):
        torch.manual_seed(0)
        play(styled(), tricks).d(draw(8, 2))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_beside_a_convolution_it_is_the_papers_further_input_channel() -> None:
    d = styled()
    play(d, [MinibatchStddev()])
    beside: Any = d[3]
    nn.init.normal_(beside.extra.weight)
    h = d[:3](draw(8, 2))
    wider = nn.Conv2d(7, 3, 3, stride=2, padding=1)
    wider.weight.data = torch.cat([beside.last.weight, beside.extra.weight], 1)
    wider.bias = beside.last.bias
    appended = torch.cat([h, minibatch_stddev(h)[:, :, None, None].expand(-1, -1, *h.shape[2:])], 1)
    torch.testing.assert_close(beside(h), wider(appended))


def test_beside_a_linear_layer_it_is_a_further_input() -> None:
    d = dense()
    play(d, [MinibatchStddev(channels=2)])
    beside: Any = d[2]
    nn.init.normal_(beside.extra.weight)
    h = d[:2](draw(8, 2))
    expected = beside.last(h) + minibatch_stddev(h, 4, 2) @ beside.extra.weight.T
    torch.testing.assert_close(beside(h), expected)


def test_with_r1_and_minibatch_discrimination_the_gradients_are_the_hand_written_ones() -> None:
    torch.manual_seed(0)
    game = play(styled(), [MinibatchStddev(), Minibatch(kernels=5), R1(2.0)])
    d, real, fake = game.d, draw(10, 2), draw(10, 2, seed=1)
    softplus = nn.functional.softplus
    for _ in range(3):
        by_hand = copy.deepcopy(d)
        game.opt_d.zero_grad()
        (softplus(-d(game.real(real))).mean() + softplus(d(game.fake(fake))).mean()).backward()
        game.opt_d.step()
    x = real.clone().requires_grad_()
    loss = softplus(-by_hand(real)).mean() + softplus(by_hand(fake)).mean()
    loss = loss + 2.0 * gradient_norm_penalty(by_hand(x), x)
    expected = torch.autograd.grad(loss, list(by_hand.parameters()))
    for p, gradient in zip(d.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-5, atol=1e-6)
    assert d[3].extra.weight.abs().max() > 0


def test_no_channels_leave_everything_as_it_was() -> None:
    d = styled()
    game = play(d, [MinibatchStddev(channels=0)])
    assert isinstance(d[3], nn.Conv2d)
    assert len(game.opt_d.param_groups[0]["params"]) == 6


def test_a_layer_can_be_named() -> None:
    d = styled()
    play(d, [MinibatchStddev(layer="5")])
    assert type(d[5]).__name__ == "Beside"
    assert isinstance(d[3], nn.Conv2d)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": 0}, "group is 0; expected 1 or more"),
        ({"channels": -1}, "channels is -1; expected 0 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinibatchStddev(**options)


def test_channels_that_do_not_divide_the_inputs_are_refused() -> None:
    d = styled()
    with pytest.raises(ValueError, match="channels is 4; expected a divisor of the 6 inputs of D's '3'"):
        play(d, [MinibatchStddev(channels=4)])
    assert isinstance(d[3], nn.Conv2d)
    with pytest.raises(ValueError, match="4 channels from 6 features"):
        minibatch_stddev(draw(8, 6), channels=4)
