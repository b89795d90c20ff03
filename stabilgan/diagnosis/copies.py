"""Copies: fakes that repeat each other, and fakes that repeat training samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import hypergeom
from torch import Tensor

from stabilgan.metrics.neighbours import nearest

MOST = 10_000
"""Samples of each side that are looked at, at most."""
TWIN = 0.01
"""Two samples are copies of each other within this share of the distance of a real sample to its nearest other one."""
COPY = 0.5
"""A fake is a near copy of a training sample within at most this share of that one's distance to its nearest other."""
CHANCE = 1e-3
"""How often chance alone may make so many more copies among fakes than among held-out reals."""
RARE = 0.01
"""Where this share of held-out samples comes nearer, as in few dimensions, a near copy has to be nearer than half of
what they come to."""


@dataclass(frozen=True)
class Neighbours:
    """Who is nearest to whom, squared distances ascending.

    Attributes:
        real: (N, k), real_rows: (N, k) of each real among the others.
        fake: (M,) of each fake among the others.
        across: (M,), across_rows: (M,) of each fake among the reals.
    """

    real: Tensor
    real_rows: Tensor
    fake: Tensor
    across: Tensor
    across_rows: Tensor

    def near(self, wider: float) -> Tensor:
        """(M,) whether a fake lies in the ball of its nearest real, out to `wider` times the k-th neighbour."""
        return self.across <= wider**2 * self.real[self.across_rows, -1]


def neighbours(real: Tensor, fake: Tensor, k: int) -> Neighbours:
    """Searches once for all that asks for neighbours; (N, d) and (M, d), finite, N above k, M from 2 on."""
    across, rows = (part.flatten() for part in nearest(fake, 1, real))
    return Neighbours(*nearest(real, max(k, 2)), nearest(fake, 1)[0].flatten(), across, rows)


@dataclass(frozen=True)
class Repeats:
    """How often fakes repeat each other.

    Attributes:
        share: of the fakes that repeat another one, 0 (all different) to nearly 1 (all the same).
        reference: the same of the reals.
        distinct: fakes that are left once exact repeats are taken out.
        limit: the distance up to which two samples are the same.
        n: fakes that were looked at.
    """

    share: float
    reference: float
    distinct: int
    limit: float
    n: int

    def surely(self) -> bool:
        """Whether so many more repeats than among reals are beyond chance, by Fisher's test, where reals repeat at all.

        Where they don't, a repeat is none of chance.
        """
        fakes, reals = round(self.share * self.n), round(self.reference * self.n)
        return not reals or bool(hypergeom.sf(fakes - 1, 2 * self.n, fakes + reals, self.n) < CHANCE)


@dataclass(frozen=True)
class Memory:
    """How near fakes are to training samples, beside how near new real samples are.

    Each distance is divided by that of the training sample to its own nearest other one.

    Attributes:
        share: of the fakes nearer than `limit`, 0..1.
        reference: the same of held-out reals; under 0.01, by the choice of the limit.
        exact: the share of fakes at distance 0 from a training sample.
        exact_reference: the same of held-out reals.
        limit: on the ratio of distances.
        targets: how many different training samples the near ones repeat.
        nearest: (M,) the training sample nearest to each fake.
        ratio: (M,) of each fake.
        trained: a training set was given.
        nearness: the median distance of fakes from the training set over that of held-out reals; None without `train`.
        held_out: where the reference comes from.
        against: how many held-out reals the reference is the share of.
    """

    share: float
    reference: float
    exact: float
    exact_reference: float
    limit: float
    targets: int
    nearest: Tensor
    ratio: Tensor
    trained: bool
    nearness: float | None
    held_out: str
    against: int

    def surely(self) -> bool:
        """Whether so many more copies, near or exact, than among held-out reals are beyond chance (Fisher's test)."""
        m, r = len(self.ratio), self.against
        for ours, theirs in ((self.share, self.reference), (self.exact, self.exact_reference)):
            fakes, reals = round(ours * m), round(theirs * r)
            if hypergeom.sf(fakes - 1, m + r, fakes + reals, m) < CHANCE:
                return True
        return False


def repeats(real: Tensor, fake: Tensor, found: Neighbours) -> Repeats:
    """Counts the fakes that repeat another one, and the reals, among as many of each, since shares grow with numbers.

    Pairs count half each, so that n - k different samples and k copies of them give k/n; of what is repeated exactly,
    every one but the first counts.

    >>> x = torch.arange(100.0)[:, None] ** 1.5
    >>> fake = torch.cat([x[:80], x[:20]]) + 0.1
    >>> round(repeats(x, fake, neighbours(x, fake, 2)).share, 2)
    0.2
    """
    own, others, distinct = found.real[:, 0], found.fake, _distinct(fake)
    if len(real) > len(fake):
        real = _some(real, len(fake))
        own = nearest(real, 1)[0].flatten()
    elif len(fake) > len(real):
        fake = _some(fake, len(real))
        others = nearest(fake, 1)[0].flatten()
    own, others = own.sqrt(), others.sqrt()
    limit = TWIN * own.median().item()
    twins, reference = ((part <= limit).double().mean().item() / 2 for part in (others, own))
    return Repeats(
        share=max(twins, 1 - _distinct(fake) / len(fake)),
        reference=max(reference, 1 - _distinct(real) / len(real)),
        distinct=distinct,
        limit=limit,
        n=len(fake),
    )


def _some(x: Tensor, n: int) -> Tensor:
    """n rows, always the same."""
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n].to(x.device)]


def _distinct(x: Tensor) -> int:
    """How many rows differ, by one random projection of each: equal rows give equal numbers."""
    axis = torch.randn(x.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x.device)
    return len((x.double() * axis).sum(1).unique())


def memory(real: Tensor, fake: Tensor, found: Neighbours, train: Tensor | None = None) -> Memory:
    """Looks for fakes that are near copies of training samples.

    Without `train` the reals stand for it: each real sample is compared with all others, as if it were held out.

    Args:
        real: (N, d), not used in training if `train` is given. fake: (M, d). train: (T, d), T of at least 2.
        found: `neighbours(real, fake, k)`.
    """
    nearness = None
    if train is None:
        squares, rows = found.real, found.real_rows
        ours = rows[:, 0]
        # The nearest other one of that one, as if this sample were not there.
        itself = rows[ours, 0] == torch.arange(len(ours), device=ours.device)
        held, alone = (squares[:, 0], torch.where(itself, squares[ours, 1], squares[ours, 0])), squares[:, 0]
        across, where, held_out = found.across, found.across_rows, "each real sample against all the others"
    else:
        alone = nearest(train, 1)[0].flatten()
        squares, rows = (part.flatten() for part in nearest(real, 1, train))
        held, held_out = (squares, alone[rows]), f"{len(real)} held-out reals against {len(train)} training samples"
        across, where = (part.flatten() for part in nearest(fake, 1, train))
        far = squares.median().sqrt().item()
        nearness = across.median().sqrt().item() / far if far else None
    theirs, mine = _ratio(*held), _ratio(across, alone[where])
    rare = theirs.quantile(RARE).item()
    limit = COPY if rare >= COPY else rare / 2  # half, since the quantile of few samples is a rough one
    close = mine <= limit
    return Memory(
        share=close.double().mean().item(),
        reference=(theirs <= limit).double().mean().item(),
        exact=(across == 0).double().mean().item(),
        exact_reference=(held[0] == 0).double().mean().item(),
        limit=limit,
        targets=len(where[close].unique()),
        nearest=where,
        ratio=mine,
        trained=train is not None,
        nearness=nearness,
        held_out=held_out,
        against=len(theirs),
    )


def _ratio(squares: Tensor, alone: Tensor) -> Tensor:
    """Distance over distance; 0 where the first is 0."""
    tiny = torch.finfo(torch.float64).tiny
    return (squares.double() / alone.double().clamp(min=tiny)).sqrt()
