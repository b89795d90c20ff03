"""How many known modes a generator reaches, how cleanly, and how evenly."""

import math
from typing import Literal, Self

import torch
from torch import Tensor

from stabilgan.metrics.mode_counts import Modes, churn, forgetting, from_counts

__all__ = [
    "LabelModesMeter",
    "MixtureModesMeter",
    "Modes",
    "churn",
    "forgetting",
    "joint_labels",
    "label_modes",
    "mixture_modes",
]

Rule = Literal["distance", "axis"]
NonFinite = Literal["count", "raise"]


def mixture_modes(
    x: Tensor,
    centres: Tensor,
    sigma: float,
    *,
    min_count: int = 1,
    rule: Rule = "distance",
    non_finite: NonFinite = "count",
) -> Modes:
    """Count the modes of a known mixture of round Gaussians that samples reach.

    x: (N, d) samples, any real dtype. centres: (K, d). sigma: > 0, the standard deviation of each mode per axis.
    A sample goes to its nearest centre, and belongs to it if it lies within 3 sigma: by Euclidean distance with rule
    "distance" (perfect 2-D samples: 98.889 %), on every axis with rule "axis" (99.461 %). kl is over the nearest
    centres of all finite samples. Rows with nan or infinity count as "no mode", so that a diverged generator can be
    judged; `non_finite="raise"` makes them a ValueError instead.

    The protocol of Lin et al. 2018 (PacGAN, arXiv:1712.04086) and Srivastava et al. 2017 (arXiv:1705.07761).

    >>> x = torch.tensor([[0.0, 0.1], [1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    >>> modes = mixture_modes(x, torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]]), sigma=0.1)
    >>> modes.captured, modes.counts, modes.high_quality
    (2, (2, 1, 0, 1), 0.75)
    """
    return MixtureModesMeter(centres, sigma, min_count=min_count, rule=rule, non_finite=non_finite).update(x).compute()


def label_modes(labels: Tensor, k: int, *, min_count: int = 1) -> Modes:
    """Count the modes that a classifier names.

    labels: (N,) whole numbers in 0..k-1, or -1 for "no mode" (a classifier that is not sure, a sample that is not
    finite). Three digits become one of 1,000 labels with `joint_labels`. Raises ValueError for other labels.

    >>> modes = label_modes(torch.tensor([0, 0, 1, 1]), k=4)
    >>> modes.captured, round(modes.kl, 4)  # two of four modes, evenly: ln 2
    (2, 0.6931)
    """
    return LabelModesMeter(k, min_count=min_count).update(labels).compute()


def joint_labels(digits: Tensor, classes: int = 10) -> Tensor:
    """Make one label of several: (N, C) labels in 0..classes-1 to (N,) in 0..classes**C - 1; -1 if any of them is -1.

    >>> joint_labels(torch.tensor([[1, 2, 3], [0, -1, 0]])).tolist()
    [123, -1]
    """
    if digits.ndim != 2:
        raise ValueError(f"digits has shape {tuple(digits.shape)}; expected (N, C), one column for each channel")
    powers = torch.tensor([classes**i for i in reversed(range(digits.shape[1]))], device=digits.device)
    return torch.where((digits < 0).any(1), -1, (digits.long() * powers).sum(1))


class MixtureModesMeter:
    """`mixture_modes` over batches: `update` with each, `compute` when asked; nothing syncs with the host before."""

    def __init__(
        self,
        centres: Tensor,
        sigma: float,
        *,
        min_count: int = 1,
        rule: Rule = "distance",
        non_finite: NonFinite = "count",
    ) -> None:
        if centres.ndim != 2 or not len(centres):
            raise ValueError(f"centres has shape {tuple(centres.shape)}; expected (K, d), one row for each mode")
        if not sigma > 0:
            raise ValueError(f"sigma is {sigma}; expected the modes' standard deviation, a number above 0")
        if rule not in ("distance", "axis"):
            raise ValueError(f"rule is {rule!r}; expected 'distance' (within 3 sigma) or 'axis' (on each axis)")
        if non_finite not in ("count", "raise"):
            raise ValueError(f"non_finite is {non_finite!r}; expected 'count' (as no mode) or 'raise'")
        self.centres, self.sigma, self.rule, self.non_finite = centres, sigma, rule, non_finite
        self.min_count = _positive(min_count)
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        self.counts = torch.zeros(len(self.centres) + 1, dtype=torch.long, device=self.centres.device)
        self.nearest = torch.zeros_like(self.counts)

    def update(self, x: Tensor) -> Self:
        """Add a batch of samples, (N, d)."""
        k, d = self.centres.shape
        if x.ndim != 2 or x.shape[1] != d:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (N, {d}), as the centres have {d} columns")
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        centres = self.centres.to(x)
        self.counts, self.nearest = self.counts.to(x.device), self.nearest.to(x.device)
        if self.non_finite == "raise" and not x.isfinite().all():
            rows = (~x.isfinite().all(1)).nonzero().flatten().tolist()
            raise ValueError(
                f"x has nan or infinity in {len(rows)} of {len(x)} rows, the first at {rows[:5]}; "
                "leave them out, or count them as no mode with non_finite='count'"
            )
        for block in torch.split(x, max(1, 2**22 // (k * d))):
            offset = block[:, None] - centres
            if self.rule == "distance":
                reach, mode = torch.linalg.vector_norm(offset, dim=2).nan_to_num(nan=math.inf).min(1)
            else:
                mode = torch.linalg.vector_norm(offset, dim=2).nan_to_num(nan=math.inf).argmin(1)
                reach = offset[torch.arange(len(block), device=x.device), mode].abs().amax(1)
            finite = block.isfinite().all(1)
            ones = torch.ones_like(mode)
            self.counts.scatter_add_(0, torch.where(finite & (reach <= 3 * self.sigma), mode, k), ones)
            self.nearest.scatter_add_(0, torch.where(finite, mode, k), ones)
        return self

    def merge(self, other: Self) -> Self:
        """Add what another meter, of the same modes, has seen."""
        if len(self.counts) != len(other.counts):
            raise ValueError(
                f"one meter has {len(self.centres)} modes, the other {len(other.centres)}; expected the same"
            )
        self.counts = self.counts + other.counts.to(self.counts.device)
        self.nearest = self.nearest + other.nearest.to(self.nearest.device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The counts so far; what to save, or to send to another process for `merge`."""
        return {"counts": self.counts, "nearest": self.nearest}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        self.counts, self.nearest = state["counts"].clone(), state["nearest"].clone()

    def compute(self) -> Modes:
        """What all batches together show."""
        d = self.centres.shape[1]
        if self.rule == "distance":
            ceiling = torch.special.gammainc(torch.tensor(d / 2).double(), torch.tensor(4.5).double()).item()
        else:
            ceiling = math.erf(3 / math.sqrt(2)) ** d
        return from_counts(self.counts, self.nearest, self.min_count, self.rule, ceiling)


class LabelModesMeter:
    """`label_modes` over batches."""

    def __init__(self, k: int, *, min_count: int = 1) -> None:
        if k < 1:
            raise ValueError(f"k is {k}; expected the number of modes, at least 1")
        self.k, self.min_count = k, _positive(min_count)
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        self.counts = torch.zeros(self.k + 1, dtype=torch.long)

    def update(self, labels: Tensor) -> Self:
        """Add a batch of labels, (N,)."""
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"labels is {labels.dtype} of shape {tuple(labels.shape)}; expected (N,) whole numbers; "
                "take argmax of logits, and joint_labels of several columns"
            )
        wrong = labels[(labels < -1) | (labels >= self.k)]
        if len(wrong):
            raise ValueError(
                f"labels has {len(wrong)} outside 0..{self.k - 1}, such as {int(wrong[0])}; "
                "expected 0..k-1, or -1 for no mode"
            )
        bins = torch.where(labels < 0, self.k, labels).long()
        self.counts = self.counts.to(labels.device).scatter_add(0, bins, torch.ones_like(bins))
        return self

    def merge(self, other: Self) -> Self:
        """Add what another meter, of the same labels, has seen."""
        if self.k != other.k:
            raise ValueError(f"one meter has {self.k} modes, the other {other.k}; expected the same")
        self.counts = self.counts + other.counts.to(self.counts.device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The counts so far; what to save, or to send to another process for `merge`."""
        return {"counts": self.counts}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        self.counts = state["counts"].clone()

    def compute(self) -> Modes:
        """What all batches together show."""
        return from_counts(self.counts, self.counts, self.min_count, "label", 1.0)


def _positive(min_count: int) -> int:
    if min_count < 1:
        raise ValueError(f"min_count is {min_count}; expected at least 1 sample for a mode to count as captured")
    return min_count
