"""Tables: CSV and TSV (sparse, as Lightning's), JSON lines (StyleGAN's stats.jsonl, W&B's history), JSON as a whole."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.log.names import role
from stabilgan.diagnosis.log.store import Store
from stabilgan.diagnosis.log.text import NUMBER, number
from stabilgan.diagnosis.log.watched import Watched, is_entry

WHOLE = 256 << 20
"""Characters of a JSON file that is not one object a line: it has to be read as a whole."""
_PLACES = ("globalstep", "step", "iteration", "iter", "steps", "itr", "batch")


class Rows:
    """Puts rows of named values into a store; knows which names are places.

    Args:
        wanted: further names that are columns, since somebody mapped them.
    """

    def __init__(self, store: Store, wanted: Sequence[str] = ()) -> None:
        self.store, self.wanted = store, frozenset(wanted)
        self.watched = Watched()
        self.names: dict[str, None] = {}
        self._kinds: dict[str, str] = {}

    def _kind(self, name: str) -> str:
        if name not in self._kinds:
            self.names[name] = None
            found = role(name)
            kind = "" if found is None else found.name if found.name in ("epoch", "step") else "column"
            self._kinds[name] = "column" if name in self.wanted else kind
        return self._kinds[name]

    def put(self, row: Mapping[str, float]) -> None:
        names, values, epoch, steps = [], [], None, {}
        for name, value in row.items():
            kind = self._kind(name)
            if kind == "column":
                names.append(name)
                values.append(value)
            elif kind == "epoch" and math.isfinite(value):
                epoch = int(value) if epoch is None else epoch
            elif kind == "step" and math.isfinite(value):
                steps[name] = int(value)
        if names:
            # A step that counts over the whole run makes epochs superfluous; one beside "batch" is chosen.
            place = min(steps, key=lambda s: (_rank(s), len(s)), default=None)
            alone = place is not None and _rank(place) < len(_PLACES) - 1
            self.store.add(names, values, None if alone else epoch, None if place is None else steps[place])


def _rank(name: str) -> int:
    plain = "".join(c for c in name.lower() if c.isalpha())
    return next((i for i, place in enumerate(_PLACES) if plain.endswith(place)), len(_PLACES) - 2)


def flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Numbers of nested objects by joined names; of `{"num", "mean", "std"}` the mean.

    >>> dict(flat({"Loss/D/loss": {"num": 4, "mean": 0.5, "std": 0.1}, "a": {"b": 1}}))
    {'Loss/D/loss': 0.5, 'a/b': 1.0}
    """
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, bool):
            continue
        if isinstance(value, (int, float)):
            yield name, float(value)
        elif isinstance(value, str):
            if value and (found := NUMBER.fullmatch(value)) is not None:
                yield name, number(found.group())
        elif isinstance(value, Mapping):
            middle = next((value[k] for k in ("mean", "value", "avg") if isinstance(value.get(k), (int, float))), None)
            if middle is not None:
                yield name, float(middle)
            else:
                yield from flat(value, f"{name}/")


def delimiter(head: str) -> str | None:
    """What separates the columns, if this is a table with a header: a line of names, then lines as wide, of numbers."""
    lines = [line for line in head.splitlines()[:20] if _told(line)]
    for mark in (",", "\t", ";", "|"):
        rows = list(csv.reader(lines, delimiter=mark, skipinitialspace=True))
        if not rows or len(rows[0]) < 2:
            continue
        header = rows[0]
        if any(NUMBER.fullmatch(cell.strip()) for cell in header) or sum(bool(cell.strip()) for cell in header) < 2:
            continue
        body = rows[1:-1] if len(rows) > 2 else rows[1:]
        if not body or any(len(row) != len(header) for row in body):
            continue
        cells = [cell.strip() for row in body for cell in row if cell.strip()]
        if cells and sum(NUMBER.fullmatch(cell) is not None for cell in cells) >= 0.5 * len(cells):
            return mark
    return None


def _told(line: str) -> bool:
    """Whether a line of a table says something: it is not empty, no comment, and not the `sep=;` of Excel."""
    return bool(line.strip()) and not line.startswith(("#", "sep=", "\ufeffsep="))


def read_csv(lines: Iterable[list[str]], mark: str, rows: Rows) -> list[tuple[str, str]]:
    """Rows of a table with a header; what is empty is missing. Returns what was skipped, with reasons."""
    skipped: list[tuple[str, str]] = []
    header: list[str] | None = None

    def each() -> Iterator[str]:
        for piece in lines:
            for line in piece:
                if _told(line):
                    yield line.replace("\0", "")

    at = 0
    for cells in csv.reader(each(), delimiter=mark, skipinitialspace=True):
        at += 1
        if header is None or cells == header:
            header = [c.strip().lstrip("\ufeff") for c in cells]
            continue
        if len(cells) != len(header):
            if len(skipped) < 20:
                skipped.append((f"row {at}", f"{len(cells)} cells, where the header has {len(header)}"))
            continue
        row = {}
        for name, cell in zip(header, cells, strict=True):
            if cell and NUMBER.fullmatch(cell := cell.strip()):
                row[name] = number(cell)
        if row:
            rows.put(row)
    return skipped


def read_json_lines(lines: Iterable[list[str]], rows: Rows) -> list[tuple[str, str]]:
    """One object a line. Returns what was skipped, with reasons."""
    skipped: list[tuple[str, str]] = []
    at = 0
    for piece in lines:
        for line in piece:
            at += 1
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                if len(skipped) < 20:
                    skipped.append((f"line {at}", f"no JSON: {error}"))
                continue
            if isinstance(record, dict) and is_entry(record):
                rows.watched.take(record)
                if record["kind"] == "numbers":
                    _object({k: v for k, v in record.items() if k not in ("run", "kind")}, rows)
            elif isinstance(record, dict):
                _object(record, rows)
    return skipped


def _object(record: Mapping[str, Any], rows: Rows) -> None:
    rows.put(dict(flat(record)))


def read_whole(text: str, name: str, rows: Rows) -> None:
    """An array of objects, or an object of lists: columns by their names.

    Raises:
        InputError: it is neither.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no JSON: {error}") from None
    if isinstance(given, list):
        for record in given:
            if isinstance(record, dict):
                _object(record, rows)
        return
    found = False
    for columns in _lists(given):
        found = True
        length = max(len(values) for values in columns.values())
        for i in range(length):
            row = {n: v for n, values in columns.items() if i < len(values) and (v := _value(values[i])) is not None}
            rows.put(row)
    if not found:
        rows.put(dict(flat(given)))


def _value(given: Any) -> float | None:
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given)
    return None


def _lists(given: Any) -> Iterator[dict[str, list[Any]]]:
    """Every object in it whose values are lists of numbers, the outermost first."""
    if not isinstance(given, Mapping):
        return
    lists = {
        k: v
        for k, v in given.items()
        if isinstance(v, list) and v and all(x is None or _value(x) is not None for x in v)
    }
    if lists:
        yield lists
    for value in given.values():
        yield from _lists(value)
