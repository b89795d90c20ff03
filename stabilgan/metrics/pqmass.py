"""PQMass: whether two sets come from one distribution, by their counts in random regions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from stabilgan.metrics.inputs import pair
from stabilgan.metrics.meter import PairMeter
from stabilgan.metrics.neighbours import nearest


@dataclass(frozen=True)
class PQMass:
    """What `pqmass` measured.

    chi2: mean over repeats of the χ² of the 2 x regions table; regions - 1 with a spread of about √2(regions - 1) for
        identical distributions, whatever they are.
    p_value: mean over repeats of the probability of a χ² at least as large, ½ for identical distributions.
    chi2s: every repeat's. They share the samples, so they are not independent.
    """

    chi2: float
    p_value: float
    chi2s: tuple[float, ...]
    regions: int
    repeats: int
    n: int
    m: int
    seed: int


def pqmass(real: Tensor, fake: Tensor, *, regions: int = 100, repeats: int = 20, seed: int = 0) -> PQMass:
    """Test whether reals and fakes come from one distribution, by their counts in random Voronoi regions.

    real: (N, d), fake: (M, d). Each repeat draws `regions` points from both sets in proportion, takes them out, and
    counts how many of the rest of each set lie nearest to which; χ² compares the counts. No assumption on the
    distributions, and none on the dimension. seed: draws the points.

    Lemos et al. 2024 (arXiv:2402.04355).

    >>> x = torch.arange(100.0)[:, None]
    >>> pqmass(x, x + 1000.0, regions=4).chi2 > 100  # 3 expected
    True
    """
    x, y = pair(real, fake)
    if not 2 <= regions < min(len(x), len(y)):
        raise ValueError(
            f"regions is {regions} with {len(x)} real and {len(y)} fake samples; "
            f"expected 2 <= regions < {min(len(x), len(y))}"
        )
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected at least 1")
    rng = torch.Generator().manual_seed(seed)
    both = torch.cat([x, y])
    whose = (torch.arange(len(both), device=x.device) >= len(x)).long()
    chi2s = []
    for _ in range(repeats):
        order = torch.randperm(len(both), generator=rng).to(x.device)
        points, rest = order[:regions], order[regions:]
        cell = nearest(both[rest], 1, both[points])[1].flatten()
        table = torch.bincount(2 * cell + whose[rest], minlength=2 * regions).view(regions, 2).double()
        expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
        used = expected > 0
        chi2s.append(((table - expected)[used].square() / expected[used]).sum().item())
    values = torch.tensor(chi2s, dtype=torch.float64)
    p_values = torch.special.gammaincc(torch.full_like(values, (regions - 1) / 2), values / 2)
    return PQMass(values.mean().item(), p_values.mean().item(), tuple(chi2s), regions, repeats, len(x), len(y), seed)


class PQMassMeter(PairMeter[PQMass]):
    """`pqmass` over batches."""

    def __init__(self, *, regions: int = 100, repeats: int = 20, seed: int = 0) -> None:
        super().__init__(lambda real, fake: pqmass(real, fake, regions=regions, repeats=repeats, seed=seed))
