"""Label flipping: a step by hand, how often it flips, and how it goes with other changes of the loss."""

from __future__ import annotations

import play
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

import stabilgan
from stabilgan import LabelFlipping, LabelSmoothing, Relativistic, losses


def game_of(*tricks: stabilgan.Trick, loss: losses.Loss | None = losses.logistic) -> stabilgan.Game:
    g, d = play.players(dtype=torch.float64)
    return stabilgan.attach(g, d, play.sgd(g), torch.optim.SGD(d.parameters(), lr=0.1), list(tricks), loss=loss)


def test_the_step_is_that_of_cross_entropy_with_the_wrong_labels() -> None:
    real, fake = torch.randn(2, 9, 2, dtype=torch.float64)
    trick = LabelFlipping(share=0.4)
    game = game_of(trick)
    generator = torch.Generator().manual_seed(game.generator(trick).initial_seed())
    _, by_hand = play.players(dtype=torch.float64)
    assert game.loss is not None
    for _ in range(3):
        game.opt_d.zero_grad()
        game.loss.d(game.d(game.real(real)), game.d(game.fake(fake))).backward()
        game.opt_d.step()
        right = (torch.rand(9, generator=generator) >= 0.4).double().unsqueeze(1)
        loss = bce(by_hand(real), right) + bce(by_hand(fake), 1 - right)  # a flipped real has the label 0
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for p, v in zip(by_hand.parameters(), gradients, strict=True):
                p -= 0.1 * v
    torch.testing.assert_close(play.params(game.d), play.params(by_hand), rtol=1e-10, atol=1e-12)


def test_it_flips_its_share_and_other_pairs_each_time() -> None:
    game = game_of(LabelFlipping(share=0.2), loss=losses.wasserstein)
    assert game.loss is not None
    one, none = torch.ones(100), torch.zeros(100)
    flipped = torch.stack([(1 + game.loss.d(one, none)) / 2 for _ in range(400)])  # -1 for right, +1 for wrong labels
    assert flipped.mean().item() == pytest.approx(0.2, abs=0.01)
    assert flipped.std() > 0.02


def test_with_smooth_targets_it_flips_those_in_any_order() -> None:
    real, fake = torch.randn(2, 8, 1, generator=torch.Generator().manual_seed(3))
    found = []
    for tricks in ([LabelFlipping(0.4), LabelSmoothing()], [LabelSmoothing(), LabelFlipping(0.4)]):
        game = game_of(*tricks)
        flipping = next(t for t in tricks if isinstance(t, LabelFlipping))
        generator = torch.Generator().manual_seed(game.generator(flipping).initial_seed())
        wrong = (torch.rand(8, generator=generator) < 0.4).unsqueeze(1)
        told = torch.where(wrong, fake, real), torch.where(wrong, real, fake)
        assert game.loss is not None
        torch.testing.assert_close(
            game.loss.d(real, fake), bce(told[0], torch.full((8, 1), 0.9)) + bce(told[1], torch.zeros(8, 1))
        )
        found.append(wrong)
    assert found[0].any()


def test_under_a_relativistic_loss_a_pair_is_compared_the_wrong_way_round() -> None:
    game = game_of(LabelFlipping(0.49), Relativistic())
    assert game.loss is not None
    real, fake = torch.full((4000,), 5.0), torch.zeros(4000)
    costs = torch.tensor([losses.relativistic.d(a, b) for a, b in ((real[:1], fake[:1]), (fake[:1], real[:1]))])
    assert game.loss.d(real, fake).item() == pytest.approx((0.51 * costs[0] + 0.49 * costs[1]).item(), rel=0.05)
    assert game.loss.g is losses.relativistic.g


def test_a_loop_that_owns_its_loss_is_told_which_function_to_call() -> None:
    with pytest.raises(ValueError, match=r"call stabilgan.losses.label_flipping there instead"):
        game_of(LabelFlipping(), loss=None)
    assert callable(losses.label_flipping)


def test_at_a_share_of_zero_the_pair_is_the_one_given() -> None:
    assert game_of(LabelFlipping(0.0)).loss is losses.logistic


@pytest.mark.parametrize("share", [-0.1, 0.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"label_flipping: share is {share}; expected 0 or more"):
        LabelFlipping(share)
