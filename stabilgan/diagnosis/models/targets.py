"""What a user names as a model - code that builds it, or a file with a program in it - as something to call."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stabilgan import spec
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import arrays, sniff
from stabilgan.diagnosis.models import exported, onnx, scripted
from stabilgan.diagnosis.models.fixed import in_batches

WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors", ".pkl")
EXPECTED = (
    "package.module:callable or file.py:callable (with options behind colons, such as file.py:make:width=64), or a "
    "TorchScript (.pt), torch.export (.pt2) or ONNX (.onnx) file"
)
Player = Callable[..., Any]


@dataclass(frozen=True)
class Target:
    """A model that can be called.

    Attributes:
        call: takes latents or samples, and labels where it wants them.
        module: the network, where there is one: it has parameters, and gradients flow through it.
        takes: shapes of its inputs without the batch, where its file says so.
        frozen: its weights came with it, so none are to be loaded.
        notes: what it is.
    """

    call: Player
    module: nn.Module | None
    takes: tuple[tuple[int, ...], ...] = ()
    frozen: bool = False
    notes: tuple[str, ...] = ()


def resolve(target: Any, device: torch.device) -> Target:
    """The model that `target` names.

    Args:
        target: a module, a function `latents -> samples`, or a text: `package.module:callable` and `file.py:callable`
            give a module, a function that builds one, or a function `latents -> samples`.

    Raises:
        InputError: there is no such thing, it fails, or it is something else; in one line.
    """
    if isinstance(target, nn.Module):
        return Target(target, target)
    if not isinstance(target, (str, Path)):
        if callable(target):
            return Target(target, None)
        raise InputError(f"the model is a {type(target).__name__}; expected {EXPECTED}")
    path = Path(target)
    ending = path.suffix.lower()
    if ending == ".onnx":
        model = onnx.load(path)
        return Target(
            in_batches(model, model.batch),
            None,
            model.takes,
            True,
            ("an ONNX program; no gradients, no layers to look into",),
        )
    if ending == ".pt2":
        program = exported.load(path).to(device)
        shape = exported.takes(program)
        call = in_batches(program, shape[0])
        return Target(call, program, shape[1], True, ("a torch.export program",))
    if ending in (*WEIGHTS, ".ts", ".jit", ".torchscript") and path.suffix:
        return _file(path, device)
    if ending in (".h5", ".keras"):
        raise InputError(f"{path} is a Keras file; name the code that builds the model: file.py:make --weights FILE")
    return _code(str(target))


def _file(path: Path, device: torch.device) -> Target:
    head = sniff.head_of(path)
    if arrays.is_torchscript(path):
        note = "a TorchScript program: loading it runs no Python, but it is a program that its author wrote"
        module = scripted.load(path, device)
        return Target(module, module, frozen=True, notes=(note,))
    if path.suffix.lower() not in (".safetensors", ".pkl"):
        arrays.load_torch(path, head)  # says what is wrong with a pickled module or a damaged file
    raise InputError(
        f"{path} holds weights, not a model; name the code that builds it, and the file as its weights: "
        f"file.py:Generator --weights {path.name}"
    )


def _code(text: str) -> Target:
    try:
        name, options = _split(text)
        found = spec.load_path(name, "model")
        made = _made(found, options, name)
    except spec.SpecError as error:
        raise InputError(sniff.one_line(error, 400)) from None
    if isinstance(made, nn.Module):
        return Target(made, made, notes=(f"built by {name}",))
    if callable(made):
        return Target(made, None, notes=(f"{name} is a function, not a module: there are no layers to look into",))
    raise InputError(
        f"{name} gave a {type(made).__name__}; expected a torch.nn.Module or a function latents -> samples"
    )


def _split(text: str) -> tuple[str, dict[str, str]]:
    """`spec.split`, for which a module without a dot is no module: `mine:make:width=64`."""
    first, _, rest = text.partition(":")
    inner, _, more = rest.partition(":")
    if "." in first or "/" in first:
        return spec.split(text)
    if not inner or "=" in inner:
        raise InputError(f"what is named is {text!r}; expected {EXPECTED}")
    return f"{first}:{inner}", spec.split(f"{first}:{more}" if more else first)[1]


def _made(found: Any, options: dict[str, str], name: str) -> Any:
    """The module, or the function of latents, that `found` is or builds."""
    if isinstance(found, nn.Module) or not callable(found):
        if options:
            raise InputError(f"{name} is built already and has no options; got {', '.join(options)}")
        return found
    bare = {p.name: p for p in _parameters(found)}
    settable = {o.name for o in spec.signature_options(found)}
    loose = {k: _guessed(v) for k, v in options.items() if k in bare and k not in settable}
    open_ = [p.name for p in bare.values() if p.default is p.empty and p.name not in options]
    if open_:
        untyped = all(name not in settable for name in open_)
        if not inspect.isclass(found) and not options and untyped and len(open_) <= 2:
            return found  # a function of latents, and of labels perhaps
        example = ":".join(f"{p}=..." for p in open_)
        raise InputError(
            f"{name} needs {', '.join(open_)}; give {'it' if len(open_) == 1 else 'them'}: {name}:{example}"
        )
    return spec.build(found, {k: v for k, v in options.items() if k not in loose}, name, **loose)


def _parameters(found: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        known = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _guessed(text: str) -> Any:
    """The value of an option whose type its function doesn't state: a number or truth where it looks like one."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def first_tensor(out: Any) -> Tensor | None:
    """The samples in what a model puts out: a tensor, or the first in a tuple or dict."""
    if isinstance(out, Tensor):
        return out
    values = out.values() if isinstance(out, dict) else out if isinstance(out, (tuple, list)) else ()
    return next((v for v in values if isinstance(v, Tensor)), None)


def quietly() -> warnings.catch_warnings[None]:
    """Inside, no warnings: a user's model is theirs."""
    return warnings.catch_warnings(action="ignore")
