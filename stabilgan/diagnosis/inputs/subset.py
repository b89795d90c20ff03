"""A random part of many samples, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

from stabilgan.diagnosis.findings import InputError


def chosen(n: int, limit: int | None, seed: int, what: str) -> tuple[Sequence[int], list[str]]:
    """The rows to take of n, in order, and a note if they are not all; in memory for those taken alone.

    >>> chosen(3, None, 0, "rows")
    (range(0, 3), [])
    """
    if limit is None or limit >= n:
        return range(n), []
    if limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    return sorted(random.Random(seed).sample(range(n), limit)), [
        f"{limit:,} of {n:,} {what} taken, drawn with seed {seed}"
    ]
