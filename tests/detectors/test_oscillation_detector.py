import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import signal

from stabilgan.detectors import Oscillation, View
from stabilgan.detectors.oscillation import rhythm


def told(series, other=None, **options):
    detector = Oscillation(**options)
    for step, value in enumerate(series):
        g_loss = None if other is None else other[step]
        detector.update(View(step, d_loss=value, g_loss=g_loss))
    return detector.compute()


def noise(n, correlation, generator):
    """AR(1) noise, started in its stationary law where it has one."""
    e = torch.randn(n, generator=generator).numpy()
    if correlation < 1:
        e[0] /= math.sqrt(1 - correlation**2)
    return torch.from_numpy(signal.lfilter([1], [1, -correlation], e).astype(np.float32))


t = torch.arange(512.0)


def test_the_share_of_a_rhythm_is_the_one_of_scipys_spectrum():
    x = torch.sin(2 * math.pi * t / 17) + 0.5 * torch.randn(512) + 0.01 * t
    slope = np.polyfit(np.arange(512), x.double().numpy(), 1)
    detrended = x.double().numpy() - np.polyval(slope, np.arange(512))
    _, power = signal.periodogram(detrended, window="hann", detrend=False, scaling="spectrum")
    power[-1] *= 2  # scipy's spectrum is one-sided, without a double at the highest frequency
    power = power[1:]
    peak = power[3:].argmax() + 3
    share = power[peak - 1 : peak + 2].sum() / power.sum()
    got = rhythm(x)
    assert got[0].item() == pytest.approx(share, rel=1e-3)
    assert got[3].item() == pytest.approx(17, rel=0.02)


@pytest.mark.parametrize("period", [2.0, 3.7, 16.0, 50.3, 120.0])
def test_a_sine_of_any_period_is_one_rhythm(period):
    share, _, _, measured = rhythm(torch.cos(2 * math.pi * t / period + 0.3)).tolist()
    assert share > 0.95
    assert abs(512 / measured - 512 / period) <= 0.6  # a bin is as fine as it sees


def test_the_amplitude_is_the_root_mean_square_relative_to_the_series():
    x = 10 + 3 * torch.sin(2 * math.pi * t / 16)
    assert rhythm(x)[2].item() == pytest.approx(math.sqrt(4.5 / 104.5), rel=1e-2)


def test_the_excess_of_noise_of_any_correlation_is_about_exponential():
    g = torch.Generator().manual_seed(0)
    white = torch.stack([rhythm(noise(512, 0.0, g))[1] for _ in range(500)])
    coloured = torch.stack([rhythm(noise(512, 0.8, g))[1] for _ in range(500)])
    # the largest of 253 exponentials has the median ln(253 / ln 2) = 5.9; where power counts, it is not always there
    assert 4.9 < white.median().item() < 6.9
    for share in (0.2, 0.05):
        allowed = 500 * share + 3 * math.sqrt(500 * share * (1 - share))
        assert (white > math.log(253 / share)).sum() < allowed
        assert (coloured > math.log(253 / share)).sum() < allowed


def test_a_bilinear_game_goes_round_and_is_told():
    x, y, losses = 1.0, 1.0, []
    for _ in range(512):  # alternating gradient steps on xy: a closed orbit
        x -= 0.1 * y
        y += 0.1 * x
        losses.append(torch.tensor(x * y))
    reading = told(losses, [-v for v in losses])
    assert reading.state == "alarm"
    # xy turns twice while (x, y) turns once, in 2 asin(0.1 / 2) per step
    assert f"period of {math.pi / (2 * math.asin(0.05)):.1f} steps" in reading.text
    assert reading.value > 0.9


@pytest.mark.parametrize("period", [4.0, 21.3, 100.0])
def test_a_rotation_in_noise_around_a_drifting_level_is_told_over_50_seeds(period):
    for seed in range(50):
        g = torch.Generator().manual_seed(seed)
        x = 1 + t / 512 + 0.5 * torch.sin(2 * math.pi * t / period) + 0.25 * torch.randn(512, generator=g)
        assert told(x).state == "alarm"


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.97, 1.0])
def test_noise_of_any_correlation_is_silent_over_200_seeds(correlation):
    states = Counter()
    for seed in range(200):
        x = noise(512, correlation, torch.Generator().manual_seed(seed))
        states[told(1 + x).state] += 1
    assert states == {"ok": 200}


@pytest.mark.parametrize(
    "drift",
    [t / 100, torch.exp(-t / 80), (t / 512) ** 2, torch.tanh((t - 250) / 20), torch.sin(2 * math.pi * t / 512)],
    ids=["slope", "decay", "square", "step", "one period"],
)
def test_drift_is_no_oscillation(drift):
    x = 1 + drift + 0.05 * torch.randn(512, generator=torch.Generator().manual_seed(0))
    assert told(x).state == "ok"


def test_a_single_spike_is_no_oscillation():
    x = torch.ones(512)
    x[200] = 50
    assert told(x).state == "ok"


def test_a_rhythm_too_small_to_matter_is_no_alarm_and_is_named():
    reading = told(100 + torch.sin(2 * math.pi * t / 20))
    assert reading.state == "ok"
    assert "by only 0.7% of its size" in reading.text


@pytest.mark.parametrize("level", [0.0, 0.693, 1e6])
def test_a_constant_is_unknown_never_fine(level):
    assert told(torch.full((512,), level)).state == "unknown"


def test_a_nan_is_unknown_never_fine():
    x = torch.randn(512)
    x[100] = math.nan
    assert told(x).state == "unknown"


def test_one_loss_gone_nan_does_not_hide_the_other():
    assert told(torch.full((512,), math.nan), torch.sin(t)).state == "alarm"


def test_without_losses_the_mean_scores_are_read():
    detector = Oscillation()
    for step in range(512):
        scores = math.sin(step / 5) + torch.randn(16, generator=torch.Generator().manual_seed(step))
        detector.update(View(step, scores_real=scores, scores_fake=-scores))
    reading = detector.compute()
    assert reading.state == "alarm"
    assert "score" in reading.text


def test_with_nothing_or_too_little_it_says_what_to_write():
    detector = Oscillation()
    detector.update(View(1))
    assert "game.record(d_loss=..., g_loss=...)" in detector.compute().text
    detector.update(View(2, d_loss=torch.tensor(1.0)))
    assert "of 1 steps were seen, and 512 are needed" in detector.compute().text
    assert detector.compute().state == "unknown"


def test_a_loss_that_comes_and_goes_is_read_where_it_is():
    detector = Oscillation()
    for step in range(1024):
        loss = torch.tensor(math.sin(step / 5)) if step % 2 else None
        detector.update(View(step, d_loss=loss, scores_real=torch.zeros(4)))
    assert detector.compute().state == "alarm"
