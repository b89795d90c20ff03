"""Kernel distance: the squared maximum mean discrepancy of two sets, unbiased. On Inception features it is the KID."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilgan.metrics.distances import full_precision, mean, row_products, side, squared_norms
from stabilgan.metrics.inputs import pair
from stabilgan.metrics.meter import PairMeter

Array = Any  # a tensor, or on a CPU a NumPy array: what is done with them here is written in the same way
_SUMMED = 256  # numbers added up in float32, before the sums are in float64
_CACHED = 2**16  # numbers at once, so that they stay in a core's cache


@dataclass(frozen=True)
class KernelDistance:
    """What `kernel_distance` measured.

    distance: squared MMD, 0 on average for identical distributions, so that it can be slightly negative.
    std: spread between the subsets; nan for the exact form or one subset.
    standard_error: std/√subsets, of the mean over subsets of these very samples. Other samples would change it more.
    subsets: 0 for the exact form, over all pairs.
    """

    distance: float
    std: float
    standard_error: float
    n: int
    m: int
    subsets: int
    subset_size: int
    seed: int


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    seed: int = 0,
    tile: int | None = None,
) -> KernelDistance:
    """Measure the squared kernel distance between real and fake features, without bias at any sample size.

    real: (N, d), fake: (M, d), N and M at least 2. The kernel is (gamma x·y + coef0)^degree, gamma 1/d by default.
    subsets: how many pairs of random subsets to average, each of `subset_size` (1,000 or what there is); 0 takes
    all samples once, the exact form with the least variance. seed: draws the subsets. Raises ValueError for
    subsets larger than the samples, nan and infinity.

    All subsets come from one pass over the products if that is less work than a pass for each, with the same result.

    Bińkowski et al. 2018 (arXiv:1801.01401).

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    >>> kernel_distance(x, y, subsets=0).distance  # k(0,1) + k(0,2) - (1 + 1 + 1 + 27)/2
    -13.0
    """
    x, y = pair(real, fake, least=2)
    least = min(len(x), len(y))
    size = min(1000, least) if subset_size is None else subset_size
    if subsets < 0 or not 2 <= size <= least:
        raise ValueError(
            f"subsets is {subsets} and subset_size {size} with {len(x)} real and {len(y)} fake samples; "
            f"expected subsets >= 0 and 2 <= subset_size <= {least}"
        )
    kernel = _Kernel(x, y, 1 / x.shape[1] if gamma is None else gamma, coef0, degree, side(x) if tile is None else tile)
    if not subsets:
        distance = kernel.distances(kernel.x, kernel.y, x.new_ones(len(x), 1), x.new_ones(len(y), 1)).item()
        return KernelDistance(distance, math.nan, math.nan, len(x), len(y), 0, least, seed)

    rng = torch.Generator().manual_seed(seed)
    draws = [tuple(torch.randperm(len(rows), generator=rng)[:size].clone() for rows in (x, y)) for _ in range(subsets)]
    # in multiply-adds: besides those of the products a kernel value costs some 100, and taking a number out some 140
    d = x.shape[1]
    together = (len(x) ** 2 / 2 + len(y) ** 2 / 2 + len(x) * len(y)) * (d + 100 + 2 * subsets)
    if together < 2 * subsets * size * (size * (d + 100) + 140 * d):
        members = _members(x, [i for i, _ in draws]), _members(y, [j for _, j in draws])
        distances = kernel.distances(kernel.x, kernel.y, *members)
    else:
        ones = x.new_ones(size, 1)
        distances = torch.cat([kernel.distances(kernel.x.some(i), kernel.y.some(j), ones, ones) for i, j in draws])
    std = distances.std(correction=0).item() if subsets > 1 else math.nan
    error = std / math.sqrt(subsets)
    return KernelDistance(distances.mean().item(), std, error, len(x), len(y), subsets, size, seed)


class KernelDistanceMeter(PairMeter[KernelDistance]):
    """`kernel_distance` over batches."""

    def __init__(self, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0) -> None:
        super().__init__(
            lambda real, fake: kernel_distance(real, fake, subsets=subsets, subset_size=subset_size, seed=seed)
        )


class _Set:
    """Samples, how far their kernel with the centre leans, and what that with themselves is above the level.

    rows: (N, d); lean: (N, 1) gamma c·(x - c) in their dtype; own: (N,) k(x, x) - level in float64.
    """

    def __init__(self, rows: Array, lean: Array, own: Array) -> None:
        self.rows, self.lean, self.own = rows, lean, own

    def some(self, i: Tensor) -> "_Set":
        """The samples of these numbers."""
        at = i.numpy() if isinstance(self.rows, np.ndarray) else i.to(self.rows.device)
        return _Set(self.rows[at], self.lean[at], self.own[at])


class _Kernel:
    """Sums of the polynomial kernel over sets given by columns of 0 and 1, tile by tile.

    A constant taken off the kernel cancels out of the distance, so its value at the centre c of both sets is, the
    `level`; and what is left is a polynomial in gamma (x·y - c·c), which centred samples give without cancellation.
    """

    def __init__(self, x: Tensor, y: Tensor, gamma: float, coef0: float, degree: int, size: int) -> None:
        self.gamma, self.size = gamma, size
        centre = ((mean(x) + mean(y)) / 2).to(x.dtype)
        c = centre.double()
        base = (gamma * (c @ c)).item() + coef0
        # (base + δ)^degree - base^degree is a polynomial in δ, with these coefficients but for the last, which is 1
        self.coefficients = [math.comb(degree, k) * base ** (degree - k) for k in range(1, degree)]

        def prepared(rows: Tensor) -> _Set:
            lean = gamma * (row_products(rows, c) - c @ c)
            own = (gamma * squared_norms(rows) + coef0).pow(degree) - base**degree
            return _Set(_native(rows), _native(lean.to(rows.dtype)[:, None]), _native(own))

        self.centre, self.x, self.y = _native(centre), prepared(x), prepared(y)

    @full_precision()
    def distances(self, x: _Set, y: _Set, a: Tensor, b: Tensor) -> Tensor:
        """The unbiased squared distance between the members of each column of a (N, S) and b (M, S)."""
        mine, others = _native(a), _native(b)
        n, m = _wide(mine).sum(0), _wide(others).sum(0)
        within = [
            (self._sums(one, one, own, own) - one.own @ _wide(own)) / (count * (count - 1))
            for one, own, count in ((x, mine, n), (y, others, m))
        ]
        return torch.as_tensor(within[0] + within[1] - 2 * self._sums(x, y, mine, others) / (n * m))

    def _sums(self, x: _Set, y: _Set, a: Array, b: Array) -> Array:
        total: Array = 0.0
        for i, j, values in self._tiles(x, y):
            few = (slice(start, start + _SUMMED) for start in range(0, values.shape[1], _SUMMED))
            sums = sum(_wide(values[:, some] @ b[j][some]) for some in few)
            total = total + (2.0 if x is y and i != j else 1.0) * (sums * a[i]).sum(0)
        return total

    def _tiles(self, x: _Set, y: _Set) -> Iterator[tuple[slice, slice, Array]]:
        """The kernel less the level, in tiles; within one set each unordered pair of tiles once."""
        size, n, m = self.size, len(x.rows), len(y.rows)
        for start in range(0, n, size):
            i = slice(start, min(start + size, n))
            left = x.rows[i] - self.centre
            for begin in range(start if x is y else 0, m, size):
                j = slice(begin, min(begin + size, m))
                right = left if x is y and i == j else y.rows[j] - self.centre
                values = left @ right.T  # NumPy's BLAS computes one half where both are one
                step = max(1, _CACHED // len(right)) if isinstance(values, np.ndarray) else len(left)
                for some in range(0, len(left), step):
                    self._raise(values[some : some + step], x.lean[i][some : some + step], y.lean[j].T)
                yield i, j, values

    def _raise(self, products: Array, lean: Array, other: Array) -> None:
        """Make kernel values less the level of products of centred samples, in place."""
        delta = products * self.gamma
        delta += lean
        delta += other
        products[:] = delta
        for coefficient in reversed(self.coefficients):
            products += coefficient
            products *= delta


def _native(x: Tensor) -> Array:
    """On a CPU an array: torch's threads would spin on after every short step, in the way of BLAS."""
    return x.numpy() if x.device.type == "cpu" else x


def _wide(x: Array) -> Array:
    return x.astype(np.float64) if isinstance(x, np.ndarray) else x.double()


def _members(x: Tensor, draws: list[Tensor]) -> Tensor:
    columns = torch.zeros(len(draws), len(x), dtype=x.dtype)
    return columns.scatter_(1, torch.stack(draws), 1.0).T.contiguous().to(x.device)
