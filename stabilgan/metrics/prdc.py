"""Precision, recall, density and coverage: how much of each set lies in the other's neighbourhood."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stabilgan.metrics.distances import Products, Tile, direct, tiles
from stabilgan.metrics.inputs import pair
from stabilgan.metrics.meter import PairMeter
from stabilgan.metrics.neighbours import below, nearest


@dataclass(frozen=True)
class PRDC:
    """What `prdc` measured, from n real and m fake samples with k neighbours.

    precision: share of the fakes inside a real sample's ball, 0..1. Does not see dropped modes.
    recall: share of the reals inside a fake sample's ball, 0..1. About 0.7 for identical distributions in 64-D.
    density: balls of reals that a fake lies in, over k; 0 and up, 1 expected for identical distributions.
    coverage: share of the reals with a fake in their ball, 0..1; compare with `expected_coverage`.
    clipped_density: density with radii cut at their median and each fake counted at most once, over the reals' own,
        0..1.
    clipped_coverage: coverage counted in samples up to k and put on a straight line, the share of good fakes that
        it takes, 0..1.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    clipped_density: float
    clipped_coverage: float
    n: int
    m: int
    k: int
    products: str = "float32"


def prdc(real: Tensor, fake: Tensor, *, k: int = 5, products: Products = "float32", tile: int | None = None) -> PRDC:
    """Measure precision, recall, density and coverage of fakes against reals, exactly.

    real: (N, d), fake: (M, d): features of one kind, N and M above k. A sample's ball reaches to its k-th nearest
    neighbour in its own set; inside means strictly nearer, as in the authors' package. Distances that rounding
    cannot tell apart are measured again by their differences, so collapsed and duplicated samples read right.
    Memory: a few tiles of tile x tile (at most 2,048 a side by default), whatever N and M are. Raises ValueError with
    too few samples, or nan.
    products: "tf32" and "bfloat16" are quicker where the hardware has them, and no longer exact: on standard normal
    features of 64 to 2,048 dimensions bfloat16 moved every reading by less than 0.01.

    Precision and recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991); density and coverage: Naeem et al. 2020
    (arXiv:2002.09797); clipped: Salvy et al. 2025 (arXiv:2507.01761).

    >>> real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> result = prdc(real, torch.tensor([[0.5], [0.6], [0.7]]), k=1)
    >>> result.precision, result.recall, result.density, result.coverage
    (1.0, 0.0, 2.0, 0.5)
    """
    real, fake = pair(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(
            f"k is {k} with {len(real)} real and {len(fake)} fake samples; "
            "expected 1 <= k < the fewer of them; lower k or draw more samples"
        )
    own, rows = nearest(real, k, products=products, size=tile)
    hits = Hits(real, fake, own[:, -1], nearest(fake, k, products=products, size=tile)[0][:, -1])
    for part in tiles(real, fake, products=products, size=tile):
        hits.add(part)
    return replace(hits.result(own, rows), products=products)


def expected_coverage(n: int, m: int, k: int) -> float:
    """The coverage that m fakes reach on average against n reals of the same distribution, 0..1.

    1 - Π_{i=1..k} (n-i)/(n+m-i): none of the m fakes is among the k nearest of the n+m-1 other samples of a real one.
    With n = m this is the 1 - Π (N-i)/(2N-i) of Naeem et al. 2020, Eq. 9.

    >>> expected_coverage(2, 1, 1)
    0.5
    """
    if not 1 <= k < n or m < 1:
        raise ValueError(f"n is {n}, m is {m} and k is {k}; expected 1 <= k < n and m >= 1")
    return 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))


class PRDCMeter(PairMeter[PRDC]):
    """`prdc` over batches."""

    def __init__(self, *, k: int = 5) -> None:
        super().__init__(lambda real, fake: prdc(real, fake, k=k))


class Hits:
    """Counts who lies in whose ball, tile by tile; `r` and `s` are the squared radii of the reals and the fakes."""

    def __init__(self, real: Tensor, fake: Tensor, r: Tensor, s: Tensor) -> None:
        self.real, self.fake, self.r, self.s = real, fake, r, s
        low, high = (r.sort().values[at] for at in ((len(r) - 1) // 2, len(r) // 2))
        self.cut = r.minimum((low + high + 2 * (low * high).sqrt()) / 4)  # the median of the radii, squared
        self.per_real = torch.zeros(len(real), dtype=torch.long, device=real.device)
        self.per_fake = torch.zeros(len(fake), dtype=torch.long, device=real.device)
        self.clipped = torch.zeros_like(self.per_fake)
        self.recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)

    def add(self, tile: Tile) -> None:
        """Count one tile of real x fake squared distances."""
        if not self._count(tile):
            finer = tiles(self.real[tile.i], self.fake[tile.j], dtype=torch.float64)
            for part in finer:
                i = slice(tile.i.start + part.i.start, tile.i.start + part.i.stop)
                j = slice(tile.j.start + part.j.start, tile.j.start + part.j.stop)
                self._count(Tile(i, j, part.squares, part.slack))

    def result(self, own: Tensor, rows: Tensor) -> PRDC:
        """Make shares of the counts; own and rows are the reals' squared distances and neighbours."""
        n, m, k = len(self.real), len(self.fake), own.shape[1]
        inside = rows[own <= self.cut[:, None]]
        ideal = torch.bincount(inside, minlength=n).clamp(max=k).double().mean().item()
        clipped = self.clipped.clamp(max=k).double().mean().item()
        good = self.per_real.clamp(max=k).double().mean().item() / k
        return PRDC(
            precision=(self.per_fake > 0).double().mean().item(),
            recall=self.recalled.double().mean().item(),
            density=self.per_fake.double().mean().item() / k,
            coverage=(self.per_real > 0).double().mean().item(),
            clipped_density=min(1.0, clipped / ideal) if ideal else math.nan,
            clipped_coverage=_straighten(good, n, m, k),
            n=n,
            m=m,
            k=k,
        )

    def _count(self, tile: Tile) -> bool:
        """Count the tile, or refuse it before anything is counted if too many pairs are too close to call."""
        i, j, squares, slack = tile.i, tile.j, tile.squares, tile.slack
        limits = self.r[i].to(squares.dtype)
        row, column, excess = below(squares, limits + slack)
        excess -= limits[row]
        close = (excess >= -slack).nonzero().flatten()
        over = squares.sub_(self.s[j].to(squares.dtype))
        least = over.amin(1)
        unsure = ((least.abs() <= slack) & ~self.recalled[i]).nonzero().flatten()
        pairs = (over[unsure] <= slack).nonzero()
        if squares.dtype != torch.float64 and len(close) + len(pairs) > 64 + squares.numel() // 64:
            return False

        inside = excess < 0
        gap = self.r - self.cut
        within = excess + gap[i][row] <= 0
        exact = direct(self.real, self.fake, row[close] + i.start, column[close] + j.start)
        inside[close] = exact < self.r[i][row[close]]
        near_cut = ((excess + gap[i][row]).abs() <= slack).nonzero().flatten()
        exact = direct(self.real, self.fake, row[near_cut] + i.start, column[near_cut] + j.start)
        within[near_cut] = exact <= self.cut[i][row[near_cut]]
        self.per_real[i] += torch.bincount(row[inside], minlength=len(squares))
        self.per_fake[j] += torch.bincount(column[inside], minlength=squares.shape[1])
        self.clipped[j] += torch.bincount(column[within], minlength=squares.shape[1])

        self.recalled[i] |= least < -slack
        row, column = unsure[pairs[:, 0]], pairs[:, 1]
        exact = direct(self.real, self.fake, row + i.start, column + j.start)
        self.recalled[row[exact < self.s[j][column]] + i.start] = True
        return True


def _straighten(good: float, n: int, m: int, k: int) -> float:
    """The share of m fakes that must follow the reals' distribution for clipped coverage to expect `good`, 0..1.

    Of t such fakes, a real sample's ball holds j with the beta-binomial probability C(t,j) B(k+j, n-k+t-j) / B(k, n-k).
    """
    t = torch.arange(m + 1, dtype=torch.float64)
    expected = torch.ones_like(t)
    for j in range(k):
        log = torch.lgamma(t + 1) - math.lgamma(j + 1) - torch.lgamma(t - j + 1)  # inf where j > t: probability 0
        log = log + math.lgamma(k + j) + torch.lgamma(n - k + t - j) - torch.lgamma(n + t)
        log = log - math.lgamma(k) - math.lgamma(n - k) + math.lgamma(n)
        expected -= (1 - j / k) * torch.where(t >= j, log.exp(), 0)
    above = int(torch.searchsorted(expected, good))
    if above == 0 or above > m:
        return min(above, 1)
    low, high = expected[above - 1].item(), expected[above].item()
    return (above - 1 + (good - low) / (high - low)) / m
