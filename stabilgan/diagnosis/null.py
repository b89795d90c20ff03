"""What real samples read in the fakes' place: the reference of every measure, at the same number of samples.

The reals are split in two at random many times; one half plays the data and the other the fakes. All splits share one
block of distances, so that a split costs a sort and not a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 1000
"""Samples of each side at most: enough for every threshold here, and 30 splits of them take about a second."""
NEIGHBOURS = 5
AROUND = (5, 20)
"""Neighbours that say whether a region is apart, at least and at most: a hundredth of the samples that are looked at.
More than `NEIGHBOURS` where there are many, since so few seldom leave any compact part."""
WIDER = 2.0
"""A fake counts as near the data within so many times the ball out to a real sample's k-th nearest neighbour."""

Readings = dict[str, float]


@dataclass(frozen=True)
class Compared:
    """One measure of the fakes beside the same measure of real samples in their place.

    Attributes:
        value: of the fakes, the mean over the splits' data halves.
        reference: of real samples, the median over the splits.
        interval: the lowest and the highest of real samples over the splits.
    """

    value: float
    reference: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Null:
    """What `against_reals` measured.

    Attributes:
        readings: by name: those of `measures`; spread, the mean distance between two fakes over that between two
            reals; variety, the effective number of different samples (order-2 Rényi kernel entropy, the kernel as wide
            as the median distance of reals) over that of the reals.
        n: samples of each side.
        k: neighbours.
        splits: how often the reals were split.
        rows: the reals that took part, row numbers (2n,).
        neighbours: (2n, 5 to 20) the nearest of these to each of them, as places in `rows`.
    """

    readings: Mapping[str, Compared]
    n: int
    k: int
    splits: int
    rows: Tensor
    neighbours: Tensor

    @property
    def origin(self) -> str:
        return f"real against real, {self.splits} splits into {self.n} and {self.n} samples, k = {self.k}"


def against_reals(
    real: Tensor,
    fake: Tensor,
    *,
    k: int = NEIGHBOURS,
    splits: int = 20,
    most: int = MOST,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Null:
    """Measures fakes against halves of the reals, and the other halves in the fakes' place.

    Args:
        real: (N, d), finite, N of at least 4, not all alike.
        fake: (M, d), finite, M of at least 2.
        k: neighbours; lowered to what there are samples for.
        splits: how often the reals are split.
        most: samples of each side at most; of more, some are drawn.
        seed: draws them, and the splits.
        progress: is told how many splits are done, of how many.
    """
    rng = torch.Generator().manual_seed(seed)
    n = min(len(real) // 2, len(fake), most)
    k = max(1, min(k, n - 1))
    rows = torch.randperm(len(real), generator=rng)[: 2 * n].to(real.device)
    some = torch.randperm(len(fake), generator=rng)[:n].to(real.device)
    x, y = real[rows].double(), fake[some].double()
    centre = x.mean(0)
    x, y = x - centre, y - centre
    among, across, within = _squares(x, x), _squares(x, y), _squares(y, y)
    far, width = among.sqrt().fill_diagonal_(0), among.median()
    alike = (-among / width).exp().fill_diagonal_(1)
    ours_apart = within.sqrt().fill_diagonal_(0).sum().item() / (n * (n - 1))
    ours_alike = (-within / width).exp().fill_diagonal_(1).mean().item()
    among, across, within = among.float(), across.float(), within.float()  # rounded only now: small ones stay small
    among.fill_diagonal_(torch.inf)
    within.fill_diagonal_(torch.inf)

    ours: list[Readings] = []
    theirs: list[Readings] = []
    for split in range(splits):
        order = torch.randperm(2 * n, generator=rng).to(real.device)
        data, other = order[:n], order[n:]
        halves = [torch.zeros(2 * n, dtype=far.dtype, device=far.device).index_fill_(0, h, 1) for h in (data, other)]
        apart = [float(half @ far @ half) / (n * (n - 1)) for half in halves]
        same = [float(half @ alike @ half) / n**2 for half in halves]
        own, mine = among[data], across[data]
        radii = _radii(own[:, data], k)
        there = measures(radii, own[:, other], _radii(among[other][:, other], k), k)
        theirs.append(there | {"spread": apart[1] / apart[0], "variety": same[0] / same[1]})
        if split % 4 == 0:
            here = measures(radii, mine, _radii(within, k), k)
            ours.append(here | {"spread": ours_apart / apart[0], "variety": same[0] / ours_alike})
        if progress is not None:
            progress(split + 1, splits)
    readings = {name: _compared([r[name] for r in ours], [r[name] for r in theirs]) for name in ours[0]}
    around = among.topk(min(max(2 * n // 100, AROUND[0]), AROUND[1], 2 * n - 1), 1, largest=False).indices
    return Null(readings, n, k, splits, rows, around)


def measures(radii: Tensor, across: Tensor, others: Tensor, k: int) -> Readings:
    """Every measure of fidelity and coverage that squared distances allow.

    - precision, recall, density, coverage: as in `stabilgan.metrics.prdc`;
    - near: precision with balls `WIDER` times as wide, which forgives what is merely a little off.

    Args:
        radii: (n,) of the reals' balls. across: (n, m), real to fake. others: (m,) of the fakes' balls. All squared.
        k: neighbours.
    """
    inside = across < radii[:, None]
    tiny = torch.finfo(across.dtype).tiny
    nearest = (across / radii.clamp(min=tiny)[:, None]).amin(0)
    return {
        "precision": inside.any(0).double().mean().item(),
        "recall": (across < others).any(1).double().mean().item(),
        "density": inside.sum(0).double().mean().item() / k,
        "coverage": inside.any(1).double().mean().item(),
        "near": (nearest <= WIDER**2).double().mean().item(),
    }


def _radii(squares: Tensor, k: int) -> Tensor:
    return squares.topk(k, 1, largest=False).values[:, -1]


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances in float64, by products: off by about 1e-16 of the squared norms."""
    out = x.square().sum(1)[:, None] + y.square().sum(1)
    return out.addmm_(x, y.T, alpha=-2).clamp_(min=0)


def _compared(ours: list[float], theirs: list[float]) -> Compared:
    there = torch.tensor(theirs, dtype=torch.float64)
    return Compared(sum(ours) / len(ours), there.median().item(), (there.min().item(), there.max().item()))
