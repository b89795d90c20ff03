"""CSV and Parquet tables as samples: numeric columns as they are, categories one-hot, the rest left aside and said."""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import memory, sniff
from stabilgan.diagnosis.inputs.samples import Kind, Progress, Samples
from stabilgan.diagnosis.inputs.subset import chosen
from stabilgan.spec import unknown

MOST_CATEGORIES = 50
"""A column of text with more values than this is taken for names or free text and left aside."""
MISSING = frozenset({"", "na", "n/a", "#n/a", "null", "none", "?", "-", "<na>"})
TRUTHS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


@dataclass
class Column:
    """One column while it is read: numbers, or categories by number."""

    name: str
    numbers: array[float] = field(default_factory=lambda: array("d"))
    texts: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    aside: str = ""
    """Why it is no part of the samples."""


def read_csv(
    path: Path,
    *,
    strict: bool = False,
    limit: int | None = None,
    labels: str | None = None,
    kind: Kind | None = None,
    seed: int = 0,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> Samples:
    """A table of text, read twice as a stream: first for the kinds of its columns, then for its values.

    The delimiter (comma, semicolon, tab) and whether there is a header are found. Rows without a value in some column
    are left out. UTF-8 and UTF-16 are read, else Latin-1.
    """
    encoding = _encoding(path)
    lines = _lines(path, encoding)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise InputError(f"{path} is empty; expected a table with a row for each sample")
    if "\0" in first or sniff.described(first.encode()[:512]) == "an HTML page":
        what = sniff.described(first.encode()[:512]) or "binary"
        raise InputError(f"{path} is {what}, not a table of text")
    delimiter = max(",;\t", key=first.count)
    decimal_comma = delimiter == ";"

    def rows() -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(_lines(path, encoding), delimiter=delimiter, skipinitialspace=True)
        try:
            for row in reader:
                if row and any(cell.strip() for cell in row):
                    yield reader.line_num, [cell.strip() for cell in row]
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {sniff.one_line(error)}") from None

    number = _number_with_comma if decimal_comma else _number
    width = len(next(iter(rows()))[1])
    numeric, has_header = _kinds(rows(), width, number)
    header, skipped = (next(iter(rows()))[1] if has_header else [f"column {i}" for i in range(width)]), []
    columns = [Column(name or f"column {i}") for i, name in enumerate(header)]
    lines_kept: list[int] = []
    for i, (line, row) in enumerate(rows()):
        if i == 0 and has_header:
            continue
        if len(row) != width:
            skipped.append((f"line {line}", f"{len(row)} cells where the others have {width}"))
            continue
        for column, cell, is_number in zip(columns, row, numeric, strict=True):
            if cell.lower() in MISSING:
                column.missing.append(len(lines_kept))
            if is_number:
                column.numbers.append(math.nan if cell.lower() in MISSING else number(cell))
            else:
                column.texts.append("" if cell.lower() in MISSING else cell)
        lines_kept.append(line)
        if progress and len(lines_kept) % 10_000 == 0:
            progress("rows", len(lines_kept), 0)
    notes = [
        f"delimiter {delimiter!r}, " + (f"a header of {width} columns" if has_header else f"no header, {width} columns")
    ]
    return _assembled(
        path,
        columns,
        [f"line {line}" for line in lines_kept],
        notes,
        skipped,
        strict=strict,
        limit=limit,
        labels=labels,
        kind=kind or ("points" if not has_header and width <= 3 and all(numeric) else "table"),
        seed=seed,
        allow_nonfinite=allow_nonfinite,
    )


def read_parquet(
    path: Path,
    *,
    strict: bool = False,
    limit: int | None = None,
    labels: str | None = None,
    kind: Kind | None = None,
    seed: int = 0,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> Samples:
    """A Parquet table: numbers, truths, and texts as categories; other columns are left aside."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install 'stabilgan[diagnose]', or save as CSV") from None
    try:
        file = pq.ParquetFile(path)
        memory.check(
            8 * file.metadata.num_rows * file.metadata.num_columns, f"{path}", "save the columns that matter alone"
        )
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        what = sniff.described(sniff.head_of(path))
        said = f"it is {what}" if what and "Parquet" not in what else sniff.one_line(error)
        raise InputError(f"{path} is no Parquet file, or is damaged or cut short: {said}") from None
    columns = []
    for i, name in enumerate(table.column_names):
        column, data = Column(str(name)), table.column(i)
        kind_of = data.type.value_type if pa.types.is_dictionary(data.type) else data.type
        if pa.types.is_boolean(kind_of) or pa.types.is_integer(kind_of) or pa.types.is_floating(kind_of):
            values = data.to_pylist() if pa.types.is_dictionary(data.type) else data.cast(pa.float64()).to_pylist()
            column.numbers.extend(math.nan if v is None else float(v) for v in values)
            column.missing = [row for row, v in enumerate(values) if v is None]
        elif pa.types.is_decimal(kind_of):
            values = data.to_pylist()
            column.numbers.extend(math.nan if v is None else float(v) for v in values)
            column.missing = [row for row, v in enumerate(values) if v is None]
        elif pa.types.is_string(kind_of) or pa.types.is_large_string(kind_of):
            values = data.to_pylist()
            column.texts = ["" if v is None else str(v) for v in values]
            column.missing = [row for row, v in enumerate(values) if v is None]
        else:
            column.aside = f"holds {data.type}"
        columns.append(column)
        if progress:
            progress("columns", i + 1, table.num_columns)
    return _assembled(
        path,
        columns,
        [f"row {i}" for i in range(table.num_rows)],
        [],
        [],
        strict=strict,
        limit=limit,
        labels=labels,
        kind=kind or "table",
        seed=seed,
        allow_nonfinite=allow_nonfinite,
    )


def _assembled(
    path: Path,
    columns: list[Column],
    names: list[str],
    notes: list[str],
    skipped: list[tuple[str, str]],
    *,
    strict: bool,
    limit: int | None,
    labels: str | None,
    kind: Kind,
    seed: int,
    allow_nonfinite: bool,
) -> Samples:
    """Columns as samples: rows with gaps left out, categories one-hot, labels apart."""
    label_column = None
    if labels is not None:
        if labels not in (known := [c.name for c in columns]):
            raise InputError(f"{path}: {unknown('column', labels, known)}")
        label_column = columns.pop(known.index(labels))
    used = [c for c in columns if not _set_aside(c)]
    aside = [f"{c.name} ({c.aside})" for c in columns if c.aside]
    if aside:
        notes.append(f"columns left aside: {', '.join(aside[:5])}{' and others' if len(aside) > 5 else ''}")
    if not used:
        raise InputError(f"{path} has no column of numbers or of few categories; expected one at least")
    gaps: dict[int, str] = {}
    for column in used if not allow_nonfinite else []:
        for row in column.missing:
            gaps.setdefault(row, f"no value in {column.name!r}")
    skipped += [(names[row], why) for row, why in sorted(gaps.items())]
    if strict and skipped:
        raise InputError(f"{path}: {len(skipped):,} rows can't be used (strict): {skipped[0][0]}: {skipped[0][1]}")
    if skipped:
        notes.append(f"{len(skipped):,} of {len(names) + len(skipped) - len(gaps):,} rows left out: {_first(skipped)}")
    whole = np.setdiff1d(np.arange(len(names)), np.fromiter(gaps, dtype=np.int64, count=len(gaps)))
    picked, said = chosen(len(whole), limit, seed, "rows")
    rows = whole[np.asarray(picked, dtype=np.int64)]
    parts, titles = [], []
    for column in used:
        values, title = _values(column, rows)
        parts.append(values)
        titles += title
        if column.texts:
            notes.append(f"{column.name}: {len(title)} categories, one-hot")
    x = np.concatenate(parts, axis=1, dtype=np.float32) if len(rows) else np.empty((0, len(titles)), np.float32)
    bad = [names[rows[i]] for i in np.flatnonzero(~np.isfinite(x).all(axis=1))]
    if bad and not allow_nonfinite:
        raise InputError(
            f"{path} has nan or infinity in {len(bad):,} rows, the first {', '.join(bad[:3])}; leave them out"
        )
    where = tuple(int(i) for i in np.flatnonzero(~np.isfinite(x).all(axis=1)))
    if bad:
        notes.append(f"nan or infinity in {len(bad):,} of {len(x):,} rows, the first {', '.join(bad[:3])}")
    targets, classes = _labels(label_column, rows, str(path)) if label_column else (None, ())
    return Samples(
        torch.from_numpy(x),
        kind,
        str(path),
        tuple(names[i] for i in rows),
        targets,
        tuple(notes + said),
        tuple(skipped),
        classes,
        tuple(titles),
        nonfinite=where,
    )


def _set_aside(column: Column) -> bool:
    """Whether a column can't be part of the samples; says why in it."""
    if not column.aside and column.texts:
        count = len(set(column.texts))
        if count > MOST_CATEGORIES:
            column.aside = f"{count:,} different texts"
    if not column.aside and not column.texts and len(column.missing) == len(column.numbers):
        column.aside = "empty"
    return bool(column.aside)


def _values(column: Column, rows: NDArray[np.int64]) -> tuple[NDArray[Any], list[str]]:
    if not column.texts:
        return np.frombuffer(column.numbers, dtype=np.float64)[rows][:, None], [column.name]
    texts = np.asarray(column.texts, dtype=object)[rows]
    found = sorted(set(texts.tolist()))
    return np.stack([texts == text for text in found], axis=1).astype(np.float32), [f"{column.name}={t}" for t in found]


def _labels(column: Column, rows: NDArray[np.int64], source: str) -> tuple[torch.Tensor, tuple[str, ...]]:
    values: Sequence[Any] = column.texts or column.numbers
    taken = [values[i] for i in rows]
    if not column.texts and any(not math.isfinite(v) for v in taken):
        raise InputError(f"{source}: {column.name!r} lacks a value in some rows; expected a label in each")
    texts = [f"{v:g}" if isinstance(v, float) else str(v) for v in taken]
    order: dict[str, Any] = dict(zip(texts, taken, strict=True))
    classes = sorted(order, key=lambda text: order[text])
    number = {text: i for i, text in enumerate(classes)}
    return torch.tensor([number[t] for t in texts], dtype=torch.int64), tuple(classes)


def _first(skipped: list[tuple[str, str]]) -> str:
    why = Counter(reason for _, reason in skipped).most_common(2)
    return f"{'; '.join(f'{reason} ({n})' for reason, n in why)}, the first {skipped[0][0]}"


def _number(text: str) -> float:
    """A number, or ValueError; what Python alone takes for one (`1_000`) is not."""
    if "_" in text:
        raise ValueError
    return TRUTHS[text.lower()] if text.lower() in TRUTHS else float(text)


def _number_with_comma(text: str) -> float:
    return _number(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)


def _kinds(
    rows: Iterator[tuple[int, list[str]]], width: int, number: Callable[[str], float]
) -> tuple[list[bool], bool]:
    """Which columns hold numbers below their first cell, and whether the first row is a header."""
    first: list[str] | None = None
    numeric, seen = [True] * width, 0
    again = [False] * width
    for _, row in rows:
        if first is None:
            first = row
            continue
        if len(row) != width:
            continue
        seen += 1
        for i, cell in enumerate(row):
            again[i] |= cell == first[i]
            if numeric[i] and cell.lower() not in MISSING and not _is(number, cell):
                numeric[i] = False
    assert first is not None
    words = [cell.lower() not in MISSING and not _is(number, cell) for cell in first]
    if seen == 0:
        return [not w for w in words], all(words)
    header = any(w and n for w, n in zip(words, numeric, strict=True))
    header |= all(words) and not any(numeric) and not any(again) and len(set(first)) == width
    if not header:
        numeric = [n and not w for n, w in zip(numeric, words, strict=True)]
    return numeric, header


def _is(number: Callable[[str], float], cell: str) -> bool:
    try:
        number(cell)
    except ValueError:
        return False
    return True


def _encoding(path: Path) -> str:
    head = sniff.head_of(path, 1 << 16)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        io.TextIOWrapper(io.BytesIO(head.rsplit(b"\n", 1)[0]), "utf-8-sig").read()
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _lines(path: Path, encoding: str) -> Iterator[str]:
    try:
        with path.open(encoding=encoding, errors="replace", newline="") as file:
            yield from file
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None
