"""The bench's statistics against scipy, against counting, and over many simulated benches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stabilgan.bench import statistics as bench

SEED = 20_261_123


def numbered(values: list[float]) -> dict[int, float | None]:
    return dict(enumerate(values))


# --- each number against another implementation -------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_interval_of_a_mean_is_scipys_students_interval(n: int) -> None:
    values = np.random.default_rng(SEED).normal(5, 2, n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert bench.mean_interval(values.tolist()) == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (1, 5), (5, 5), (7, 10), (20, 20), (0, 1)])
def test_the_interval_of_a_rate_is_scipys_wilson_interval(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    assert bench.rate_interval(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("n", [5, 10, 20])
def test_p_is_scipys_paired_t_test_above_the_floor(n: int) -> None:
    rng = np.random.default_rng(SEED + n)
    arm, plain = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    expected = stats.ttest_rel(arm, plain).pvalue
    assert expected > bench.least_p(n)  # so that the comparison below says something
    assert bench.paired_p((arm - plain).tolist()) == pytest.approx(expected, rel=1e-9)


def test_p_stops_at_the_floor_where_the_t_test_goes_on_to_zero() -> None:
    steady = [7.0, 7.0001, 6.9999, 7.0, 7.0]
    assert stats.ttest_1samp(steady, 0).pvalue < 1e-15
    assert bench.paired_p(steady) == 2 / 4**5


def test_alike_arms_never_differ_by_one_amount_more_often_than_a_quarter_of_the_time() -> None:
    """The floor's reason, over every distribution on four outcomes with masses in sixteenths."""
    most = 0.0
    for masses in itertools.product(range(17), repeat=4):
        if sum(masses) == 16:
            most = max(most, *(sum(masses[x] * masses[x + c] for x in range(4 - c)) / 256 for c in (1, 2, 3)))
    assert most == 1 / 4
    assert bench.least_p(5) == 2 * most**5


@pytest.mark.parametrize("n", [2, 5, 9])
def test_the_sign_flip_p_is_scipys_exact_permutation_test(n: int) -> None:
    d = np.random.default_rng(SEED + n).normal(0.7, 1, n)
    expected = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert bench.sign_flip_p(d.tolist()) == pytest.approx(expected, abs=1e-12)


def test_the_sign_flip_p_of_tied_differences_counts_ties_as_extreme() -> None:
    d = [0.1, 0.2, 0.3, -0.3, 0.1]  # sums such as 0.1 + 0.2 and 0.3 differ by rounding alone
    sums = [
        abs(sum(s * round(10 * x) for s, x in zip(signs, d, strict=True)))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    assert bench.sign_flip_p(d) == sum(s >= 4 for s in sums) / 32


def test_beyond_twenty_pairs_the_sign_flip_p_is_near_the_exact_one() -> None:
    d = np.random.default_rng(SEED).normal(0.3, 1, 24)
    half = [0.0]
    for x in d[1:]:
        half = np.concatenate([np.asarray(half) + x, np.asarray(half) - x])
    exact = float((np.abs(np.asarray(half) + d[0]) >= abs(d.sum()) - 1e-9).mean())
    estimate = bench.sign_flip_p(d.tolist())
    assert estimate is not None
    assert abs(estimate - exact) < 5 * math.sqrt(exact / 1e5)
    assert estimate == bench.sign_flip_p(d.tolist())  # reports made twice are the same


def test_differences_that_vary_by_rounding_alone_have_no_interval() -> None:
    arm, plain = numbered([1.1, 2.2, 3.3]), numbered([0.1, 1.2, 2.3])
    assert len({a - b for a, b in zip(arm.values(), plain.values(), strict=True) if a and b}) > 1
    found = bench.compare(arm, plain, "higher")
    assert found.interval is None
    assert found.p == 2 / 4**3


def test_holm_by_hand() -> None:
    assert bench.holm([0.04, 0.001, 0.5, 0.02]) == pytest.approx([0.08, 0.004, 0.5, 0.06])
    assert bench.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_bonferroni_for_the_smallest_and_keeps_the_order(p: list[float]) -> None:
    corrected = bench.holm(p)
    assert min(corrected) == min(1.0, len(p) * min(p))
    assert [corrected[i] for i in sorted(range(len(p)), key=lambda i: p[i])] == sorted(corrected)
    assert all(raw <= c for raw, c in zip(p, corrected, strict=True))


def test_improvement_counts_ties_as_half_and_follows_the_better_direction() -> None:
    arm, plain = numbered([3, 2, 2, 0]), numbered([1, 2, 1, 5])
    assert bench.compare(arm, plain, "higher").improvement == (1 + 0.5 + 1 + 0) / 4
    assert bench.compare(arm, plain, "lower").improvement == (0 + 0.5 + 0 + 1) / 4
    assert bench.compare(arm, plain, None).improvement is None


def test_seeds_that_make_no_pair_are_dropped_and_counted() -> None:
    arm: dict[int, float | None] = {0: 5.0, 1: None, 2: 7.0, 3: 1.0}
    plain: dict[int, float | None] = {0: 4.0, 1: 3.0, 2: 4.0, 9: 100.0}
    found = bench.compare(arm, plain, "higher")
    assert (found.pairs, found.unpaired, found.difference) == (2, 3, 2.0)


def test_nothing_to_compare_gives_no_numbers_rather_than_wrong_ones() -> None:
    found = bench.compare({}, {0: 1.0}, "higher")
    assert (found.pairs, found.difference, found.interval, found.p, found.improvement) == (0, None, None, None, None)


# --- verdicts -----------------------------------------------------------------------------------------------------


def verdict_of(
    arm: list[float], plain: list[float], *, target: float = 8, arms: int = 1, better: bench.Better = "higher"
) -> str:
    """The first arm's verdict in a bench whose other arms are like the plain one."""
    family = []
    for values in [arm] + [plain] * (arms - 1):
        reached = [[float(v >= target) for v in x] for x in (values, plain)]
        family.append(bench.compare(numbered(values), numbered(plain), better))
        family.append(bench.compare(numbered(reached[0]), numbered(reached[1]), better))
    family = bench.corrected(family)
    return bench.verdict(family[0], family[1], len(family))


@pytest.mark.parametrize("arms", [1, 4, 12])
def test_five_failures_against_five_successes_is_a_verdict_though_nothing_varies(arms: int) -> None:
    assert verdict_of([8] * 5, [1] * 5, arms=arms) == "helps"
    assert verdict_of([1] * 5, [8] * 5, arms=arms) == "hurts"


def test_where_lower_is_better_a_fall_helps() -> None:
    assert verdict_of([1] * 5, [8] * 5, better="lower") == "helps"


def test_the_same_outcomes_are_no_detectable_difference() -> None:
    assert verdict_of([8] * 5, [8] * 5) == "no detectable difference"
    assert verdict_of([8, 1, 8, 1, 8], [1, 8, 8, 8, 1]) == "no detectable difference"


def test_one_lucky_seed_is_no_detectable_difference() -> None:
    assert verdict_of([8, 1, 1, 1, 1], [1, 1, 1, 1, 1]) == "no detectable difference"


def test_a_verdict_is_withheld_where_no_outcome_could_give_one() -> None:
    assert verdict_of([8] * 2, [1] * 2) == "too few seeds"
    assert verdict_of([8] * 3, [1] * 3) == "too few seeds"  # 2 questions · 2/4³ = 0.0625
    assert verdict_of([8] * 4, [1] * 4) == "helps"  # 2 · 2/4⁴ = 0.016
    assert verdict_of([8] * 4, [1] * 4, arms=4) == "too few seeds"  # 8 · 2/4⁴ = 0.0625
    assert bench.pairs_needed(8) == 5


def test_success_decides_where_it_disagrees_with_the_reading() -> None:
    seeds = 12
    more_modes = bench.compare(numbered([7.0] * seeds), numbered([6.0] * seeds), "higher")
    fewer_held = bench.compare(numbered([0.0] * seeds), numbered([1.0] * seeds), "higher")
    family = bench.corrected([more_modes, fewer_held])
    assert [c.direction for c in family] == [1, -1]
    assert bench.verdict(family[0], family[1], 2) == "hurts"


def test_the_correction_takes_a_verdict_away_when_many_arms_are_tried() -> None:
    arm, plain = [6.0, 7, 7, 6, 5], [5.0, 5, 4, 4, 4]  # p = 0.0086 alone, never a success
    assert verdict_of(arm, plain, arms=1) == "helps"
    assert verdict_of(arm, plain, arms=12) == "no detectable difference"


# --- over many benches --------------------------------------------------------------------------------------------

Outcomes = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
NULLS: dict[str, Outcomes] = {
    "normal": lambda rng, shape: rng.normal(7, 1, shape),
    "two outcomes": lambda rng, shape: np.where(rng.random(shape) < 0.5, 8.0, 1.0),
    "two noisy outcomes": lambda rng, shape: np.where(rng.random(shape) < 0.5, 8.0, 1.0) + rng.normal(0, 0.1, shape),
    "rare success": lambda rng, shape: np.where(rng.random(shape) < 0.2, 8.0, 1.0),
    # 46.5 % find all eight modes, 29.5 % none (PROTOCOLS, 200 seeds of a saturating GAN)
    "the ring's": lambda rng, shape: rng.choice(9, p=[0.295, *[0.24 / 7] * 7, 0.465], size=shape).astype(float),
    "heavy-tailed": lambda rng, shape: np.exp(1.5 * rng.normal(size=shape)),
}


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("name", NULLS)
def test_tricks_that_change_nothing_get_a_verdict_in_five_percent_of_benches_at_most(
    name: str, seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "sign_flip_p", lambda d: None)  # takes most of the time and no part in the verdict
    rng, benches, arms = np.random.default_rng(SEED), 800, 3
    wrong = 0
    for _ in range(benches):
        outcomes = NULLS[name](rng, (arms + 1, seeds))
        family = []
        for values in outcomes[1:]:
            for arm, plain in ((values, outcomes[0]), (values >= 8, outcomes[0] >= 8)):
                family.append(
                    bench.compare(
                        numbered(arm.astype(float).tolist()), numbered(plain.astype(float).tolist()), "higher"
                    )
                )
        family = bench.corrected(family)
        verdicts = {bench.verdict(family[i], family[i + 1], len(family)) for i in range(0, len(family), 2)}
        assert "too few seeds" not in verdicts
        wrong += bool(verdicts & {"helps", "hurts"})
    # At a true rate of 5 % more than 60 of 800 come once in a thousand times.
    assert wrong <= stats.binom.ppf(0.999, benches, 0.05)


@pytest.mark.parametrize(("plain_rate", "rate", "least"), [(0.05, 0.95, 0.8), (0.95, 0.05, 0.8)])
def test_a_trick_that_turns_failure_into_success_is_found_with_five_seeds(
    plain_rate: float, rate: float, least: float
) -> None:
    rng, found = np.random.default_rng(SEED), 0
    for _ in range(200):
        arm, plain = (np.where(rng.random(5) < p, 8.0, rng.integers(1, 4, 5)).tolist() for p in (rate, plain_rate))
        found += verdict_of(arm, plain) == ("helps" if rate > plain_rate else "hurts")
    assert found / 200 >= least


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("name", ["normal", "two outcomes", "the ring's"])
def test_intervals_of_differences_cover_the_true_difference_where_they_are_given(name: str, seeds: int) -> None:
    rng, tried, covered, shift = np.random.default_rng(SEED), 0, 0, 1.5
    for _ in range(1500):
        plain, arm = NULLS[name](rng, (2, seeds))
        interval = bench.mean_interval((arm + shift - plain).tolist())
        if interval is not None:
            tried, covered = tried + 1, covered + (interval[0] <= shift <= interval[1])
    assert tried > 1400
    assert covered / tried >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / tried)


@pytest.mark.parametrize("n", [5, 10, 20, 50])
def test_the_rates_interval_covers_95_percent_over_all_rates(n: int) -> None:
    rates = np.linspace(0.005, 0.995, 199)
    intervals = [bench.rate_interval(k, n) for k in range(n + 1)]
    inside = np.array([[low <= p <= high for low, high in intervals] for p in rates])  # type: ignore[misc]
    coverage = (inside * np.array([stats.binom.pmf(np.arange(n + 1), n, p) for p in rates])).sum(1)
    assert 0.945 <= coverage.mean() <= 0.96
    assert coverage.min() >= 0.83
