"""Kernel distance: the squared maximum mean discrepancy of two sets, unbiased. On Inception features it is the KID."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stabilgan.metrics.distances import mean, row_products, side, squared_norms
from stabilgan.metrics.gaussian import product
from stabilgan.metrics.inputs import pair
from stabilgan.metrics.meter import PairMeter

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
    d = x.shape[1]
    together = (len(x) ** 2 / 2 + len(y) ** 2 / 2 + len(x) * len(y)) * (d + 2 * subsets)
    if together < 2 * subsets * size**2 * d:
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
    """Samples, what their kernel with the centre is above the level, and what that with themselves is.

    rows: (N, d); lean: (N,) gamma c·(x - c) in their dtype; own: (N,) k(x, x) - level in float64.
    """

    def __init__(self, rows: Tensor, lean: Tensor, own: Tensor) -> None:
        self.rows, self.lean, self.own = rows, lean, own

    def some(self, i: Tensor) -> "_Set":
        """The samples of these numbers."""
        i = i.to(self.rows.device)
        return _Set(self.rows[i], self.lean[i], self.own[i])


class _Kernel:
    """Sums of the polynomial kernel over sets given by columns of 0 and 1, tile by tile.

    A constant taken off the kernel cancels out of the distance, so its value at the centre c of both sets is, the
    `level`; and what is left is a polynomial in gamma (x·y - c·c), which centred samples give without cancellation.
    """

    def __init__(self, x: Tensor, y: Tensor, gamma: float, coef0: float, degree: int, size: int) -> None:
        self.gamma, self.size = gamma, size
        self.centre = ((mean(x) + mean(y)) / 2).to(x.dtype)
        c = self.centre.double()
        base = (gamma * (c @ c)).item() + coef0
        # (base + δ)^degree - base^degree, but for its last coefficient, which is 1
        self.coefficients = [math.comb(degree, k) * base ** (degree - k) for k in range(1, degree)]

        def prepared(rows: Tensor) -> _Set:
            lean = gamma * (row_products(rows, c) - c @ c)
            own = (gamma * squared_norms(rows) + coef0).pow(degree) - base**degree
            return _Set(rows, lean.to(rows.dtype), own)

        self.x, self.y = prepared(x), prepared(y)

    def distances(self, x: _Set, y: _Set, a: Tensor, b: Tensor) -> Tensor:
        """The unbiased squared distance between the members of each column of a (N, S) and b (M, S)."""
        n, m = a.double().sum(0), b.double().sum(0)
        within = [
            (self._sums(one, one, own, own) - one.own @ own.double()) / (count * (count - 1))
            for one, own, count in ((x, a, n), (y, b, m))
        ]
        return within[0] + within[1] - 2 * self._sums(x, y, a, b) / (n * m)

    def _sums(self, x: _Set, y: _Set, a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(a.shape[1], dtype=torch.float64, device=a.device)
        for i, j, values in self._tiles(x, y):
            times = 2.0 if x is y and i != j else 1.0
            parts = zip(values.split(_SUMMED, 1), b[j].split(_SUMMED), strict=True)
            sums = sum((product(some, few.T).double() for some, few in parts), torch.zeros_like(total))
            total += times * (sums * a[i]).sum(0)
        return total

    def _tiles(self, x: _Set, y: _Set) -> Iterator[tuple[slice, slice, Tensor]]:
        """The kernel less the level, in tiles; within one set each unordered pair of tiles once."""
        size, n, m = self.size, len(x.rows), len(y.rows)
        room = x.rows.new_empty(min(size, n) * min(size, m))
        for start in range(0, n, size):
            i = slice(start, min(start + size, n))
            left = self._centred(x.rows[i])
            for begin in range(start if x is y else 0, m, size):
                j = slice(begin, min(begin + size, m))
                right = left if x is y and i == j else self._centred(y.rows[j])
                values = room[: len(left) * len(right)].view(len(left), len(right))
                product(left, right, out=values)
                on_cpu = values.device.type == "cpu"
                step = max(1, _CACHED // len(right)) if on_cpu else len(left)
                for some, lean in zip(values.split(step), x.lean[i, None].split(step), strict=True):
                    if on_cpu:  # one thread, as in `mean`
                        self._raise(some.numpy(), lean.numpy(), y.lean[j].numpy())
                    else:
                        self._raise(some, lean, y.lean[j])
                yield i, j, values

    def _centred(self, rows: Tensor) -> Tensor:
        on_cpu = rows.device.type == "cpu"  # one thread, as in `mean`
        return torch.from_numpy(rows.numpy() - self.centre.numpy()) if on_cpu else rows - self.centre

    def _raise(self, products: Any, lean: Any, other: Any) -> None:
        """Make kernel values less the level of products of centred samples, in place; all tensors, or all arrays."""
        delta = products * self.gamma
        delta += lean
        delta += other
        products[:] = delta
        for coefficient in reversed(self.coefficients):
            products += coefficient
            products *= delta


def _members(x: Tensor, draws: list[Tensor]) -> Tensor:
    columns = torch.zeros(len(draws), len(x), dtype=x.dtype)
    return columns.scatter_(1, torch.stack(draws), 1.0).T.contiguous().to(x.device)
