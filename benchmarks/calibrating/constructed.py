"""Failures made by hand, whose answer is exact: modes dropped, samples repeated, spread shrunk; and none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from calibrating import nets
from calibrating.report import percent, rate
from stabilgan.diagnosis import Diagnosis
from stabilgan.workloads.mixtures import draw_mixture

N = 2000
KEPT_MODES = (25, 24, 23, 20, 15, 10, 5, 2, 1)
DISTINCT = (2000, 1000, 500, 200, 100, 50, 20, 5, 1)
SHRUNK = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.01)
SIZES = (200, 1000, 5000)


def real(n: int, seed: int, modes: int = 25) -> Tensor:
    """(n, 2), of the first `modes` of the 25 of the grid, in an order drawn once."""
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    centres = nets.centres("grid")[order[:modes]]
    return draw_mixture(centres, nets.SIGMA, n, torch.Generator().manual_seed(seed))


def dropped(modes: float, seed: int) -> Tensor:
    """Fakes of so many of the 25 modes."""
    return real(N, seed, int(modes))


def repeated(distinct: float, seed: int) -> Tensor:
    """2,000 fakes of which only so many are distinct."""
    x = real(int(distinct), seed)
    return x[torch.arange(N) % len(x)]


def shrunk(scale: float, seed: int) -> Tensor:
    """Fakes drawn towards the middle of the data: all of it so many times as wide."""
    return scale * real(N, seed)


STUDIES: Mapping[str, tuple[Callable[[float, int], Tensor], tuple[float, ...]]] = {
    "modes kept of 25": (dropped, KEPT_MODES),
    "distinct samples of 2,000": (repeated, DISTINCT),
    "spread, times the data's": (shrunk, SHRUNK),
}


def diagnosed(x: Tensor, y: Tensor) -> Diagnosis:
    """What is said of fakes y beside reals x, points (N, d)."""
    from stabilgan.diagnosis.samples import judge_samples

    return judge_samples(x, y)


def worst(diagnosis: Diagnosis) -> float:
    """The highest severity of a finding; 0 where there is none."""
    return max((f.severity for f in diagnosis.findings), default=0.0)


def study(repeats: int = 5, nulls: int = 100) -> dict[str, Any]:
    """Severity at each strength of each failure, the mean over draws, and how often reals alone raise an alarm."""
    found: dict[str, Any] = {}
    for name, (make, strengths) in STUDIES.items():
        rows = []
        for strength in strengths:
            answers = [diagnosed(real(N, 2 * i), make(strength, 2 * i + 1)) for i in range(repeats)]
            named: dict[str, int] = {}
            for answer in answers:
                for f in answer.findings:
                    named[f.failure] = named.get(f.failure, 0) + 1
            rows.append(
                {
                    "strength": strength,
                    "severity": sum(map(worst, answers)) / repeats,
                    "least": min(map(worst, answers)),
                    "most": max(map(worst, answers)),
                    "found": sum(bool(a.findings) for a in answers),
                    "failures": named,
                    "draws": repeats,
                }
            )
        severities = [row["severity"] for row in rows]
        found[name] = {"rows": rows, "monotone": severities == sorted(severities)}
    found["reals against reals"] = {}
    for n in SIZES:
        draws = nulls if n < 5000 else max(nulls // 2, 1)
        answers = [diagnosed(real(n, 2 * i + 10_000), real(n, 2 * i + 10_001)) for i in range(draws)]
        found["reals against reals"][str(n)] = rate(sum(bool(a.findings) for a in answers), draws)
    return found


def table(found: Mapping[str, Any]) -> str:
    """The study as markdown."""
    rows = ["### Failures made by hand", ""]
    for name in STUDIES:
        these = found[name]["rows"]
        rows += [
            f"The 25-mode grid, 2,000 against 2,000 samples, {these[0]['draws']} draws each; "
            f"severity {'rises' if found[name]['monotone'] else 'does not always rise'} with the failure.",
            "",
            f"| {name} | " + " | ".join(f"{row['strength']:g}" for row in these) + " |",
            "|---|" + "---|" * len(these),
            "| found | " + " | ".join(f"{row['found']} of {row['draws']}" for row in these) + " |",
            "| severity | " + " | ".join(f"{row['severity']:.2f}" for row in these) + " |",
            "",
        ]
    rows += ["Reals against reals: an alarm is raised at", ""]
    rows += [f"- {int(n):,} samples: {percent(of)}" for n, of in found["reals against reals"].items()]
    return "\n".join(rows) + "\n"
