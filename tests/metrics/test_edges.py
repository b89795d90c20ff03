"""The awkward inputs, on every measure of two sets and of one."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stabilgan.metrics import (
    authenticity,
    birthday_test,
    evaluate,
    fkea,
    frechet_distance,
    kernel_distance,
    ndb,
    pqmass,
    prdc,
    rke,
    sliced_wasserstein,
    vendi_score,
)

from .samples import normal

Pair = Callable[[Tensor, Tensor], float]
Single = Callable[[Tensor], float]

PAIRS: dict[str, Pair] = {
    "authenticity": lambda x, y: authenticity(x, y).share,
    "birthday": lambda x, y: birthday_test(x, y, size=10, trials=5).threshold,
    "coverage": lambda x, y: prdc(x, y).coverage,
    "evaluate": lambda x, y: evaluate(x, y).sliced.distance,
    "frechet": lambda x, y: frechet_distance(x, y).distance,
    "kernel": lambda x, y: kernel_distance(x, y, subsets=3).distance,
    "ndb": lambda x, y: ndb(x, y, bins=5).divergence,
    "pqmass": lambda x, y: pqmass(x, y, regions=5).chi2,
    "sliced": lambda x, y: sliced_wasserstein(x, y).distance,
}
SINGLES: dict[str, Single] = {
    "fkea": lambda x: fkea(x, sigma=1.0, random_features=20).score,
    "rke": lambda x: rke(x, sigma=1.0).score,
    "vendi": lambda x: vendi_score(x).score,
}
MEASURES = {**PAIRS, **{name: (lambda x, y, f=f: f(y)) for name, f in SINGLES.items()}}
each = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@each
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_with_its_row(measure, bad):
    x, y = normal(60, 3, 0), normal(50, 3, 1)
    y[17, 2] = bad
    with pytest.raises(ValueError, match=r"nan or infinity in 1 of 50 rows, the first at \[17\]"):
        measure(x, y)


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int64])
def test_narrow_and_whole_numbers_are_measured_at_their_values(measure, dtype):
    x, y = ((normal(n, 3, seed).abs() * 40).to(dtype) for n, seed in ((60, 0), (50, 1)))
    assert measure(x, y) == pytest.approx(measure(x.double(), y.double()), rel=1e-4, abs=1e-6)


@each
def test_rows_that_are_not_contiguous_are_the_same_rows(measure):
    x, y = normal(120, 6, 0)[::2, ::2], normal(6, 50, 1).T[:, :3]
    assert not x.is_contiguous()
    assert not y.is_contiguous()
    assert measure(x, y) == pytest.approx(measure(x.contiguous(), y.contiguous()), rel=1e-6)


@each
def test_one_feature_is_enough(measure):
    assert math.isfinite(measure(normal(60, 1, 0), normal(50, 1, 1)))


@each
def test_gradients_are_not_followed_and_inputs_not_changed(measure):
    x, y = normal(60, 3, 0).requires_grad_(), normal(50, 3, 1).requires_grad_()
    before = x.detach().clone(), y.detach().clone()
    measure(x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize("name", ["birthday", "coverage", "evaluate", "frechet", "kernel", "pqmass"])
def test_one_sample_is_refused_where_it_says_nothing(name):
    with pytest.raises(ValueError, match=r"1 fake|fake has 1 samples"):
        MEASURES[name](normal(60, 3, 0), normal(1, 3, 1))


@pytest.mark.parametrize(("name", "want"), [("fkea", 1.0), ("rke", 1.0), ("vendi", 1.0), ("authenticity", 0.0)])
def test_one_sample_counts_as_one(name, want):
    x = normal(60, 3, 0)
    assert MEASURES[name](x, x[:1]) == pytest.approx(want)


def test_one_sample_can_be_moved_to_another():
    assert sliced_wasserstein(torch.zeros(1, 1), torch.full((1, 1), 2.0)).distance == 2.0


@each
def test_no_samples_are_refused(measure):
    with pytest.raises(ValueError, match=r"shape \(0, 3\)"):
        measure(normal(60, 3, 0), torch.zeros(0, 3))


@pytest.mark.parametrize("measure", PAIRS.values(), ids=PAIRS)
def test_features_of_two_kinds_are_refused(measure):
    with pytest.raises(ValueError, match="columns"):
        measure(normal(60, 3, 0), normal(60, 4, 0))
