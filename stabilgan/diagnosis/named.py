"""Measures that the literature knows by name, beside what real samples read in the fakes' place: Vendi, NDB, birthday.

They are evidence for the reader and decide nothing: what decides asks the same questions more closely (`null`,
`regions`, `copies`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stabilgan.diagnosis.findings import Evidence
from stabilgan.metrics import birthday_test, ndb, vendi_score

MOST = 1000
"""Samples of each side at most; of more, some are drawn."""
SPLITS = 5
"""How often the reals are split in two, for the reference."""
BINS = 100
SIZE = 100


def by_name(real: Tensor, fake: Tensor, *, seed: int = 0) -> list[Evidence]:
    """Vendi score, NDB and birthday test of the fakes, and of one half of the reals in their place, at one size.

    Args:
        real: (N, d) features, finite, N of at least 20. fake: (M, d), finite, M of at least 20.
        seed: of the splits, and of what the measures draw.
    """
    rng = torch.Generator().manual_seed(seed)
    n = min(len(real) // 2, len(fake), MOST)
    ours = fake[torch.randperm(len(fake), generator=rng)[:n].to(fake.device)]
    halves = [real[torch.randperm(len(real), generator=rng)[: 2 * n].to(real.device)].split(n) for _ in range(SPLITS)]
    origin = f"real against real, {SPLITS} splits into {n} and {n} samples"
    bins, size = max(2, min(BINS, n // 10)), max(2, min(SIZE, n // 2))

    def different(data: Tensor, other: Tensor) -> float:
        return ndb(data, other, bins=bins, seed=seed).share

    def doubles(data: Tensor, other: Tensor) -> float:
        return birthday_test(data, other, size=size, seed=seed).probability

    told = []
    score = vendi_score(ours).score
    text = f"the Vendi score is {score:.3g}: so many different samples, by the angles between features, are in {n}"
    told.append(_beside("Vendi score", score, text, [vendi_score(other).score for _, other in halves], origin))
    share = different(halves[0][0], ours)
    text = f"in {share:.0%} of {bins} bins fakes come significantly more or less often than reals (NDB)"
    told.append(_beside("NDB", share, text, _among(halves, different), origin))
    twice = birthday_test(halves[0][0], ours, size=size, seed=seed)
    support = f"a support of about {twice.support:.3g}" if twice.support < float("inf") else "no small support"
    text = (
        f"{twice.probability:.0%} of batches of {size} fakes hold a pair nearer than reals come: {support} (birthday)"
    )
    told.append(_beside("birthday test", twice.probability, text, _among(halves, doubles), origin))
    return told


def _among(halves: list[tuple[Tensor, ...]], measure: Callable[[Tensor, Tensor], float]) -> list[float]:
    return [measure(data, other) for data, other in halves]


def _beside(name: str, value: float, text: str, theirs: list[float], origin: str) -> Evidence:
    middle = float(torch.tensor(theirs, dtype=torch.float64).median())
    return Evidence(name, value, text, middle, (min(theirs), max(theirs)), origin)
