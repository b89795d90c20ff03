"""Fréchet, kernel and sliced distances, against closed forms."""

import math

import numpy as np
import pytest
import torch

from stabilgan.metrics import (
    FrechetMeter,
    Gaussian,
    KernelDistanceMeter,
    SlicedWassersteinMeter,
    SmallSampleWarning,
    frechet_distance,
    gaussian_distance,
    kernel_distance,
    sliced_wasserstein,
)

from .samples import normal


def exact_gaussian(mean: torch.Tensor, covariance: torch.Tensor) -> Gaussian:
    gaussian = Gaussian()
    gaussian.load_state_dict({"n": 1001, "mean": mean, "scatter": covariance * 1000})
    return gaussian


def test_frechet_distance_of_commuting_gaussians_is_that_of_their_deviations():
    basis, _ = torch.linalg.qr(normal(20, 20, 0).double())
    s, t = torch.rand(2, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    x = exact_gaussian(torch.zeros(20).double(), basis @ torch.diag(s**2) @ basis.T)
    y = exact_gaussian(torch.ones(20).double(), basis @ torch.diag(t**2) @ basis.T)
    result = gaussian_distance(x, y)
    assert result.distance == pytest.approx(20 + (s - t).square().sum().item(), rel=1e-12)
    assert result.mean_term == pytest.approx(20)


def test_frechet_distance_of_gaussians_that_do_not_commute_is_scipys():
    from scipy.linalg import sqrtm

    a, b = (normal(12, 12, seed).double() for seed in (0, 1))
    a, b = a @ a.T, b @ b.T
    want = (a + b).trace().item() - 2 * np.trace(sqrtm(a.numpy() @ b.numpy()).real)
    zero = torch.zeros(12).double()
    assert gaussian_distance(exact_gaussian(zero, a), exact_gaussian(zero, b)).distance == pytest.approx(want, rel=1e-9)


def test_features_that_never_vary_or_repeat_each_other_change_nothing():
    x, y = normal(300, 10, 0), normal(400, 10, 1, 1.5)
    want = frechet_distance(x, y).distance
    constant = torch.full((400, 1), 3.0)
    assert frechet_distance(torch.cat([x, constant[:300]], 1), torch.cat([y, constant], 1)).distance == pytest.approx(
        want, rel=1e-9
    )
    doubled = frechet_distance(torch.cat([x, x], 1), torch.cat([y, y], 1)).distance
    assert doubled == pytest.approx(2 * want, rel=1e-9)


def test_products_of_a_set_with_itself_are_symmetric_at_any_size():
    x = normal(2500, 300, 0) + 3
    gaussian = Gaussian().update(x)
    assert torch.equal(gaussian.scatter, gaussian.scatter.T)
    assert torch.allclose(gaussian.covariance, torch.from_numpy(np.cov(x.double().numpy(), rowvar=False)), rtol=1e-10)


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-6, 1e-8])
def test_frechet_distance_of_badly_scaled_features_loses_no_digits(smallest):
    turn, _ = torch.linalg.qr(normal(60, 60, 2).double())
    scales = torch.logspace(0, math.log10(smallest), 60, dtype=torch.float64)
    x, y = (normal(300, 60, seed).double() * s @ turn for seed, s in ((0, scales), (1, 1.1 * scales)))
    a, b = ((rows - rows.mean(0)) / 299**0.5 for rows in (x, y))
    root = np.linalg.svd((a @ b.T).numpy(), compute_uv=False).sum()
    want = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * root
    assert frechet_distance(x, y).distance == pytest.approx(want.item(), rel=1e-11)
    assert frechet_distance(x, x).distance == pytest.approx(0, abs=1e-11)


def test_a_collapsed_generator_has_the_reals_variance_as_its_distance():
    x = normal(500, 10, 0)
    fake = x.mean(0).expand(500, 10)
    assert frechet_distance(x, fake).distance == pytest.approx(x.double().var(0).sum().item(), rel=1e-6)
    assert frechet_distance(x, x).distance == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(30, 20), (20, 500), (500, 20)])
def test_fewer_samples_than_features_agree_with_the_full_covariances(n, m):
    x, y = normal(n, 40, 0), normal(m, 40, 1, 1.2) + 0.1
    with pytest.warns(SmallSampleWarning, match="mostly bias"):
        small = frechet_distance(x, y)
    with pytest.warns(SmallSampleWarning):
        full = gaussian_distance(Gaussian().update(x), Gaussian().update(y))
    assert small.distance == pytest.approx(full.distance, rel=1e-8)


def test_statistics_of_batches_and_machines_add_up_without_cancellation():
    x = normal(1000, 6, 0).double() + 1e6
    whole = Gaussian().update(x)
    parts = Gaussian()
    for part in x[:300].split(70):
        parts.update(part)
    other = Gaussian()
    other.load_state_dict(Gaussian().update(x[300:]).state_dict())
    parts.merge(other)
    want = torch.from_numpy(np.cov(x.numpy() - 1e6, rowvar=False))
    for gaussian in (whole, parts, Gaussian().merge(parts), parts.merge(Gaussian())):
        assert gaussian.n == 1000
        assert torch.allclose(gaussian.covariance, want, rtol=1e-7)


def test_meters_measure_what_the_functions_do():
    x, y = normal(200, 5, 0), normal(180, 5, 1)
    frechet, kernel, sliced = FrechetMeter(), KernelDistanceMeter(subsets=7), SlicedWassersteinMeter(seed=3)
    for a, b in zip(x.split(50), y.split(45), strict=True):
        for meter in (frechet, kernel, sliced):
            meter.update(real=a, fake=b)
    assert frechet.compute().distance == pytest.approx(frechet_distance(x, y).distance, rel=1e-9)
    sent = FrechetMeter()
    sent.load_state_dict(frechet.state_dict())
    assert sent.compute() == frechet.compute()
    with pytest.raises(ValueError, match=r"fake has nan or infinity in 1 of 1 rows, the first at \[0\]"):
        sent.update(fake=torch.full((1, 5), math.nan))
    assert kernel.compute() == kernel_distance(x, y, subsets=7)
    assert sliced.compute() == sliced_wasserstein(x, y, seed=3)
    empty = KernelDistanceMeter()
    empty.load_state_dict(kernel.state_dict())
    assert empty.merge(KernelDistanceMeter()).compute().n == 200
    with pytest.raises(ValueError, match="no fake samples were given"):
        KernelDistanceMeter().update(real=x).compute()
    with pytest.raises(ValueError, match="features have 4 columns, those before had 5"):
        frechet.update(real=x[:, :4])


def test_one_sample_has_no_covariance():
    with pytest.raises(ValueError, match="real has 1 samples; expected at least 2"):
        frechet_distance(normal(1, 3, 0), normal(5, 3, 1))
    with pytest.raises(ValueError, match="covariance of 1 samples"):
        FrechetMeter().update(real=normal(1, 3, 0), fake=normal(5, 3, 1)).compute()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_statistics_of_narrow_dtypes_are_those_of_their_values(dtype):
    x, y = (normal(300, 8, seed) * 5 + 20 for seed in (0, 1))
    x, y = x.to(dtype), (2 * y).to(dtype)
    for measure in (frechet_distance, kernel_distance, sliced_wasserstein):
        want = measure(x.double(), y.double()).distance
        assert measure(x, y).distance == pytest.approx(want, rel=1e-4)


def test_kernel_distance_is_zero_on_average_for_one_distribution():
    values = torch.tensor(
        [kernel_distance(normal(60, 4, 2 * s), normal(40, 4, 2 * s + 1), subsets=0).distance for s in range(300)]
    )
    assert abs(values.mean().item()) < 4 * values.std().item() / math.sqrt(300)
    assert (values < 0).any()


def test_kernel_distance_of_two_gaussians_is_the_kernels_expectation():
    # d = 1, k = (xy + 1)³: E = 3E[x²]E[y²] + 1 + 3E[x]E[y] + E[x³]E[y³] for x, y ~ N(μ, 1)
    def expectation(a: float, b: float) -> float:
        moments = [(1.0, mu, mu**2 + 1, mu**3 + 3 * mu) for mu in (a, b)]
        return sum(math.comb(3, i) * moments[0][i] * moments[1][i] for i in range(4))

    want = expectation(0, 0) + expectation(0.5, 0.5) - 2 * expectation(0, 0.5)
    x, y = normal(6000, 1, 0), normal(6000, 1, 1) + 0.5
    assert kernel_distance(x, y, subsets=0).distance == pytest.approx(want, rel=0.2)


def test_subsets_in_one_pass_and_one_by_one_are_the_same():
    x, y = normal(500, 64, 0), normal(450, 64, 1) + 0.1
    many = kernel_distance(x, y, subsets=40, subset_size=400, tile=128)  # one pass is less work
    few = [kernel_distance(x, y, subsets=s, subset_size=400) for s in (1, 2)]  # subset by subset
    first = few[0].distance
    second = 2 * few[1].distance - first
    rng = torch.Generator().manual_seed(0)
    draws = [(torch.randperm(500, generator=rng)[:400], torch.randperm(450, generator=rng)[:400]) for _ in range(40)]
    exact = [kernel_distance(x[i].double(), y[j].double(), subsets=0).distance for i, j in draws]
    assert (first, second) == (pytest.approx(exact[0], rel=1e-4), pytest.approx(exact[1], rel=1e-4))
    assert many.distance == pytest.approx(sum(exact) / 40, rel=1e-5)
    assert many.std == pytest.approx(np.std(exact), rel=1e-4)
    assert many.standard_error == pytest.approx(many.std / math.sqrt(40))


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_kernel_distance_of_any_degree_is_the_plain_one_in_arrays_and_in_tensors(degree, monkeypatch):
    x, y = normal(90, 7, 0).double() + 2, normal(70, 7, 1).double() * 1.5
    inner, own, others = ((0.3 * a @ b.T + 0.5) ** degree for a, b in ((x, y), (x, x), (y, y)))
    within = (own.sum() - own.trace()) / (90 * 89) + (others.sum() - others.trace()) / (70 * 69)
    want = (within - 2 * inner.mean()).item()
    options = {"subsets": 0, "degree": degree, "gamma": 0.3, "coef0": 0.5, "tile": 32}
    assert kernel_distance(x, y, **options).distance == pytest.approx(want, rel=1e-11)
    monkeypatch.setattr("stabilgan.metrics.kernel._native", lambda rows: rows)  # as on a GPU
    assert kernel_distance(x, y, **options).distance == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize(("subsets", "size"), [(5, 101), (5, 1), (-1, 10)])
def test_subsets_that_cannot_be_drawn_are_refused(subsets, size):
    with pytest.raises(ValueError, match=f"subsets is {subsets} and subset_size {size} with 200 real and 100 fake"):
        kernel_distance(normal(200, 2, 0), normal(100, 2, 1), subsets=subsets, subset_size=size)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_sliced_distance_on_a_line_is_scipys(p):
    from scipy.stats import wasserstein_distance

    x, y = normal(97, 1, 0), normal(60, 1, 1, 2.0)
    ours = sliced_wasserstein(x.double(), y.double(), p=p)
    if p == 1:
        assert ours.distance == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-5)
    copies = sliced_wasserstein(x.double().repeat_interleave(60, 0), y.double().repeat_interleave(97, 0), p=p)
    assert ours.distance == pytest.approx(copies.distance, rel=1e-9)  # unequal sizes are copies of equal ones


def test_sliced_distance_of_a_shift_is_its_length_over_root_d():
    x = normal(300, 9, 0).double()
    result = sliced_wasserstein(x, x + 3 / math.sqrt(9), projections=4000)  # a shift of length 3 in 9 dimensions
    assert result.distance == pytest.approx(1.0, abs=4 * result.standard_error)


@pytest.mark.parametrize("measure", [frechet_distance, kernel_distance, sliced_wasserstein])
def test_nan_is_refused_with_its_rows(measure):
    x = normal(20, 3, 0)
    x[4, 1] = math.nan
    with pytest.raises(ValueError, match=r"real has nan or infinity in 1 of 20 rows, the first at \[4\]"):
        measure(x, normal(20, 3, 1))


def test_kernel_distance_in_float32_keeps_its_digits_far_from_the_origin():
    x, y = normal(1500, 256, 0) + 3, 1.01 * normal(1500, 256, 1) + 3
    want = kernel_distance(x.double(), y.double(), subsets=0).distance
    assert kernel_distance(x, y, subsets=0).distance == pytest.approx(want, rel=2e-5)  # 5e-4 with plain sums
