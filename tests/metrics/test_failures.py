"""Constructed failures on the 25-grid and on real digits: each measure must move the way it is said to, by degrees."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stabilgan.metrics import (
    authenticity,
    birthday_test,
    evaluate,
    frechet_distance,
    kernel_distance,
    ndb,
    pqmass,
    prdc,
    rke,
    sliced_wasserstein,
    vendi_score,
)

from .samples import digits, grid, normal

Readings = list[float]


def rising(values: Readings) -> bool:
    return all(a < b for a, b in pairwise(values))


def falling(values: Readings) -> bool:
    return all(a > b for a, b in pairwise(values))


def read(measure: Callable[[Tensor, Tensor], float], real: Tensor, fakes: list[Tensor]) -> Readings:
    return [measure(real, fake) for fake in fakes]


@pytest.fixture(scope="module")
def dropped() -> tuple[Tensor, list[Tensor]]:
    """Reals with 25 modes, fakes with 25, 20, 10, 5 and 1 of them."""
    return grid(2000), [grid(2000, kept, seed=1) for kept in (25, 20, 10, 5, 1)]


def test_grid_precision_is_blind_to_dropping_and_recall_and_coverage_follow_it(dropped):
    real, fakes = dropped
    results = [prdc(real, fake) for fake in fakes]
    assert all(0.93 < result.precision <= 1 for result in results)
    assert results[1].recall == pytest.approx(0.79, abs=0.03)
    assert results[1].coverage == pytest.approx(0.78, abs=0.03)
    assert results[3].recall == pytest.approx(0.185, abs=0.03)
    assert results[3].coverage == pytest.approx(0.185, abs=0.03)
    for name in ("recall", "coverage", "clipped_coverage"):
        assert falling([getattr(result, name) for result in results]), name
    assert results[1].clipped_density > 0.9  # it measures fidelity alone


def test_grid_rke_reads_the_modes_kept(dropped):
    _, fakes = dropped
    readings = [rke(fake, sigma=0.5).score for fake in fakes]
    assert readings == pytest.approx([25.4, 20.4, 10.3, 5.2, 1.05], rel=0.03)


@pytest.mark.parametrize(
    "measure",
    [
        lambda r, f: frechet_distance(r, f).distance,
        lambda r, f: kernel_distance(r, f, subsets=0).distance,
        lambda r, f: sliced_wasserstein(r, f).distance,
        lambda r, f: ndb(r, f, bins=25).divergence,
        lambda r, f: pqmass(r, f, regions=50, repeats=10).chi2,
    ],
    ids=["frechet", "kernel", "sliced", "ndb", "pqmass"],
)
def test_grid_distances_rise_with_every_mode_dropped(dropped, measure):
    real, fakes = dropped
    assert rising(read(measure, real, fakes))


@pytest.fixture(scope="module")
def real_digits() -> tuple[Tensor, Tensor, Tensor]:
    """2,500 real digits to compare with, and other 8,000 to make fakes of, with their labels."""
    features, labels = digits()
    return features[:2500], features[10_000:18_000], labels[10_000:18_000]


@pytest.mark.data
def test_digits_dropped_one_by_one(real_digits):
    real, pool, labels = real_digits
    fakes = [pool[labels <= last][:2500] for last in (9, 6, 3, 1)]
    results = [prdc(real, fake) for fake in fakes]
    for name in ("recall", "coverage", "clipped_coverage"):
        assert falling([getattr(result, name) for result in results]), name
    assert min(result.precision for result in results) > 0.9 * results[0].precision  # blind
    sigma = 0.4
    assert falling([rke(fake, sigma=sigma).score for fake in fakes])
    assert falling([vendi_score(fake).score for fake in fakes])
    for measure in (
        lambda r, f: frechet_distance(r, f).distance,
        lambda r, f: kernel_distance(r, f, subsets=0).distance,
        lambda r, f: sliced_wasserstein(r, f).distance,
        lambda r, f: ndb(r, f).divergence,
        lambda r, f: pqmass(r, f, repeats=5).chi2,
    ):
        assert rising(read(measure, real, fakes))


@pytest.mark.data
def test_digits_collapsing_to_one_image(real_digits):
    real, pool, _ = real_digits
    centre = pool[7]
    fakes = [centre + (pool[:2500] - centre) * left for left in (1.0, 0.5, 0.1, 0.0)]
    results = [prdc(real, fake) for fake in fakes]
    assert falling([result.coverage for result in results])
    assert falling([result.recall for result in results][:2])
    assert results[1].recall < 0.1
    assert falling([rke(fake, sigma=0.4).score for fake in fakes])
    assert rising(read(lambda r, f: frechet_distance(r, f).distance, real, fakes))
    births = [birthday_test(real, fake, size=100) for fake in fakes]
    assert births[0].probability < 0.3
    assert births[2].probability == 1.0
    assert births[3].support == 1.0


@pytest.mark.data
def test_digits_repeated_from_a_smaller_and_smaller_set(real_digits):
    real, pool, _ = real_digits
    fakes = [pool[torch.arange(2500) % unique] for unique in (2500, 500, 100, 20)]
    births = [birthday_test(real, fake, size=50, trials=200, threshold=0.0) for fake in fakes]
    for birth, unique in zip(births[1:], (500, 100, 20), strict=True):
        pairs_alike = (2500 / unique - 1) / 2499
        assert birth.support == pytest.approx(1 / pairs_alike, rel=0.2)
    assert rising([birth.probability for birth in births[:3]])
    results = [prdc(real, fake) for fake in fakes]
    assert falling([result.coverage for result in results])
    assert falling([rke(fake, sigma=0.4).score for fake in fakes])


@pytest.mark.data
def test_digits_under_more_and_more_noise(real_digits):
    real, pool, _ = real_digits
    fakes = [pool[:2500] + normal(2500, 50, 3, level / 50**0.5) for level in (0.0, 0.3, 0.6, 1.2)]
    results = [prdc(real, fake) for fake in fakes]
    for name in ("precision", "density", "coverage", "clipped_density", "clipped_coverage"):
        assert falling([getattr(result, name) for result in results]), name
    assert rising(read(lambda r, f: frechet_distance(r, f).distance, real, fakes))
    # the kernel (x·y/d + 1)³ sees a change of variance only in features of about unit variance
    scaled = [50**0.5 * fake for fake in fakes]
    assert rising(read(lambda r, f: kernel_distance(r, f, subsets=0).distance, 50**0.5 * real, scaled))


@pytest.mark.data
def test_digits_learnt_by_heart(real_digits):
    train, pool, _ = real_digits
    new = pool[:2000]
    fakes = [torch.cat([train[: int(2000 * copied)], new[int(2000 * copied) :]]) for copied in (0.0, 0.2, 0.5, 1.0)]
    shares = [authenticity(train, fake).share for fake in fakes]
    assert shares == pytest.approx([shares[0] * (1 - copied) for copied in (0.0, 0.2, 0.5, 1.0)], abs=0.02)
    assert prdc(train, fakes[-1]).precision > prdc(train, fakes[0]).precision  # fidelity alone would praise it


@pytest.mark.data
def test_digits_evaluated_at_once_tell_real_from_collapsed(real_digits):
    real, pool, _ = real_digits
    healthy = evaluate(real[:1000], pool[:1000])
    collapsed = evaluate(real[:1000], pool[:1].expand(1000, -1) + normal(1000, 50, 0, 1e-4))
    assert collapsed.prdc.coverage < 0.1 < 0.9 < healthy.prdc.coverage
    assert collapsed.rke.score < 1.001 < healthy.rke.score
    assert healthy.rke.score == pytest.approx(healthy.rke_real.score, rel=0.1)
    assert collapsed.birthday.probability == 1.0
