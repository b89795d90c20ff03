"""What a generator takes: the shape of its latents and its classes, found from the first layer that runs, by trying."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stabilgan import host
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import sniff
from stabilgan.diagnosis.models.targets import Target, first_tensor, quietly

SIZES = ("latent_dim", "z_dim", "nz", "latent_size", "dim_z", "noise_dim", "dim_latent", "input_dim", "z_size")
CLASSES = ("n_classes", "num_classes", "classes", "nclass", "c_dim", "n_class")
LABELS = (
    "label",
    "labels",
    "y",
    "c",
    "cls",
    "class_labels",
    "classes",
    "class_label",
    "target",
    "targets",
    "cond",
    "gen_labels",
)
PROBE = 2
"""Samples drawn to try a shape; BatchNorm in training mode would refuse one."""


@dataclass(frozen=True)
class Takes:
    """What a generator takes.

    Attributes:
        latent: the shape of one latent.
        classes: how many, where it is given a label too; else None.
        one_hot: labels are rows of zeros with a one.
        labels_first: labels come before latents.
        scale: the range that its last layer bounds its output to, where that is seen.
        notes: how all this was found.
    """

    latent: tuple[int, ...]
    classes: int | None = None
    one_hot: bool = False
    labels_first: bool = False
    scale: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def arguments(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """What to call it with."""
        if self.classes is None:
            return (z,)
        assert labels is not None
        y = nn.functional.one_hot(labels, self.classes).to(z) if self.one_hot else labels
        return (y, z) if self.labels_first else (z, y)


def find(
    target: Target, device: torch.device, *, latent: int | Sequence[int] | None = None, classes: int | None = None
) -> Takes:
    """What the target takes, tried with two latents.

    Args:
        latent, classes: where the caller knows them; still tried.

    Raises:
        InputError: nothing that was tried works; with the first layer, what was tried and what the model said.
    """
    module = target.module
    shapes = [_shape(latent)] if latent is not None else _candidates(target, device)
    if not shapes:
        raise InputError(
            f"the size of the latent can't be found ({_about(target, device)}); give it, such as --latent 64, or "
            "--latent 64,1,1 for a generator of convolutions alone"
        )
    conditional, labels_first = _conditional(target)
    wanted = classes or (_classes(module) if conditional and module is not None else None)
    if conditional and wanted is None:
        raise InputError("the generator takes labels, and how many classes there are can't be found; give classes=")
    said = ""
    for shape in shapes:
        for one_hot in (False, True) if conditional else (False,):
            takes = Takes(shape, wanted if conditional else None, one_hot, labels_first)
            watch = Watched(module)
            said = attempt(target, takes, device, watch) or ""
            if not said:
                return Takes(shape, takes.classes, one_hot, labels_first, watch.scale(), _notes(takes, latent is None))
    tried = ", ".join(str(s) for s in shapes[:4])
    raise InputError(
        f"the generator can't be called with a latent of shape {tried}: {said}; {_about(target, device)}; give the "
        "right one with --latent"
    )


def attempt(target: Target, takes: Takes, device: torch.device, watch: Watched) -> str | None:
    """What the generator says to two latents: None if it puts out as many samples, else why not."""
    z = torch.randn(PROBE, *takes.latent, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.arange(PROBE, device=device) % takes.classes if takes.classes else None
    try:
        with torch.no_grad(), host.unnoticed(device, seed=0), quietly(), watch:
            out = first_tensor(target.call(*takes.arguments(z, labels)))
    except Exception as error:  # a user's model may raise anything
        return f"{type(error).__name__}: {sniff.one_line(error, 120)}"
    if out is None:
        return "it puts out no tensor"
    if out.ndim < 2 or len(out) != PROBE:
        return f"for {PROBE} latents it puts out shape {tuple(out.shape)}, not {PROBE} samples"
    return None


class Watched:
    """Within it, notes the first and the last layer that run: the order in which they are built may be another."""

    def __init__(self, module: nn.Module | None) -> None:
        script = isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule))
        self.layers = [m for m in module.modules() if not any(m.children())] if module and not script else []
        self.first: nn.Module | None = None
        self.last: nn.Module | None = None
        self.hooks: list[Any] = []

    def __enter__(self) -> None:
        self.hooks = [m.register_forward_pre_hook(self._see) for m in self.layers]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _see(self, layer: nn.Module, _: Any) -> None:
        if not isinstance(layer, (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout)):
            if self.first is None or (isinstance(self.first, nn.Embedding) and not isinstance(layer, nn.Embedding)):
                self.first = layer
            self.last = layer

    def scale(self) -> tuple[float, float] | None:
        """The range of the last layer's output."""
        if isinstance(self.last, nn.Tanh):
            return (-1.0, 1.0)
        if isinstance(self.last, nn.Hardtanh):
            return (float(self.last.min_val), float(self.last.max_val))
        return (0.0, 1.0) if isinstance(self.last, (nn.Sigmoid, nn.Hardsigmoid)) else None


def _shape(latent: int | Sequence[int]) -> tuple[int, ...]:
    shape = (latent,) if isinstance(latent, int) else tuple(int(s) for s in latent)
    if not shape or min(shape) < 1:
        raise InputError(f"latent is {latent}; expected sizes of at least 1, such as 64 or 64,1,1")
    return shape


def _candidates(target: Target, device: torch.device) -> list[tuple[int, ...]]:
    """Shapes worth trying, the likeliest first."""
    if target.takes:
        return [target.takes[0]]
    module = target.module
    if module is None:
        return []
    found: list[tuple[int, ...]] = []
    keras = getattr(module, "input_shape", None)
    if isinstance(keras, tuple) and keras[:1] == (None,) and all(isinstance(s, int) for s in keras[1:]):
        found.append(keras[1:])
    first = _first_layer(target, device)
    widths = [layer.embedding_dim for layer in module.modules() if isinstance(layer, nn.Embedding)]
    named = [getattr(module, name) for name in SIZES if isinstance(getattr(module, name, None), int)]
    named += [math.prod(s) for s in [getattr(module, "z_shape", None)] if isinstance(s, tuple)]
    if isinstance(first, nn.Linear):
        less = [first.in_features - w for w in [*widths, _classes(module) or 0] if 0 < w < first.in_features]
        conditional = _conditional(target)[0]
        found += [(s,) for s in ([*named, *less, first.in_features] if conditional else [first.in_features, *named])]
    elif isinstance(first, (nn.ConvTranspose2d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose3d)):
        ones = (1,) * (len(first.kernel_size) if not isinstance(first, nn.Conv2d) else 2)
        less = [first.in_channels - w for w in widths if 0 < w < first.in_channels]
        sizes = [*named, *less, first.in_channels] if _conditional(target)[0] else [first.in_channels, *named]
        found += [shape for s in sizes for shape in ((s, *ones), (s,))] if not isinstance(first, nn.Conv2d) else []
        found += [(s,) for s in named]
    else:
        found += [shape for s in named for shape in ((s,), (s, 1, 1))]
    found += _from_parameters(module)
    return list(dict.fromkeys(found))


def _from_parameters(module: nn.Module) -> list[tuple[int, ...]]:
    """Shapes by the first weight alone, where layers can't be watched."""
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    for weight in module.parameters():
        if weight.ndim == 2:
            return [(weight.shape[1],), (weight.shape[0],)]
        if weight.ndim == 4:
            return [(weight.shape[0], 1, 1), (weight.shape[0],), (weight.shape[1], 1, 1)]
    return []


def _first_layer(target: Target, device: torch.device) -> nn.Module | None:
    """The first layer with weights that runs, or else the first that is built."""
    module = target.module
    assert module is not None
    watch = Watched(module)
    attempt(target, Takes((7,), 1 if _conditional(target)[0] else None, False, _conditional(target)[1]), device, watch)
    weighty = (nn.Linear, nn.ConvTranspose2d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose3d)
    if isinstance(watch.first, weighty):
        return watch.first
    return next((m for m in watch.layers if isinstance(m, weighty)), None)


def _conditional(target: Target) -> tuple[bool, bool]:
    """Whether it wants labels too, and whether these come first."""
    if target.takes:
        return len(target.takes) > 1, False
    module = target.module
    if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
        return False, False
    call: Callable[..., Any] = module.forward if module is not None else target.call
    try:
        known = [
            p
            for p in inspect.signature(call).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return False, False
    needed = [p.name.lower() for p in known if p.default is p.empty]
    if len(needed) != 2:
        return False, False
    return True, needed[0] in LABELS and needed[1] not in LABELS


def _classes(module: nn.Module) -> int | None:
    for layer in module.modules():
        if isinstance(layer, nn.Embedding):
            return layer.num_embeddings
    named = [getattr(module, name) for name in CLASSES if isinstance(getattr(module, name, None), int)]
    return named[0] if named else None


def _about(target: Target, device: torch.device) -> str:
    """The first layer, in words."""
    if target.module is None:
        return "a function says nothing of what it takes"
    first = _first_layer(target, device) if target.module is not None else None
    if isinstance(first, nn.Linear):
        return f"its first layer is Linear and takes {first.in_features} values"
    if isinstance(first, nn.Conv2d):
        return f"its first layer is Conv2d and takes pictures of {first.in_channels} channels, not a latent"
    if first is not None:
        return f"its first layer is {type(first).__name__} and takes {getattr(first, 'in_channels', '?')} channels"
    return "no layer tells"


def _notes(takes: Takes, found: bool) -> tuple[str, ...]:
    notes = [f"latent of shape {takes.latent}, found by trying"] if found else []
    if takes.classes:
        notes.append(f"conditional: labels drawn evenly from {takes.classes} classes")
    return tuple(notes)
