"""Losses against torch's own, torchgan's, and the constants that they take at chance."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchgan.losses import functional as torchgan

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


def test_losses_are_torchgans() -> None:
    for name, non_saturating in (("logistic", True), ("saturating", False)):
        pair = losses.named(name)
        torch.testing.assert_close(pair.d(REAL, FAKE), torchgan.minimax_discriminator_loss(REAL, FAKE))
        torch.testing.assert_close(pair.g(FAKE, None), torchgan.minimax_generator_loss(FAKE, non_saturating))
    soft = losses.label_smoothing(losses.logistic, 0.9)
    torch.testing.assert_close(soft.d(REAL, FAKE), torchgan.minimax_discriminator_loss(REAL, FAKE, label_smoothing=0.1))
    pair = losses.least_squares
    torch.testing.assert_close(pair.d(REAL, FAKE), torchgan.least_squares_discriminator_loss(REAL, FAKE))
    torch.testing.assert_close(pair.g(FAKE, None), torchgan.least_squares_generator_loss(FAKE))
    pair = losses.wasserstein
    torch.testing.assert_close(pair.d(REAL, FAKE), torchgan.wasserstein_discriminator_loss(REAL, FAKE))
    torch.testing.assert_close(pair.g(FAKE, None), torchgan.wasserstein_generator_loss(FAKE))


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


@pytest.mark.parametrize("name", ["logistic", "saturating"])
def test_smooth_targets_are_those_of_torchs_binary_cross_entropy(name: str) -> None:
    bce, pair = F.binary_cross_entropy_with_logits, losses.LOSSES[name]
    soft = losses.label_smoothing(pair, real=0.8, fake=0.1)
    expected = bce(REAL, torch.full((7, 1), 0.8)) + bce(FAKE, torch.full((7, 1), 0.1))
    torch.testing.assert_close(soft.d(REAL, FAKE), expected)
    assert soft.g is pair.g
    assert soft.name == name


def test_smooth_targets_are_those_of_torchs_squared_error() -> None:
    soft = losses.label_smoothing(losses.least_squares, real=0.9, fake=0.2)
    expected = (F.mse_loss(REAL, torch.full((7, 1), 0.9)) + F.mse_loss(FAKE, torch.full((7, 1), 0.2))) / 2
    torch.testing.assert_close(soft.d(REAL, FAKE), expected)


@pytest.mark.parametrize("name", ["logistic", "least_squares"])
def test_targets_of_one_and_zero_are_the_loss_itself(name: str) -> None:
    pair = losses.LOSSES[name]
    torch.testing.assert_close(losses.label_smoothing(pair, 1.0, 0.0).d(REAL, FAKE), pair.d(REAL, FAKE))


@pytest.mark.parametrize("name", ["hinge", "wasserstein", "relativistic"])
def test_a_loss_without_targets_has_none_to_smooth(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has no targets to make softer; expected logistic"):
        losses.label_smoothing(losses.LOSSES[name])


@pytest.mark.parametrize(("real", "fake"), [(1.1, 0.0), (0.9, -0.1), (0.5, 0.5)])
def test_targets_out_of_range_are_refused(real: float, fake: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= fake < real <= 1"):
        losses.label_smoothing(losses.logistic, real, fake)


@pytest.mark.parametrize("name", sorted(losses.LOSSES))
def test_flipped_pairs_change_sides_and_the_rest_stay(name: str) -> None:
    pair = losses.LOSSES[name]
    noisy = losses.label_flipping(pair, 0.4, torch.Generator().manual_seed(5))
    flips = torch.rand(7, generator=torch.Generator().manual_seed(5)) < 0.4
    assert flips.any()
    assert not flips.all()
    real = torch.stack([FAKE[i] if flips[i] else REAL[i] for i in range(7)])
    fake = torch.stack([REAL[i] if flips[i] else FAKE[i] for i in range(7)])
    torch.testing.assert_close(noisy.d(REAL, FAKE), pair.d(real, fake))
    assert noisy.g is pair.g
    assert noisy.needs_real == pair.needs_real


def test_flipping_is_smoothing_of_both_sides_on_average() -> None:
    noisy = losses.label_flipping(losses.logistic, 0.1, torch.Generator().manual_seed(0))
    mean = torch.stack([noisy.d(REAL, FAKE) for _ in range(5000)]).mean()
    torch.testing.assert_close(mean, losses.label_smoothing(losses.logistic, 0.9, 0.1).d(REAL, FAKE), rtol=0, atol=0.02)


def test_patches_of_a_sample_are_flipped_together_and_a_longer_side_keeps_its_rest() -> None:
    real, fake = torch.ones(6, 1, 2, 2), -torch.ones(4, 1, 2, 2)
    shown: list[torch.Tensor] = []
    pair = losses.logistic._replace(d=lambda x, y: shown.extend([x, y]) or x.mean())
    losses.label_flipping(pair, 0.49, torch.Generator().manual_seed(1)).d(real, fake)
    flips = shown[0].flatten(1)
    assert shown[0].shape == real.shape
    assert shown[1].shape == fake.shape
    assert (flips.amax(1) == flips.amin(1)).all()
    assert torch.equal(shown[0][:4], -shown[1])
    assert (flips[4:] == 1).all()
    assert -1 < flips[:4].mean() < 1


def test_a_share_of_half_or_more_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share is 0\.5; expected 0 or more and less than ½"):
        losses.label_flipping(losses.logistic, 0.5, torch.Generator())


def test_the_middle_is_where_d_would_say_half_and_half() -> None:
    """There a score that is higher costs as much for a fake as it gains for a real sample."""
    for pair in losses.LOSSES.values():
        assert (pair.middle is None) is (pair.name not in losses.WITH_MIDDLE)
        if pair.middle is None:  # only differences count
            there, moved = (pair.d(torch.ones(4) + by, torch.zeros(4) + by) for by in (0.0, 5.0))
            torch.testing.assert_close(there, moved)
        else:
            score = torch.tensor([pair.middle], requires_grad=True)
            (slope,) = torch.autograd.grad(pair.d(score, score), score)
            assert slope.item() == pytest.approx(0)
