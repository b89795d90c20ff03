"""The measures against the packages that people use, on the same features."""

import types
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch

from stabilgan.metrics import (
    Gaussian,
    frechet_distance,
    gaussian_distance,
    kernel_distance,
    ms_ssim,
    prdc,
    vendi_score,
)

from .samples import normal


def package(name: str) -> types.ModuleType:
    pytest.importorskip(name.split(".")[0], reason=f"pip install {name.split('.')[0]} to compare with it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)


def features(n: int, m: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated, not centred, like a network's activations."""
    mix = normal(d, d, 7).double() / d**0.5
    return (normal(n, d, 0).double() @ mix + 0.5).relu(), (normal(m, d, 1).double() @ mix * 0.9 + 0.6).relu()


@pytest.fixture(autouse=True)
def _their_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.mark.parametrize(("n", "m"), [(700, 700), (900, 600)])
def test_frechet_distance_is_that_of_the_three_packages(n, m):
    x, y = features(n, m, 100)
    ours = frechet_distance(x, y).distance
    a, b = x.numpy(), y.numpy()
    moments = a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)
    fidelity = package("torch_fidelity.metric_fid")
    theirs = fidelity.fid_statistics_to_metric(
        fidelity.fid_features_to_statistics(x), fidelity.fid_features_to_statistics(y), verbose=False
    )
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    torchmetrics = package("torchmetrics.image.fid")
    assert ours == pytest.approx(torchmetrics._compute_fid(*map(torch.from_numpy, moments)).item(), rel=1e-5)
    clean = package("cleanfid.fid")
    assert ours == pytest.approx(clean.frechet_distance(*moments), rel=1e-5)
    assert gaussian_distance(Gaussian().update(x), Gaussian().update(y)).distance == pytest.approx(ours, rel=1e-9)


@pytest.mark.filterwarnings("ignore:the Fréchet distance")
def test_frechet_distance_of_few_samples_is_more_exact_than_the_packages():
    """Their roots of eigenvalues of a product of two singular matrices are wrong from the 8th digit or earlier."""
    x, y = features(60, 60, 200)
    ours = frechet_distance(x, y).distance
    fidelity = package("torch_fidelity.metric_fid")
    theirs = fidelity.fid_statistics_to_metric(
        fidelity.fid_features_to_statistics(x), fidelity.fid_features_to_statistics(y), verbose=False
    )["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-5)
    import mpmath

    mpmath.mp.dps = 40
    a, b = ((rows - rows.mean(0)) / 59**0.5 for rows in (x, y))
    cross = mpmath.matrix((a @ b.T).tolist())
    exact = sum(mpmath.svd_r(cross, compute_uv=False))
    apart = (x.mean(0) - y.mean(0)).square().sum().item()
    want = apart + a.square().sum().item() + b.square().sum().item() - 2 * float(exact)
    assert ours == pytest.approx(want, rel=1e-11)
    assert abs(ours - want) < abs(theirs - want)


def test_exact_kernel_distance_is_that_of_the_three_packages():
    x, y = features(400, 400, 64)
    ours = kernel_distance(x, y, subsets=0).distance
    fidelity = package("torch_fidelity.metric_kid")
    theirs = fidelity.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=400, verbose=False)
    assert ours == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    torchmetrics = package("torchmetrics.image.kid")
    assert ours == pytest.approx(torchmetrics.poly_mmd(x, y).item(), rel=1e-9)
    clean = package("cleanfid.fid")
    assert ours == pytest.approx(clean.kernel_distance(x.numpy(), y.numpy(), num_subsets=1), rel=1e-9)


def test_kernel_distance_of_subsets_agrees_with_torch_fidelity_within_its_error():
    """Subsets are drawn by another generator, so that only the distribution is the same."""
    x, y = features(1000, 900, 64)
    ours = kernel_distance(x, y, subsets=200, subset_size=200)
    fidelity = package("torch_fidelity.metric_kid")
    theirs = fidelity.kid_features_to_metric(x, y, kid_subsets=200, kid_subset_size=200, verbose=False)
    error = ours.standard_error * 2**0.5
    assert ours.distance == pytest.approx(theirs["kernel_inception_distance_mean"], abs=4 * error)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.2)


def test_precision_and_recall_are_torch_fidelitys():
    fidelity = package("torch_fidelity.metric_prc")
    x, y = features(500, 400, 32)
    theirs = fidelity.prc_features_to_metric(
        y, x, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False
    )
    ours = prdc(x, y, k=3)
    assert ours.precision == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], rel=1e-6)


def test_float32_features_far_from_the_origin_are_where_the_packages_go_wrong():
    """The same collapsed set: exact here, while torch-fidelity's float32 distances lose the radius."""
    fidelity = package("torch_fidelity.metric_prc")
    rng = torch.Generator().manual_seed(0)
    x, y = (25 + 1e-4 * torch.randn(300, 8, generator=rng) for _ in range(2))
    theirs = fidelity.prc_features_to_metric(
        y, x, prc_neighborhood=5, prc_batch_size=1000, save_cpu_ram=False, verbose=False
    )
    want = fidelity.prc_features_to_metric(
        y.double() - 25, x.double() - 25, prc_neighborhood=5, prc_batch_size=1000, save_cpu_ram=False, verbose=False
    )
    ours = prdc(x, y)
    assert ours.precision == pytest.approx(want["precision"], rel=1e-6)
    assert abs(theirs["precision"] - want["precision"]) > 0.03


def test_a_row_of_nan_is_refused_where_torch_fidelity_measures_on():
    fidelity = package("torch_fidelity.metric_prc")
    x, y = features(300, 300, 16)
    y[7] = float("nan")
    theirs = fidelity.prc_features_to_metric(
        y, x, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=False, verbose=False
    )
    assert 0 <= theirs["precision"] <= 1  # a number like any other
    with pytest.raises(ValueError, match=r"fake has nan or infinity in 1 of 300 rows, the first at \[7\]"):
        prdc(x, y)


def test_order_two_is_counted_where_the_authors_shortcut_forgets_it():
    vendi = package("vendi_score.vendi")
    x, _ = features(100, 100, 30)
    assert vendi.score_X(x.numpy(), q=2) == pytest.approx(vendi.score_X(x.numpy(), q=1))
    assert vendi_score(x, q=2).score == pytest.approx(vendi.score_dual(x.numpy(), q=2), rel=1e-9)
    assert vendi_score(x, q=2).score < 0.9 * vendi.score_X(x.numpy(), q=2)


@pytest.mark.parametrize(("n", "d"), [(200, 64), (64, 200)])
@pytest.mark.parametrize("q", [1, 2, 0.5])
def test_vendi_score_is_the_authors(n, d, q):
    vendi = package("vendi_score.vendi")
    x, _ = features(n, n, d)
    assert vendi_score(x, q=q).score == pytest.approx(vendi.score_dual(x.numpy(), q=q), rel=1e-5)
    assert vendi_score(x.float(), q=q).score == pytest.approx(vendi.score_dual(x.numpy(), q=q), rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_ms_ssim_is_the_packages(channels):
    rng = torch.Generator().manual_seed(0)  # sides that halve evenly: pytorch-msssim pads odd ones
    a = torch.rand(3, channels, 176, 192, generator=rng, dtype=torch.float64)
    b = (a + 0.3 * torch.rand(3, channels, 176, 192, generator=rng, dtype=torch.float64)).clamp(0, 1)
    ours = ms_ssim(a, b, data_range=1.0)
    theirs = package("pytorch_msssim").ms_ssim(a, b, data_range=1.0, size_average=False)
    assert torch.allclose(ours, theirs, rtol=1e-5)
    # torchmetrics keeps the border that it pads at the coarsest scale; without it the maps are the same
    image = package("torchmetrics.functional.image")
    _, full = image.structural_similarity_index_measure(a, b, data_range=1.0, reduction=None, return_full_image=True)
    cropped = full[..., 5:-5, 5:-5].mean((1, 2, 3))
    assert torch.allclose(ms_ssim(a, b, data_range=1.0, scales=1), cropped, rtol=1e-5)
