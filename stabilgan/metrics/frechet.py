"""Fréchet distance: how far apart two sets of features are as Gaussians. On Inception features it is the FID."""

import warnings
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from stabilgan.metrics.gaussian import Gaussian, gram
from stabilgan.metrics.inputs import pair


class SmallSampleWarning(UserWarning):
    """There are too few samples for the measure to mean what it usually does."""


@dataclass(frozen=True)
class Frechet:
    """What `frechet_distance` measured.

    distance: squared, as the FID is: |μ1 - μ2|² + tr(Σ1 + Σ2 - 2(Σ1 Σ2)^½), 0 and up, in squared units of the features.
    mean_term: the part of it that the means make.
    n, m, d: real samples, fake samples, features. It is biased upwards by about c/n + c'/m: compare at equal numbers.
    """

    distance: float
    mean_term: float
    n: int
    m: int
    d: int


def frechet_distance(real: Tensor, fake: Tensor) -> Frechet:
    """Measure the squared Fréchet distance between the Gaussians of real and fake features.

    real: (N, d), fake: (M, d), N and M at least 2. Statistics are in float64. With fewer samples than features no
    d x d matrix is made: the trace of the root is the nuclear norm of the N x M products of the centred features,
    which is exact for covariances without full rank. Warns (SmallSampleWarning) when N or M is at most d, as the
    value then mostly measures the lack of samples. Raises ValueError for nan, infinity, or one sample.

    Heusel et al. 2017 (arXiv:1706.08500), Eq. 6.

    >>> real = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    >>> round(frechet_distance(real, 2 * real + 3).distance, 6)  # 3² + (s - 2s)², with s² = 4/3
    10.333333
    """
    x, y = pair(real, fake, least=2)
    _warn(len(x), len(y), x.shape[1])
    factors, means, traces = [], [], []
    for rows in (x, y):
        if len(rows) > rows.shape[1]:
            gaussian = Gaussian().update(rows)
            mean, trace, factor = gaussian.mean, _trace(gaussian), _factor(gaussian.covariance)
        else:
            mean = rows.mean(0, dtype=torch.float64)
            factor = (rows.double() - mean) / (len(rows) - 1) ** 0.5
            trace = factor.square().sum()
        means.append(mean)
        factors.append(factor)
        traces.append(trace)
    return _distance(means, traces, factors, len(x), len(y))


def gaussian_distance(real: Gaussian, fake: Gaussian) -> Frechet:
    """`frechet_distance` from statistics gathered before.

    Covariances without full rank (constant features, few samples) take the slower path of a singular value
    decomposition instead of a Cholesky form, with the same result.

    >>> x = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]])
    >>> round(gaussian_distance(Gaussian().update(x), Gaussian().update(x + 3)).distance, 6)
    9.0
    """
    if real.mean.shape != fake.mean.shape:
        raise ValueError(f"real has {len(real.mean)} features and fake {len(fake.mean)}; expected features of one kind")
    factors = [_factor(gaussian.covariance) for gaussian in (real, fake)]
    _warn(real.n, fake.n, len(real.mean))
    return _distance([real.mean, fake.mean], [_trace(real), _trace(fake)], factors, real.n, fake.n)


class FrechetMeter:
    """`frechet_distance` over batches, in memory that does not grow: `update(real=..., fake=...)`, `compute()`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        self.real, self.fake = Gaussian(), Gaussian()

    def update(self, *, real: Tensor | None = None, fake: Tensor | None = None) -> Self:
        """Add a batch of real features, of fake ones, or of both."""
        if real is not None:
            self.real.update(real)
        if fake is not None:
            self.fake.update(fake)
        return self

    def merge(self, other: "FrechetMeter") -> Self:
        """Add what another meter has seen."""
        self.real.merge(other.real)
        self.fake.merge(other.fake)
        return self

    def compute(self) -> Frechet:
        """The distance of everything seen so far."""
        return gaussian_distance(self.real, self.fake)


def _trace(gaussian: Gaussian) -> Tensor:
    return gaussian.scatter.diagonal().sum() / (gaussian.n - 1)


def _factor(covariance: Tensor) -> Tensor:
    """F with F.T @ F the covariance: Cholesky's, or the roots of its eigenvalues if it lacks full rank."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    pivots = lower.diagonal()
    if not failed and pivots.min() > 1e-7 * pivots.max():
        factor: Tensor = lower.T
        return factor
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    factor = (vectors[:, kept] * values[kept].sqrt()).T
    return factor


def _distance(means: list[Tensor], traces: list[Tensor], factors: list[Tensor], n: int, m: int) -> Frechet:
    cross = factors[0] @ factors[1].T
    d = len(means[0])
    if cross.shape == (d, d):  # both of full rank: no singular value is lost by squaring
        root = torch.linalg.eigvalsh(gram(cross)).clamp_(min=0).sqrt().sum()
    else:
        root = torch.linalg.svdvals(cross).sum() if cross.numel() else cross.sum()
    apart = (means[0] - means[1]).square().sum()
    total = (apart + (traces[0] + traces[1] - 2 * root)).item()
    return Frechet(max(total, 0.0), apart.item(), n, m, d)


def _warn(n: int, m: int, d: int) -> None:
    if min(n, m) <= d:
        warnings.warn(
            f"the Fréchet distance of {n} and {m} samples with {d} features is mostly bias: their covariance has no "
            f"full rank; use more than {d} samples, and compare at equal numbers only, or use kernel_distance",
            SmallSampleWarning,
            stacklevel=3,
        )
