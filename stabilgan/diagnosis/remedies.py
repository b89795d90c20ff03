"""What to try against a failure: the tricks, what our own records say of each, and a command."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from stabilgan.diagnosis.findings import Finding


@dataclass(frozen=True)
class Remedy:
    """One arm that addresses a failure.

    Attributes:
        arm: in the grammar of `--tricks`.
        records: what the published records say of it, a line each; empty where they don't know it.
    """

    arm: str
    records: tuple[str, ...]


def remedies(finding: Finding) -> tuple[Remedy, ...]:
    """The arms of a finding, the best first."""
    return tuple(Remedy(arm, said_of(arm)) for arm in finding.tricks)


@cache
def said_of(arm: str) -> tuple[str, ...]:
    """What the published records say of an arm.

    >>> said_of("replay")[0].startswith("mnist: success 0 of 10 runs, 0 of 10 without; modes +0.2")
    True
    """
    lines = []
    for e in json.loads((files("stabilgan.diagnosis") / "evidence.json").read_text()):
        if e["arm"] == arm:
            low, high = e["interval"]
            lines.append(
                f"{e['workload']}: success {e['successes']} of {e['runs']} runs, {e['plain_successes']} of "
                f"{e['plain_runs']} without; {e['reading']} {e['difference']:+.1f} [{low:.1f}, {high:.1f}] (95 %), "
                f"{e['slowdown']:.1f} times the time per step: {e['verdict']} ({e['records']})"
            )
    return tuple(lines)


def command(arm: str) -> str:
    """What a user types to find out on networks and data of their own."""
    return f"stabilgan bench --tricks {arm} --workload yours.py:workload --seeds 5"


def in_a_loop(arm: str) -> str:
    """The same in a loop of the user's own."""
    return f'stabilgan.attach(netG, netD, optimizerG, optimizerD, stabilgan.tricks.parse("{arm}"))'
