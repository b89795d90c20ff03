"""A file of weights put into a module: found in the checkpoint, prefixes taken off, and every key accounted for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import arrays, sniff

AVERAGED = ("ema", "avg", "average", "swa")
State = Mapping[str, Tensor]


class Fit(NamedTuple):
    """How well a state dict fits a module."""

    matches: int
    averaged: bool
    where: str
    prefix: str
    state: dict[str, Tensor]


def load_weights(module: nn.Module, path: Path) -> tuple[str, ...]:
    """Fills `module` from .safetensors or from what `torch.save` wrote, by `weights_only=True`; returns notes.

    The state dict may lie within a checkpoint, beside others; the one whose keys fit best is taken, of equals the
    averaged one. A prefix that all its keys share (`module.`, `netG.`, `_orig_mod.`) is taken off.

    Raises:
        InputError: no state dict in it, keys missing, unexpected or of another shape (with the first of each), or a
            file that is damaged or is a pickle of a whole module.
    """
    loaded = _read(path)
    own = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    if not own:
        raise InputError(f"{path}: the model has no weights to fill")
    found = list(_state_dicts(loaded, ""))
    if not found:
        kind = f"keys {', '.join(map(str, list(loaded)[:6]))}" if isinstance(loaded, Mapping) else type(loaded).__name__
        raise InputError(f"{path} holds no state dict ({kind}); save one: torch.save(model.state_dict(), file)")
    fits = [fit for where, state in found for fit in _fits(where, state, own)]
    best = max(fits, key=lambda fit: (fit.matches, fit.averaged, -len(fit.prefix)))
    _account(path, best, own)
    module.load_state_dict(best.state, strict=False)  # all is accounted for but counters of batches
    notes = [f"weights from {path.name}" + (f", {best.where}" if best.where else "")]
    if best.prefix:
        notes.append(f"prefix {best.prefix!r} of the keys taken off")
    others = [where for where, _ in found if where != best.where]
    if others and best.averaged:
        notes.append(f"the averaged weights taken; the file also has {', '.join(o or 'others' for o in others[:4])}")
    bad = [k for k, v in best.state.items() if not v.isfinite().all()]
    if bad:
        notes.append(f"nan or infinity in {len(bad)} of {len(best.state)} weights, the first {bad[0]}")
    return tuple(notes)


def _read(path: Path) -> Any:
    head = sniff.head_of(path)
    if path.suffix.lower() == ".safetensors":
        blocks = arrays.open_file(path)
        return {b.name: b.read(slice(0, None)) for b in blocks}
    if arrays.is_torchscript(path):
        raise InputError(f"{path} is a TorchScript program with its weights; name it in place of the code")
    with torch.serialization.safe_globals([argparse.Namespace]):  # options that many scripts save; plain values
        return arrays.load_torch(path, head)


def _state_dicts(value: Any, where: str, depth: int = 0) -> Iterator[tuple[str, State]]:
    """Every mapping of names to tensors in a checkpoint, with the keys that lead to it."""
    if not isinstance(value, Mapping) or depth > 3:
        return
    tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield where, tensors
    for key, inner in value.items():
        if key != "optimizer_states":
            yield from _state_dicts(inner, f"{where}.{key}" if where else str(key), depth + 1)


def _fits(where: str, state: State, own: State) -> Iterator[Fit]:
    """The state dict with each prefix off, or on, that could make its keys the module's."""
    bare = {k.replace("_orig_mod.", ""): v for k, v in state.items()}
    first = next(iter(own))
    prefixes = {k[: -len(first)] for k in bare if k == first or k.endswith(f".{first}")} | {""}
    for prefix in sorted(prefixes):
        yield _fit(where, prefix, {k[len(prefix) :]: v for k, v in bare.items() if k.startswith(prefix)}, own)
    outer = first.partition(".")[0] + "."
    if all(k.startswith(outer) for k in own):
        yield _fit(where, "", {outer + k: v for k, v in bare.items()}, own)


def _fit(where: str, prefix: str, state: dict[str, Tensor], own: State) -> Fit:
    matches = sum(k in own and own[k].shape == v.shape for k, v in state.items())
    words = f"{where}.{prefix}".lower()
    return Fit(matches, any(w in words for w in AVERAGED), where, prefix, state)


def _account(path: Path, fit: Fit, own: State) -> None:
    """Refuses weights that don't fit key by key."""
    counter = ".num_batches_tracked"
    missing = [k for k in own if k not in fit.state and not k.endswith(counter)]
    extra = [k for k in fit.state if k not in own and not k.endswith(counter)]
    other = [k for k in own if k in fit.state and own[k].shape != fit.state[k].shape]
    if not missing and not extra and not other:
        return
    said = []
    if other:
        k = other[0]
        shapes = f"{k} is {tuple(fit.state[k].shape)} in the file and {tuple(own[k].shape)} in the model"
        said.append(f"{len(other)} of another shape ({shapes})")
    for count, words in ((missing, "missing"), (extra, "unexpected")):
        if count:
            said.append(f"{len(count)} {words} ({', '.join(count[:3])}{', ...' if len(count) > 3 else ''})")
    hint = "build the model with the options it was trained with" if fit.matches or other else "is it another model's?"
    within = f" ({fit.where})" if fit.where else ""
    raise InputError(
        f"{path}{within} doesn't fit the model: of {len(own)} weights {fit.matches} fit, {', '.join(said)}; {hint}"
    )
