"""Text: numbers with a name in front of them, in lines as people print them.

Lines of a log look alike, so each *shape* (the text between its numbers) is understood once: which number is which
column, which is the epoch or the iteration. Later lines of that shape cost one match of a regular expression.

Understood are `name: 1.0`, `name = 1.0`, `name 1.0`, JSON inside text, `[3/200][20/938]`, `D(G(z)): 0.1 / 0.2`, a
number that begins the line (a step), `10 -> 0` (the column goes on), and, after a semicolon, numbers without names
that go on with those before: `loss_d: 0.8, loss_g: 1.2; 0.07, 4.2`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from stabilgan.diagnosis.log.names import role
from stabilgan.diagnosis.log.store import Store

NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.])("
    r"[-+]?1\.\#(?:QNAN|SNAN|IND|INF)|"
    r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?(?![\d.]|,\d)|"
    r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|"
    r"[-+]?(?:[nN][aA][nN]|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?)(?![A-Za-z0-9_])|"
    r"[zZ]ero(?![A-Za-z0-9_])"
    r")"
)
COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_GOES_ON = {"->", "→", "-->", "=>", "to", "–", "-", "~", "then", ">"}
_WRAPPER = re.compile(r"(?:tensor|array|np\.float\d+|float\d*|numpy\.float\d+)\($")
_BREAKS = re.compile(r"""[,;|\[\]{}"'\t\n]|\s{2,}|\s-\s|:\s|(?<=[\w)]):(?=[A-Za-z])|\)\s+|\s\(|=>|->|→""")
_HELD = re.compile(r"\b(?:always|constant(?:ly)?|remains?|stays?|stuck|every)\b", re.IGNORECASE)
SHAPES = 4096
QUICK = 6
BLOCK = 512
"""Lines that are tried at once."""


@dataclass
class Row:
    """Numbers of one line that belong together, as places in the line: columns, and where the row stands."""

    names: list[str] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    epoch: int | None = None
    iteration: int | None = None
    total: int | None = None


@dataclass
class Plan:
    """What to take from lines of one shape; `pattern` captures just those numbers, in the order of `taken`, from one
    line, and `block` from each of many."""

    rows: list[Row]
    pattern: re.Pattern[str]
    block: re.Pattern[str]
    taken: list[int]


def number(text: str) -> float:
    """What a number's text says; NaN in all its spellings, infinity too.

    >>> number("-1.#IND"), number("1e-3"), number("Inf")
    (nan, 0.001, inf)
    """
    try:
        return float(text)
    except ValueError:
        pass
    if "," in text:  # thousands
        return float(text.replace(",", ""))
    if "INF" in text.upper():
        return -math.inf if text.startswith("-") else math.inf
    return 0.0 if "ero" in text else math.nan


class TextReader:
    """Puts lines into a store.

    Args:
        wanted: further names that are columns, since somebody mapped them.
    """

    def __init__(self, store: Store, wanted: Sequence[str] = ()) -> None:
        self.store, self.wanted = store, frozenset(wanted)
        self.names: dict[str, None] = {}
        """Every name that stood before a number, in order, used or not; up to 500."""
        self.lines = self.with_numbers = 0
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._quick: list[Plan] = []
        self._held: set[str] = set()

    def feed(self, lines: Sequence[str]) -> None:
        """Lines without their ends."""
        for at in range(0, len(lines), BLOCK):
            some = lines[at : at + BLOCK]
            if len(some) < BLOCK or not self._quick or not self._whole(self._quick[0], some):
                self._one_by_one(some)

    def _whole(self, plan: Plan, lines: Sequence[str]) -> bool:
        """Takes many lines at once, if all are of this shape."""
        if len(plan.rows) != 1:
            return False
        found = plan.block.findall("\n".join(lines))
        if len(found) != len(lines):
            return False
        try:
            flat = list(map(float, chain.from_iterable(found) if len(plan.taken) > 1 else found))
        except ValueError:
            return False
        values = np.array(flat).reshape(len(lines), len(plan.taken))
        row = plan.rows[0]
        places = [None if i is None else values[:, i] for i in (row.epoch, row.iteration, row.total)]
        if not self.store.add_block(row.names, values[:, row.at], *places):
            return False
        self.lines += len(lines)
        self.with_numbers += len(lines)
        return True

    def _one_by_one(self, lines: Sequence[str]) -> None:
        quick = self._quick
        for line in lines:
            self.lines += 1
            for plan in quick:
                found = plan.pattern.match(line)
                if found is not None:
                    try:
                        self._take(plan, [float(x) for x in found.groups()])
                    except ValueError:
                        continue
                    break
            else:
                if line and not line.isspace():
                    self._slow(line)

    def _slow(self, line: str) -> None:
        if "\x1b" in line:
            line = COLOUR.sub("", line)
        parts = NUMBER.split(line[:100_000])
        if len(parts) < 3:
            return
        shape = tuple(parts[::2])
        plan = self._plans.get(shape)
        new = plan is None
        if plan is None:
            plan = self._plan(shape)
            if len(self._plans) >= SHAPES:
                self._plans.clear()
            self._plans[shape] = plan
        if not plan.taken:
            return
        self._take(plan, [number(parts[2 * i + 1]) for i in plan.taken])
        held = _HELD.search(line) is not None
        for row in plan.rows:
            for name, at in zip(row.names, row.at, strict=True):
                column = self.store.run.columns[name]
                column.held = column.held or held
                decimals = _decimals(parts[2 * plan.taken[at] + 1])
                if decimals is not None:
                    column.digits = max(decimals, column.digits or 0)
        if not new and plan not in self._quick and "\x1b" not in line:
            self._quick.insert(0, plan)  # a shape that came again
            del self._quick[QUICK:]

    def _take(self, plan: Plan, values: list[float]) -> None:
        self.with_numbers += 1
        for row in plan.rows:
            places = [
                None if i is None or not math.isfinite(values[i]) else int(values[i])
                for i in (row.epoch, row.iteration, row.total)
            ]
            self.store.add(row.names, [values[i] for i in row.at], places[0], places[1], places[2] or 0)

    # --- understanding a shape -------------------------------------------------------------------------------

    def _plan(self, shape: tuple[str, ...]) -> Plan:
        rows = [Row()]
        before: list[str] = []  # columns of the part before the semicolon
        position = 0  # among them
        previous: tuple[str, str] | None = None  # kind and name of the number before
        counters = 0
        n = len(shape) - 1
        for i in range(n):
            lit, after = shape[i], shape[i + 1]
            row = rows[-1]
            if ";" in lit and row.names:
                before = row.names if len(row.names) >= len(before) else before
                row, position, counters = self._next(rows), 0, 0
            plain = re.sub(r"\([^()]*\)", "", lit).strip()
            if plain == "/" and previous is not None:
                kind, name = previous
                if kind in ("epoch", "iteration"):
                    if kind == "iteration":
                        row.total = i
                    previous = None
                    continue
                answer = role(name)
                if answer is not None and answer.name == "d_fake":
                    self._column(rows, name + " / after", i)
                previous = None
                continue
            if plain in _GOES_ON and previous is not None and previous[0] == "column":
                self._column(rows, previous[1], i)
                continue
            name = _name(lit)
            if name:
                if len(self.names) < 500:
                    self.names[name] = None
                found = role(name)
                if name in self.wanted:
                    self._column(rows, name, i)
                    previous = ("column", name)
                elif found is None:
                    previous = None
                elif found.name == "epoch":
                    row.epoch, previous = i, ("epoch", name)
                elif found.name == "step":
                    row.iteration, previous = i, ("iteration", name)
                else:
                    self._column(rows, name, i)
                    previous = ("column", name)
                continue
            previous = self._nameless(row, lit, after, i, counters)
            if previous is not None:
                counters += 1
            elif before and position < len(before) and len(rows) > 1:
                self._column(rows, before[position], i)
                position += 1
        rows = [r for r in rows if r.names]
        return self._compiled(shape, rows)

    def _nameless(self, row: Row, lit: str, after: str, i: int, counters: int) -> tuple[str, str] | None:
        """A counter: `[3/200]`, `(3/200)`, `3/200`, or a number that begins a line or a part of it."""
        begins = lit.strip(" \t~#") in ("", ";") and (i == 0 or ";" in lit)
        bracket = lit.rstrip().endswith(("[", "(", "|")) or begins  # a bar ends with |
        if bracket and after.strip() == "/" and counters < 2:
            if row.epoch is None and row.iteration is None and not lit.rstrip().endswith("|"):
                row.epoch = i
                return ("epoch", "")
            if row.iteration is None:
                row.iteration = i
                return ("iteration", "")
        if begins and row.iteration is None and re.match(r"\s*:\s|\s+\[|\s*\]|\s*\|\s|\t|\s+\w", after + " "):
            row.iteration = i
            return ("iteration", "")
        if lit.strip() == "[" and i == 0 and after.lstrip().startswith("]") and row.iteration is None:
            row.iteration = i
            return ("iteration", "")
        return None

    def _column(self, rows: list[Row], name: str, i: int) -> None:
        row = rows[-1]
        if name in row.names:
            row = self._next(rows)
        row.names.append(name)
        row.at.append(i)

    def _next(self, rows: list[Row]) -> Row:
        rows.append(Row())
        return rows[-1]

    def _compiled(self, shape: tuple[str, ...], rows: list[Row]) -> Plan:
        taken = sorted(
            {i for r in rows for i in (*r.at, *(p for p in (r.epoch, r.iteration, r.total) if p is not None))}
        )
        if not taken:
            nothing = re.compile(r"\Z")
            return Plan(rows, nothing, nothing, [])
        where = {i: k for k, i in enumerate(taken)}
        for r in rows:
            r.at = [where[i] for i in r.at]
            r.epoch, r.iteration, r.total = (None if p is None else where[p] for p in (r.epoch, r.iteration, r.total))
        pieces = [re.escape(shape[0])]
        for i, lit in enumerate(shape[1:]):
            pieces += [r"([-+\w.]+)" if i in where else r"[-+\w.#]+", re.escape(lit)]
        body = "".join(pieces)
        return Plan(rows, re.compile(body + r"\Z"), re.compile(f"^{body}$", re.MULTILINE), taken)


def _decimals(text: str) -> int | None:
    """How many decimals were printed: of 0.0000 four, of 1.2e-04 five.

    >>> _decimals("0.0000"), _decimals("1.2e-04"), _decimals("nan")
    (4, 5, None)
    """
    found = re.fullmatch(r"[-+]?\d*\.?(\d*)(?:[eE]([-+]?\d+))?", text)
    return None if found is None else max(0, len(found.group(1)) - int(found.group(2) or 0))


def _name(lit: str) -> str:
    """The name that the text before a number ends with, or "".

    >>> _name("] [D loss: "), _name(', "d_loss": '), _name(" D(G(z)): "), _name("Loss_D: tensor("), _name("][")
    ('D loss', 'd_loss', 'D(G(z))', 'Loss_D', '')
    """
    text = _WRAPPER.sub("", lit.rstrip()).rstrip()
    answer = re.search(r"(D\s*\(\s*G\s*\(\s*z\d?\s*\)\s*\)|D\s*\(\s*[xy]\s*\))\s*[:=]*\s*\Z", text, re.IGNORECASE)
    if answer:
        return answer.group(1)
    text = text.rstrip(" \t:=\"'([{<|~≈>-–→≥≤@")
    piece = _BREAKS.split(text)[-1].strip(" \t:=.*#/)(-")
    piece = " ".join(piece.split()[-6:])
    return piece[-80:] if re.search(r"[A-Za-z]", piece) else ""
