"""A diagnosis on the terminal: the verdict, each finding with its evidence, what helps, and all the readings."""

from __future__ import annotations

import math

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from stabilgan.diagnosis.findings import Diagnosis, Evidence, Finding
from stabilgan.diagnosis.remedies import command, remedies

COLOURS = {"problem": "red", "healthy": "green", "cannot tell": "yellow"}
SHOWN_SKIPPED = 10


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Prints a diagnosis. What comes from files (names, notes) is printed as it is, never as markup."""
    for part in rendered(diagnosis):
        console.print(part, highlight=False)


def rendered(diagnosis: Diagnosis) -> list[RenderableType]:
    """The parts of the report, from top to bottom."""
    parts: list[RenderableType] = [_head(diagnosis)]
    parts += [_finding(f) for f in diagnosis.findings]
    if diagnosis.evidence:
        parts.append(_readings(diagnosis))
    if lines := [*diagnosis.notes, *_skipped(diagnosis)]:
        parts += [Text("Notes", style="bold"), *(Padding(Text(f"- {line}"), (0, 0, 0, 1)) for line in lines)]
    return parts


def headline(diagnosis: Diagnosis) -> str:
    """The verdict in one line.

    >>> headline(Diagnosis("fakes/", "samples"))
    'healthy: nothing wrong was found'
    """
    if diagnosis.findings:
        return "problem: " + ", ".join(f.title for f in diagnosis.findings)
    return f"cannot tell: {diagnosis.undecided}" if diagnosis.undecided else "healthy: nothing wrong was found"


def number(x: float) -> str:
    """A reading in a table.

    >>> number(0.123456), number(12345.6), number(float("nan"))
    ('0.123', '1.23e+04', 'nan')
    """
    return f"{x:.3g}" if math.isfinite(x) else str(x)


def bounds(evidence: Evidence) -> str:
    """Where healthy subjects read, as text; empty where nobody knows."""
    if evidence.interval is None:
        return ""
    low, high = evidence.interval
    return f"from {number(low)}" if high == math.inf else f"{number(low)} to {number(high)}"


def word(severity: float) -> str:
    """Severity in a word.

    >>> word(0.9)
    'severe'
    """
    return "severe" if severity >= 0.66 else "moderate" if severity >= 0.25 else "mild"


def _head(diagnosis: Diagnosis) -> RenderableType:
    text = Text(headline(diagnosis), style=f"bold {COLOURS[diagnosis.verdict]}")
    return Panel(text, title=Text(f"{diagnosis.source}: {diagnosis.subject}"), title_align="left", expand=False)


def _finding(f: Finding) -> RenderableType:
    onset = f", since step {f.onset}" if f.onset is not None else ""
    filled = round(10 * f.severity)
    title = Text.assemble((f.title.capitalize(), "bold red"), (f"  {'█' * filled}{'░' * (10 - filled)}", "red"))
    title.append(f" {word(f.severity)}, severity {f.severity:.2f}, confidence {f.confidence:.2f}{onset}")
    lines: list[RenderableType] = [Text(f.means)]
    lines += [Text(f"• {e.text}{_beside(e)}") for e in f.evidence]
    if f.tricks:
        lines.append(Text("What addresses it", style="bold"))
    for remedy in remedies(f):
        lines.append(Text(f"• {remedy.arm}", style="cyan"))
        lines += [Padding(Text(line, style="dim"), (0, 0, 0, 4)) for line in remedy.records]
    if f.tricks:
        lines.append(Text.assemble("Try: ", (command(f.tricks[0]), "bold")))
    return Group(title, Padding(Group(*lines), (0, 0, 1, 2)))


def _beside(e: Evidence) -> str:
    parts = []
    if e.reference is not None:
        parts.append(f"reference {number(e.reference)}")
    if e.interval is not None:
        parts.append(f"range {bounds(e)}")
    if e.origin:
        parts.append(e.origin)
    return f" ({'; '.join(parts)})" if parts else ""


def _readings(diagnosis: Diagnosis) -> RenderableType:
    table = Table(title="All readings", title_justify="left", expand=False, pad_edge=False)
    table.add_column("reading")
    for column in ("value", "reference", "range"):
        table.add_column(column, justify="right")
    table.add_column("what it says", overflow="fold")
    for e in diagnosis.evidence:
        reference = "" if e.reference is None else number(e.reference)
        table.add_row(Text(e.name), number(e.value), reference, bounds(e), Text(e.text))
    return table


def _skipped(diagnosis: Diagnosis) -> list[str]:
    shown = [f"skipped {what}: {why}" for what, why in diagnosis.skipped[:SHOWN_SKIPPED]]
    more = len(diagnosis.skipped) - SHOWN_SKIPPED
    return shown + ([f"and {more} more were skipped"] if more > 0 else [])
