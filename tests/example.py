"""The examples as modules, and what they were before the hooks went in, by the documentation's own diffs."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
DIFF = re.compile(r'```diff title="examples/(\w+\.py)"\n(.*?)```', re.DOTALL)


@cache
def diffs() -> dict[str, list[str]]:
    """The hunks of each example in docs/hooks.md, in order."""
    found: dict[str, list[str]] = {}
    for name, text in DIFF.findall((ROOT / "docs" / "hooks.md").read_text()):
        found.setdefault(name, []).extend(re.split(r"^@@.*\n", text, flags=re.MULTILINE))
    return {name: [hunk for hunk in hunks if hunk.strip()] for name, hunks in found.items()}


def sides(hunk: str) -> tuple[str, str]:
    """What a hunk says was there before, and what is there after it."""
    lines = [(line[:1], line[1:]) for line in hunk.splitlines()]
    wrong = [mark + line for mark, line in lines if mark not in ("", " ", "+", "-")]
    assert not wrong, f"lines of a diff begin with a blank, + or -: {wrong}"
    before, after = ("".join(f"{line}\n" for mark, line in lines if mark != other) for other in ("+", "-"))
    return before, after


def source(name: str, *, before: bool = False) -> str:
    """An example's text; with `before`, as it was without stabilgan in its loop."""
    text = (ROOT / "examples" / f"{name}.py").read_text()
    if before:
        for hunk in diffs()[f"{name}.py"]:
            old, new = sides(hunk)
            assert text.count(new) == 1, (
                f"docs/hooks.md, {name}.py: found {text.count(new)} times, expected once:\n{new}"
            )
            text = text.replace(new, old)
    return text


def load(name: str, *, before: bool = False) -> ModuleType:
    """An example as a module."""
    module = ModuleType(f"{name}_before" if before else name)
    sys.modules[module.__name__] = module  # where dataclasses look for it
    exec(compile(source(name, before=before), f"examples/{name}.py", "exec"), module.__dict__)
    return module
