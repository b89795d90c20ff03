"""A random part of many samples, the same for the same seed."""

from __future__ import annotations

import torch

from stabilgan.diagnosis.findings import InputError


def chosen(n: int, limit: int | None, seed: int, what: str) -> tuple[list[int], list[str]]:
    """The rows to take of n, in order, and a note if they are not all.

    >>> chosen(3, None, 0, "rows")
    ([0, 1, 2], [])
    """
    if limit is None or limit >= n:
        return list(range(n)), []
    if limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    return drawn.tolist(), [f"{limit:,} of {n:,} {what} taken, drawn with seed {seed}"]
