"""Label smoothing: where D comes to rest under it, a step by hand, and which losses it fits."""

from __future__ import annotations

import play
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

import stabilgan
from stabilgan import LabelSmoothing, losses


def game_of(*tricks: stabilgan.Trick, loss: losses.Loss | None = losses.logistic) -> stabilgan.Game:
    g, d = play.players(dtype=torch.float64)
    return stabilgan.attach(g, d, play.sgd(g), torch.optim.SGD(d.parameters(), lr=0.1), list(tricks), loss=loss)


def test_the_step_is_that_of_cross_entropy_with_the_soft_targets() -> None:
    real, fake = torch.randn(2, 6, 2, dtype=torch.float64)
    game = game_of(LabelSmoothing(real=0.8, fake=0.1))
    _, by_hand = play.players(dtype=torch.float64)
    assert game.loss is not None
    game.loss.d(game.d(game.real(real)), game.d(game.fake(fake))).backward()
    game.opt_d.step()
    targets = torch.full((6, 1), 0.8, dtype=torch.float64), torch.full((6, 1), 0.1, dtype=torch.float64)
    loss = bce(by_hand(real), targets[0]) + bce(by_hand(fake), targets[1])
    gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
    expected = torch.cat([(p - 0.1 * v).reshape(-1) for p, v in zip(by_hand.parameters(), gradients, strict=True)])
    torch.testing.assert_close(play.params(game.d), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("pair", "rests_at"), [(losses.logistic, torch.tensor(9.0).log()), (losses.least_squares, torch.tensor(0.9))]
)
def test_a_discriminator_that_never_meets_a_fake_rests_at_its_target(pair: losses.Loss, rests_at: Tensor) -> None:
    """At ln 9, of which the sigmoid is 0.9; without smoothing a logistic score would grow for ever."""
    game = game_of(LabelSmoothing(), loss=pair)
    assert game.loss is not None
    score = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([score], lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        game.loss.d(score, torch.full((1,), -99.0)).backward()
        optimizer.step()
    torch.testing.assert_close(score.detach()[0], rests_at, rtol=1e-4, atol=1e-4)


def test_the_loss_of_g_stays() -> None:
    game = game_of(LabelSmoothing())
    assert game.loss is not None
    assert game.loss.g is losses.logistic.g


@pytest.mark.parametrize("pair", [losses.hinge, losses.wasserstein, losses.relativistic])
def test_losses_without_targets_are_refused(pair: losses.Loss) -> None:
    with pytest.raises(ValueError, match=rf"label_smoothing fits the losses .*; this game's loss is {pair.name}"):
        game_of(LabelSmoothing(), loss=pair)


def test_a_relativistic_game_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="has no target of a single sample"):
        game_of(stabilgan.Relativistic(), LabelSmoothing())


def test_a_loop_that_owns_its_loss_is_told_which_function_to_call() -> None:
    with pytest.raises(ValueError, match=r"call stabilgan.losses.label_smoothing there instead"):
        game_of(LabelSmoothing(), loss=None)
    assert callable(losses.label_smoothing)


def test_at_targets_of_one_and_zero_the_pair_is_the_one_given() -> None:
    assert game_of(LabelSmoothing(real=1.0)).loss is losses.logistic


@pytest.mark.parametrize(("real", "fake"), [(1.5, 0.0), (0.9, 0.95), (0.0, 0.0)])
def test_targets_out_of_range_are_refused(real: float, fake: float) -> None:
    with pytest.raises(ValueError, match=f"label_smoothing: targets are real={real} and fake={fake}; expected"):
        LabelSmoothing(real, fake)
