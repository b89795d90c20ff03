"""What holds for any samples: invariances, symmetries, ranges; sets are drawn by hypothesis."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from stabilgan.metrics import (
    authenticity,
    frechet_distance,
    kernel_distance,
    mixture_modes,
    ndb,
    pqmass,
    prdc,
    rke,
    series,
    sliced_wasserstein,
    vendi_score,
)

from .samples import GRID, normal

pytestmark = pytest.mark.filterwarnings("ignore:the Fréchet distance")
slow_box = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def clouds(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Two sets in float64: clusters of very different widths, some collapsed, some with duplicates."""
    seed, d = draw(st.integers(0, 2**31)), draw(st.integers(1, 6))
    n, m = draw(st.integers(8, 60)), draw(st.integers(8, 60))
    rng = torch.Generator().manual_seed(seed)
    centres = draw(st.sampled_from([0.0, 1.0, 30.0])) * torch.randn(3, d, generator=rng, dtype=torch.float64)
    sets = []
    for size in (n, m):
        width = draw(st.sampled_from([1e-6, 1e-2, 1.0]))
        x = centres[torch.randint(3, (size,), generator=rng)]
        x = x + width * torch.randn(size, d, generator=rng, dtype=torch.float64)
        if draw(st.booleans()):
            x = x[torch.randint(size, (size,), generator=rng)]
        sets.append(x)
    return sets[0], sets[1]


@slow_box
@given(clouds())
def test_ranges_hold(pair):
    x, y = pair
    result = prdc(x, y, k=3)
    for name in ("precision", "recall", "coverage", "clipped_density", "clipped_coverage"):
        value = getattr(result, name)
        assert 0 <= value <= 1 or (name == "clipped_density" and math.isnan(value)), name
    assert result.density >= 0
    assert frechet_distance(x, y).distance >= 0
    assert sliced_wasserstein(x, y).distance >= 0
    for vendi in (vendi_score(x), vendi_score(x, q=2), rke(x, sigma=1.0)):
        assert 1 - 1e-9 <= vendi.score <= len(x) + 1e-9
    assert vendi_score(x, q=2).score <= vendi_score(x).score + 1e-9  # orders only lower the count
    assert 0 <= ndb(x, y, bins=4).divergence <= math.log(2) + 1e-12
    assert 0 <= pqmass(x, y, regions=3, repeats=2).p_value <= 1
    assert 0 <= authenticity(x, y).share <= 1


@slow_box
@given(clouds(), st.integers(0, 1000))
def test_the_order_of_samples_does_not_matter(pair, seed):
    x, y = pair
    rng = torch.Generator().manual_seed(seed)
    i, j = torch.randperm(len(x), generator=rng), torch.randperm(len(y), generator=rng)
    moved, still = (vars(prdc(a, b, k=3)) for a, b in ((x[i], y[j]), (x, y)))
    if len(x.unique(dim=0)) < len(x):  # of neighbours at the same distance any may be the k-th
        del moved["clipped_density"], still["clipped_density"]
    assert moved == still
    assert authenticity(x[i], y[j]).share == authenticity(x, y).share
    for measure in (
        lambda a, b: frechet_distance(a, b).distance,
        lambda a, b: kernel_distance(a, b, subsets=0).distance,
        lambda a, b: sliced_wasserstein(a, b).distance,
        lambda a, b: vendi_score(a).score,
        lambda a, b: rke(b, sigma=1.0).score,
    ):
        scale = 1 + x.abs().max().item() ** 6
        assert measure(x[i], y[j]) == pytest.approx(measure(x, y), rel=1e-6, abs=1e-11 * scale)


@slow_box
@given(st.integers(0, 1000), st.integers(2, 6))
def test_a_rotation_and_a_shift_change_nothing_where_only_distances_count(seed, d):
    x, y = normal(60, d, seed).double(), normal(50, d, seed + 1).double()
    turn, _ = torch.linalg.qr(normal(d, d, seed + 2).double())
    a, b = x @ turn + 3, y @ turn + 3
    assert prdc(a, b) == prdc(x, y)
    assert authenticity(a, b).share == authenticity(x, y).share
    assert frechet_distance(a, b).distance == pytest.approx(frechet_distance(x, y).distance, rel=1e-6, abs=1e-9)
    assert rke(a, sigma=1.0).score == pytest.approx(rke(x, sigma=1.0).score, rel=1e-9)
    assert vendi_score(x @ turn).score == pytest.approx(vendi_score(x).score, rel=1e-9)  # a rotation only


@slow_box
@given(clouds())
def test_what_is_symmetric_is(pair):
    x, y = pair
    scale = 1 + max(x.abs().max().item(), y.abs().max().item()) ** 6
    for measure in (
        lambda a, b: frechet_distance(a, b).distance,
        lambda a, b: kernel_distance(a, b, subsets=0).distance,
        lambda a, b: sliced_wasserstein(a, b).distance,
    ):
        assert measure(x, y) == pytest.approx(measure(y, x), rel=1e-7, abs=1e-11 * scale)
    forward, back = prdc(x, y, k=3), prdc(y, x, k=3)
    assert (forward.precision, forward.recall) == (back.recall, back.precision)


@slow_box
@given(clouds())
def test_prdc_is_the_plain_count(pair):
    x, y = pair
    k = 3

    def squares(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] - b).square().sum(2)

    r, s = squares(x, x).kthvalue(k + 1, 1).values, squares(y, y).kthvalue(k + 1, 1).values
    inside, around = squares(x, y) < r[:, None], squares(x, y) < s
    result = prdc(x, y, k=k)
    assert result.precision == pytest.approx(inside.any(0).double().mean().item())
    assert result.recall == pytest.approx(around.any(1).double().mean().item())
    assert result.density == pytest.approx(inside.sum().item() / k / len(y))
    assert result.coverage == pytest.approx(inside.any(1).double().mean().item())


@slow_box
@given(clouds(), st.sampled_from([0, 7]))
def test_a_seed_decides_everything_that_is_drawn(pair, seed):
    x, y = pair
    state = torch.get_rng_state()
    for measure in (
        lambda: kernel_distance(x, y, subsets=3, subset_size=5, seed=seed),
        lambda: ndb(x, y, bins=3, seed=seed),
        lambda: pqmass(x, y, regions=3, repeats=2, seed=seed),
        lambda: sliced_wasserstein(x, y, projections=8, seed=seed),
    ):
        assert measure() == measure()
    assert torch.equal(state, torch.get_rng_state())  # and nothing comes from the global generator


@slow_box
@given(st.integers(1, 25), st.integers(1, 200), st.integers(0, 1000))
def test_kl_is_at_least_its_bound_and_counts_add_up(kept, n, seed):
    rng = torch.Generator().manual_seed(seed)
    x = GRID[torch.randint(kept, (n,), generator=rng)] + 0.2 * torch.randn(n, 2, generator=rng)
    modes = mixture_modes(x, GRID, 0.05)
    assert sum(modes.counts) == sum(modes.nearest) == n
    assert modes.kl_bound - 1e-12 <= modes.kl <= math.log(25) + 1e-12
    assert 0 <= modes.captured <= 25
    assert 0 <= modes.high_quality <= 1


@slow_box
@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=60), st.floats(0.1, 100), st.floats(-1e3, 1e3))
def test_series_readings_have_their_ranges_and_ignore_scale_and_level(values, scale, level):
    share, entropy = series.dominant_share(values), series.spectral_entropy(values)
    assert 0 <= share <= 1 + 1e-12
    assert math.isnan(entropy) or -1e-12 <= entropy <= 1 + 1e-12
    period = series.dominant_period(values)
    assert math.isnan(period) or 2 <= period <= len(values)
    assert 0 <= series.sign_change_rate(values) <= 1
    assert series.forgetting(values) >= 0
    moved = [scale * value + level for value in values]
    want = scale * series.detrended_rms(values, 1.0)
    assert series.detrended_rms(moved, 1.0) == pytest.approx(want, rel=1e-6, abs=1e-6)
