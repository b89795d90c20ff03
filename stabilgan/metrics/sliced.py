"""Sliced Wasserstein distance: how far samples must move along random lines to become the other set."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilgan.metrics.distances import full_precision
from stabilgan.metrics.inputs import pair
from stabilgan.metrics.meter import PairMeter


@dataclass(frozen=True)
class SlicedWasserstein:
    """What `sliced_wasserstein` measured.

    distance: (mean over lines of W_p^p)^(1/p), 0 and up, in units of the features.
    standard_error: of it, from the spread between the lines; other samples would change it more.
    """

    distance: float
    standard_error: float
    p: float
    projections: int
    n: int
    m: int
    seed: int


@full_precision()
def sliced_wasserstein(
    real: Tensor, fake: Tensor, *, p: float = 2.0, projections: int = 256, seed: int = 0
) -> SlicedWasserstein:
    """Measure the sliced Wasserstein distance: exact along each of `projections` random lines, in N log N time.

    real: (N, d), fake: (M, d), any N and M. p: order, at least 1. seed: draws the directions, uniform on the sphere.
    Identical sets give 0; different draws from one distribution do not, so compare with reals against reals.

    Rabin et al. 2012; Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3.

    >>> sliced_wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [4.0]])).distance  # all move by 3
    3.0
    """
    x, y = pair(real, fake)
    if p < 1 or projections < 1:
        raise ValueError(f"p is {p} and projections {projections}; expected p >= 1 and projections >= 1")
    rng = torch.Generator().manual_seed(seed)
    lines = torch.randn(x.shape[1], projections, generator=rng, dtype=torch.float64)
    lines = (lines / lines.norm(dim=0)).to(x.device, x.dtype)
    # the quantile functions are steps at i/N and j/M: between two neighbouring steps of either both are constant
    steps = torch.cat([torch.arange(1, len(x) + 1) * len(y), torch.arange(1, len(y) + 1) * len(x)]).sort().values
    width = torch.diff(steps, prepend=steps.new_zeros(1)).double() / (len(x) * len(y))
    i, j = ((steps - 1) // len(y)).to(x.device), ((steps - 1) // len(x)).to(x.device)
    centre = x.mean(0)
    costs = []
    for some in torch.split(lines, max(1, 2**21 // (len(x) + len(y))), dim=1):
        a, b = (((rows - centre) @ some).sort(0).values for rows in (x, y))
        costs.append(width.to(x.device) @ (a[i] - b[j]).abs().double().pow(p))
    cost = torch.cat(costs)
    mean = cost.mean().item()
    spread = cost.std().item() / math.sqrt(projections) if projections > 1 else math.nan
    error = spread * mean ** (1 / p - 1) / p if mean > 0 else 0.0
    return SlicedWasserstein(mean ** (1 / p), error, p, projections, len(x), len(y), seed)


class SlicedWassersteinMeter(PairMeter[SlicedWasserstein]):
    """`sliced_wasserstein` over batches."""

    def __init__(self, *, p: float = 2.0, projections: int = 256, seed: int = 0) -> None:
        super().__init__(lambda real, fake: sliced_wasserstein(real, fake, p=p, projections=projections, seed=seed))
