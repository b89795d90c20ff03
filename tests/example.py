"""The examples as modules, and what they were before the hooks went in, by the documentation's own diffs."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
DIFF = re.compile(r'```diff title="examples/(\w+)\.py"\n(.*?)```', re.DOTALL)
MARK = re.compile(r" +# (?:new|<--)$")


@cache
def diffs() -> dict[str, list[str]]:
    """The hunks of each example in docs/hooks.md, in order."""
    found: dict[str, list[str]] = {}
    for name, text in DIFF.findall((ROOT / "docs" / "hooks.md").read_text()):
        found.setdefault(name, []).extend(re.split(r"^@@.*\n", text, flags=re.MULTILINE))
    return found


def sides(hunk: str) -> tuple[str, str]:
    """What a hunk says was there before, and what is there after it."""
    lines = [(line[:1], line[1:]) for line in hunk.splitlines()]
    wrong = [mark + line for mark, line in lines if mark not in ("", " ", "+", "-")]
    assert not wrong, f"lines of a diff begin with a blank, + or -: {wrong}"
    before, after = ("".join(f"{line}\n" for mark, line in lines if mark != other) for other in ("+", "-"))
    return before, after


def source(name: str, *, before: bool = False) -> str:
    """An example's text without the marks of its changed lines; with `before`, as the documentation says it was."""
    lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
    text = "".join(MARK.sub("", line) + "\n" for line in lines if not line.lstrip().startswith("# was: "))
    if before:
        for hunk in diffs()[name]:
            old, new = sides(hunk)
            assert text.count(new) == 1, f"docs/hooks.md, {name}.py: {text.count(new)} times, not once:\n{new}"
            text = text.replace(new, old)
    return text


def was(name: str) -> str:
    """The text before the hooks by the marks in an example itself: `# new` at a line, `# was: ...` above it."""
    kept: list[str] = []
    lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if MARK.search(line) and not line.lstrip().startswith("#"):
            continue
        if before.lstrip().startswith("# was: "):
            kept.append(before.replace("# was: ", "", 1))
        elif not line.lstrip().startswith("# was: "):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)


def load(name: str, *, before: bool = False) -> ModuleType:
    """An example as a module."""
    module = ModuleType(f"{name}_before" if before else name)
    sys.modules[module.__name__] = module  # where dataclasses look for it
    exec(compile(source(name, before=before), f"examples/{name}.py", "exec"), module.__dict__)
    return module
