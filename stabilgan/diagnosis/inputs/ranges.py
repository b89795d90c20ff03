"""In which range an image's values lie - bytes, [0, 1], [-1, 1] - found from the values, and brought to [0, 1]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stabilgan.diagnosis.inputs.samples import Samples

SLACK = 0.05
"""How far beyond a range values may lie, as a share of its width or of theirs: not every last layer is bounded."""
STRAYS = 0.02
"""The share of values that may lie further out before another range is looked for."""
MOST = 2_000_000
"""Values looked at."""


class Range(NamedTuple):
    """The two values that become 0 and 1, and how they were found."""

    low: float
    high: float
    note: str


def found(x: Tensor, dtype: str, like: Samples | None = None) -> Range:
    """The range of images `x`, (N, C, H, W) float32, that were stored as `dtype`.

    Whole numbers are bytes, 16-bit or 0 and 1. Other numbers are in the first of [0, 1], [-1, 1] and [0, 255] that
    holds all but 2 % of them with 5 % of slack; in `like`'s range if that is one of these and holds them too, since a
    collapsed generator's few values fit anywhere. Else the range is unknown: `like`'s own, or the values' extremes.
    """
    flat = x.flatten()
    values = flat[:: max(1, -(-flat.numel() // MOST))]
    values = values[values.isfinite()]
    if not values.numel():
        return Range(0.0, 1.0, "no finite value in it, so no range")
    low, high = values.min().item(), values.max().item()
    if dtype.startswith(("int", "uint", "bool")):
        return _whole(low, high, dtype, values)

    def holds(bottom: float, top: float) -> bool:
        slack = SLACK * min(top - bottom, high - low)
        return bool(((values < bottom - slack) | (values > top + slack)).float().mean() <= STRAYS)

    seen = f"values from {low:.3g} to {high:.3g}"
    theirs = like.scale if like is not None and not like.whole else None
    if theirs is not None and holds(*theirs):
        other = (theirs == (-1, 1) and _fills_unit(low, high)) or (theirs[1] > 1.5 and high <= 1.5)
        if not other:
            return Range(*theirs, f"{seen}, taken in [{theirs[0]:g}, {theirs[1]:g}] as the reals are")
    for bottom, top in ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)):
        if holds(bottom, top):
            return Range(bottom, top, f"{seen}, taken in [{bottom:g}, {top:g}]")
    if theirs is not None:
        return Range(*theirs, f"{seen}, in no known range; taken in [{theirs[0]:g}, {theirs[1]:g}] as the reals are")
    if like is not None:
        return Range(
            -1.0, 1.0, f"{seen}, in no known range; taken in [-1, 1]; :range=-1,1 behind the path says otherwise"
        )
    if low == high:
        return Range(low - 0.5, low + 0.5, f"all values are {low:.3g}, in no known range")
    return Range(low, high, f"{seen}, in no known range: scaled by these; :range=LOW,HIGH behind the path says better")


def to_unit(x: Tensor, settled: Range) -> float:
    """Brings `x` to [0, 1] in place and returns the share of values that had to be cut; what is not finite is nan."""
    low, high, _ = settled
    width = (high - low) or 1.0
    x.sub_(low).div_(width)
    slack = torch.finfo(torch.float32).eps * 16 + (1e-3 if width <= 2 else 0.5 / width)
    outside = sum(int(((part < -slack) | (part > 1 + slack)).sum()) for part in x.split(4096))
    for part in x.split(4096):
        part.masked_fill_(part.isinf(), torch.nan).clamp_(0, 1)  # what is infinite stays no number
    return outside / max(1, x.numel())


def _whole(low: float, high: float, dtype: str, values: Tensor) -> Range:
    if dtype == "bool" or (low == 0 and high == 1 and (values == 1).float().mean() > 0.01):
        return Range(0.0, 1.0, "whole numbers, 0 or 1")
    if low >= 0 and high <= 255:
        return Range(0.0, 255.0, f"whole numbers from {low:g} to {high:g}, taken in [0, 255]")
    if low >= 0 and high <= 65535:
        return Range(0.0, 65535.0, f"whole numbers from {low:g} to {high:g}, taken as 16-bit, [0, 65535]")
    if low >= -128 and high <= 127:
        return Range(-128.0, 127.0, f"whole numbers from {low:g} to {high:g}, taken in [-128, 127]")
    return Range(low, high, f"whole numbers from {low:g} to {high:g}, in no known range: scaled by these")


def _fills_unit(low: float, high: float) -> bool:
    """The values begin at 0 and end at 1: they are in [0, 1] even where the reals are in [-1, 1]."""
    return -1e-3 <= low <= 0.05 and 0.9 <= high <= 1 + 1e-3
