"""What a person sees while a bench runs: bars on a terminal, a line for each finished case elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from stabilgan.bench import local
from stabilgan.bench.plan import Case


def title(case: Case) -> str:
    """A case in a few words."""
    return f"{case.workload} {case.arm} seed {case.seed}"


def outcome(record: Mapping[str, Any]) -> str:
    """How a case ended, in one line."""
    if record["status"] == "failed":
        return f"failed: {record['reason']}"
    primary = record["workload"]["primary"]
    value, seconds = record["final"].get(primary), record["cost"]["wall_s"]
    alarms = ", ".join(f"{a['detector']} at step {a['step']}" for a in record["alarms"])
    ending = f"diverged: {record['reason']}" if record["status"] == "diverged" else f"{primary} {value}"
    return f"{ending}, {seconds:.0f} s" + (f"; alarms: {alarms}" if alarms else "")


@contextmanager
def shown(console: Console, total: int, already: int) -> Iterator[Callable[[local.Progress], None]]:
    """Yields what the executor tells of its cases to."""
    if not console.is_terminal:
        count = already

        def line(told: local.Progress) -> None:
            nonlocal count
            if told.record is not None:
                count += 1
                console.print(
                    f"[{count}/{total}] {title(told.case)}: {outcome(told.record)}", markup=False, highlight=False
                )

        yield line
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bars:
        whole = bars.add_task("cases", total=total, completed=already, note="")
        tasks: dict[Case, TaskID] = {}

        def bar(told: local.Progress) -> None:
            if told.event == "begun":
                tasks[told.case] = bars.add_task(title(told.case), total=None, note="starting")
            elif told.record is not None:
                bars.remove_task(tasks.pop(told.case))
                bars.advance(whole)
                bars.print(f"{title(told.case)}: {outcome(told.record)}", markup=False, highlight=False)
            else:
                note = " ".join(
                    f"{name} {value:.3g}" for name, value in (told.readings or {}).items() if value is not None
                )
                bars.update(tasks[told.case], completed=told.done, total=told.total, note=note)

        yield bar
