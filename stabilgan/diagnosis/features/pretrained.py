"""Where weights of well-known networks lie: a folder the user names, or torch's own; nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import arrays, sniff


def find(names: tuple[str, ...], weights_dir: Path | None, what: str, source: str) -> Path:
    """The first file of these names, in `weights_dir` or in torch's own folder of checkpoints.

    Args:
        what: the extractor, for the message.
        source: where its authors give the file out.
    """
    roots = [r for r in (weights_dir, Path(torch.hub.get_dir()) / "checkpoints") if r is not None]
    for root in roots:
        for name in names:
            if (root / name).is_file():
                return root / name
    raise InputError(
        f"features {what!r} need a file of weights, {' or '.join(names[:3])}, and none of {', '.join(map(str, roots))} "
        f"has it; get it from {source} and name its folder with --weights-dir; or take 'edges' or 'classifier'"
    )


def state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of weights, by safetensors or `weights_only=True`."""
    if path.suffix.lower() == ".safetensors":
        return {b.name: b.read(slice(0, None)) for b in arrays.open_file(path)}
    found: Any = arrays.load_torch(path)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()) or not found:
        raise InputError(f"{path} holds no state dict; expected names and tensors")
    return {str(k): v for k, v in found.items()}


def fill(net: torch.nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Loads every weight, or says in one line what doesn't fit."""
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path} doesn't fit: {sniff.one_line(error, 240)}") from None
    bad = [k for k, v in weights.items() if not v.isfinite().all()]
    if bad:
        raise InputError(f"{path} has nan or infinity in {bad[0]}; get the file anew")
