"""What there is: tricks, detectors, workloads and losses, for people and for programs."""

from __future__ import annotations

import inspect
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from stabilgan import losses, spec
from stabilgan.detectors import DETECTORS
from stabilgan.tricks import TRICKS
from stabilgan.workloads import WORKLOADS


def entries() -> dict[str, list[dict[str, Any]]]:
    """Everything by kind: name, what it does in a sentence, options with types and defaults, source."""
    return {
        "tricks": [_entry(name, made) | {"conflicts": dict(made.conflicts)} for name, made in TRICKS.items()],
        "detectors": [_entry(name, made) for name, made in DETECTORS.items()],
        "workloads": [_entry(name, made) for name, made in WORKLOADS.items()],
        "losses": [
            {"name": pair.name, "does": pair.does, "options": [], "source": pair.source}
            for pair in losses.LOSSES.values()
        ],
    }


def _entry(name: str, made: Any) -> dict[str, Any]:
    text = inspect.getdoc(made) or ""
    return {
        "name": name,
        "does": " ".join(text.split("\n\n")[0].split()),
        "options": [option.describe() for option in spec.signature_options(made)],
        "source": getattr(made, "source", ""),
    }


def show(kind: str | None = None, as_json: bool = False) -> None:
    """Prints one kind, or all."""
    found = entries()
    wanted = {kind: found[kind]} if kind else found
    if as_json:
        print(json.dumps(wanted, indent=1))
        return
    console = Console()
    for title, rows in wanted.items():
        table = Table(title=title, title_justify="left", expand=False, pad_edge=False)
        for column in ("name", "what it does", "options", "source"):
            table.add_column(column, overflow="fold", no_wrap=column == "name")
        for row in rows:
            options = "\n".join(f"{o['name']}={o['default']}" for o in row["options"])
            table.add_row(row["name"], row["does"], options, row["source"])
        console.print(table)
