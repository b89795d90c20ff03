"""What an array of numbers is: images in which layout and range, features, points; decided, and said in a note."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import memory
from stabilgan.diagnosis.inputs.arrays import Block
from stabilgan.diagnosis.inputs.ranges import Range, found, to_unit
from stabilgan.diagnosis.inputs.samples import Kind, Progress, Samples
from stabilgan.diagnosis.inputs.subset import chosen

CHUNK = 1 << 24
"""Values converted at a time."""
KNOWN_FLAT = {784: (1, 28, 28), 3072: (3, 32, 32)}
"""Lengths of flattened images that are taken as such by themselves: MNIST's and CIFAR's."""


def to_samples(
    block: Block,
    source: str,
    *,
    kind: Kind | None = None,
    scale: tuple[float, float] | None = None,
    like: Samples | None = None,
    limit: int | None = None,
    seed: int = 0,
    allow_nonfinite: bool = False,
    progress: Progress | None = None,
) -> Samples:
    """An array as samples.

    Args:
        block: (N, d), (N, C, H, W), (N, H, W, C) or (N, H, W), of any real dtype.
        kind, scale: what it is, where the caller knows; else found.
        like: samples to be compared with: their kind, image size and range settle what is open.
        limit, seed: at most so many rows, drawn.
        allow_nonfinite: keep rows with nan or infinity and say which, instead of an InputError.
    """
    if not block.shape:
        raise InputError(f"{source} holds a single number; expected (N, d) features or (N, C, H, W) images")
    rows, notes = chosen(block.shape[0], limit, seed, "rows")
    kind, shape, order, told = _reading(block, source, kind, like)
    notes += told
    memory.check(
        4 * len(rows) * math.prod(shape),
        f"{len(rows):,} samples of shape {shape} from {source}",
        "take fewer with limit",
    )
    x = _taken(block, rows, shape, order, progress)
    names = tuple(f"row {i}" for i in rows)
    bad = [rows[i] for i in _nonfinite_rows(x)]
    if bad and not allow_nonfinite:
        raise InputError(
            f"{source} has nan or infinity in {len(bad):,} of {len(rows):,} rows, the first at {bad[:5]}; leave them "
            "out; samples of a model that has diverged are not to be averaged away"
        )
    if bad:
        notes.append(f"nan or infinity in {len(bad):,} of {len(rows):,} rows, the first at {bad[:5]}")
    made = Samples(x, kind, source, names, notes=tuple(notes), whole=block.whole, nonfinite=tuple(bad))
    return _scaled(made, block, scale, like) if kind == "images" else made


def _scaled(made: Samples, block: Block, scale: tuple[float, float] | None, like: Samples | None) -> Samples:
    if scale is not None:
        settled = Range(*scale, f"range [{scale[0]:g}, {scale[1]:g}] as given")
    else:
        settled = found(made.x, block.dtype, like)
    outside = to_unit(made.x, settled)
    notes = (*made.notes, settled.note)
    if outside > 0:
        notes = (*notes, f"{outside:.2%} of the values lie outside [{settled.low:g}, {settled.high:g}] and were cut")
    return replace(made, notes=notes, scale=(settled.low, settled.high), outside=outside)


Order = Callable[[Tensor], Tensor]


def _reading(
    block: Block, source: str, kind: Kind | None, like: Samples | None
) -> tuple[Kind, tuple[int, ...], Order | None, list[str]]:
    """Kind, a sample's shape, how to bring rows into it, and notes."""
    shape, inner = block.shape, block.shape[1:]
    if len(shape) == 1:
        raise InputError(
            f"{source} has shape {shape}, a list of numbers; expected (N, d) features or (N, C, H, W) images; "
            "points on a line are x[:, None]"
        )
    if not math.prod(inner):
        raise InputError(f"{source} has shape {shape}; expected at least one value in each sample")
    if kind is not None and kind != "images":
        flat = math.prod(inner)
        notes = [f"{inner} flattened to {flat} values"] if len(shape) > 2 else []
        return kind, (flat,), (lambda x: x.flatten(1)) if notes else None, notes
    if len(shape) == 2:
        return _flat(block, source, kind, like)
    if len(shape) > 4:
        raise InputError(
            f"{source} has shape {shape}, {len(shape)} dimensions, as videos have; expected (N, C, H, W); single "
            "frames are x.reshape(-1, C, H, W)"
        )
    if len(shape) == 3:
        return (
            "images",
            (1, *inner),
            lambda x: x[:, None],
            [f"(N, H, W) taken as grey images of {inner[1]} x {inner[0]}"],
        )
    return _four(shape, source)


def _flat(
    block: Block, source: str, kind: Kind | None, like: Samples | None
) -> tuple[Kind, tuple[int, ...], Order | None, list[str]]:
    width = block.shape[1]
    image: tuple[int, ...] | None = None
    if like is not None and like.kind == "images" and width == math.prod(like.x.shape[1:]):
        image = tuple(like.x.shape[1:])
    elif like is None and width in KNOWN_FLAT and (kind == "images" or _unit_range(block)):
        image = KNOWN_FLAT[width]
    elif kind == "images":
        image = _square(width, source)
    if image is not None:
        c, h, w = image
        note = f"rows of {width} values taken as images of {c} x {h} x {w} (:kind=features says otherwise)"
        return "images", image, lambda x: x.reshape(-1, *image), [note]
    if like is not None and like.kind != "images":
        return like.kind, (width,), None, []
    return ("points" if width <= 3 else "features"), (width,), None, []


def _square(width: int, source: str) -> tuple[int, ...]:
    for channels in (1, 3):
        side = math.isqrt(width // channels)
        if channels * side * side == width:
            return channels, side, side
    raise InputError(f"{source}: rows of {width} values are no square images; give them as (N, C, H, W)")


def _unit_range(block: Block) -> bool:
    """Whether the first rows hold bytes, or values in a range that images have."""
    if block.dtype == "uint8":
        return True
    x = block.read(slice(0, 256)).float()
    return bool(x.numel()) and bool(x.abs().max() <= 1.05)


def _four(shape: tuple[int, ...], source: str) -> tuple[Kind, tuple[int, ...], Order | None, list[str]]:
    first, last = shape[1] in (1, 2, 3, 4), shape[3] in (1, 2, 3, 4)
    if not first and not last:
        raise InputError(
            f"{source} has shape {shape}; expected images (N, C, H, W) or (N, H, W, C) with 1, 3 or 4 channels; for "
            "features average or flatten them to (N, d), or add :kind=features"
        )
    notes = []
    moved = last and (not first or (shape[3] in (1, 3) and shape[1] not in (1, 3)))
    channels = shape[3] if moved else shape[1]
    height, width = (shape[1], shape[2]) if moved else (shape[2], shape[3])
    if moved:
        notes.append("layout (N, H, W, C) found, turned to (N, C, H, W)")
    keep = {1: 1, 2: 1, 3: 3, 4: 3}[channels]
    if keep != channels:
        notes.append(f"channel {channels} of {channels} taken for alpha and dropped")

    def order(x: Tensor) -> Tensor:
        return (x.movedim(3, 1) if moved else x)[:, :keep]

    return "images", (keep, height, width), order, notes


def _taken(
    block: Block, rows: Sequence[int], shape: tuple[int, ...], order: Order | None, progress: Progress | None
) -> Tensor:
    """The rows as float32, read and brought into order a part at a time."""
    x = torch.empty(len(rows), *shape)
    step = max(1, CHUNK // max(1, math.prod(block.shape[1:])))
    if block.dtype in ("float64", "int64", "float32"):
        step = max(1, step // 2)
    whole = len(rows) == block.shape[0]
    if block.at_once:
        step = max(1, len(rows))
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        wanted: NDArray[np.int64] | slice = (
            slice(start, stop) if whole else np.asarray(rows[start:stop], dtype=np.int64)
        )
        part = block.read(wanted)
        x[start:stop] = order(part) if order else part
        if progress:
            progress("rows", stop, len(rows))
    return x


def _nonfinite_rows(x: Tensor) -> list[int]:
    step = max(1, CHUNK // max(1, math.prod(x.shape[1:])))
    bad: list[int] = []
    for start in range(0, len(x), step):
        wrong = ~x[start : start + step].flatten(1).isfinite().all(1)
        bad += (wrong.nonzero().flatten() + start).tolist()
    return bad
