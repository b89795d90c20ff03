"""What a histogram of known modes says: how many are captured, how evenly, and what changed between two times."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Modes:
    """What `mixture_modes` and `label_modes` found.

    captured: number of modes with at least `min_count` samples of their own in `counts`, 0..k.
    k: number of modes there are.
    high_quality: share of all n samples that belong to a mode by `rule`, 0..1. Perfect samples reach `ceiling`, not 1.
    kl: nats, Σ p ln(k p) of the histogram `nearest` against uniform over the k modes; 0..ln k. nan without samples.
    kl_floor: (k-1)/2n, what a perfectly uniform generator scores on average at this n. nan without samples.
    counts: k+1 bins; the last is "no mode": between modes, or not finite.
    nearest: k bins; every finite sample at its nearest mode, the clean and the others.
    ceiling: the share that perfect samples reach under `rule`.
    """

    captured: int
    k: int
    high_quality: float
    kl: float
    kl_floor: float
    counts: tuple[int, ...]
    nearest: tuple[int, ...]
    n: int
    min_count: int
    rule: str
    ceiling: float

    @property
    def kl_bound(self) -> float:
        """Nats: ln(k/m), with m modes that are nearest to any sample; no histogram over m modes can score less."""
        m = sum(count > 0 for count in self.nearest)
        return math.log(self.k / m) if m else math.nan

    @property
    def kl_bins(self) -> float:
        """Nats: the same divergence over k+1 bins, so that samples between modes count.

        The target is what perfect samples give: `ceiling`/k in each mode and 1 - `ceiling` in "no mode". It is inf if
        "no mode" holds samples where perfect ones never fall (labels), nan without samples.
        """
        return _kl(self.counts, (*[self.ceiling / self.k] * self.k, 1 - self.ceiling))


def forgetting(before: Modes, after: Modes) -> float:
    """The share of the modes captured before that are no longer captured, 0..1; nan if none was.

    >>> import torch
    >>> from stabilgan.metrics.modes import label_modes
    >>> now = label_modes(torch.tensor([0, 2]), k=3)
    >>> forgetting(label_modes(torch.tensor([0, 1]), k=3), now)
    0.5
    """
    _same(before, after)
    had = [i for i in range(before.k) if before.counts[i] >= before.min_count]
    lost = sum(after.counts[i] < after.min_count for i in had)
    return lost / len(had) if had else math.nan


def churn(before: Modes, after: Modes) -> float:
    """The share of samples that sit in another bin than before, 0..1: the total variation of the k+1 bins.

    Two draws from one generator differ as well, by about sqrt(k/πn); compare with that. nan without samples.

    >>> import torch
    >>> from stabilgan.metrics.modes import label_modes
    >>> churn(label_modes(torch.tensor([0, 0, 1, 1]), k=3), label_modes(torch.tensor([0, 0, 1, 2]), k=3))
    0.25
    """
    _same(before, after)
    if not before.n or not after.n:
        return math.nan
    pairs = zip(before.counts, after.counts, strict=True)
    return sum(abs(b / before.n - a / after.n) for b, a in pairs) / 2


def from_counts(counts: Tensor, nearest: Tensor, min_count: int, rule: str, ceiling: float) -> Modes:
    """Read `Modes` from k+1 bins, the last one "no mode", and from k+1 bins of nearest modes, the last one ignored.

    >>> import torch
    >>> from_counts(torch.tensor([3, 1, 0]), torch.tensor([3, 1, 0]), 2, "label", 1.0).captured
    1
    """
    bins, near = counts.tolist(), nearest.tolist()[:-1]
    k, n, m = len(near), sum(bins), sum(near)
    return Modes(
        captured=sum(count >= min_count for count in bins[:-1]),
        k=k,
        high_quality=sum(bins[:-1]) / n if n else math.nan,
        kl=_kl(near, [1 / k] * k),
        kl_floor=(k - 1) / (2 * m) if m else math.nan,
        counts=tuple(bins),
        nearest=tuple(near),
        n=n,
        min_count=min_count,
        rule=rule,
        ceiling=ceiling,
    )


def _kl(counts: Sequence[int], target: Sequence[float]) -> float:
    n = sum(counts)
    if not n:
        return math.nan
    terms = ((c / n, q) for c, q in zip(counts, target, strict=True) if c)
    return math.fsum(p * math.log(p / q) if q > 0 else math.inf for p, q in terms)


def _same(before: Modes, after: Modes) -> None:
    if before.k != after.k:
        raise ValueError(f"before has {before.k} modes and after {after.k}; compare two readings of one set of modes")
