"""What `stabilgan check-trick` does: checks, prints, and gives the exit code."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stabilgan.testing.check import Report, examine

MARKS = {
    "holds": ("holds", "green"),
    "fails": ("FAILS", "bold red"),
    "refuses": ("refuses", "yellow"),
    "limited": ("limited", "yellow"),
    "not asked": ("–", "dim"),
}


def run(trick: str, *, slow: bool, as_json: bool) -> int:
    """Holds a trick against every promise, and prints how each fared.

    Returns:
        The exit code: 0, or 1 where a promise fails.

    Raises:
        SpecError: there is no such trick, or it can't be made.
    """
    with Console(stderr=True).status("checking") as status:
        report = examine(trick, slow=slow, tell=lambda name: status.update(f"checking: {name}"))
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        show(report)
    return 0 if report.ok else 1


def show(report: Report) -> None:
    """Prints a line for each promise, why below it, and the sum."""
    console = Console(highlight=False)
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True)
    lines.add_column(ratio=1)
    for result in report.results:
        word, style = MARKS[result.verdict]
        said = Text(result.says)
        if result.why:
            said.append(f"\n{result.why}", "dim" if result.verdict in ("not asked", "limited") else style)
        lines.add_row(Text(word, style), Text(result.promise), said)
    console.print(lines)
    failing = [r.promise for r in report.failures]
    in_all = f"{len(failing)} of {len(report.results)} promises fail: " if failing else "no promise fails"
    played = f"{report.name}, played with {report.world or 'nothing'}: {in_all}{', '.join(failing)}"
    console.print(f"\n{played}", soft_wrap=True)
