"""A folder or zip archive of images as samples: headers first, then pixels, in threads, in the order of names."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import decode, folder, memory, sniff
from stabilgan.diagnosis.inputs.decode import Header, Opener, Unusable
from stabilgan.diagnosis.inputs.samples import Progress, Samples
from stabilgan.diagnosis.inputs.subset import chosen

T = TypeVar("T")


def read(
    path: Path,
    *,
    strict: bool = False,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Samples:
    """Every image under `path`, which is a folder or a zip archive.

    Images of several sizes are brought to the commonest one; grey ones are tripled where others are in colour. Files
    that can't be used are left out, each with its reason.

    Args:
        strict: anything left out or resized is an InputError instead.
        limit: at most so many files, drawn by `seed`.
        size: height and width to bring all images to, instead of the commonest.
        progress: called with "headers", then with "images".
    """
    found = folder.in_folder(path) if path.is_dir() else folder.in_zip(path)
    names = [name for name, _ in found.files]
    if not names and not found.skipped:
        raise InputError(_nothing(path, found.others))
    rows, notes = chosen(len(names), limit, seed, "images")
    files = [found.files[i] for i in rows]

    from PIL import Image

    Image.init()  # here, since threads would get in each other's way
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound is checked in decode
        warnings.simplefilter("ignore", UserWarning)  # Pillow's on odd metadata
        headers, bad = _attempt(files, lambda _, opener: decode.header(opener), "headers", progress)
        usable = [i for i, h in enumerate(headers) if h is not None]
        if not usable:
            raise InputError(_unusable(path, found.skipped + bad))
        good = [h for h in headers if h is not None]
        height, width = size or _commonest(good)
        channels = 1 if all(h.grey for h in good) else 3
        memory.check(
            5 * len(good) * channels * height * width,
            f"{len(good):,} images of {width} x {height} from {path}",
            "take fewer with limit, or smaller ones with :size=64 behind the path",
        )
        out = torch.empty(len(good), channels, height, width, dtype=torch.uint8)

        def fill(row: int, opener: Opener) -> bool:
            out[row] = torch.from_numpy(np.array(decode.pixels(opener, (width, height), channels)))
            return True

        done, broken = _attempt([files[i] for i in usable], fill, "images", progress)
    keep = [row for row, ok in enumerate(done) if ok]
    skipped = sorted(found.skipped + bad + broken)
    if not keep:
        raise InputError(_unusable(path, skipped))
    if strict and skipped:
        raise InputError(f"{path}: {_many(len(skipped), 'file')} can't be used (strict): {_listed(skipped)}")

    kept = [good[row] for row in keep]
    kept_names = [files[usable[row]][0] for row in keep]
    notes += _notes(kept, (width, height), channels, size is not None)
    if strict and size is None and len({h.size for h in kept}) > 1:
        raise InputError(f"{path}: images of several sizes (strict): {_sizes(kept)}; bring them to one size")
    if found.others:
        notes.append(f"other files left aside: {_endings(found.others)}")
    if skipped:
        notes.append(f"{_many(len(skipped), 'file')} of {len(skipped) + len(keep)} left out: {_listed(skipped)}")
    classes, labels = folder.classes_of(kept_names)
    if classes:
        notes.append(f"{len(classes)} classes, by the names of sub-folders")
    x = (out if len(keep) == len(out) else out[keep]).float().div_(255)
    return Samples(
        x,
        "images",
        str(path),
        tuple(kept_names),
        torch.tensor(labels) if classes else None,
        tuple(found.notes + notes),
        tuple(skipped),
        tuple(classes),
        scale=(0.0, 255.0),
        whole=True,
    )


def _attempt(
    files: list[tuple[str, Opener]], work: Callable[[int, Opener], T], what: str, progress: Progress | None
) -> tuple[list[T | None], list[tuple[str, str]]]:
    """Results in the order of `files`, None where a file is unusable; and those files with reasons."""

    def one(i: int) -> T | Unusable:
        try:
            return work(i, files[i][1])
        except Unusable as reason:
            return reason
        except Exception as error:  # what opens a file, or reads it out of an archive, may fail in any way
            return Unusable(f"can't be read ({sniff.one_line(error, 90)})")

    results: list[T | None] = []
    bad: list[tuple[str, str]] = []
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool:
        for i, result in enumerate(pool.map(one, range(len(files)))):
            if isinstance(result, Unusable):
                bad.append((files[i][0], str(result)))
                results.append(None)
            else:
                results.append(result)
            if progress and (i % 100 == 99 or i + 1 == len(files)):
                progress(what, i + 1, len(files))
    return results, bad


def _commonest(headers: list[Header]) -> tuple[int, int]:
    """Height and width that most images have; of several, the smallest."""
    counts = Counter(h.size for h in headers)
    width, height = min(counts, key=lambda s: (-counts[s], s[0] * s[1], s))
    return height, width


def _notes(headers: list[Header], size: tuple[int, int], channels: int, asked: bool) -> list[str]:
    notes = []
    others = sum(h.size != size for h in headers)
    if others:
        why = "as asked" if asked else f"the commonest of {_sizes(headers)}"
        notes.append(f"{_many(others, 'image')} resized to {size[0]} x {size[1]}, {why} (bicubic)")
    grey = sum(h.grey for h in headers)
    if channels == 3 and grey:
        notes.append(f"{grey} grey images among {len(headers)}: tripled to three channels")
    if channels == 1:
        notes.append("all images are grey: one channel")
    peculiar = Counter(word for h in headers for word in h.peculiar)
    notes += [f"{_many(count, 'image')} with {word}" for word, count in sorted(peculiar.items())]
    return notes


def _sizes(headers: list[Header]) -> str:
    counts = Counter(h.size for h in headers).most_common()
    text = ", ".join(f"{w} x {h} ({n})" for (w, h), n in counts[:3])
    return text if len(counts) <= 3 else f"{text} and {len(counts) - 3} more sizes"


def _nothing(path: Path, others: Counter[str]) -> str:
    looked = f"looked in all sub-folders for {', '.join(decode.ENDINGS)}"
    holds = f"it holds {_endings(others)}" if others else "it is empty"
    arrays = sorted(set(others) & {".npy", ".npz", ".pt", ".safetensors", ".csv", ".parquet"})
    hint = f"; to read a {arrays[0]} file, name the file itself" if arrays else ""
    return f"no images in {path}: {looked}; {holds}{hint}"


def _unusable(path: Path, skipped: list[tuple[str, str]]) -> str:
    return f"{path}: none of its {_many(len(skipped), 'image file')} can be used: {_listed(skipped)}"


def _listed(skipped: list[tuple[str, str]]) -> str:
    text = "; ".join(f"{name}: {why}" for name, why in skipped[:3])
    return text if len(skipped) <= 3 else f"{text}; and {len(skipped) - 3} more"


def _endings(others: Counter[str]) -> str:
    return ", ".join(f"{n} {ending}" for ending, n in others.most_common(4)) + (
        " and others" if len(others) > 4 else ""
    )


def _many(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n:,} {what}s"
