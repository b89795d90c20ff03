"""What `stabilgan diagnose` does, from checked input to report and exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stabilgan import spec
from stabilgan.bench.command import checked_device
from stabilgan.diagnosis import report
from stabilgan.diagnosis.api import Way, diagnose
from stabilgan.diagnosis.findings import FAILURES, Diagnosis, InputError
from stabilgan.diagnosis.log.columns import TITLES

Tell = Callable[[str, int, int], None]


def run(
    way: Way,
    *,
    as_json: bool,
    html: Path | None,
    fail_on: str,
    threads: int | None = None,
    device: str = "cpu",
    mapping: Sequence[str] = (),
    **options: Any,
) -> int:
    """Diagnoses, reports, and says how it went.

    Args:
        way: "samples", "model" or "log".
        as_json: print the diagnosis as JSON, and nothing else, to standard output.
        html: where to write a page to.
        fail_on: "any", "never", or failures with commas: what counts as a problem for the exit code.
        threads: of the processor.
        device: auto, cpu, cuda or cuda:N.
        mapping: of a log's columns, each `part=column`.
        options: the rest of what `stabilgan.diagnose` takes.

    Returns:
        The exit code: 0 healthy, cannot tell, or nothing of what `fail_on` names; 1 a problem.

    Raises:
        ValueError, OSError: what was given can't be used; the message is one line.
    """
    watched = failing(fail_on)
    where = checked_device(device)
    columns = mapped(mapping)
    if html is not None and not html.parent.is_dir():
        raise InputError(f"--html {html}: there is no folder {html.parent}")
    if threads is not None:
        torch.set_num_threads(threads)
    if way == "log":
        options |= {"mapping": columns, "log": sys.stdin.buffer if options["log"] == "-" else options["log"]}
    else:
        options["device"] = where
    with bars() as tell:
        found = diagnose(way, progress=tell, **options)
    if html is not None:
        from stabilgan.diagnosis import html as page

        page.write(found, html)
    if as_json:
        print(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        report.show(found, Console())
    if html is not None:
        Console(stderr=True).print(f"the report is in {html}", highlight=False, markup=False)
    return exit_code(found, watched)


def failing(text: str) -> frozenset[str]:
    """The failures that `--fail-on` names.

    >>> sorted(failing("mode_dropping, memorisation"))
    ['memorisation', 'mode_dropping']
    """
    if text in ("any", "never"):
        return frozenset(FAILURES if text == "any" else ())
    named = [part.strip() for part in text.split(",") if part.strip()]
    for name in named:
        if name not in FAILURES:
            raise InputError(f"--fail-on: {spec.unknown('failure', name, [*FAILURES, 'any', 'never'])}")
    if not named:
        raise InputError("--fail-on names nothing; expected any, never, or failures such as mode_collapse,memorisation")
    return frozenset(named)


def mapped(pairs: Sequence[str]) -> dict[str, str]:
    """What `--map` says: part -> column.

    >>> mapped(["d_loss=Loss_D"])
    {'d_loss': 'Loss_D'}
    """
    columns = {}
    for pair in pairs:
        part, sign, column = pair.partition("=")
        if not (sign and part and column):
            raise InputError(f"--map {pair!r}; expected part=column, such as d_loss=Loss_D; parts: {', '.join(TITLES)}")
        columns[part.strip()] = column.strip()
    return columns


def exit_code(found: Diagnosis, watched: frozenset[str]) -> int:
    """1 where a failure was found that counts."""
    return int(any(f.failure in watched for f in found.findings))


@contextmanager
def bars() -> Iterator[Tell]:
    """Yields what is told of the work: a bar for each part of it, on standard error, gone when it is done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None)
            progress.update(tasks[what], completed=done, total=total or None)

        yield tell
