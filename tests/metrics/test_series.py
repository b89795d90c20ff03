"""Readings of a series, on signals with known answers."""

import math

import numpy as np
import pytest
import torch

from stabilgan.metrics import series

T = np.arange(1000)


def test_a_sine_reads_its_amplitude_over_root_two_whatever_its_trend():
    wave = 3 * np.sin(2 * np.pi * T / 20) + 7 + 0.5 * T
    assert series.detrended_rms(wave, last=1.0) == pytest.approx(3 / math.sqrt(2), rel=1e-3)
    assert series.detrended_rms(wave) == pytest.approx(3 / math.sqrt(2), rel=1e-2)


def test_only_the_last_part_counts_for_the_rms():
    assert series.detrended_rms([9, -9] * 40 + [0] * 20) == 0.0
    assert series.detrended_rms([0] * 80 + [1, -1, -1, 1] * 5) == pytest.approx(1.0)


def test_a_straight_line_does_not_swing():
    line = 3 * T + 1e6
    assert series.detrended_rms(line) == pytest.approx(0, abs=1e-6)
    assert series.dominant_share(line) == 0.0
    assert math.isnan(series.dominant_period(line))
    assert math.isnan(series.spectral_entropy(line))
    assert series.dominant_share([4.2] * 50) == 0.0
    assert series.sign_change_rate([4.2] * 50) == 0.0


@pytest.mark.parametrize("period", [2, 5, 20, 37, 125])
def test_the_period_of_a_sine_is_found(period):
    wave = np.cos(2 * np.pi * T / period)
    assert series.dominant_period(wave) == pytest.approx(period, rel=0.5 * period / 1000)


def test_the_share_of_two_tones_is_their_share_of_power():
    wave = 2 * np.sin(2 * np.pi * T / 20) + np.sin(2 * np.pi * T / 8)
    assert series.dominant_period(wave) == 20.0
    assert series.dominant_share(wave) == pytest.approx(0.8, abs=1e-3)
    even = np.sin(2 * np.pi * T / 20) + np.sin(2 * np.pi * T / 8)
    assert series.spectral_entropy(even) == pytest.approx(math.log(2) / math.log(500), abs=2e-3)


def test_white_noise_reads_as_the_docstrings_say():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(300, 1000))
    assert np.mean([series.sign_change_rate(x) for x in noise]) == pytest.approx(2 / 3, abs=2e-3)
    walks = noise.cumsum(1)
    assert np.mean([series.sign_change_rate(x) for x in walks]) == pytest.approx(1 / 2, abs=3e-3)
    assert np.mean([series.spectral_entropy(x) for x in noise]) == pytest.approx(1 - 0.4228 / math.log(500), abs=2e-3)
    assert np.mean([series.dominant_share(x) for x in noise]) == pytest.approx(2 * math.log(500) / 1000, rel=0.15)


def test_a_zigzag_always_turns_and_a_monotone_series_never():
    assert series.sign_change_rate([0, 1] * 20) == 1.0
    assert series.sign_change_rate(range(20)) == 0.0


def test_the_power_agrees_with_scipys_periodogram():
    from scipy.signal import periodogram

    rng = np.random.default_rng(1)
    for n in (200, 201):
        x = rng.normal(size=n).cumsum()
        frequency, power = periodogram(x, detrend="linear")
        best = 1 + np.argmax(power[1:])
        assert series.dominant_period(x) == pytest.approx(1 / frequency[best])
        assert series.dominant_share(x) == pytest.approx(power[best] / power[1:].sum(), rel=1e-9)


def test_forgetting_is_the_largest_fall_from_a_count_once_reached():
    assert series.forgetting([8, 8, 8]) == 0.0
    assert series.forgetting([1, 8, 2, 8, 5]) == 6.0
    assert series.forgetting([0, 3, 7]) == 0.0


def test_reached_and_held_are_two_readings():
    found_and_lost = [1, 4, 8, 8, 3, 2, 2, 2]
    assert series.reached(found_and_lost, 8)
    assert series.held_share(found_and_lost, 8) == pytest.approx(2 / 6)
    assert series.held_share([1, 8, 8], 8) == 1.0
    assert series.held_share([1, 2], 8) == 0.0
    assert series.held_share([3.0, 0.1, 0.4, 0.1], 0.1, below=True) == pytest.approx(2 / 3)


def test_time_to_target_is_the_first_step_there_or_infinite():
    assert series.time_to_target([10, 20, 30, 40], [1, 8, 3, 8], 8) == 20.0
    assert series.time_to_target([10, 20], [1, 2], 8) == math.inf
    assert series.time_to_target([10, 20], [5, 1], 2, below=True) == 20.0
    with pytest.raises(ValueError, match="steps has 1 points and values 2"):
        series.time_to_target([10], [1, 2], 8)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_has_a_stated_answer(bad):
    broken = [1.0, 2.0, 1.0, bad, 1.0, 2.0]
    for reading in (
        series.dominant_period,
        series.dominant_share,
        series.spectral_entropy,
        series.sign_change_rate,
        series.forgetting,
    ):
        assert math.isnan(reading(broken)), reading
    assert math.isnan(series.detrended_rms(broken, last=1.0))
    assert series.detrended_rms([math.nan] * 80 + [1, -1, -1, 1] * 5) == pytest.approx(1.0)  # before the last part
    held = [1, 8, math.nan, 8]
    assert series.reached(held, 8)
    assert series.held_share(held, 8) == pytest.approx(2 / 3)
    assert series.time_to_target(range(4), [math.nan, 1, 8, 8], 8) == 2.0


def test_too_short_a_series_is_nan_and_an_empty_one_never_reaches():
    for reading in (series.dominant_period, series.dominant_share, series.spectral_entropy):
        assert math.isnan(reading([1.0, 2.0, 1.0]))
    assert math.isnan(series.sign_change_rate([1.0, 2.0]))
    assert math.isnan(series.detrended_rms([1.0, 2.0], last=1.0))
    assert math.isnan(series.forgetting([]))
    assert not series.reached([], 1)
    assert series.held_share([], 1) == 0.0
    assert series.time_to_target([], [], 1) == math.inf


def test_lists_arrays_and_tensors_read_the_same():
    values = [1, 3, 2, 5, 4, 7, 1, 0]
    for reading in (series.dominant_period, series.spectral_entropy, series.detrended_rms, series.forgetting):
        want = reading(values)
        assert reading(np.array(values)) == want or math.isnan(want)
        assert reading(torch.tensor(values, dtype=torch.bfloat16)) == want or math.isnan(want)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="one dimension"):
        series.forgetting(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"last is 0\.0"):
        series.detrended_rms([1, 2, 3], last=0.0)
