"""Whether what a file claims to hold fits into this machine, asked before anything is read."""

from __future__ import annotations

import os

from stabilgan.diagnosis.findings import InputError


def machine() -> int:
    """Bytes of memory in this machine; 8 GiB where it doesn't say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 << 30


def check(needed: int, what: str, remedy: str) -> None:
    """Refuses what would take more than half of the memory."""
    if needed > machine() // 2:
        raise InputError(
            f"{what} would take {needed / 2**30:,.1f} GiB of memory; expected at most half of this machine's "
            f"{machine() / 2**30:,.1f} GiB; {remedy}"
        )
