"""Known modes, against hand-made sets and closed forms."""

import itertools
import math

import pytest
import torch

from stabilgan.metrics.modes import (
    LabelModesMeter,
    MixtureModesMeter,
    churn,
    forgetting,
    joint_labels,
    label_modes,
    mixture_modes,
)

GRID = torch.tensor(list(itertools.product([-4.0, -2.0, 0.0, 2.0, 4.0], repeat=2)))


def grid(n: int, kept: int = 25, sigma: float = 0.05, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return GRID[torch.randint(kept, (n,), generator=rng)] + sigma * torch.randn(n, 2, generator=rng)


def test_perfect_samples_reach_the_ceiling_of_their_rule():
    x = grid(200_000)
    for rule, ceiling in (("distance", 1 - math.exp(-4.5)), ("axis", math.erf(3 / math.sqrt(2)) ** 2)):
        modes = mixture_modes(x, GRID, 0.05, rule=rule)
        assert modes.ceiling == pytest.approx(ceiling, rel=1e-12)
        assert modes.high_quality == pytest.approx(ceiling, abs=4 * math.sqrt(ceiling * (1 - ceiling) / 200_000))


def test_the_ceiling_in_three_dimensions_is_the_chi_square_share():
    from scipy.stats import chi2

    assert mixture_modes(torch.zeros(1, 3), torch.zeros(1, 3), 1.0).ceiling == pytest.approx(chi2.cdf(9, 3), rel=1e-12)


def test_kl_of_a_uniform_generator_is_its_floor_on_average():
    readings = [mixture_modes(grid(1000, seed=s), GRID, 0.05) for s in range(200)]
    kls = torch.tensor([modes.kl for modes in readings])
    assert readings[0].kl_floor == 24 / 2000
    assert kls.mean().item() == pytest.approx(0.012, abs=4 * kls.std().item() / math.sqrt(200))


@pytest.mark.parametrize("kept", [1, 5, 20, 25])
def test_dropped_modes_are_counted_and_kl_is_at_least_its_bound(kept):
    modes = mixture_modes(grid(5000, kept), GRID, 0.05)
    assert modes.captured == kept
    assert modes.kl >= modes.kl_bound == pytest.approx(math.log(25 / kept))
    assert modes.kl == pytest.approx(modes.kl_bound, abs=0.02)


def test_samples_between_modes_fall_in_the_last_bin_though_every_mode_is_captured():
    rng = torch.Generator().manual_seed(0)
    x = torch.cat([grid(1000), 10 * torch.rand(9000, 2, generator=rng) - 5])
    modes = mixture_modes(x, GRID, 0.05)
    assert modes.captured == 25
    assert 0.1 < modes.high_quality < 0.12
    assert modes.counts[-1] == 10_000 - sum(modes.counts[:-1]) > 8800
    assert modes.kl < 0.05 < 1 < modes.kl_bins  # only the k+1 bins see it


def test_a_minimum_count_asks_for_more_than_a_stray_sample():
    x = torch.cat([GRID[:1].expand(99, 2), GRID[1:2]])
    assert mixture_modes(x, GRID, 0.05).captured == 2
    assert mixture_modes(x, GRID, 0.05, min_count=2).captured == 1


def test_a_diverged_generator_is_judged_and_not_a_crash():
    modes = mixture_modes(torch.full((10, 2), math.nan), GRID, 0.05)
    assert (modes.captured, modes.high_quality, modes.counts[-1], modes.n) == (0, 0.0, 10, 10)
    assert math.isnan(modes.kl)
    x = torch.stack([GRID[0], torch.tensor([math.inf, 0.0]), GRID[0], torch.tensor([0.0, -math.inf])])
    assert mixture_modes(x, GRID, 0.05, rule="axis").counts[-1] == 2
    with pytest.raises(ValueError, match=r"2 of 4 rows, the first at \[1, 3\]"):
        mixture_modes(x, GRID, 0.05, non_finite="raise")


def test_no_samples_read_as_nan_and_no_modes():
    modes = MixtureModesMeter(GRID, 0.05).compute()
    assert (modes.captured, modes.n) == (0, 0)
    assert math.isnan(modes.high_quality)
    assert math.isnan(modes.kl)
    assert math.isnan(modes.kl_floor)
    assert math.isnan(churn(modes, modes))
    assert math.isnan(forgetting(modes, modes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_any_real_dtype_is_judged(dtype):
    assert mixture_modes(GRID.to(dtype), GRID, 0.05).captured == 25


def test_batches_add_up_to_the_whole():
    x = grid(3000, 20)
    meter = MixtureModesMeter(GRID, 0.05)
    for part in x.split(700):
        meter.update(part)
    assert meter.compute() == mixture_modes(x, GRID, 0.05)


def test_counts_of_processes_add_up_to_the_whole():
    x, labels = grid(3000, 20), torch.arange(300) % 7
    for make, samples in ((lambda: MixtureModesMeter(GRID, 0.05), x), (lambda: LabelModesMeter(9), labels)):
        here, sent = make().update(samples[:100]), make()
        sent.load_state_dict(make().update(samples[100:]).state_dict())
        assert here.merge(sent).compute() == make().update(samples).compute()
        sent.update(samples)  # what was merged is a copy
        assert here.compute().n == len(samples)
    with pytest.raises(ValueError, match="one meter has 25 modes, the other 24"):
        MixtureModesMeter(GRID, 0.05).merge(MixtureModesMeter(GRID[1:], 0.05))
    with pytest.raises(ValueError, match="one meter has 9 modes, the other 8"):
        LabelModesMeter(9).merge(LabelModesMeter(8))


def test_forgetting_and_churn_between_two_times():
    before = label_modes(torch.arange(10), 10)
    after = label_modes(torch.arange(5).repeat(2), 10)
    assert forgetting(before, after) == 0.5
    assert churn(before, after) == pytest.approx(0.5)
    assert forgetting(after, before) == 0.0
    assert churn(before, before) == 0.0


def test_churn_of_two_draws_from_one_generator_is_what_the_docstring_says():
    rng = torch.Generator().manual_seed(0)
    draws = [label_modes(torch.randint(10, (1000,), generator=rng), 10) for _ in range(200)]
    mean = sum(churn(a, b) for a, b in itertools.pairwise(draws)) / 199
    assert mean == pytest.approx(math.sqrt(10 / (math.pi * 1000)), rel=0.1)


def test_stacked_digits_become_one_of_a_thousand_labels():
    digits = torch.tensor(list(itertools.product(range(10), repeat=3)))
    modes = label_modes(joint_labels(digits), 1000)
    assert modes.captured == 1000
    assert modes.kl == pytest.approx(0, abs=1e-12)
    rng = torch.Generator().manual_seed(0)
    assert label_modes(torch.randint(1000, (26_000,), generator=rng), 1000).kl_floor == pytest.approx(0.0192, abs=1e-4)


def test_labels_of_no_mode_lower_the_quality_and_labels_out_of_range_are_refused():
    modes = LabelModesMeter(3).update(torch.tensor([0, 1, -1, -1])).compute()
    assert modes.high_quality == 0.5
    assert modes.counts == (1, 1, 0, 2)
    assert modes.kl_bins == math.inf
    with pytest.raises(ValueError, match=r"outside 0\.\.2, such as 3"):
        label_modes(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match="whole numbers"):
        label_modes(torch.tensor([0.0, 1.0]), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0.0"),
        ({"min_count": 0}, "min_count is 0"),
        ({"rule": "box"}, "rule is 'box'"),
        ({"non_finite": "drop"}, "non_finite is 'drop'"),
        ({"x": torch.zeros(4, 3)}, "the centres have 2 columns"),
        ({"centres": torch.zeros(3)}, "centres has shape"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        mixture_modes(**{"x": grid(4), "centres": GRID, "sigma": 0.05, **change})
