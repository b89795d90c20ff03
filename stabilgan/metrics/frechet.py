"""Fréchet distance: how far apart two sets of features are as Gaussians. On Inception features it is the FID."""

import math
import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stabilgan.metrics.distances import mean
from stabilgan.metrics.gaussian import Gaussian, eigenvalues, gram, mirrored, sum_of_squares
from stabilgan.metrics.inputs import features, pair


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
    return _distance(*(Gaussian().update(rows) if len(rows) > rows.shape[1] else _Rows(rows) for rows in (x, y)))


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
    for gaussian in (real, fake):
        if gaussian.n < 2:
            raise ValueError(
                f"a covariance of {gaussian.n} samples was asked for; expected at least 2; draw more of them"
            )
    _warn(real.n, fake.n, len(real.mean))
    return _distance(real, fake)


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
            self.real.update(features(real, "real"))
        if fake is not None:
            self.fake.update(features(fake, "fake"))
        return self

    def merge(self, other: "FrechetMeter") -> Self:
        """Add what another meter has seen."""
        self.real.merge(other.real)
        self.fake.merge(other.fake)
        return self

    def compute(self) -> Frechet:
        """The distance of everything seen so far."""
        return gaussian_distance(self.real, self.fake)

    def state_dict(self) -> dict[str, dict[str, int | Tensor]]:
        """What to save, or to send to another process for `merge`: both sets' statistics."""
        return {"real": self.real.state_dict(), "fake": self.fake.state_dict()}

    def load_state_dict(self, state: dict[str, dict[str, int | Tensor]]) -> None:
        """Go on from a `state_dict`."""
        self.real.load_state_dict(state["real"])
        self.fake.load_state_dict(state["fake"])


class _Rows:
    """The few samples whose covariance has no full rank, as they are: about their mean, in float64."""

    def __init__(self, x: Tensor) -> None:
        self.n, self.mean = len(x), mean(x)
        on_cpu = x.device.type == "cpu"  # by NumPy, one thread, as in `mean`
        self.rows = torch.from_numpy(x.numpy() - self.mean.numpy()) if on_cpu else x.double() - self.mean


def _distance(real: Gaussian | _Rows, fake: Gaussian | _Rows) -> Frechet:
    root = None
    if isinstance(real, Gaussian) and isinstance(fake, Gaussian):
        root = _root(real.scatter, fake.scatter)
    if root is None:
        root = _nuclear_norm(_factor(real), _factor(fake))
    apart = (real.mean - fake.mean).square().sum().item()
    traces = _trace(real) / (real.n - 1) + _trace(fake) / (fake.n - 1)
    total = apart + (traces - 2 * root / math.sqrt((real.n - 1) * (fake.n - 1)))
    return Frechet(max(total, 0.0), apart, real.n, fake.n, len(real.mean))


def _trace(of: Gaussian | _Rows) -> float:
    return float(of.scatter.trace()) if isinstance(of, Gaussian) else sum_of_squares(of.rows)


def _root(a: Tensor, b: Tensor) -> float | None:
    """The trace of (ab)^½ from the eigenvalues of U b U.T, with a = U.T U; None if a or b lacks full rank.

    They are squares, so this is for matrices of full rank, where no root is lost by squaring: with spreads of 1 to
    1e-7 along the axes it agreed with the singular values to 1e-13.
    """
    if a.device.type != "cpu":
        factors = [torch.linalg.cholesky_ex(part) for part in (a, b)]
        if any(failed or not _full(lower.diagonal()) for lower, failed in factors):
            return None
        values = torch.linalg.eigvalsh(gram(factors[0].L.T @ factors[1].L))
    else:
        from scipy.linalg import lapack

        upper, failed = lapack.dpotrf(a.numpy().T, clean=0)
        other, failed_too = lapack.dpotrf(b.numpy().T, clean=0)
        if failed or failed_too or not all(_full(torch.from_numpy(part.diagonal().copy())) for part in (upper, other)):
            return None
        turned, _ = lapack.dsygst(b.numpy().T, upper, itype=2, lower=0)
        values = eigenvalues(mirrored(torch.from_numpy(turned.T)))
    return float(values.clamp_(min=0).sqrt_().sum())


def _full(pivots: Tensor) -> bool:
    return bool(pivots.min() > 1e-7 * pivots.max())


def _factor(of: Gaussian | _Rows) -> Tensor:
    """F with F.T @ F the scatter: the rows, Cholesky's factor, or without full rank the roots of the eigenvalues."""
    if isinstance(of, _Rows):
        return of.rows
    lower, failed = torch.linalg.cholesky_ex(of.scatter)
    if not failed and _full(lower.diagonal()):
        factor: Tensor = lower.T
        return factor
    values, vectors = torch.linalg.eigh(of.scatter)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    factor = (vectors[:, kept] * values[kept].sqrt()).T
    return factor


def _nuclear_norm(a: Tensor, b: Tensor) -> float:
    """The sum of the singular values of a @ b.T; on a CPU by NumPy alone, as torch's threads would be in the way."""
    if not a.numel() or not b.numel():
        return 0.0
    if a.device.type != "cpu":
        return float(torch.linalg.svdvals(a @ b.T).sum())
    return float(np.linalg.svd(a.numpy() @ b.numpy().T, compute_uv=False).sum())


def _warn(n: int, m: int, d: int) -> None:
    if min(n, m) <= d:
        warnings.warn(
            f"the Fréchet distance of {n} and {m} samples with {d} features is mostly bias: their covariance has no "
            f"full rank; use more than {d} samples, and compare at equal numbers only, or use kernel_distance",
            SmallSampleWarning,
            stacklevel=3,
        )
