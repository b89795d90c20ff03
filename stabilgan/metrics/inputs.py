"""What every measure does with the samples it is given: check them, and make them rows of float32 or float64."""

import numpy as np
import torch
from torch import Tensor

_WIDE = (torch.float64, torch.int32, torch.int64)


def features(x: Tensor, name: str = "x", *, least: int = 1) -> Tensor:
    """Turn samples into (N, d) rows that can be measured.

    x: (N, d) features or (N, C, H, W) images (rows of pixels), any real dtype. float16, bfloat16 and small whole
    numbers become float32, int32 and int64 become float64. The device stays. Raises ValueError for fewer than `least`
    samples, for samples without a batch dimension, and for nan or infinity, naming the rows; TypeError for what is no
    tensor of real numbers.

    >>> features(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)).shape
    torch.Size([2, 48])
    """
    if not isinstance(x, Tensor) or x.is_complex():
        given = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} is {given}; expected a tensor of real numbers; torch.from_numpy makes one of an array")
    if x.ndim < 2 or not x[0:1].numel():
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; expected (N, d) features or (N, C, H, W) images, N and d "
            f"at least 1; a list of numbers becomes (N, 1) with {name}[:, None]"
        )
    if len(x) < least:
        raise ValueError(f"{name} has {len(x)} samples; expected at least {least}; draw more of them")
    rows = x.detach().flatten(1)
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.to(torch.float64 if rows.dtype in _WIDE else torch.float32)
    # the sum is finite unless a row is not, or the sum itself overflows: one quick pass, and a second only if need be
    if not _finite_sum(rows) and not rows.isfinite().all():
        bad = (~rows.isfinite().all(1)).nonzero().flatten()
        raise ValueError(
            f"{name} has nan or infinity in {len(bad)} of {len(rows)} rows, "
            f"the first at {bad[:5].tolist()}; leave them out, or treat the model as diverged"
        )
    return rows


def _finite_sum(rows: Tensor) -> bool:
    if rows.device.type != "cpu":
        return bool(rows.sum().isfinite())
    with np.errstate(over="ignore", invalid="ignore"):  # by one thread: torch's others would spin on afterwards
        return bool(np.isfinite(rows.numpy().sum()))


def pair(
    real: Tensor, fake: Tensor, *, least: int = 1, names: tuple[str, str] = ("real", "fake")
) -> tuple[Tensor, Tensor]:
    """`features` of real and fake samples that are to be compared: one width, one device, one dtype."""
    x, y = (features(rows, name, least=least) for rows, name in zip((real, fake), names, strict=True))
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} has {x.shape[1]} columns and {names[1]} {y.shape[1]}; expected features of one kind"
        )
    if x.device != y.device:
        raise ValueError(f"{names[0]} is on {x.device} and {names[1]} on {y.device}; move one of them with .to(device)")
    dtype = torch.promote_types(x.dtype, y.dtype)
    return x.to(dtype), y.to(dtype)
