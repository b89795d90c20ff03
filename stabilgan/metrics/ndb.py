"""NDB: the number of statistically different bins, a test for dropped and for preferred modes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilgan.metrics.distances import full_precision
from stabilgan.metrics.inputs import pair
from stabilgan.metrics.meter import PairMeter


@dataclass(frozen=True)
class NDB:
    """What `ndb` measured.

    different: the number of bins whose shares differ significantly. About alpha x bins for identical distributions.
    share: different/bins, 0..1.
    divergence: Jensen-Shannon, between the two histograms, 0..ln 2 nats.
    """

    different: int
    share: float
    divergence: float
    bins: int
    alpha: float
    n: int
    m: int
    seed: int


def ndb(real: Tensor, fake: Tensor, *, bins: int = 100, alpha: float = 0.05, seed: int = 0) -> NDB:
    """Count the bins in which fakes fall significantly more or less often than reals, bins being cells of the reals.

    real: (N, d), fake: (M, d), N at least `bins`. alpha: level of the two-proportion z-test of each bin. seed: starts
    the k-means that makes the bins. A dropped mode is a different bin, and so is one that gets too much.

    Richardson and Weiss 2018 (arXiv:1805.12462).

    >>> real = torch.arange(4.0).repeat(100)[:, None]
    >>> ndb(real, real[::4], bins=4).different  # only one of four values
    4
    """
    x, y = pair(real, fake)
    if not 1 <= bins <= len(x):
        raise ValueError(f"bins is {bins} with {len(x)} real samples; expected 1 <= bins <= {len(x)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; expected the level of the test, between 0 and 1")
    centres = kmeans(x, bins, seed)
    a, b = _counts(x, centres), _counts(y, centres)
    p, q = a / len(x), b / len(y)
    pooled = (a + b) / (len(x) + len(y))
    error = (pooled * (1 - pooled) * (1 / len(x) + 1 / len(y))).sqrt()
    z = torch.where(error > 0, (p - q) / error, 0.0)
    different = int((torch.special.erfc(z.abs() / math.sqrt(2)) < alpha).sum())
    middle = (p + q) / 2
    entropy = torch.special.entr
    divergence = (entropy(middle).sum() - (entropy(p).sum() + entropy(q).sum()) / 2).clamp(min=0).item()
    return NDB(different, different / bins, divergence, bins, alpha, len(x), len(y), seed)


class NDBMeter(PairMeter[NDB]):
    """`ndb` over batches."""

    def __init__(self, *, bins: int = 100, alpha: float = 0.05, seed: int = 0) -> None:
        super().__init__(lambda real, fake: ndb(real, fake, bins=bins, alpha=alpha, seed=seed))


def kmeans(x: Tensor, k: int, seed: int, rounds: int = 50) -> Tensor:
    """(k, d) centres of (N, d) samples by Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii 2007)."""
    rng = torch.Generator().manual_seed(seed)
    centre = x.mean(0)
    rows = x - centre
    picks = [int(torch.randint(len(rows), (1,), generator=rng))]
    far = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=x.device)
    for _ in range(k - 1):
        far = far.minimum((rows - rows[picks[-1]]).square().sum(1, dtype=torch.float64))
        weights = far.cpu()
        chosen = torch.rand(1, generator=rng, dtype=torch.float64) * weights.sum()
        picks.append(min(int(torch.searchsorted(weights.cumsum(0), chosen, right=True)), len(rows) - 1))
    centres = rows[picks]
    cell = torch.full((len(rows),), -1, device=x.device)
    for _ in range(rounds):
        new = assign(rows, centres)
        if torch.equal(new, cell):
            break
        cell = new
        counts = torch.bincount(cell, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, cell, rows)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centres)
    return centres + centre


@full_precision()
def assign(rows: Tensor, centres: Tensor) -> Tensor:
    """(N,) the nearest centre of each row; subtract a common middle from both first, so that nothing drowns."""
    half = centres.square().sum(1) / 2
    return torch.cat([(half - part @ centres.T).argmin(1) for part in torch.split(rows, 8192)])


def _counts(x: Tensor, centres: Tensor) -> Tensor:
    middle = centres.mean(0)
    return torch.bincount(assign(x - middle, centres - middle), minlength=len(centres)).double()
