"""TensorBoard: the scalars of event files, by TensorBoard's own reader."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.log.tables import Rows


def is_events(path: Path) -> bool:
    """Whether this is an event file, by its name."""
    return "tfevents" in path.name


def event_files(folder: Path) -> list[Path]:
    """Event files in a folder and below, in order of their paths."""
    return sorted(p for p in folder.rglob("*tfevents*") if p.is_file())


def read_events(files: list[Path], root: Path, rows: Rows) -> list[tuple[str, str]]:
    """Puts the scalars of all files into a store. Returns what was skipped, with reasons.

    Raises:
        InputError: TensorBoard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ImportError:
        raise InputError(
            f"{root} holds TensorBoard event files, and reading them takes tensorboard; pip install tensorboard"
        ) from None
    skipped: list[tuple[str, str]] = []
    for path in files:
        count = 0
        try:
            for event in EventFileLoader(str(path)).Load():
                for tag, value in _scalars(event):
                    count += 1
                    rows.put({"step": float(event.step), _named(tag, path, root): value})
        # TensorBoard's reader raises its own errors for damaged records, of several kinds.
        except Exception as error:
            skipped.append((str(path), f"damaged after {count} values: {type(error).__name__}"))
    return skipped


def _named(tag: str, path: Path, root: Path) -> str:
    """`add_scalars` writes each curve to a folder of its own, under one tag: then the folder is part of the name."""
    folder = path.parent
    if folder != root and root.is_dir() and tag.replace("/", "_") in folder.name:
        return folder.name
    return tag


def _scalars(event: Any) -> Iterator[tuple[str, float]]:
    for value in event.summary.value:
        kind = value.WhichOneof("value")
        if kind == "simple_value":
            yield value.tag, float(value.simple_value)
        elif kind == "tensor" and not value.tensor.tensor_shape.dim:
            tensor = value.tensor
            if tensor.float_val:
                yield value.tag, float(tensor.float_val[0])
            elif tensor.double_val:
                yield value.tag, float(tensor.double_val[0])
            elif tensor.dtype == 1 and len(tensor.tensor_content) == 4:
                yield value.tag, float(struct.unpack("<f", tensor.tensor_content)[0])
