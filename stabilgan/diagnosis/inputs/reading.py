"""`load`: what a user names - a folder, a file, a data set, a tensor - as samples, or one line that says why not."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import arrays, datasets, decode, images, layout, sniff, tables
from stabilgan.diagnosis.inputs.samples import Kind, Progress, Samples
from stabilgan.diagnosis.inputs.subset import chosen
from stabilgan.spec import unknown

MINIMUM = 10
"""Fewer samples than this have neither a spread nor nearest neighbours worth the name."""
TABLES = (".csv", ".tsv", ".parquet", ".pq")
OPTIONS = ("key", "labels", "kind", "range", "size")
READS = (
    "a folder or zip archive of images, .npy, .npz, .pt, .safetensors, .csv, .parquet, or a data set by name "
    f"({', '.join(datasets.DATASETS)})"
)
Labels = str | Tensor | Sequence[int] | None


def load(
    spec: str | os.PathLike[str] | Tensor | NDArray[Any],
    *,
    strict: bool = False,
    limit: int | None = None,
    labels: Labels = None,
    like: Samples | None = None,
    allow_nonfinite: bool = False,
    kind: Kind | None = None,
    scale: tuple[float, float] | None = None,
    least: int = MINIMUM,
    seed: int = 0,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Samples:
    """Reads samples; nothing in a file is ever run.

    Args:
        spec: a path, a data set's name (`mnist`, `cifar10:test`), a tensor or an array. A path may carry options behind
            colons: `key=` (the array in a file of several), `labels=` (the array or column of labels), `kind=` (images,
            features, points, table), `range=-1,1` and `size=64` (of images).
        strict: files or rows that can't be used, and images of several sizes, are an InputError instead of being left
            out or resized.
        limit: at most so many samples, drawn by `seed`.
        labels: the labels themselves, or the name of the array or column that has them.
        like: samples that these are to be compared with, which settle what is open: range, image size, kind.
        allow_nonfinite: keep rows with nan or infinity, and name them in `Samples.nonfinite`, instead of an InputError.
        kind, scale: what the numbers are and the two values that stand for black and white, where they are known.
        least: an InputError if there are fewer samples.
        data_dir: where data sets lie, beside $STABILGAN_DATA.
        progress: called as `progress(what, done, total)`.

    Raises:
        InputError: one line that says what was given, what was expected and what to do.

    >>> load(torch.zeros(10, 3, 8, 8, dtype=torch.uint8)).kind
    'images'
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1")
    made = _load(
        spec,
        strict=strict,
        limit=limit,
        labels=labels,
        like=like,
        allow_nonfinite=allow_nonfinite,
        kind=kind,
        scale=scale,
        seed=seed,
        data_dir=data_dir,
        progress=progress,
    )
    if len(made) < least:
        left = f" ({len(made.skipped)} left out: {made.skipped[0][0]}: {made.skipped[0][1]})" if made.skipped else ""
        raise InputError(
            f"{made.source} has {len(made)} sample{'s' * (len(made) != 1)}{left}; expected at least {least}: fewer "
            "have neither a spread nor nearest neighbours to measure"
        )
    return made


def _load(
    spec: str | os.PathLike[str] | Tensor | NDArray[Any],
    *,
    strict: bool,
    limit: int | None,
    labels: Labels,
    like: Samples | None,
    allow_nonfinite: bool,
    kind: Kind | None,
    scale: tuple[float, float] | None,
    seed: int,
    data_dir: Path | None,
    progress: Progress | None,
) -> Samples:
    def of_block(block: arrays.Block, source: str, kind: Kind | None = kind) -> Samples:
        return layout.to_samples(
            block,
            source,
            kind=kind,
            scale=scale,
            like=like,
            limit=limit,
            seed=seed,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
        )

    def labelled(made: Samples, given: Labels) -> Samples:
        return _labelled(made, given, limit, seed)

    if isinstance(spec, Tensor):
        return labelled(of_block(arrays.of_tensor(spec, "the tensor"), "the tensor"), labels)
    if isinstance(spec, np.ndarray):
        return labelled(of_block(arrays.of_array(spec, "the array"), "the array"), labels)
    if not isinstance(spec, (str, os.PathLike)):
        raise InputError(f"samples are a {type(spec).__name__}; expected a path, a tensor or {READS}")
    text = os.fspath(spec)
    if not text:
        raise InputError(f"a path is missing; expected {READS}")
    path, options = _options(text)
    kind, scale = kind or options.kind, scale or options.scale
    labels = labels if labels is not None else options.labels
    if not _exists(path) and datasets.is_name(str(path)):
        data, targets, classes, what = datasets.read(str(path), data_dir)
        made = of_block(arrays.of_tensor(data), str(path), "images")
        made = replace(made, classes=classes, notes=(what, *made.notes))
        return labelled(made, targets if labels is None else labels)
    if not _exists(path):
        raise InputError(_absent(path))
    ending = path.suffix.lower()
    if path.is_dir() or ending == ".zip":
        made = images.read(path, strict=strict, limit=limit, size=options.size, seed=seed, progress=progress)
        return made if labels is None else _label_images(made, labels)
    if ending in TABLES:
        column = labels if isinstance(labels, str) else None
        made = (tables.read_csv if ending in (".csv", ".tsv") else tables.read_parquet)(
            path,
            strict=strict,
            limit=limit,
            labels=column,
            kind=kind,
            seed=seed,
            allow_nonfinite=allow_nonfinite,
            progress=progress,
        )
        return made if column is not None else labelled(made, labels)
    if ending not in arrays.ENDINGS:
        raise InputError(_unreadable(path))
    blocks = arrays.open_file(path)
    main = arrays.pick(blocks, options.key, str(path))
    made = of_block(main, str(path), kind)
    if len(blocks) > 1:
        made = replace(made, notes=(f"array {main.name!r} of {len(blocks)} taken", *made.notes))
    if labels is not None and not isinstance(labels, str):
        return labelled(made, labels)
    beside = arrays.pick_labels(blocks, labels, main, str(path))
    if beside is None:
        return made
    made = replace(made, notes=(*made.notes, f"labels from {beside.name!r}"))
    return labelled(made, beside.read(slice(0, None)).flatten())


def _label_images(made: Samples, labels: Labels) -> Samples:
    if labels == "folders" and made.labels is not None:
        return made
    raise InputError(
        f"{made.source}: labels of images are the names of their sub-folders; put every image into the sub-folder of "
        "its class, or give the images as an array with labels beside them"
    )


def _labelled(made: Samples, labels: Labels, limit: int | None, seed: int) -> Samples:
    """The samples with these labels, of which rows were drawn as of the samples."""
    if labels is None:
        return made
    if isinstance(labels, str):
        raise InputError(f"labels are {labels!r}; {made.source} has no array of that name; expected a tensor of them")
    y = torch.as_tensor(labels).flatten().cpu()
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or (y.numel() and y.min() < 0):
        raise InputError(
            f"labels are {y.dtype} from {y.min().item() if y.numel() else 'nothing'}; expected 0, 1, 2, ..."
        )
    rows, _ = chosen(len(y), limit, seed, "labels")
    if len(rows) != len(made):
        raise InputError(
            f"there are {len(y):,} labels for {len(made):,} samples of {made.source}; expected one for each"
        )
    return replace(made, labels=y[rows].long())


class Options(NamedTuple):
    """What rides on colons behind a path."""

    key: str | None = None
    labels: str | None = None
    kind: Kind | None = None
    scale: tuple[float, float] | None = None
    size: tuple[int, int] | None = None


def _options(text: str) -> tuple[Path, Options]:
    """A path and the options behind it; a file whose name holds such colons is itself."""
    path = Path(text)
    if _exists(path):
        return path, Options()
    bare = re.sub(r"(:[A-Za-z_]+=[^:]*)+$", "", text)
    given = dict(part.split("=", 1) for part in text[len(bare) :].split(":")[1:])
    for name in given:
        if name not in OPTIONS:
            raise InputError(f"{text}: {unknown('option', name, OPTIONS)}")
    kind = given.get("kind")
    if kind is not None and kind not in get_args(Kind):
        raise InputError(f"{text}: {unknown('kind', kind, get_args(Kind))}")
    return Path(bare), Options(
        given.get("key"),
        given.get("labels"),
        cast(Kind | None, kind),
        _range(given["range"], text) if "range" in given else None,
        _size(given["size"], text) if "size" in given else None,
    )


def _range(given: str, text: str) -> tuple[float, float]:
    try:
        low, high = map(float, given.split(","))
    except ValueError:
        low = high = 0.0
    if not -math.inf < low < high < math.inf:
        raise InputError(f"{text}: range is {given!r}; expected two numbers that stand for black and white, range=-1,1")
    return low, high


def _size(given: str, text: str) -> tuple[int, int]:
    parts = given.lower().split("x")
    if not 1 <= len(parts) <= 2 or not all(p.isdecimal() and 1 <= int(p) <= 4096 for p in parts):
        raise InputError(f"{text}: size is {given!r}; expected pixels, size=64, or height by width, size=64x48")
    return int(parts[0]), int(parts[-1])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a zero byte in it
        return False


def _absent(path: Path) -> str:
    if os.path.islink(path):
        return f"{path} is a link to what doesn't exist, or to itself"
    if re.fullmatch(r"[A-Za-z0-9_-]{2,20}(:[a-z]+)?", str(path)):
        return f"there is no file or folder {path}, and {unknown('data set', str(path), datasets.DATASETS)}"
    near = difflib.get_close_matches(path.name, _beside(path), n=1)
    return f"there is no file or folder {path}" + (f"; did you mean {path.with_name(near[0])}?" if near else "")


def _beside(path: Path) -> list[str]:
    try:
        return os.listdir(path.parent)
    except OSError:
        return []


def _unreadable(path: Path) -> str:
    ending, what = path.suffix.lower(), sniff.described(sniff.head_of(path))
    if ending in decode.ENDINGS:
        return f"{path} is a single image; expected a folder of images"
    if ending in (".pkl", ".pickle") or "pickle" in what:
        return f"{path} is a pickle, and loading one runs the code in it; not loaded; {arrays.PLAIN}"
    return f"{path}{f', {what},' if what else ''} can't be read; expected {READS}"
