"""Read: from a file, a folder or a stream to runs of named columns, whatever the format."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.log.decimals import commas, pointed
from stabilgan.diagnosis.log.events import event_files, is_events, read_events
from stabilgan.diagnosis.log.source import Progress, Text, open_text
from stabilgan.diagnosis.log.store import Store
from stabilgan.diagnosis.log.tables import WHOLE, Rows, delimiter, read_csv, read_json_lines, read_whole
from stabilgan.diagnosis.log.text import TextReader
from stabilgan.diagnosis.log.watched import Watched


class Log(NamedTuple):
    """What was read.

    Attributes:
        name: of the source.
        format: as it was understood.
        store: runs and their columns.
        names: every name that had numbers, used or not.
        notes, skipped: what was converted, and what was left out and why.
        watched: what a live watch wrote, where it wrote this file.
    """

    name: str
    format: str
    store: Store
    names: tuple[str, ...]
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    watched: Watched | None = None


def read_log(
    given: str | os.PathLike[str] | IO[Any], wanted: Sequence[str] = (), progress: Progress | None = None
) -> Log:
    """Reads a log in bounded memory.

    Args:
        given: a path of a file or of a folder of TensorBoard event files, or an open stream of text or bytes.
        wanted: names that are to be taken although nothing in them says what they are.
        progress: told how many bytes were read, of how many.

    Raises:
        InputError: it can't be opened, is no log, or has no number in it that has a name.
    """
    store = Store()
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        files = event_files(path) if path.is_dir() else [path] if path.is_file() and is_events(path) else []
        if path.is_dir() and not files:
            raise InputError(f"{given} is a folder without event files (*tfevents*); give the path of a log file")
        if files:
            rows = Rows(store, wanted)
            skipped = read_events(files, path, rows)
            return _done(Log(str(given), "TensorBoard event files", store, tuple(rows.names), (), tuple(skipped)))
    with open_text(given, progress) as text:
        return _done(_read_text(text, store, wanted))


def _read_text(text: Text, store: Store, wanted: Sequence[str]) -> Log:
    rows = Rows(store, wanted)
    head = text.head.lstrip("\ufeff \t\r\n")
    if re.match(r"<(?:!doctype\s+)?html", head, re.IGNORECASE):
        raise InputError(f"{text.name} is an HTML page, not a log; get the file itself (the raw view, or download it)")
    if re.match(r'\{\s*"|\{\s*\}|\[\s*(?:\{|\])', head):
        if _one_object_a_line(head):
            skipped = read_json_lines(text.lines, rows)
            kind, watched = "JSON lines", rows.watched if rows.watched.runs else None
            kind += " of stabilgan.Watch" if watched is not None else ""
            return Log(text.name, kind, store, tuple(rows.names), tuple(text.notes), tuple(skipped), watched)
        whole, size = io.StringIO(), 0
        for piece in text.lines:
            size += whole.write("\n".join(piece) + "\n")
            if size > WHOLE:
                raise InputError(
                    f"{text.name} is JSON of more than {WHOLE >> 20} MB in one piece; write one object a line (JSONL)"
                )
        read_whole(whole.getvalue(), text.name, rows)
        return Log(text.name, "JSON", store, tuple(rows.names), tuple(text.notes), ())
    head, lines = text.head[:20_000], text.lines
    mark = delimiter(head)
    if mark != "," and commas(head):
        lines, mark = pointed(lines), delimiter("\n".join(next(pointed([head.split("\n")]))))
        text.notes.append("numbers were read with a decimal comma")
    if mark is not None:
        skipped = read_csv(lines, mark, rows)
        kind = {",": "CSV", "\t": "TSV"}.get(mark, f"a table separated by {mark!r}")
        return Log(text.name, kind, store, tuple(rows.names), tuple(text.notes), tuple(skipped))
    reader = TextReader(store, wanted)
    for piece in lines:
        reader.feed(piece)
    notes = (
        *text.notes,
        f"{reader.lines:,} lines of text, {reader.with_numbers:,} of them with numbers that were used",
    )
    return Log(text.name, "text", store, tuple(reader.names), notes, ())


def _one_object_a_line(head: str) -> bool:
    """The first line is an object by itself, and not one that holds whole columns."""
    first = head.split("\n", 1)[0].strip()
    if not first.startswith("{"):
        return False
    try:
        record = json.loads(first)
    except ValueError:
        # A first line longer than what was looked at may be one object, or a file in one piece: the latter then fails.
        return False
    return isinstance(record, dict) and not (
        head.count("\n") <= 1
        and any(isinstance(v, (list, dict)) and v for v in record.values())
        and _holds_lists(record)
    )


def _holds_lists(record: dict[str, Any]) -> bool:
    return any(isinstance(v, list) or (isinstance(v, dict) and _holds_lists(v)) for v in record.values())


def _done(log: Log) -> Log:
    if not log.names and log.watched is None:
        raise InputError(
            f"{log.name}: no number with a name was found; expected something like 'loss_d: "
            f"0.69' or a table with a header"
        )
    return log
