"""What a reading is worth: how far other samples would move it, and what reals read in the fakes' place."""

import math
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from stabilgan.metrics.inputs import pair

Result = TypeVar("Result")
_ABOUT = {"std", "standard_error", "threshold", "level", "alpha", "sigma", "q", "p"}  # numbers that describe a reading


@dataclass(frozen=True)
class Compared(Generic[Result]):
    """What `compare` measured: the fakes, and other reals in their place, against the same reals, in the same number.

    fake: the measure's result for the fakes.
    real: the result for real samples in their place.
    interval: (low, high) of each number in `fake`, by name; empty if none was asked for.
    """

    fake: Result
    real: Result
    interval: dict[str, tuple[float, float]]


def compare(
    measure: Callable[[Tensor, Tensor], Result],
    real: Tensor,
    fake: Tensor,
    *,
    holdout: Tensor | None = None,
    repeats: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> Compared[Result]:
    """Measure fakes, and real samples in their place, at the same sizes.

    measure: any of the pair measures, such as `prdc` or `lambda r, f: prdc(r, f, k=3)`. real: (N, d), fake: (M, d).
    holdout: real samples that are not in `real`; without it `real` is split at random, one half to compare with and
    one in the fakes' place. Fakes and holdout are cut to the same number. repeats: resamples for the interval, 0 for
    none; better 50 or more. seed: draws the split and the resamples.

    >>> compared = compare(lambda r, f: len(f) / len(r), torch.zeros(10, 1), torch.zeros(8, 1))
    >>> compared.fake, compared.real
    (1.0, 1.0)
    """
    real, fake = pair(real, fake)
    if holdout is None:
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed)).to(real.device)
        half = len(real) // 2
        if not half:
            raise ValueError("real has 1 sample; expected at least 2, one to compare with and one in the fakes' place")
        real, holdout = real[order[half:]], real[order[:half]]
    real, holdout = pair(real, holdout)
    m = min(len(fake), len(holdout))
    interval = half_sample_interval(measure, real, fake[:m], repeats=repeats, level=level, seed=seed) if repeats else {}
    return Compared(measure(real, fake[:m]), measure(real, holdout[:m]), interval)


def half_sample_interval(
    measure: Callable[[Tensor, Tensor], object],
    real: Tensor,
    fake: Tensor,
    *,
    repeats: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Bracket each number of a result by resampling halves of both sets without replacement.

    The bootstrap with replacement would put duplicates at distance 0 into every nearest-neighbour measure. Halves
    have none, and for a mean the spread of half-sample readings is that of the full sample's, as (1 - ½)/(N/2) = 1/N.
    So the interval is the full reading, plus and minus the normal quantile times the spread of the half-sample ones:
    it holds the sampling error, and not the bias that a measure has at this N. For the numbers of an `Evaluation` the
    names are those of the fields with dots, such as "prdc.coverage". (Shao and Wu 1989; Politis and Romano 1994.)

    >>> x = torch.arange(100.0)[:, None]
    >>> low, high = half_sample_interval(lambda r, f: f.mean().item(), x, x, seed=1)["value"]
    >>> low < 49.5 < high, 8 < high - low < 15  # 2 · 1.96 · 29 / √100 = 11.4
    (True, True)
    """
    if repeats < 2 or not 0 < level < 1:
        raise ValueError(f"repeats is {repeats} and level {level}; expected repeats >= 2 and 0 < level < 1")
    real, fake = pair(real, fake, least=2)
    rng = torch.Generator().manual_seed(seed)

    def half(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=rng)[: (len(x) + 1) // 2].to(x.device)]

    full = _numbers(measure(real, fake))
    draws = [_numbers(measure(half(real), half(fake))) for _ in range(repeats)]
    reach = math.sqrt(2) * torch.erfinv(torch.tensor(level, dtype=torch.float64)).item()
    result = {}
    for name, value in full.items():
        spread = reach * torch.tensor([draw[name] for draw in draws], dtype=torch.float64).std().item()
        result[name] = (value - spread, value + spread)
    return result


def _numbers(result: object, prefix: str = "") -> dict[str, float]:
    if isinstance(result, (int, float)):
        return {"value": float(result)}
    found: dict[str, float] = {}
    for name, value in vars(result).items():
        if isinstance(value, float) and name not in _ABOUT:
            found[prefix + name] = value
        elif is_dataclass(value):
            found |= _numbers(value, f"{prefix}{name}.")
    return found
