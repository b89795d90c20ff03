"""A generator to draw from: the same samples for the same seed, in batches, without a trace in torch's generators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stabilgan import host
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import Progress, Samples, load, sniff
from stabilgan.diagnosis.models.latent import Takes, find
from stabilgan.diagnosis.models.targets import Target, first_tensor, quietly, resolve
from stabilgan.diagnosis.models.weights import load_weights


def load_generator(
    target: str | PathLike[str] | nn.Module | Callable[..., Any],
    weights: str | PathLike[str] | None = None,
    *,
    latent: int | Sequence[int] | None = None,
    classes: int | None = None,
    device: str | torch.device = "cpu",
    train: bool = False,
) -> Generator:
    """A generator from code, with its weights, or from a program file.

    Args:
        target: `package.module:callable` or `file.py:callable`, with options behind colons (`file.py:make:width=64`),
            which is run as named and gives a module or a function of latents; a TorchScript (.pt), torch.export (.pt2)
            or ONNX (.onnx) file; a module.
        weights: a state dict, alone or in a checkpoint, as .pt, .pth, .ckpt or .safetensors; nothing in it is run.
        latent: the length or shape of a latent; found where it is not given.
        classes: of a conditional generator; found from its embedding.
        train: leave it in training mode, with its dropout and batch statistics.

    Raises:
        InputError: one line that says what doesn't fit and what to do.
    """
    where = torch.device(device)
    found = resolve(str(target) if isinstance(target, PathLike) else target, where)
    notes = found.notes
    if weights is not None:
        if found.module is None or found.frozen:
            raise InputError(f"weights {weights} can't be loaded into {target}: it is a program or a function as it is")
        notes += load_weights(found.module, Path(weights))
    elif found.module is not None and not found.frozen and not isinstance(target, nn.Module):
        notes += ("no weights given: those that the code built it with",)
    if found.module is not None:
        found.module.to(where)
        set_mode(found.module, train)
    takes = find(found, where, latent=latent, classes=classes)
    return Generator(found, takes, where, notes + takes.notes, train=train)


class Generator:
    """A generator that is ready to be drawn from.

    Attributes:
        module: the network, or None for a function or an ONNX file: no gradients, no layers.
        latent_shape: of one latent.
        classes: how many, where it is conditional; else None.
        scale: the range that its last layer bounds its output to, where that is seen; else None.
        notes: what was found and taken for granted.
        device: where it runs.
    """

    def __init__(
        self, target: Target, takes: Takes, device: torch.device, notes: tuple[str, ...], *, train: bool = False
    ) -> None:
        self._call, self.module, self._takes = target.call, target.module, takes
        self.latent_shape, self.classes, self.scale = takes.latent, takes.classes, takes.scale
        self.device, self.notes, self.train = device, notes, train

    def latents(self, n: int, seed: int) -> Tensor:
        """(n, *latent_shape) from a standard normal distribution, the same for the same seed, on any device."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(n, *self.latent_shape, generator=generator).to(self.device)

    def labels(self, n: int, seed: int) -> Tensor | None:
        """(n,) classes drawn evenly, or None where it takes none."""
        if self.classes is None:
            return None
        generator = torch.Generator().manual_seed(seed + 1)
        return torch.randint(self.classes, (n,), generator=generator).to(self.device)

    def generate(self, z: Tensor, labels: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """Raw samples for these latents, in one batch; gradients flow where there is a module and they are on.

        What the generator draws itself (noise, dropout) comes from `seed`; torch's global generators are left alone,
        and so are the module's buffers.

        Args:
            labels: (n,); None takes class 0 for all where it is conditional.

        Raises:
            InputError: the generator failed; with what it said.
        """
        if labels is None and self.classes is not None:
            labels = torch.zeros(len(z), dtype=torch.int64, device=self.device)
        kept = {k: b.clone() for k, b in self.module.named_buffers()} if self.train and self.module is not None else {}
        try:
            with host.unnoticed(self.device, seed=seed), quietly():
                out = first_tensor(self._call(*self._takes.arguments(z.to(self.device), labels)))
        except Exception as error:  # a user's model may raise anything
            raise InputError(
                f"the generator raised {type(error).__name__} for latents of shape {tuple(z.shape)}: "
                f"{sniff.one_line(error)}"
            ) from error
        finally:
            for name, buffer in self.module.named_buffers() if kept and self.module is not None else ():
                buffer.copy_(kept[name])
        if out is None or out.ndim < 2 or len(out) != len(z):
            shape = None if out is None else tuple(out.shape)
            raise InputError(f"the generator put out {shape} for {len(z)} latents; expected a sample for each")
        return out

    def draw(self, n: int, seed: int = 0, *, batch: int = 250, progress: Progress | None = None) -> Tensor:
        """n raw samples on the CPU, as the generator puts them out, without gradients.

        The same for the same seed and batch; batches bound the memory.
        """
        z, labels = self.latents(n, seed), self.labels(n, seed)
        out: Tensor | None = None
        for start in range(0, n, batch):
            rows = slice(start, min(start + batch, n))
            with torch.no_grad():
                part = self.generate(z[rows], None if labels is None else labels[rows], seed=seed + start).cpu()
            if out is None:
                out = part.new_empty(n, *part.shape[1:])
            out[rows] = part
            if progress:
                progress("samples", rows.stop, n)
        if out is None:
            raise InputError(f"{n} samples asked for; expected at least 1")
        return out

    def samples(
        self, n: int, seed: int = 0, *, like: Samples | None = None, batch: int = 250, progress: Progress | None = None
    ) -> Samples:
        """n samples as `inputs.load` gives them: layout and range found, rows with nan kept and named.

        Args:
            like: the reals, which settle size, kind and range where they are open.
        """
        raw = self.draw(n, seed, batch=batch, progress=progress)
        made = load(raw, like=like, scale=self._scale(like), allow_nonfinite=True, least=1, labels=self._known(n, seed))
        names = tuple(f"latent {i} of seed {seed}" for i in range(n))
        return replace(made, source="the generator", names=names, notes=(*self.notes, *made.notes))

    def _scale(self, like: Samples | None) -> tuple[float, float] | None:
        return None if like is not None and like.kind != "images" else self.scale

    def _known(self, n: int, seed: int) -> Tensor | None:
        labels = self.labels(n, seed)
        return None if labels is None else labels.cpu()


def set_mode(module: nn.Module, train: bool) -> None:
    """Training or evaluation mode; a graph that was exported keeps the mode it was exported in."""
    with suppress(NotImplementedError):
        module.train(train)
