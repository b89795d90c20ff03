"""torchvision's data sets by name, from a folder where they lie already; nothing is fetched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import sniff
from stabilgan.workloads.digits import cache_dir


class Known(NamedTuple):
    """A data set: torchvision's class, its parts and their words, and what has to lie where."""

    cls: str
    splits: dict[str, dict[str, Any]]
    files: str


_TRAIN: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_SPLIT: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_IDX = "raw/ with train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"

DATASETS: dict[str, Known] = {
    "mnist": Known("MNIST", _TRAIN, f"MNIST/{_IDX}"),
    "fashion-mnist": Known("FashionMNIST", _TRAIN, f"FashionMNIST/{_IDX}"),
    "kmnist": Known("KMNIST", _TRAIN, f"KMNIST/{_IDX}"),
    "cifar10": Known("CIFAR10", _TRAIN, "cifar-10-batches-py/, the unpacked python version"),
    "cifar100": Known("CIFAR100", _TRAIN, "cifar-100-python/, the unpacked python version"),
    "svhn": Known("SVHN", _SPLIT, "train_32x32.mat and test_32x32.mat"),
    "stl10": Known("STL10", _SPLIT, "stl10_binary/, unpacked"),
}
"""Every data set by its name here."""


def is_name(text: str) -> bool:
    """Whether `name` or `name:split` names a data set."""
    return text.partition(":")[0].lower() in DATASETS


def read(text: str, data_dir: Path | None = None) -> tuple[Tensor, Tensor, tuple[str, ...], str]:
    """Images (uint8, as stored), labels, class names, and which part it is, in words.

    Looked for in `data_dir`, $STABILGAN_DATA and the cache. CIFAR's files are pickles, which torchvision reads only if
    their checksums are the published ones.

    Raises:
        InputError: no such part, the files are in none of these folders, or they are damaged.
    """
    name, _, split = text.lower().partition(":")
    known = DATASETS[name]
    split = split or "train"
    if split not in known.splits:
        raise InputError(f"{name} has no part {split!r}; expected {' or '.join(f'{name}:{s}' for s in known.splits)}")
    from torchvision import datasets

    kind = getattr(datasets, known.cls)
    env = os.environ.get("STABILGAN_DATA")
    roots = [r for r in (data_dir, Path(env) if env else None, cache_dir() / "data") if r is not None]
    said = ""
    for root in roots:
        try:
            found = kind(root, download=False, **known.splits[split])
        except Exception as error:  # RuntimeError for "not found", anything for damaged files
            if "not found" not in str(error) and not said:
                said = f"; {root}: {sniff.one_line(error, 90)}"
            continue
        data = found.data if isinstance(found.data, Tensor) else torch.from_numpy(np.ascontiguousarray(found.data))
        targets = found.targets if hasattr(found, "targets") else found.labels
        labels = torch.as_tensor(np.asarray(targets), dtype=torch.int64)
        classes = tuple(map(str, getattr(found, "classes", ()) or ()))
        return (
            data,
            labels,
            classes,
            f"{name}: the {len(data):,} images of its {split} part ({', '.join(_also(name, split))})",
        )
    raise InputError(
        f"{name} is in none of {', '.join(map(str, roots))}{said}; put {known.files} there, or name the folder that "
        "has it with --data-dir or STABILGAN_DATA; nothing is fetched from a network"
    )


def _also(name: str, split: str) -> list[str]:
    return [f"{name}:{other} has the others" for other in DATASETS[name].splits if other != split]
