"""What a few seeds allow to be said: intervals, paired comparisons with the plain arm, verdicts.

The plain arm ("none") and an arm with tricks are run on the same seeds: same initial weights, data and latents. Each
reading of a run is compared within its seed; success is a reading of 0 or 1 like any other.

**The intervals** are Student's. At five seeds a percentile bootstrap of the mean covers 83 % where it promises 95
(normal outcomes; 10 seeds 90 %, 20 seeds 93 %), Student's interval 95 % at each. For two outcomes it covers 94 to
100 % where it is given (92 % at worst, for differences of very unlike arms at 20 seeds). For one-sided heavy tails it
falls short: the mean of a log-normal reading (σ 1) is covered in 82, 84 and 87 % at 5, 10 and 20 seeds, the difference
of two of them in 96 to 98 %. Where all values are alike no interval is given: a spread of zero would be a claim that
five runs can't support. A failure that comes once in ten runs is not seen in 59 % of benches of five seeds, and nothing
computed from those five can know of it; the rate's interval (Wilson: 95 % on average over all rates, 84 % at the worst
rate at five seeds) still says so.

**The p-value** is that of the paired t-test, but never below 2/4ⁿ for n pairs. Exact tests on pairs can't decide at
five seeds: flipping the signs of five differences gives at least 2/2⁵ = 0.0625 (`sign_flip_p`, which is reported
beside it). The t-test can, and under "the trick changes nothing" the differences are symmetric, where it errs on the
careful side. What it gets wrong is a spread of zero: five differences of exactly 7 are no proof of p = 0. If both arms
draw from one distribution, whatever it is, a difference takes a given value c ≠ 0 with probability
Σ p(x) p(x + c) <= ¼ (Motzkin & Straus 1965: no three outcomes lie c apart from each other), attained by a fair coin.
So n differences are all c, or all -c, with probability 2/4ⁿ at most. That is the floor: 0.002 at five seeds. It
assumes that the two runs of a seed are not *negatively* correlated; were they always opposed, 2/2ⁿ would be due.

**The verdict** asks two questions of each arm, the workload's primary reading and success, and corrects for all of
them in a bench (Holm 1979). Where the two disagree success decides: a run that finds all modes and loses them
has not succeeded. Where nothing is found, and even n equal differences would not have passed the full correction, the
verdict is "too few seeds": a lone arm needs four, four arms need five, and five do for up to twelve. The null is that
the trick changes nothing at all; a trick that only trades rare large failures for frequent small ones can be misjudged
by few seeds.

**Measured** on 10,000 simulated benches each, arms and plain alike: how often *any* arm got helps or hurts, in %
(the promise: 5 at most). Success is the better outcome; "normal" and "log-normal" have it beyond 1 and 2 deviations.

| outcomes | 1 arm: 5, 10, 20 seeds | 4 arms: 5, 10, 20 seeds |
|---|---|---|
| normal | 2.7, 2.7, 4.6 | 2.4, 2.4, 3.1 |
| log-normal, σ 1.5 | 0.4, 0.7, 1.2 | 0.2, 0.3, 0.4 |
| 1 or 8, a fair coin | 2.2, 2.8, 2.4 | 0.7, 2.7, 2.4 |
| the same with noise | 2.3, 2.7, 2.3 | 0.9, 3.1, 2.5 |
| 1 or 8, 80 % success | 0.4, 1.0, 2.3 | 0.1, 0.6, 1.7 |
| 1 or 8, 10 % success | 0.0, 0.1, 1.3 | 0.0, 0.0, 0.2 |
| 46.5 % 8, 29.5 % 0, else between | 3.0, 4.0, 3.8 | 1.9, 4.2, 4.0 |

What it finds: a trick that lifts success from 10 to 95 % in 84, 99, 100 % of benches with 1 arm and 50, 98, 100 % with
4 alike; from 10 to 60 % in 22, 56, 88 % and 5, 39, 84 % (1,000 benches each). Five seeds show turns, not shades.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

ALPHA = 0.05
FEWEST_PAIRS = 3
"""Below it no verdict is given, whatever the readings."""

HELPS, HURTS, NO_DIFFERENCE = "helps", "hurts", "no detectable difference"
TOO_FEW, FAILED, NO_PLAIN = "too few seeds", "failed", "no plain arm"

Better = Literal["higher", "lower"]
Interval = tuple[float, float]


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Student's interval for the mean; None for fewer than two values, or where all are alike.

    >>> low, high = mean_interval([1, 2, 3])  # 2 ± 4.303 · 1/√3
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    >>> mean_interval([8, 8, 8, 8, 8]) is None
    True
    """
    if len(values) < 2 or _alike(values):
        return None
    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, (1 + level) / 2) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean - half, mean + half


def _alike(values: Sequence[float]) -> bool:
    """No spread but that of rounding: 1.1 - 0.1 and 2.2 - 1.2 are one difference."""
    return max(values) - min(values) <= 1e-9 * max(map(abs, values))


def rate_interval(hits: float, n: int, level: float = 0.95) -> Interval | None:
    """Wilson's interval for a rate; None where nothing was tried.

    Its coverage is near the promised one on average at small n, where the exact interval of Clopper and Pearson is
    needlessly wide (Wilson 1927; Brown, Cai & DasGupta 2001, Stat. Sci. 16:2). `hits` may hold halves, for ties.

    >>> low, high = rate_interval(5, 5)  # 1/(1 + 1.96²/5)
    >>> round(low, 3), high
    (0.566, 1.0)
    """
    if n == 0:
        return None
    z2 = float(ndtri((1 + level) / 2)) ** 2
    rate = hits / n
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == n else centre + half)


def least_p(pairs: int) -> float:
    """The smallest p-value that this many pairs are allowed to give, 2/4ⁿ; see the module's text.

    >>> round(least_p(5), 5)
    0.00195
    """
    return 2.0 * 0.25**pairs


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test, at least 2/4ⁿ; 1 where no pair differs, None for fewer than two pairs.

    >>> round(paired_p([7, 7, 7, 7, 7]), 5)  # no spread: the floor, not zero
    0.00195
    >>> round(paired_p([1, 1, 1, 1, 0]), 4)  # t = 0.8 / 0.2 = 4 with 4 degrees of freedom
    0.0161
    """
    n = len(differences)
    if n < 2:
        return None
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if _alike(differences):
        return 1.0 if mean == 0 else least_p(n)
    t = abs(mean) / (deviation / math.sqrt(n))
    return max(2 * float(stdtr(n - 1, -t)), least_p(n))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the sign-flip permutation test on the mean; exact to 20 pairs, then from 99,999 random flips.

    Needs no assumption but symmetry under the null; the price is a floor of 2/2ⁿ (Fisher 1935, ch. III). None for no
    pairs.

    >>> sign_flip_p([7, 7, 7, 7, 7])  # only + + + + + and - - - - - are as extreme
    0.0625
    """
    d = np.asarray(differences, dtype=float)
    if not len(d):
        return None
    seen = abs(d.sum())
    slack = 1e-12 * float(np.abs(d).sum())  # sums of the same numbers in another order are ties
    if len(d) > 20:
        flips = np.random.default_rng(0).choice((-1.0, 1.0), size=(99_999, len(d)))
        return (1 + int((np.abs(flips @ d) >= seen - slack).sum())) / 100_000
    sums = d[:1]  # the mirror image of each sum is as extreme: the first sign can stay
    for x in d[1:]:
        sums = np.concatenate([sums + x, sums - x])
    return float((np.abs(sums) >= seen - slack).mean())


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, valid under any dependence (Holm 1979).

    >>> [round(x, 3) for x in holm([0.01, 0.04, 0.03])]  # 3 · 0.01, then 2 · 0.03, then the largest so far
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [1.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


@dataclass(frozen=True, slots=True)
class Comparison:
    """One reading of one arm against the plain arm, over the seeds that both have.

    Attributes:
        pairs: seeds with this reading in both arms.
        unpaired: seeds that one of the arms ran and that have the reading in one arm at most; dropped.
        difference: the mean of arm minus plain; None without pairs.
        interval: its 95 % interval by itself, not corrected for the number of arms; None where all pairs differ alike.
        better: which way is better, where that is known.
        improvement: the share of pairs in which the arm is better, ties half; its Wilson interval beside it.
        p: `paired_p`; `p_sign_flip` the exact one; `p_corrected` after Holm, None until corrected.
    """

    pairs: int
    unpaired: int
    difference: float | None
    interval: Interval | None
    better: Better | None
    improvement: float | None
    improvement_interval: Interval | None
    p: float | None
    p_sign_flip: float | None
    p_corrected: float | None = None

    @property
    def direction(self) -> int:
        """+1 where the arm is detectably better, -1 where worse, 0 where neither."""
        if self.p_corrected is None or self.p_corrected > ALPHA or not self.difference or self.better is None:
            return 0
        return 1 if (self.difference > 0) == (self.better == "higher") else -1


Values = Mapping[int, float | None]
"""A reading by seed; None where a run was made and the reading could not be computed."""


def compare(arm: Values, plain: Values, better: Better | None) -> Comparison:
    """Compares a reading of an arm with the plain arm's within each seed.

    >>> c = compare({0: 8.0, 1: 7.0, 2: 8.0}, {0: 1.0, 1: 7.0, 2: 3.0, 3: 5.0}, "higher")
    >>> c.pairs, c.unpaired, c.difference, round(c.improvement, 3)  # 7, 0 and 5: two wins, one tie
    (3, 1, 4.0, 0.833)
    """
    d = [a - b for seed in sorted(arm) if (a := arm[seed]) is not None and (b := plain.get(seed)) is not None]
    wins = sum(0.5 if x == 0 else float((x > 0) == (better == "higher")) for x in d)
    ranked = bool(d) and better is not None
    return Comparison(
        pairs=len(d),
        unpaired=len(arm.keys() | plain.keys()) - len(d),
        difference=float(np.mean(d)) if d else None,
        interval=mean_interval(d),
        better=better,
        improvement=wins / len(d) if ranked else None,
        improvement_interval=rate_interval(wins, len(d)) if ranked else None,
        p=paired_p(d),
        p_sign_flip=sign_flip_p(d),
    )


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with `p_corrected`, for all those that have pairs enough to count."""
    tested = [c for c in family if c.p is not None and c.pairs >= FEWEST_PAIRS]
    values = iter(holm([c.p for c in tested if c.p is not None]))
    return [replace(c, p_corrected=next(values)) if any(c is t for t in tested) else c for c in family]


def verdict(primary: Comparison | None, success: Comparison | None, questions: int) -> str:
    """What the two comparisons of an arm say: helps, hurts, no detectable difference, or too few seeds.

    Args:
        primary, success: corrected comparisons; None where the workload has no such reading.
        questions: how many comparisons were corrected together; sets how many pairs could decide anything.
    """
    asked = [c for c in (success, primary) if c is not None]
    # Success comes first, so that it decides where the two disagree.
    direction = next((c.direction for c in asked if c.direction), 0)
    if direction:
        return HELPS if direction > 0 else HURTS
    pairs = max((c.pairs for c in asked), default=0)
    return TOO_FEW if pairs < FEWEST_PAIRS or least_p(pairs) * questions > ALPHA else NO_DIFFERENCE


def pairs_needed(questions: int) -> int:
    """The fewest pairs with which a bench that asks this many questions can decide one.

    >>> pairs_needed(8)  # four arms, two questions each: 8 · 2/4⁵ = 0.016, but 8 · 2/4⁴ = 0.0625
    5
    """
    return next(n for n in range(FEWEST_PAIRS, 100) if least_p(n) * questions <= ALPHA)
