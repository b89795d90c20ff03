"""Makes a page for each trick while the site is built, from what the classes say of themselves; a hook of mkdocs."""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

import stabilgan  # noqa: E402
from stabilgan import catalogue  # noqa: E402
from stabilgan.diagnosis.remedies import said_of  # noqa: E402
from stabilgan.game import CHANGE, CHANGES, SELECT, STEP, Cost, Trick  # noqa: E402
from stabilgan.testing import CONDITIONS, PROMISES  # noqa: E402
from stabilgan.tricks import TRICKS  # noqa: E402

Entry = dict[str, Any]

ORDERS = {
    SELECT: "with the tricks that choose samples, before those that change them",
    CHANGE: "with the tricks that change samples, as they stand in the list",
    STEP: "after the tricks that change samples",
}
INTRODUCTION = """# All tricks

{count} tricks, by what they change. Each has a page of its own, made of what its class says: when to use it, options,
cost, conflicts, limits and source. [Which trick helps?](../compared.md) compares them; `stabilgan list tricks` prints
this table, and `--json` all that is known of each. [A trick of your own](../trick.md) takes ten lines.

*Passes more*: forward and backward passes of the players that a step of each adds; a second-order one is a gradient
that is differentiated again. *Losses*: those that its source made it for, where that names any, and
those that it fits; with another, attach refuses it. *Can't*: conditions that it does not honour, which its page
explains; [under which conditions each plays](conditions.md) is one table.
"""
UNDER = """# Under which conditions a trick plays

A trick plays under all of these conditions, or says in its `limits` that it can't. The table is made of what the
classes say, and tests hold each trick against each condition. **✓**: it plays. **refused**: it does not, and says so at
attach, or, where attach can't know it, at the first batch. **in part**: it plays, but there it does not do all that it
does elsewhere. The last two lead to the words of the trick.

On a GPU `pytest -m gpu` holds every trick against the same promises, where a step that makes the host wait is an error.
CI has no GPU.
"""


def on_config(config: Any) -> None:
    """Puts the pages into the navigation, before the reference."""
    pages: list[Any] = ["tricks/index.md", {"Under which conditions": "tricks/conditions.md"}]
    pages += [{title(group): [f"tricks/{e['name']}.md" for e in of]} for group, of in by_group().items()]
    at = next(i for i, item in enumerate(config.nav) if isinstance(item, dict) and "Reference" in item)
    config.nav.insert(at, {"Tricks": pages})


def on_files(files: Any, config: Any) -> None:
    """Adds the pages to the site's files."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"tricks/{name}.md", content=text))


def by_group() -> dict[str, list[Entry]]:
    """The library's own tricks by what they change."""
    found = [e for e in catalogue.entries()[0]["tricks"] if e["package"] is None]
    return {group: of for group in CHANGES if (of := [e for e in found if e["changes"] == group])}


def pages() -> dict[str, str]:
    """The text of each page by its name; `index` is the table of all, `conditions` that of what each can't."""
    groups = by_group()
    made = {"index": index(groups), "conditions": conditions(groups)}
    told: set[str] = set()  # functions that a page has already: R1 and R2 share theirs
    for entry in (e for of in groups.values() for e in of):
        made[entry["name"]] = page(entry, TRICKS[entry["name"]], told)
    return made


def index(groups: dict[str, list[Entry]]) -> str:
    parts = [INTRODUCTION.format(count=sum(map(len, groups.values())))]
    for group, of in groups.items():
        rows = [
            (
                f"[{e['name']}]({e['name']}.md)",
                catalogue.sentence(e["does"]),
                cost(e),
                catalogue.losses_of(e),
                ", ".join(e["limits"]) or "–",
            )
            for e in of
        ]
        head = ("trick", "what it does", "passes more", "losses", "can't")
        parts.append(f"## {title(group)}\n\n{table(head, rows)}")
    return "\n".join(parts)


def conditions(groups: dict[str, list[Entry]]) -> str:
    entries = [e for of in groups.values() for e in of]
    rows = [(f"[{e['name']}]({e['name']}.md)", *(cell(e, word) for word in CONDITIONS)) for e in entries]
    held = [
        (
            f"**{word}**",
            CONDITIONS[word],
            "<br>".join(p.says for p in PROMISES if p.condition == word) or ELSEWHERE[word],
        )
        for word in CONDITIONS
    ]
    own = [
        f"{link(e['name'])}, **{word}**: {said}"
        for e in entries
        for word, said in e["limits"].items()
        if word not in CONDITIONS
    ]
    parts = [
        UNDER,
        table(("trick", *CONDITIONS), rows),
        f"## What the words mean\n\n{table(('condition', 'means', 'what tests hold each trick against'), held)}",
        section("What single tricks can't besides", own),
    ]
    return "\n".join(parts)


ELSEWHERE = {"ranks": "Two DDP ranks, each with samples of its own, stay equal."}
"""Conditions that are tested in a way that takes several processes, and so are no promise that one process checks."""


def cell(entry: Entry, condition: str) -> str:
    """Whether a trick plays under a condition."""
    said = entry["limits"].get(condition)
    if said is None:
        return "✓"
    return f"[{'refused' if said.startswith('refused') else 'in part'}]({entry['name']}.md#what-it-cant)"


def page(entry: Entry, trick: type[Trick], told: set[str]) -> str:
    name, options = entry["name"], entry["options"]
    facts = [
        ("changes", entry["changes"]),
        ("passes more in a step", cost(entry)),
        ("losses that it was made for", ", ".join(entry["made_for"] or ["its source names none"])),
        ("losses that it fits", ", ".join(entry["fits"] or ["all"])),
        ("D's scores", "raw: no sigmoid at D's end" if entry["needs_logits"] else "raw, or past a sigmoid"),
        ("acts", ORDERS.get(trick.order, "after all others" if trick.order > STEP else "before all others")),
        ("does nothing at", ", ".join(f"`{o}={v}`" for o, v in entry["off"].items()) if entry["off"] else "–"),
        ("source", entry["source"]),
    ]
    rows = [(f"`{o['name']}`", o["type"], f"`{o['default']}`") for o in options]
    apart = [f"{link(other)}: {why}" for other, why in entry["conflicts"].items()]
    limits = [f"**{word}**{in_words(word)}: {said}" for word, said in entry["limits"].items()]
    example = ":".join([name, *(f"{o['name']}={o['default']}" for o in options[:1] if o["default"] is not None)])
    parts = [
        f"# {name}\n\n{entry['does']}\n",
        f"**When to use it.** {entry['when']}\n" if entry["when"] else "",
        table(("", ""), facts),
        f"```sh\nstabilgan bench --tricks {example}\n```\n",
        f"## Options\n\n{table(('option', 'type', 'default'), rows)}" if rows else "",
        section("Not together with", apart),
        section("What it can't", limits),
        section("What our records say", list(said_of(name))),
        f"## Reference\n\n::: {path_of(trick)}\n",
        *(f"::: {path}\n" for path in functions_of(trick) if path not in told),
    ]
    told |= set(functions_of(trick))
    return "\n".join(part for part in parts if part)


def cost(entry: Entry) -> str:
    return "depends on options" if entry["cost"] is None else str(Cost(**entry["cost"]))


def path_of(trick: type[Trick]) -> str:
    """The name under which a user imports it."""
    short = trick.__name__
    return f"stabilgan.{short}" if getattr(stabilgan, short, None) is trick else f"{trick.__module__}.{short}"


def functions_of(trick: type[Trick]) -> list[str]:
    """The public functions beside it."""
    module = import_module(trick.__module__)
    return [
        f"{module.__name__}.{name}"
        for name, made in vars(module).items()
        if inspect.isfunction(made) and made.__module__ == module.__name__ and not name.startswith("_") and made.__doc__
    ]


def section(title: str, lines: list[str]) -> str:
    return f"## {title}\n\n" + "".join(f"- {line}\n" for line in lines) if lines else ""


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def title(group: str) -> str:
    return group[0].upper() + group[1:]


def in_words(condition: str) -> str:
    return f" ({CONDITIONS[condition]})" if condition in CONDITIONS else ""


def link(name: str) -> str:
    return f"[{name}]({name}.md)" if name in TRICKS else name
