"""Birthday test: how often a small batch already repeats itself, and how small the support must be for that."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from stabilgan.metrics.distances import direct, tiles
from stabilgan.metrics.inputs import pair
from stabilgan.metrics.meter import PairMeter
from stabilgan.metrics.neighbours import nearest


@dataclass(frozen=True)
class Birthday:
    """What `birthday_test` measured.

    probability: share of the fakes' batches that hold at least one pair of duplicates, 0..1.
    real_probability: the same of the reals' batches, about `level` by the choice of the threshold.
    support: how many equally likely different samples would give as many duplicate pairs; inf if there was none.
    threshold: the distance up to which two samples count as duplicates.
    """

    probability: float
    real_probability: float
    support: float
    threshold: float
    size: int
    trials: int
    level: float
    n: int
    m: int
    seed: int


def birthday_test(
    real: Tensor,
    fake: Tensor,
    *,
    size: int = 100,
    trials: int = 50,
    level: float = 0.05,
    threshold: float | None = None,
    seed: int = 0,
) -> Birthday:
    """Estimate a generator's support from the near-duplicates in batches of its samples.

    real: (N, d), fake: (M, d), both at least `size`. threshold: distance up to which two samples are duplicates; by
    default the one that only a share `level` of the reals' batches of this size reaches, so that real pairs say how
    close is close. trials: how many batches of each are drawn, without replacement inside a batch. seed: draws them.

    Arora, Risteski and Zhang 2018 (arXiv:1706.08224).

    >>> real, fake = torch.arange(200.0)[:, None], torch.arange(20.0).repeat(50)[:, None]
    >>> result = birthday_test(real, fake, size=40, trials=200, threshold=0.0)
    >>> result.probability, result.real_probability, round(result.support) in range(18, 23)
    (1.0, 0.0, True)
    """
    x, y = pair(real, fake, least=2)
    if not 2 <= size <= min(len(x), len(y)) or trials < 1 or not 0 < level < 1:
        raise ValueError(
            f"size is {size}, trials {trials} and level {level} with {len(x)} real and {len(y)} fake "
            f"samples; expected 2 <= size <= {min(len(x), len(y))}, trials >= 1 and 0 < level < 1"
        )
    rng = torch.Generator().manual_seed(seed)

    def batches(rows: Tensor) -> list[Tensor]:
        return [rows[torch.randperm(len(rows), generator=rng)[:size].to(rows.device)] for _ in range(trials)]

    reals = batches(x)
    closest = torch.stack([nearest(batch, 1)[0].min() for batch in reals]).sqrt()
    limit = float(closest.quantile(level)) if threshold is None else threshold
    pairs = [_duplicates(batch, limit) for batch in batches(y)]
    possible = trials * size * (size - 1) / 2
    return Birthday(
        probability=sum(count > 0 for count in pairs) / trials,
        real_probability=(closest <= limit).double().mean().item(),
        support=possible / sum(pairs) if sum(pairs) else math.inf,
        threshold=limit,
        size=size,
        trials=trials,
        level=level,
        n=len(x),
        m=len(y),
        seed=seed,
    )


def birthday_support(probability: float, size: int) -> float:
    """The support in which a batch holds a duplicate with this probability: s(s-1) / -2 ln(1-p), inf for p = 0.

    At p = ½ it is 0.72 s², the number that Arora et al. quote.

    >>> round(birthday_support(0.5, 1000) / 1000**2, 2)
    0.72
    """
    if not 0 <= probability < 1 or size < 2:
        raise ValueError(
            f"probability is {probability} and size {size}; expected 0 <= probability < 1 and size >= 2; "
            "if every batch holds duplicates, take smaller ones"
        )
    return size * (size - 1) / (-2 * math.log1p(-probability)) if probability else math.inf


class BirthdayMeter(PairMeter[Birthday]):
    """`birthday_test` over batches."""

    def __init__(self, *, size: int = 100, trials: int = 50, level: float = 0.05, seed: int = 0) -> None:
        super().__init__(lambda real, fake: birthday_test(real, fake, size=size, trials=trials, level=level, seed=seed))


def _duplicates(batch: Tensor, limit: float) -> int:
    count = 0
    for tile in tiles(batch):
        if tile.i == tile.j:
            tile.squares.fill_diagonal_(torch.inf)
        i, j = (tile.squares <= limit**2 + tile.slack).nonzero().unbind(1)
        hits = int((direct(batch, batch, i + tile.i.start, j + tile.j.start).sqrt() <= limit).sum())
        count += hits // 2 if tile.i == tile.j else hits
    return count
