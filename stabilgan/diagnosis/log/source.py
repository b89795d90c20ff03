"""Source: a file, a folder or a stream as text, whatever its encoding; in pieces, so that its size does not matter."""

from __future__ import annotations

import codecs
import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from stabilgan.diagnosis.findings import InputError

PIECE = 1 << 20
LONGEST = 1 << 20
"""Characters of one line; what is longer is cut."""

Progress = Callable[[int, int | None], None]
"""Told bytes read so far, and bytes in all where they are known."""


class Text(NamedTuple):
    """A stream of text: its beginning, which has been looked at, and lines to come; notes grow while it is read."""

    name: str
    head: str
    lines: Iterator[list[str]]
    notes: list[str]


class _Peeked(io.RawIOBase):
    """A binary stream whose first bytes have been read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self.head, self.rest, self.count = head, rest, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.head[: len(buffer)] if self.head else self.rest.read(len(buffer))
        self.head = self.head[len(data) :] if self.head else b""
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)


def open_text(given: str | os.PathLike[str] | IO[Any], progress: Progress | None = None) -> Text:
    """Opens a path, or takes an open stream of text or bytes.

    UTF-8, UTF-16 and UTF-32 with or without a mark, else Latin-1; gzip is undone. Carriage returns end lines, too.

    Raises:
        InputError: there is no such file, it is empty, or it is no text.
    """
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        try:
            raw: IO[bytes] = path.open("rb")
        except FileNotFoundError:
            raise InputError(f"there is no file {given}; give the path of a log, or - for standard input") from None
        except OSError as error:
            raise InputError(f"{given} can't be opened: {error.strerror or error}") from None
        return _from_bytes(str(given), raw, path.stat().st_size, progress)
    name = str(getattr(given, "name", "the stream"))
    first = given.read(0)
    if isinstance(first, str):
        return _from_text(name, given, [], lambda: None)
    return _from_bytes(name, given, None, progress)


def _from_bytes(name: str, raw: IO[bytes], size: int | None, progress: Progress | None) -> Text:
    head = raw.read(PIECE)
    if not head:
        raise InputError(f"{name} is empty; expected a training log")
    notes: list[str] = []
    counted = _Peeked(head, raw)
    binary: IO[bytes] = io.BufferedReader(counted, PIECE)
    if head[:2] == b"\x1f\x8b":
        binary = gzip.GzipFile(fileobj=binary)  # type: ignore[assignment]
        try:
            head = binary.read(1 << 16)
        except (OSError, EOFError) as error:
            raise InputError(f"{name} is a damaged gzip file: {error}") from None
        inner = _Peeked(head, binary)
        binary = io.BufferedReader(inner, PIECE)
    encoding = _encoding(head[: 1 << 16])
    if encoding is None:
        raise InputError(f"{name} is not text; expected a log (text, CSV, JSON lines, or TensorBoard event files)")
    if encoding != "utf-8":
        notes.append(f"read as {encoding}")
    text = io.TextIOWrapper(binary, encoding=encoding, errors="replace", newline=None)
    return _from_text(name, text, notes, lambda: progress(counted.count, size) if progress else None)


def _encoding(head: bytes) -> str | None:
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if head.startswith(mark):
            return encoding
    zeros = head.count(0)
    if zeros:
        if head[1::2].count(0) > 0.4 * len(head) / 2 and head[::2].count(0) < zeros / 10:
            return "utf-16-le"
        if head[::2].count(0) > 0.4 * len(head) / 2 and head[1::2].count(0) < zeros / 10:
            return "utf-16-be"
    control = sum(head.count(c) for c in range(32) if c not in b"\t\n\r\x0b\x0c\x1b\x08")
    if control > 0.02 * len(head):
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _from_text(name: str, text: Any, notes: list[str], tell: Callable[[], None]) -> Text:
    head = _read(name, text, 1 << 16)
    if not head.strip():
        raise InputError(f"{name} has nothing in it; expected a training log")

    def pieces() -> Iterator[list[str]]:
        piece, rest, cut = head, "", False
        while piece:
            lines = (rest + piece).replace("\r\n", "\n").replace("\r", "\n").split("\n")
            rest = lines.pop()
            if len(rest) > LONGEST:
                rest, cut = rest[:LONGEST], True
            yield lines
            tell()
            piece = _read(name, text, PIECE)
        if rest:
            yield [rest]
        if cut:
            notes.append(f"a line of more than {LONGEST:,} characters was cut")

    return Text(name, head, pieces(), notes)


def _read(name: str, text: Any, size: int) -> str:
    try:
        data = text.read(size)
    except (EOFError, OSError) as error:
        raise InputError(f"{name} can't be read to its end: {error}") from None
    except UnicodeError as error:
        raise InputError(f"{name} is not text: {error}") from None
    return str(data)
