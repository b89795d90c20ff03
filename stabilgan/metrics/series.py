"""Readings of one series over training, a loss or a score: how much it swings, how regularly, and whether it holds.

A series is a list, NumPy array or tensor of numbers, one for each step at equal intervals. A series with nan or
infinity has no spectrum and no spread: those readings are nan. A reading that compares with a target says what it does.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Series = Sequence[float] | NDArray[np.generic] | Tensor
Array = NDArray[np.float64]


def detrended_rms(series: Series, last: float = 0.2) -> float:
    """How far the last part of a series swings about its own straight line; in the units of the series.

    last: share of the series to look at, 0 < last <= 1, rounded up to whole points. The least-squares line is
    taken off, and the root of the mean square of the rest returned. A straight line reads 0, a sine of amplitude a
    reads a/√2. nan with fewer than 3 points in the last part, or if one of them is not finite.

    >>> detrended_rms([1, -1, -1, 1], last=1.0)
    1.0
    """
    if not 0 < last <= 1:
        raise ValueError(f"last is {last}; expected the share of the series to look at, above 0 and at most 1")
    values = _array(series)
    values = values[len(values) - math.ceil(round(last * len(values), 9)) :]
    if len(values) < 3 or not np.isfinite(values).all():
        return math.nan
    return float(np.sqrt(np.mean(_detrend(values) ** 2)))


def dominant_period(series: Series) -> float:
    """The period that carries most of the swing, in steps: the peak of the detrended series' periodogram.

    Periods are n/1, n/2, ... down to 2 steps, for n points: one that fits c times into the series is found to within
    a share of 1/2c. nan for a constant or straight series, fewer than 4 points, or values that are not finite.

    >>> dominant_period([0, 1, 0, -1] * 4)
    4.0
    """
    power = _power(series)
    return float(_length(series) / (np.argmax(power) + 1)) if power.sum() > 0 else math.nan


def dominant_share(series: Series) -> float:
    """The share of the spectral power, 0..1, that sits at the dominant non-zero frequency.

    1 for a sine that fits a whole number of times into the series (0.4 to 1 where it does not, as it leaks into
    the next frequencies); for white noise of n points about 2 ln(n/2)/n. 0 for a constant or straight series, which
    does not swing. nan with fewer than 4 points, or values that are not finite.

    >>> round(dominant_share([0, 1, 0, -1] * 16), 2)
    1.0
    """
    power = _power(series)
    total = power.sum()
    return float(power.max() / total) if total > 0 else 0.0 * float(total)


def spectral_entropy(series: Series) -> float:
    """How spread the spectral power is over the frequencies: 0 for one pure tone, 1 for a flat spectrum.

    Shannon's entropy of the power shares at the non-zero frequencies, over its maximum. White noise reads about
    1 - 0.42/ln(n/2). nan where there is no swing, with fewer than 4 points, or values that are not finite.

    >>> abs(round(spectral_entropy([1, -1, -1, 1] * 8), 2))  # one tone
    0.0
    """
    power = _power(series)
    if not power.sum() > 0:
        return math.nan
    share = power[power > 0] / power.sum()
    return float(-np.sum(share * np.log(share)) / math.log(len(power)))


def sign_change_rate(series: Series) -> float:
    """The share of steps that turn back: how often one update's sign is the opposite of the last one's, 0..1.

    The updates are the differences between neighbours in the series. 0 for a monotone series, 1 for a zigzag, 2/3
    for white noise, 1/2 for a random walk. Equal neighbours change no sign. nan with fewer than 3 points, or
    values that are not finite.

    >>> sign_change_rate([0, 1, 0, 1, 2])
    0.6666666666666666
    """
    values = _array(series)
    if len(values) < 3 or not np.isfinite(values).all():
        return math.nan
    sign = np.sign(np.diff(values))
    return float(np.mean(sign[1:] * sign[:-1] < 0))


def forgetting(counts: Series) -> float:
    """The largest fall from a mode count once reached, in modes; 0 if nothing was lost. nan if a count is not finite.

    >>> forgetting([1, 5, 8, 3, 6])
    5.0
    """
    values = _array(counts)
    if not len(values) or not np.isfinite(values).all():
        return math.nan
    return float(np.max(np.maximum.accumulate(values) - values))


def reached(values: Series, target: float, *, below: bool = False) -> bool:
    """Whether a series was ever at the target: at least it, or at most it with `below`. nan is never there.

    >>> reached([1, 8, 3], 8), reached([0.9, 0.2], 0.1, below=True)
    (True, False)
    """
    return bool(_hits(values, target, below).any())


def held_share(values: Series, target: float, *, below: bool = False) -> float:
    """The share of a series, from the first time it is at the target on, that is at the target; 0 if it never is.

    1 is a target reached and held to the end. nan in the series is not at the target, so it lowers the share.

    >>> held_share([1, 8, 3, 8], 8)
    0.6666666666666666
    """
    hits = _hits(values, target, below)
    return float(hits[np.argmax(hits) :].mean()) if hits.any() else 0.0


def time_to_target(steps: Series, values: Series, target: float, *, below: bool = False) -> float:
    """The first of `steps` (or seconds) at which the values are at the target; inf if they never are.

    >>> time_to_target([0, 100, 200], [1, 7, 8], target=7)
    100.0
    """
    when, hits = _array(steps), _hits(values, target, below)
    if len(when) != len(hits):
        raise ValueError(f"steps has {len(when)} points and values {len(hits)}; expected one step for each value")
    return float(when[np.argmax(hits)]) if hits.any() else math.inf


def _array(series: Series) -> Array:
    values = np.asarray(series.detach().cpu().double() if isinstance(series, Tensor) else series, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"a series has shape {values.shape}; expected one dimension, a number for each step")
    return values


def _length(series: Series) -> int:
    return len(_array(series))


def _detrend(values: Array) -> Array:
    time = np.arange(len(values)) - (len(values) - 1) / 2
    values = values - values.mean()
    return values - time * (time @ values) / (time @ time)


def _power(series: Series) -> Array:
    """Power at frequencies 1/n, 2/n, ... 1/2 per step of the detrended series: nan if unknown, 0 if only rounding."""
    values = _array(series)
    if len(values) < 4 or not np.isfinite(values).all():
        return np.array([math.nan])
    rest = _detrend(values)
    if np.abs(rest).max() <= 1e-12 * np.abs(values).max():
        return np.zeros(len(values) // 2)
    power = np.abs(np.fft.rfft(rest)[1:]) ** 2
    if len(values) % 2 == 0:
        power[-1] /= 2  # the highest frequency of an even series has no mirror
    return power


def _hits(values: Series, target: float, below: bool) -> NDArray[np.bool_]:
    array = _array(values)
    hits: NDArray[np.bool_] = array <= target if below else array >= target
    return hits
