"""What every input becomes: samples as one tensor, with where they come from and what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Kind = Literal["images", "features", "points", "table"]
Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` while something long goes on."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of one origin.

    Attributes:
        x: (N, C, H, W) float32 in [0, 1] for images, (N, d) float32 for the rest.
        kind: "images"; "points" of one to three coordinates; "table" of columns in units of their own; "features".
        source: what they were read from.
        names: the file or row that each sample comes from.
        labels: (N,) whole numbers from 0, or None where none are known.
        notes: what was found, taken for granted or converted; a line each.
        skipped: files or rows that were left out, each with the reason.
        classes: the names of the labels, by number; empty where they have none.
        columns: the names of a table's columns; one for each value of a category, `sex=male`.
        scale: the two values that became 0 and 1 of an image.
        whole: the values were whole numbers, such as bytes.
        outside: the share of an image's values that lay outside `scale` and were cut.
        nonfinite: rows with nan or infinity in them, where they were asked for.
    """

    x: Tensor
    kind: Kind
    source: str
    names: tuple[str, ...]
    labels: Tensor | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None
    whole: bool = False
    outside: float = 0.0
    nonfinite: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.x)
