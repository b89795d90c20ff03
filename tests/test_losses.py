"""Losses against torch's own, and against the constants that they take at chance."""

import math

import pytest
import torch
from torch.nn import functional as F

from stabilgan import losses

REAL, FAKE = torch.randn(7, 1, generator=torch.Generator().manual_seed(0)), torch.linspace(-3, 2, 7)[:, None]


def test_logistic_is_torchs_binary_cross_entropy_on_logits() -> None:
    bce = F.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(7, 1), torch.zeros(7, 1)
    torch.testing.assert_close(losses.logistic.d(REAL, FAKE), bce(REAL, ones) + bce(FAKE, zeros))
    torch.testing.assert_close(losses.logistic.g(FAKE, None), bce(FAKE, ones))
    torch.testing.assert_close(losses.saturating.g(FAKE, None), -bce(FAKE, zeros))


def test_least_squares_is_torchs_mean_squared_error_halved() -> None:
    expected = (F.mse_loss(REAL, torch.ones(7, 1)) + F.mse_loss(FAKE, torch.zeros(7, 1))) / 2
    torch.testing.assert_close(losses.least_squares.d(REAL, FAKE), expected)
    torch.testing.assert_close(losses.least_squares.g(FAKE, None), F.mse_loss(FAKE, torch.ones(7, 1)) / 2)


def test_hinge_is_torchs_hinge_embedding_of_both_margins() -> None:
    margin = lambda x: F.margin_ranking_loss(x, torch.zeros_like(x), torch.ones_like(x), margin=1.0)  # noqa: E731
    torch.testing.assert_close(losses.hinge.d(REAL, FAKE), margin(REAL) + margin(-FAKE))


def test_relativistic_is_binary_cross_entropy_of_the_difference() -> None:
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(losses.relativistic.d(REAL, FAKE), bce(REAL - FAKE, torch.ones(7, 1)))
    torch.testing.assert_close(losses.relativistic.g(FAKE, REAL), bce(FAKE - REAL, torch.ones(7, 1)))


@pytest.mark.parametrize(
    ("name", "score", "d", "g"),
    [
        ("logistic", 0.0, 2 * math.log(2), math.log(2)),
        ("saturating", 0.0, 2 * math.log(2), -math.log(2)),
        ("hinge", 0.0, 2.0, 0.0),
        ("least_squares", 0.5, 0.25, 0.125),
        ("wasserstein", 3.0, 0.0, -3.0),
        ("relativistic", 3.0, math.log(2), math.log(2)),
    ],
)
def test_what_each_player_pays_at_chance(name: str, score: float, d: float, g: float) -> None:
    pair, scores = losses.named(name), torch.full((5,), score)
    assert pair.d(scores, scores).item() == pytest.approx(d, abs=1e-6)
    assert pair.g(scores, scores).item() == pytest.approx(g, abs=1e-6)


@pytest.mark.parametrize("pair", losses.LOSSES.values(), ids=list(losses.LOSSES))
def test_scores_of_60_stay_finite_with_their_gradients(pair: losses.Loss) -> None:
    real, fake = torch.full((4,), 60.0, requires_grad=True), torch.full((4,), -60.0, requires_grad=True)
    total = pair.d(real, fake) + pair.g(fake, real)
    assert total.isfinite()
    assert all(v.isfinite().all() for v in torch.autograd.grad(total, [real, fake]))


def test_a_relativistic_loss_without_real_scores_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match=r"call g\(fake, real\)"):
        losses.relativistic.g(FAKE, None)


def test_a_mistyped_loss_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="no loss named 'hing'; did you mean 'hinge'"):
        losses.named("hing")
