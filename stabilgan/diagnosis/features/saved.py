"""Files of features: written with the content they belong to, read as numbers alone and checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from stabilgan.diagnosis.features.content import content_hash
from stabilgan.diagnosis.features.result import Features
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import Samples, arrays

HASHES = ("hash_real", "hash_fake")


def save(path: Path, features: Features, real: Samples, fake: Samples) -> None:
    """Writes an .npz of `real` and `fake`, the classifier's labels where there are any, and the samples' hashes.

    Raises:
        InputError: the path can't be written, or has another ending.
    """
    if path.suffix.lower() != ".npz":
        raise InputError(f"features are saved as .npz; got {path}")
    made = {"real": features.real.cpu().numpy(), "fake": features.fake.cpu().numpy()}
    for name, labels in (("labels_real", features.labels_real), ("labels_fake", features.labels_fake)):
        if labels is not None:
            made[name] = labels.cpu().numpy()
    for name, samples in zip(HASHES, (real, fake), strict=True):
        made[name] = np.frombuffer(bytes.fromhex(content_hash(samples.x)), dtype=np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **made)
    except OSError as error:
        raise InputError(f"features can't be saved to {path}: {error.strerror or error}") from None


def load(text: str, real: Samples, fake: Samples) -> Features:
    """Features from `file.npz`, which `save` wrote, or from two files, `real.npz,fake.npz`.

    Raises:
        InputError: they are damaged, of other samples, of unequal widths, or not finite where the samples are.
    """
    paths = [Path(part) for part in text.split(",")]
    if len(paths) > 2 or not text:
        raise InputError(f"features are file:{text}; expected file:saved.npz or file:real.npz,fake.npz")
    notes = [f"features read from {' and '.join(map(str, paths))}"]
    if len(paths) == 1:
        blocks = {b.name: b for b in arrays.open_file(paths[0])}
        if not {"real", "fake"} <= set(blocks):
            raise InputError(
                f"{paths[0]} has {', '.join(blocks) or 'one array'}; expected 'real' and 'fake', or two files"
            )
        for name, samples in zip(HASHES, (real, fake), strict=True):
            if name not in blocks:
                notes.append(f"it does not say of which samples: no {name}")
            elif _bytes(blocks[name]) != bytes.fromhex(content_hash(samples.x)):
                raise InputError(f"{paths[0]} has features of other samples than {samples.source} ({name} differs)")
        labels = [_labels(blocks.get(name)) for name in ("labels_real", "labels_fake")]
    else:
        blocks = {
            name: arrays.pick(arrays.open_file(path), None, str(path))
            for name, path in zip(("real", "fake"), paths, strict=True)
        }
        labels = [None, None]
    x, y = _rows(blocks["real"], real, str(paths[0])), _rows(blocks["fake"], fake, str(paths[-1]))
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"{text} has {x.shape[1]} columns for the reals and {y.shape[1]} for the fakes; expected the same"
        )
    return Features(x, y, f"file:{text}", tuple(notes), labels[0], labels[1])


def _bytes(block: arrays.Block) -> bytes:
    if len(block.shape) != 1 or block.shape[0] > 64 or block.dtype != "uint8":
        return b""
    return bytes(block.read(slice(0, None)).tolist())


def _labels(block: arrays.Block | None) -> Tensor | None:
    return None if block is None or not block.whole else block.read(slice(0, None)).long()


def _rows(block: arrays.Block, samples: Samples, where: str) -> Tensor:
    if len(block.shape) != 2 or block.shape[0] != len(samples) or not block.shape[1]:
        raise InputError(
            f"{where} has features of shape {block.shape} for the {len(samples):,} samples of {samples.source}; "
            "expected a row for each"
        )
    x = block.read(slice(0, None)).float()
    bad = ~x.isfinite().all(1) & samples.x.flatten(1).isfinite().all(1)
    if bad.any():
        rows = bad.nonzero().flatten()[:5].tolist()
        raise InputError(f"{where} has nan or infinity in {int(bad.sum()):,} rows, the first at {rows}; make it anew")
    return x
