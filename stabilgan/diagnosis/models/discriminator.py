"""A discriminator to ask for its scores, with what its last layer says about them."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stabilgan import host
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import sniff
from stabilgan.diagnosis.models.generator import set_mode
from stabilgan.diagnosis.models.latent import Watched
from stabilgan.diagnosis.models.targets import Target, first_tensor, quietly, resolve
from stabilgan.diagnosis.models.weights import load_weights


def load_discriminator(
    target: str | PathLike[str] | nn.Module | Callable[..., Any],
    weights: str | PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Discriminator:
    """A discriminator from code, with its weights, or from a program file; as `load_generator`."""
    where = torch.device(device)
    found = resolve(str(target) if isinstance(target, PathLike) else target, where)
    notes = found.notes
    if weights is not None:
        if found.module is None or found.frozen:
            raise InputError(f"weights {weights} can't be loaded into {target}: it is a program or a function as it is")
        notes += load_weights(found.module, Path(weights))
    if found.module is not None:
        found.module.to(where)
        set_mode(found.module, False)
    return Discriminator(found, where, notes)


class Discriminator:
    """A discriminator that can be asked.

    Attributes:
        module: the network, or None for a function or an ONNX file.
        probabilities: it ends in a sigmoid, so its scores lie in [0, 1]; None until it has been asked.
        notes: what was found.
        device: where it runs.
    """

    def __init__(self, target: Target, device: torch.device, notes: tuple[str, ...]) -> None:
        self._call, self.module, self.device, self.notes = target.call, target.module, device, notes
        self.probabilities: bool | None = None
        self._flat: bool | None = None

    def judge(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n,) scores of samples as the generator puts them out, in one batch; gradients flow where they are on.

        Scores of patches are averaged. Rows are flattened where it takes them so.

        Raises:
            InputError: it takes samples of another shape; with what it said.
        """
        x = x.to(self.device)
        if self._flat is None:
            self._flat = self._finds_flat(x, labels)
        out = self._ask(x.flatten(1) if self._flat else x, labels)
        return out.flatten(1).mean(1) if out.ndim > 1 else out

    def score(self, x: Tensor, labels: Tensor | None = None, *, batch: int = 250) -> Tensor:
        """(n,) scores on the CPU, without gradients, in batches."""
        parts = []
        for start in range(0, len(x), batch):
            rows = slice(start, start + batch)
            with torch.no_grad():
                parts.append(self.judge(x[rows], None if labels is None else labels[rows]).float().cpu())
        return torch.cat(parts) if parts else torch.empty(0)

    def _ask(self, x: Tensor, labels: Tensor | None) -> Tensor:
        try:
            with host.unnoticed(self.device, seed=0), quietly():
                out = first_tensor(self._call(x) if labels is None else self._call(x, labels.to(self.device)))
        except Exception as error:  # a user's model may raise anything
            raise InputError(
                f"the discriminator raised {type(error).__name__} for samples of shape {tuple(x.shape)}: "
                f"{sniff.one_line(error)}"
            ) from error
        if out is None or (out.ndim and len(out) != len(x)) or not out.ndim:
            shape = None if out is None else tuple(out.shape)
            raise InputError(f"the discriminator put out {shape} for {len(x)} samples; expected a score for each")
        return out

    def _finds_flat(self, x: Tensor, labels: Tensor | None) -> bool:
        """Whether it takes rows; the samples as they are, if these work."""
        few = x[:2].detach()
        some = None if labels is None else labels[:2]
        watch = Watched(self.module)
        with torch.no_grad():
            try:
                with watch:
                    self._ask(few, some)
                flat = False
            except InputError:
                if few.ndim == 2:
                    raise
                with watch:
                    self._ask(few.flatten(1), some)
                flat = True
        self.probabilities = watch.scale() == (0.0, 1.0)
        return flat
