"""What a file really is, whatever its name says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from stabilgan.diagnosis.findings import InputError

_BEGINNINGS = (
    (b"\x93NUMPY", "a NumPy array"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself (git lfs pull)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)


def described(head: bytes) -> str:
    """What a file that begins so is, in words; empty where nothing is known of it.

    >>> described(b"<!DOCTYPE html><p>Not found")
    'an HTML page'
    """
    if not head:
        return "an empty file (0 bytes)"
    for beginning, words in _BEGINNINGS:
        if head.startswith(beginning):
            return words
    start = head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    try:
        text = head[:256].decode()
    except UnicodeDecodeError:
        return ""
    return "text" if all(c.isprintable() or c in "\t\r\n" for c in text) else ""


def head_of(path: Path, size: int = 512) -> bytes:
    """The first bytes of a file; InputError if it isn't a file or can't be read, a pipe without waiting for it."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is neither a file nor a folder")
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None


def one_line(error: BaseException, most: int = 200) -> str:
    """An exception's text on one line, cut where it gets long."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else text[: most - 1] + "…"
