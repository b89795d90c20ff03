"""Kernel distance: the squared maximum mean discrepancy of two sets, unbiased. On Inception features it is the KID."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilgan.metrics.distances import mean, multiply, side, squared_norms
from stabilgan.metrics.inputs import pair
from stabilgan.metrics.meter import PairMeter


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
    kernel = _Kernel(1 / x.shape[1] if gamma is None else gamma, coef0, degree, side(x) if tile is None else tile)
    if not subsets:
        everyone = x.new_ones(len(x), 1), y.new_ones(len(y), 1)
        distance = kernel.distances(x, y, *everyone).item()
        return KernelDistance(distance, math.nan, math.nan, len(x), len(y), 0, least, seed)

    rng = torch.Generator().manual_seed(seed)
    draws = [tuple(torch.randperm(len(rows), generator=rng)[:size].clone() for rows in (x, y)) for _ in range(subsets)]
    d = x.shape[1]
    together = (len(x) ** 2 / 2 + len(y) ** 2 / 2 + len(x) * len(y)) * (d + 2 * subsets)
    if together < 2 * subsets * size**2 * d:
        distances = kernel.distances(x, y, _members(x, [i for i, _ in draws]), _members(y, [j for _, j in draws]))
    else:
        ones = x.new_ones(size, 1)
        distances = torch.cat([kernel.distances(x[i.to(x.device)], y[j.to(y.device)], ones, ones) for i, j in draws])
    std = distances.std(correction=0).item() if subsets > 1 else math.nan
    error = std / math.sqrt(subsets)
    return KernelDistance(distances.mean().item(), std, error, len(x), len(y), subsets, size, seed)


class KernelDistanceMeter(PairMeter[KernelDistance]):
    """`kernel_distance` over batches."""

    def __init__(self, *, subsets: int = 100, subset_size: int | None = None, seed: int = 0) -> None:
        super().__init__(
            lambda real, fake: kernel_distance(real, fake, subsets=subsets, subset_size=subset_size, seed=seed)
        )


class _Kernel:
    """Sums of the polynomial kernel over sets given by columns of 0 and 1, tile by tile."""

    def __init__(self, gamma: float, coef0: float, degree: int, size: int) -> None:
        self.gamma, self.coef0, self.degree, self.size = gamma, coef0, degree, size

    def distances(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The unbiased squared distance between the members of each column of a (N, S) and b (M, S)."""
        # a constant taken off the kernel cancels out of the distance, and with it most of the rounding of the sums
        level = (self.gamma * (mean(x) @ mean(y)) + self.coef0).pow(self.degree).item()
        n, m = a.double().sum(0), b.double().sum(0)
        within = [
            (self._sums(rows, rows, own, own, level) - self._diagonal(rows, own, level)) / (count * (count - 1))
            for rows, own, count in ((x, a, n), (y, b, m))
        ]
        return within[0] + within[1] - 2 * self._sums(x, y, a, b, level) / (n * m)

    def _sums(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, level: float) -> Tensor:
        total = torch.zeros(a.shape[1], dtype=torch.float64, device=x.device)
        for i, j, values in self._tiles(x, y):
            values.sub_(level)
            times = 2.0 if x is y and i != j else 1.0
            part = (values @ b[j]).double() * a[i]
            total += times * part.sum(0)
        return total

    def _diagonal(self, x: Tensor, a: Tensor, level: float) -> Tensor:
        total: Tensor = ((self.gamma * squared_norms(x) + self.coef0).pow(self.degree) - level) @ a.double()
        return total

    def _tiles(self, x: Tensor, y: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        size = self.size
        room = x.new_empty(2, min(size, len(x)) * min(size, len(y)))
        for i in range(0, len(x), size):
            left = x[i : i + size] * self.gamma
            for j in range(i if x is y else 0, len(y), size):
                right = y[j : j + size]
                base, power = (part[: len(left) * len(right)].view(len(left), len(right)) for part in room)
                multiply(left, right, base, symmetric=x is y and i == j)
                base.add_(self.coef0)
                power.copy_(base)
                for _ in range(self.degree - 1):
                    power.mul_(base)
                yield slice(i, i + len(left)), slice(j, j + len(right)), power


def _members(x: Tensor, draws: list[Tensor]) -> Tensor:
    columns = torch.zeros(len(draws), len(x), dtype=x.dtype)
    return columns.scatter_(1, torch.stack(draws), 1.0).T.contiguous().to(x.device)
