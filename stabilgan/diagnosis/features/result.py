"""Features of reals and fakes, side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Features:
    """Reals and fakes in one space.

    Attributes:
        real, fake: (N, d) and (M, d) float32. Rows of samples that are not finite are nan.
        name: of the extractor.
        notes: which one it is, why, and what was done.
        labels_real, labels_fake: what a classifier takes each sample for, -1 where it is less than half sure; None
            where there is no classifier to be trusted.
        classes: how many it knows.
        accuracy: of the classifier, on reals that it was not trained on.
        device: where the features are.
    """

    real: Tensor
    fake: Tensor
    name: str
    notes: tuple[str, ...] = ()
    labels_real: Tensor | None = None
    labels_fake: Tensor | None = None
    classes: int | None = None
    accuracy: float | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
