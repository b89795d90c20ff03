"""What there is: tricks, detectors, workloads and losses, of the library and of installed packages."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stabilgan import detectors, losses, plugins, spec, tricks, workloads
from stabilgan.game import CHANGES, Cost, Trick

WIDE = 120
"""From so many columns on, sources and costs have columns of their own."""

Entry = dict[str, Any]


def entries() -> tuple[dict[str, list[Entry]], list[plugins.Broken]]:
    """Everything by kind, and the plug-ins that can't be used.

    Each has its name, package (None for the library's own), what it does, options with types and defaults, and source;
    a trick also what it changes, when to use it, its cost, conflicts with reasons, limits, the losses that it fits
    (None: all) and those that it was made for (None: its source names none).
    """
    own: tuple[tuple[plugins.Kind, Mapping[str, Any], plugins.Wrong], ...] = (
        ("trick", tricks.TRICKS, tricks.wrong_with),
        ("detector", detectors.DETECTORS, detectors.wrong_with),
        ("workload", workloads.WORKLOADS, workloads.wrong_with),
    )
    found, broken = dict[str, list[Entry]](), list[plugins.Broken]()
    for kind, registry, wrong in own:
        others, bad = plugins.load_all(kind, registry, wrong)
        broken += bad
        describe = _trick if kind == "trick" else _entry
        found[f"{kind}s"] = [describe(name, None, made) for name, made in registry.items()]
        for p in others:
            try:
                found[f"{kind}s"].append(describe(p.name, p.package, p.made))
            except Exception as error:  # what anyone's class says of itself may be anything
                why = f"what it says of itself can't be read: {type(error).__name__}: {error}"
                broken.append(plugins.Broken(kind, p.name, p.package, why))
    found["tricks"].sort(key=lambda entry: CHANGES.index(entry["changes"]) if entry["changes"] in CHANGES else 99)
    found["losses"] = [
        {"name": pair.name, "package": None, "does": pair.does, "options": [], "source": pair.source}
        for pair in losses.LOSSES.values()
    ]
    return found, broken


def _entry(name: str, package: str | None, made: Any) -> Entry:
    text = inspect.getdoc(made) or ""
    return {
        "name": name,
        "package": package,
        "does": " ".join(text.split("\n\n")[0].split()),
        "options": [option.describe() for option in spec.signature_options(made)],
        "source": getattr(made, "source", ""),
    }


def _trick(name: str, package: str | None, made: type[Trick]) -> Entry:
    cost = cost_of(made)
    return _entry(name, package, made) | {
        "class": f"{made.__module__}:{made.__qualname__}",
        "changes": made.changes,
        "when": made.when,
        "cost": None if cost is None else cost._asdict(),
        "conflicts": dict(made.conflicts),
        "fits": None if made.fits is None else sorted(made.fits),
        "made_for": None if made.made_for is None else sorted(made.made_for),
        "needs_logits": made.needs_logits,
        "limits": dict(made.limits),
        "off": None if made.off is None else dict(made.off),
    }


def cost_of(made: type[Trick]) -> Cost | None:
    """What a trick costs as it is by default; None where it can't be made without options."""
    if isinstance(made.cost, Cost):
        return made.cost
    try:
        return made().cost
    except Exception:  # a constructor of anyone's, called without what it may ask for
        return None


def sentence(text: str) -> str:
    """The first one.

    >>> sentence("Flattens D, e.g. where data are (Mescheder et al. 2018). On each step.")
    'Flattens D, e.g. where data are (Mescheder et al. 2018).'
    """
    found = re.match(r".*?(?<!e\.g)(?<!al)[.!?](?= [A-Z]|$)", text)
    return found[0] if found else text


def show(kind: str | None = None, as_json: bool = False) -> None:
    """Prints one kind, or all; plug-ins that can't be used are named on standard error, a line each."""
    found, broken = entries()
    wanted = {kind: found[kind]} if kind else found
    about = [b for b in broken if kind in (None, f"{b.kind}s")]
    if as_json:
        print(json.dumps(wanted | {"broken": [b._asdict() for b in about]}, indent=1))
        return
    console = Console()
    for title, rows in wanted.items():
        console.print(table(title, rows, console.width))
    for b in about:
        print(f"stabilgan: {b}", file=sys.stderr)


def table(title: str, rows: list[Entry], width: int) -> Table:
    """Rows for people, at any width; tricks stand together by what they change."""
    tricky, wide = title == "tricks", width >= WIDE
    columns = ["what it does", "options", "passes more", "losses", "source"]
    texts = [
        [sentence(r["does"]), _options(r), _cost(r) if tricky else "", losses_of(r) if tricky else "", r["source"]]
        for r in rows
    ]
    shown = [n for n in range(5) if any(text[n] for text in texts)]
    if not wide:  # sources stand below what it does, costs and losses below the options
        shown = [n for n in shown if n < 2]
    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    found.add_column("name", no_wrap=True)
    for n in shown:
        header = columns[n] if wide or n == 0 or not tricky else "options, passes more, losses"
        found.add_column(header, ratio=(4, 3, 2, 2, 3)[n], overflow="fold")
    group = None
    for row, text in zip(rows, texts, strict=True):
        if tricky and row["changes"] != group:
            group = row["changes"]
            found.add_section()
            found.add_row(Text(str(group), "bold italic"))
        name = Text(row["name"], "bold")
        if row["package"]:
            name.append(f"\nof {row['package']}", "dim not bold")
        cells = [Text(text[n]) for n in shown]
        for cell, below in zip(cells, () if wide else (text[4:], text[2:4]), strict=False):
            lines = "\n".join(filter(None, below))
            cell.append(f"\n{lines}" if lines and cell.plain else lines, "dim")
        found.add_row(name, *cells)
    return found


def _options(row: Entry) -> str:
    return ", ".join(f"{o['name']}={o['default']}" for o in row["options"])


def losses_of(row: Entry) -> str:
    """Those that a trick fits, and before them those that it was made for, where its source names any.

    >>> losses_of({"made_for": ["wasserstein"], "fits": None})
    'made for: wasserstein; fits: all'
    """
    made_for = f"made for: {', '.join(row['made_for'])}; " if row["made_for"] else ""
    return f"{made_for}fits: {', '.join(row['fits'] or ['all'])}"


def _cost(row: Entry) -> str:
    return "depends on options" if row["cost"] is None else str(Cost(**row["cost"]))
