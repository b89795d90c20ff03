"""Source: a file, a folder or a stream as text, whatever its encoding; in pieces, so that its size does not matter."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class _Decoded:
    """A binary stream as text in pieces; counts the bytes that it took from the file."""

    def __init__(self, head: bytes, binary: Any, encoding: str, tell: Callable[[], None]) -> None:
        self._head, self._binary, self._tell = head, binary, tell
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")

    def read(self, size: int) -> str:
        """The next characters, about as many as asked for; "" at the end."""
        while True:
            data, self._head = self._head or self._binary.read(size), b""
            self._tell()
            text = self._decoder.decode(data, final=not data)
            if text or not data:
                return text


@contextmanager
def open_text(given: str | os.PathLike[str] | IO[Any], progress: Progress | None = None) -> Iterator[Text]:
    """Opens a path, or takes an open stream of text or bytes, which stays open.

    UTF-8, UTF-16 and UTF-32 with or without a mark, else Latin-1; gzip is undone. Carriage returns end lines, too.

    Raises:
        InputError: there is no such file, it is empty, or it is no text.
    """
    if isinstance(given, (str, os.PathLike)):
        path = Path(given)
        try:
            raw = path.open("rb")
        except FileNotFoundError:
            raise InputError(f"there is no file {given}; give the path of a log, or - for standard input") from None
        except OSError as error:
            raise InputError(f"{given} can't be opened: {error.strerror or error}") from None
        with raw:
            yield _from_bytes(str(given), raw, path.stat().st_size, progress)
        return
    name = str(getattr(given, "name", "the stream"))
    if isinstance(given.read(0), str):
        yield _from_text(name, given, [])
    else:
        yield _from_bytes(name, given, None, progress)


def _from_bytes(name: str, raw: IO[bytes], size: int | None, progress: Progress | None) -> Text:
    counted = _Counted(raw)
    head = counted.read(1 << 16)
    if not head:
        raise InputError(f"{name} is empty; expected a training log")
    binary: Any = counted
    if head[:2] == b"\x1f\x8b":
        counted.pushed = head
        binary = gzip.GzipFile(fileobj=counted, mode="rb")
        try:
            head = binary.read(1 << 16)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{name} is a damaged gzip file: {error}") from None
    encoding = _encoding(head)
    if encoding is None:
        raise InputError(f"{name} is not text; expected a log (text, CSV, JSON lines, or TensorBoard event files)")
    notes = [] if encoding == "utf-8" else [f"read as {encoding}"]

    def tell() -> None:
        if progress is not None:
            progress(counted.count, size)

    return _from_text(name, _Decoded(head, binary, encoding, tell), notes)


class _Counted(io.RawIOBase):
    """Counts the bytes read from a stream, and gives back first what was pushed onto it."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw, self.count, self.pushed = raw, 0, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self.pushed:
            size = len(self.pushed) if size < 0 else size
            data, self.pushed = self.pushed[:size], self.pushed[size:]
            return data
        data = self.raw.read(size) or b""
        self.count += len(data)
        return data


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


def _from_text(name: str, text: Any, notes: list[str]) -> Text:
    head = _read(name, text, 1 << 16)
    if not head.strip("\ufeff \t\r\n"):
        raise InputError(f"{name} has nothing in it; expected a training log")

    def pieces() -> Iterator[list[str]]:
        piece, rest, cut = head, "", False
        while piece:
            piece = rest + piece
            if "\r" in piece:
                piece = piece.replace("\r\n", "\n").replace("\r", "\n")
            lines = piece.split("\n")
            rest = lines.pop()
            if len(rest) > LONGEST:
                rest, cut = rest[:LONGEST], True
            yield lines
            piece = _read(name, text, PIECE)
        if rest:
            yield [rest]
        if cut:
            notes.append(f"a line of more than {LONGEST:,} characters was cut")

    return Text(name, head, pieces(), notes)


def _read(name: str, text: Any, size: int) -> str:
    try:
        data = text.read(size)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{name} can't be read to its end: {error}") from None
    except UnicodeError as error:
        raise InputError(f"{name} is not text: {error}") from None
    return str(data)
