import math
from collections import Counter

import pytest
import torch

from stabilgan import losses
from stabilgan.detectors import Saturation, View
from stabilgan.detectors.saturation import wrongness


def told(real, fake, **view):
    detector = Saturation()
    for step in range(detector.window):
        detector.update(View(step, scores_real=real, scores_fake=fake, **view))
    return detector.compute()


def test_wrongness_is_the_gradient_of_the_logistic_loss_to_its_scores():
    real, fake = torch.randn(20, requires_grad=True), torch.randn(20, requires_grad=True)
    losses.logistic.d(real, fake).backward()
    pull = (real.grad.abs().sum() + fake.grad.abs().sum()) / 2
    assert wrongness(real, fake).item() == pytest.approx(pull.item(), rel=1e-5)


def test_wrongness_of_pairs_is_the_gradient_of_the_relativistic_loss():
    real, fake = torch.randn(20, requires_grad=True), torch.randn(20, requires_grad=True)
    losses.relativistic.d(real, fake).backward()
    assert wrongness(real, fake, loss="relativistic").item() == pytest.approx(real.grad.abs().sum().item(), rel=1e-5)


def test_wrongness_under_hinge_is_half_the_share_of_samples_with_a_gradient():
    real, fake = 2 * torch.randn(40, requires_grad=True), 2 * torch.randn(40, requires_grad=True)
    real.retain_grad(), fake.retain_grad()
    losses.hinge.d(real, fake).backward()
    share = ((real.grad != 0).float().mean() + (fake.grad != 0).float().mean()) / 2
    assert wrongness(real, fake, loss="hinge").item() == pytest.approx(share.item() / 2)


def test_wrongness_under_least_squares_is_twice_the_loss():
    real, fake = torch.randn(40), torch.randn(40)
    assert wrongness(real, fake, loss="least_squares").item() == pytest.approx(2 * losses.least_squares.d(real, fake))


@pytest.mark.parametrize("loss", ["logistic", "saturating", "hinge", "least_squares", "relativistic"])
def test_wrongness_at_chance_is_a_half_under_every_family(loss):
    at = 0.5 if loss == "least_squares" else 0.0
    assert wrongness(torch.full((8,), at), torch.full((8,), at), loss=loss).item() == 0.5


@pytest.mark.parametrize("loss", [None, "logistic", "saturating", "hinge", "relativistic"])
@pytest.mark.parametrize("shape", [(64,), (64, 1), (64, 1, 4, 4)])
def test_scores_at_plus_and_minus_sixty_are_saturated(loss, shape):
    reading = told(torch.full(shape, 60.0), torch.full(shape, -60.0), loss=loss)
    assert reading.state == "alarm"
    assert ("assumed" in reading.text) == (loss is None)


def test_least_squares_scores_on_their_targets_are_saturated():
    assert told(torch.full((64,), 1.001), torch.full((64,), -0.001), loss="least_squares").state == "alarm"


def test_probabilities_at_zero_and_one_are_saturated():
    assert told(torch.ones(64), torch.zeros(64), probabilities=True).state == "alarm"


@pytest.mark.parametrize("loss", ["logistic", "saturating", "hinge", "least_squares", "relativistic"])
def test_a_discriminator_that_is_right_but_unsure_is_no_alarm_over_200_seeds(loss):
    states = Counter()
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        detector = Saturation()
        for step in range(detector.window):
            real, fake = 1 + torch.randn(16, generator=g), torch.randn(16, generator=g) - 1
            detector.update(View(step, scores_real=real, scores_fake=fake, loss=loss))
        states[detector.compute().state] += 1
    assert states == {"ok": 200}


def test_a_relativistic_critic_whose_scores_drift_far_off_together_is_healthy():
    drift, noise = torch.tensor(500.0), torch.randn(64)
    assert told(drift + noise, drift + noise.flip(0), loss="relativistic").state == "ok"


def test_one_sided_certainty_is_no_saturation():
    assert told(torch.full((64,), 60.0), torch.zeros(64)).state == "ok"


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ({"loss": "wasserstein"}, "no scale"),
        ({"loss": "mine"}, "no rule is known for the loss 'mine'"),
        ({"loss": "relativistic", "probabilities": True}, "ends in a sigmoid"),
    ],
)
def test_a_family_whose_scores_say_nothing_is_unknown(view, reason):
    reading = told(torch.full((8,), 60.0), torch.full((8,), -60.0), **view)
    assert reading.state == "unknown"
    assert reason in reading.text
    with pytest.raises(ValueError, match=reason if "sigmoid" not in reason else "passed a sigmoid"):
        wrongness(torch.zeros(2), torch.zeros(2), **view)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "least_squares", "relativistic"])
def test_scores_that_are_not_finite_are_unknown_never_fine(loss):
    reading = told(torch.tensor([1.0, math.nan]), torch.zeros(2), loss=loss)
    assert (reading.state, reading.value) == ("unknown", None)


def test_a_sigmoid_hidden_in_the_discriminators_forward_is_suspected():
    reading = told(torch.ones(8), torch.zeros(8))
    assert reading.state == "unknown"
    assert 'Watch(scores="probabilities")' in reading.text


def test_small_positive_logits_are_no_hidden_sigmoid():
    assert told(torch.full((8,), 0.6), torch.full((8,), 0.3)).state == "ok"


def test_without_scores_or_with_too_few_it_says_so():
    detector = Saturation()
    detector.update(View(1, d_loss=torch.tensor(0.0)))
    assert "never seen" in detector.compute().text
    detector.update(View(2, scores_real=torch.zeros(4), scores_fake=torch.zeros(4)))
    assert "scores of 1 steps" in detector.compute().text
    assert detector.compute().state == "unknown"


def test_half_precision_scores_keep_their_certainty():
    reading = told(torch.full((64,), 4.0, dtype=torch.bfloat16), torch.full((64,), -4.0, dtype=torch.bfloat16))
    assert reading.value == pytest.approx(1 / (1 + math.exp(4)), rel=1e-3)
