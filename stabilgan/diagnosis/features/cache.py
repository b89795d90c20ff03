"""What was computed once, kept by content: arrays in .npz and weights in .safetensors, checked before they are used.

A file of the cache is somebody's file like any other: it is never unpickled, and one that isn't what its name says is
made anew, with a note.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import arrays
from stabilgan.workloads.digits import cache_dir

MOST_BYTES = 1 << 29
"""Features that take more are not kept."""
MOST_WIDE = 1 << 14


def kept_features(name: str, key: str, finite: Tensor) -> tuple[Tensor | None, str]:
    """The features kept under `key`, (n, d), or None; and a note if a file had to be refused.

    Args:
        finite: (n,) which samples are, and so their features.
    """
    path, n = _place(name, key, ".npz"), len(finite)
    if not path.exists():
        return None, ""
    try:
        blocks = {b.name: b for b in arrays.open_file(path)}
        rows, mark = blocks["features"], blocks["key"]
        fits = (
            rows.dtype == "float32" and len(rows.shape) == 2 and rows.shape[0] == n and 0 < rows.shape[1] <= MOST_WIDE
        )
        fits &= set(blocks) == {"features", "key"} and mark.shape == (len(key),) and mark.dtype == "uint8"
        if fits and bytes(mark.read(slice(0, None)).tolist()) == key.encode():
            found = rows.read(slice(0, None))
            if bool((found.isfinite().all(1) == finite).all()):
                return found, ""
    except (InputError, KeyError):
        pass
    return None, f"{path} in the cache is not what it should be: nothing in it was used, and it is made anew"


def keep_features(name: str, key: str, found: Tensor) -> None:
    """Keeps them, unless they are large; a cache that can't be written is none."""
    if found.numel() * found.element_size() > MOST_BYTES:
        return
    mark = np.frombuffer(key.encode(), dtype=np.uint8)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, features=found.cpu().numpy(), key=mark)

    _replace(_place(name, key, ".npz"), write)


def kept_weights(name: str, key: str, net: nn.Module) -> tuple[float | None, str]:
    """Fills `net` from the cache and returns the accuracy kept with it, or None; and a note."""
    path = _place(name, key, ".safetensors")
    if not path.exists():
        return None, ""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            shapes = {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118 - no mapping
            if about.get("key") == key and shapes == {k: tuple(v.shape) for k, v in net.state_dict().items()}:
                state = {k: file.get_tensor(k) for k in shapes}
                accuracy = float(about["accuracy"])
                if all(v.isfinite().all() for v in state.values()) and 0 <= accuracy <= 1:
                    net.load_state_dict(state)
                    return accuracy, ""
    except (SafetensorError, OSError, ValueError, KeyError):
        pass
    return None, f"{path} in the cache is not what it should be: nothing in it was used, and it is made anew"


def keep_weights(name: str, key: str, net: nn.Module, accuracy: float) -> None:
    """Keeps a trained network."""
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    about = {"key": key, "accuracy": repr(accuracy)}
    _replace(_place(name, key, ".safetensors"), lambda part: save_file(state, part, about))


def _place(name: str, key: str, ending: str) -> Path:
    return cache_dir() / "features" / f"{name}-{key}{ending}"


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Writes beside it and moves it there, so that no half a file is ever read."""
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except OSError:  # a full or read-only disk costs time, not the answer
        with contextlib.suppress(OSError):
            part.unlink()
