"""Dropped regions: parts of the data where the fakes (nearly) never go, though as many reals do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import hypergeom
from torch import Tensor

from stabilgan.metrics.ndb import assign, kmeans

LOST = 0.1
"""A region is dropped where the fakes put less than this share of what the data puts there. It is the rule by which
the workloads call a digit captured: 1 % of the samples, where 10 % would be fair."""
SURE = 1e-3
"""The chance that a fair generator leaves any one region that empty, over all regions of one partition."""
GRAINS = (8, 16, 32, 64)
"""Into how many cells the data are cut; each partition is judged by itself."""
FITTED = 4000
"""Reals that k-means works on, at most; all of them are counted."""
LEAST = 10.0
"""Fakes that a fair generator puts into a cell on average, at least; with fewer an empty cell says nothing."""
MODE = 0.02
"""The least share of the data whose loss matters, where what is lost is a mode of its own."""
PLAIN = 1.2
"""How much more has to be lost for each unit of border: a generator that is a little narrow, or that misses what is
rare in each mode, loses parts of clouds, which have long borders; whole modes have none."""
COARSE = 16
APART = 0.05
"""Of more cells than `COARSE` only those count whose border is at most this: finer ones cut through modes, and of a
mode that is merely too narrow the outer parts are lost."""


@dataclass(frozen=True)
class Dropped:
    """What the fakes leave out under one partition of the data.

    Attributes:
        mass: the share of the data in the dropped regions, 0..1.
        border: the share of the nearest neighbours of what is dropped that lie outside it: 0 for modes of their own,
            about as much as chance gives for a random half of a cloud; nan where nothing is dropped or nobody knows.
        cells: which regions are dropped.
        real, fake: the samples in each region.
        centres: (K, d) of the regions, or None where they are labels.
        finest: the smallest share of the data whose loss would have been seen.
    """

    mass: float
    border: float
    cells: tuple[int, ...]
    real: tuple[int, ...]
    fake: tuple[int, ...]
    centres: Tensor | None
    finest: float

    @property
    def counts(self) -> bool:
        """Whether more is left out than is allowed."""
        return bool(self.cells) and self.mass >= self.allowed

    @property
    def allowed(self) -> float:
        """The share of the data that a healthy but imperfect generator may lose this way."""
        border = 0.0 if math.isnan(self.border) else self.border
        return (
            MODE + PLAIN * border if len(self.real) <= COARSE or self.border <= APART or self.centres is None else 1.0
        )


def histogram(real: Tensor, fake: Tensor) -> Dropped:
    """Judges the regions that labels name, such as a classifier's; every class is a mode of its own.

    Args:
        real: (N,) whole numbers from 0 on; -1 for none. fake: (M,) the same.

    >>> histogram(torch.arange(4).repeat(100), torch.arange(3).repeat(100)).cells
    (3,)
    """
    classes = int(max(real.max(), fake.max())) + 1
    a, b = (torch.bincount(part[part >= 0], minlength=max(classes, 1)) for part in (real, fake))
    cells = _lost(a, b)
    return _dropped(a, b, cells, 0.0 if cells else math.nan, None)


def partitions(real: Tensor, fake: Tensor, rows: Tensor, neighbours: Tensor, *, seed: int = 0) -> list[Dropped]:
    """Cuts the data into cells by k-means, at several grains, and judges each cut.

    Args:
        real: (N, d). fake: (M, d), those near the data: what lies between modes belongs to none.
        rows: (P,) of the reals whose neighbours are known. neighbours: (P, k) places in `rows`.
        seed: starts k-means.
    """
    found = []
    most = min(len(real), len(fake)) / LEAST
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    few = real if len(real) <= FITTED else real[order[:FITTED].to(real.device)]
    for k in [grain for grain in GRAINS if grain <= most] or [max(2, int(most))]:
        centres = kmeans(few, k, seed)
        middle = centres.mean(0)
        home, cell = (assign(part - middle, centres - middle) for part in (real, fake))
        a, b = (torch.bincount(part, minlength=k) for part in (home, cell))
        cells = _lost(a, b)
        found.append(_dropped(a, b, cells, _border(home[rows], cells, neighbours), centres))
    return found


def _lost(real: Tensor, fake: Tensor) -> tuple[int, ...]:
    """The regions that hold less than `LOST` of their due, where chance would not explain it.

    Of K regions the n that chance explains least are lost if all of them are below n/K of `SURE` (Benjamini & Hochberg
    1995, J. R. Stat. Soc. B 57): where nothing is lost that is as rare as `SURE`, and beside one that is lost the next
    needs less.
    """
    expected = real.double() / real.sum() * fake.sum()
    p = chance(real, fake)
    below = p.sort().values < SURE / len(p) * torch.arange(1, len(p) + 1, device=p.device)
    limit = SURE / len(p) * (int(below.nonzero()[-1]) + 1 if below.any() else 1)
    lost = (fake <= LOST * expected) & (p < limit) & (real > 0)
    return tuple(lost.nonzero().flatten().tolist())


def chance(real: Tensor, fake: Tensor) -> Tensor:
    """(K,) the chance of so few fakes in each region, given what reals and fakes together have there: Fisher's test.

    The reals are drawn as well, so that a region in which they are many by chance is not one that fakes leave out.

    Args:
        real, fake: (K,) samples in each region.

    >>> chance(torch.tensor([3, 1]), torch.tensor([0, 4]))  # 3 of 8 are in the first region: 4 · 3 · 2 / (8 · 7 · 6)
    tensor([0.0714, 1.0000], dtype=torch.float64)
    """
    n, m = int(real.sum()), int(fake.sum())
    theirs, ours = real.cpu().numpy(), fake.cpu().numpy()
    return torch.from_numpy(np.asarray(hypergeom.cdf(ours, n + m, theirs + ours, m))).to(real.device)


def _border(home: Tensor, cells: tuple[int, ...], neighbours: Tensor) -> float:
    inside = torch.isin(home, torch.tensor(cells, device=home.device, dtype=home.dtype))
    if not inside.any():
        return math.nan
    return (~inside[neighbours[inside]]).double().mean().item()


def _dropped(real: Tensor, fake: Tensor, cells: tuple[int, ...], border: float, centres: Tensor | None) -> Dropped:
    total, fakes = int(real.sum()), int(fake.sum())
    shares = real.double() / max(total, 1)
    # Whether it would be seen if a region were empty; the fakes that are in it would then be elsewhere.
    empty = np.asarray(hypergeom.pmf(0, total + fakes, real.cpu().numpy(), fakes))
    seen = shares[torch.from_numpy(empty < SURE / len(real)).to(real.device) & (real > 0)]
    finest = seen.min().item() if len(seen) else 1.0
    mass = shares[list(cells)].sum().item() if cells else 0.0
    return Dropped(mass, border, cells, tuple(real.tolist()), tuple(fake.tolist()), centres, finest)
