"""Files for tests to read: images, arrays, and such as run code where they are loaded without care."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image


class Payload:
    """A pickle of this creates a file at `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def noise(n: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def folder_of(
    path: Path, n: int = 12, size: tuple[int, int] = (8, 6), colour: bool = True, ending: str = ".png"
) -> Path:
    """A folder of n random images, `size` is width by height."""
    path.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if colour else (size[1], size[0])
    for i, pixels in enumerate(noise(n, *shape)):
        Image.fromarray(pixels).save(path / f"{i:03}{ending}")
    return path


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
