"""A network run over many samples, a batch at a time; rows that are not finite come out as nan."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import Progress

BATCH = 250


@torch.no_grad()
def mapped(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    device: torch.device,
    batch: int = BATCH,
    what: str = "features",
    progress: Progress | None = None,
) -> Tensor:
    """(N, ...) samples to (N, d) float32 on the CPU; the memory on the device is that of a batch."""
    out: Tensor | None = None
    for start in range(0, len(x), batch):
        part = x[start : start + batch].to(device)
        finite = part.flatten(1).isfinite().all(1)
        if not finite.all():
            part = part.nan_to_num(0, 0, 0)
        rows = function(part)
        if rows.ndim < 2 or len(rows) != len(part):
            shape = tuple(rows.shape)
            raise InputError(
                f"the extractor gave shape {shape} for {len(part)} samples; expected (N, d), a row for each"
            )
        rows = rows.flatten(1).float()
        rows[~finite] = torch.nan
        if out is None:
            out = torch.empty(len(x), rows.shape[1])
        out[start : start + len(rows)] = rows.cpu()
        if progress:
            progress(what, min(start + batch, len(x)), len(x))
    assert out is not None
    return out
