"""Which image files lie in a folder or a zip archive, with their classes; nothing is unpacked or followed twice."""

from __future__ import annotations

import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import sniff
from stabilgan.diagnosis.inputs.decode import ENDINGS, Opener

MOST_BYTES = 1 << 30
"""An image file in a zip archive that claims to be larger than this is left out."""


class Found(NamedTuple):
    """Image files and what lay beside them.

    Attributes:
        files: name within the folder, and what opens it; sorted by name.
        skipped: image files that can't be opened, each with the reason.
        others: how many files have other endings, by ending.
        notes: what was left out on purpose.
    """

    files: list[tuple[str, Opener]]
    skipped: list[tuple[str, str]]
    others: Counter[str]
    notes: list[str]


def in_folder(root: Path) -> Found:
    """The image files under a folder, in all its sub-folders; links are followed, each folder once, hidden ones not."""
    found = Found([], [], Counter(), [])
    looped = 0
    seen: set[tuple[int, int]] = set()
    for path in _walk(root, seen):
        if path is None:
            looped += 1
            continue
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() not in ENDINGS:
            found.others[path.suffix.lower() or "no ending"] += 1
        elif reason := _unopenable(path):
            found.skipped.append((name, reason))
        else:
            found.files.append((name, partial(_opened, path)))
    if looped:
        found.notes.append(f"{looped} link(s) to folders that were read already: not followed")
    found.files.sort(key=lambda file: file[0])
    return found


def in_zip(path: Path) -> Found:
    """The image files in a zip archive, which is not unpacked."""
    found = Found([], [], Counter(), [])
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is not a zip archive that can be read: {sniff.one_line(error)}") from None
    for entry in archive.infolist():
        inner = PurePosixPath(entry.filename)
        if entry.is_dir() or any(_hidden(part) for part in inner.parts):
            continue
        if inner.suffix.lower() not in ENDINGS:
            found.others[inner.suffix.lower() or "no ending"] += 1
        elif entry.flag_bits & 1:
            found.skipped.append((entry.filename, "encrypted"))
        elif entry.file_size > MOST_BYTES:
            found.skipped.append((entry.filename, f"{entry.file_size:,} bytes when unpacked, a zip bomb"))
        else:
            found.files.append((entry.filename, partial(archive.open, entry)))
    found.files.sort(key=lambda file: file[0])
    return found


def classes_of(names: list[str]) -> tuple[list[str], list[int]]:
    """Class names and each file's class, if every file lies in one of several sub-folders; else two empty lists.

    >>> classes_of(["cat/1.png", "cat/2.png", "dog/1.png"])
    (['cat', 'dog'], [0, 0, 1])
    >>> classes_of(["cat/1.png", "2.png"])
    ([], [])
    """
    parts = [PurePosixPath(name).parts for name in names]
    while parts and all(len(p) > 2 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]  # one folder round everything
    tops = sorted({p[0] for p in parts if len(p) > 1})
    if len(tops) < 2 or any(len(p) < 2 for p in parts):
        return [], []
    number = {top: i for i, top in enumerate(tops)}
    return tops, [number[p[0]] for p in parts]


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path | None]:
    """Files by name, each folder once; None for a folder met again."""
    try:
        here = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder} can't be read: {error.strerror or error}") from None
    if (here.st_dev, here.st_ino) in seen:
        yield None
        return
    seen.add((here.st_dev, here.st_ino))
    for entry in entries:
        if _hidden(entry.name):
            continue
        path = Path(entry.path)
        if _is_folder(entry):
            yield from _walk(path, seen)
        else:
            yield path


def _hidden(name: str) -> bool:
    return (name.startswith(".") and name not in (".", "..")) or name == "__MACOSX"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _unopenable(path: Path) -> str:
    try:
        found = path.stat()
    except OSError as error:
        return "a broken link" if path.is_symlink() else (error.strerror or str(error))
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if not found.st_size:
        return "empty (0 bytes)"
    return "" if os.access(path, os.R_OK) else "not readable: permission denied"


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb")
