"""The grammar of names with options, `replay:size=512+r1:weight=5,minibatch`; it survives every shell.

`name:option=value:option=value` names one thing; `+` joins things into one arm; `,` separates arms.
A name with a dot is the path of somebody's own: `package.module.Class` or `package.module:Class`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class SpecError(ValueError):
    """What was asked for in the grammar can't be had; the message says what can."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that isn't there.

    >>> unknown("trick", "replya", ["replay", "r1"])
    "no trick named 'replya'; did you mean 'replay'?"
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"no {kind} named {name!r}; {hint}"


def split(text: str) -> tuple[str, dict[str, str]]:
    """A name and its options, as text.

    >>> split("replay:size=512:policy=half")
    ('replay', {'size': '512', 'policy': 'half'})
    >>> split("mypackage.tricks:Shake:weight=2")
    ('mypackage.tricks:Shake', {'weight': '2'})
    """
    name, *parts = text.strip().split(":")
    if parts and "=" not in parts[0] and ("." in name or "/" in name):
        name = f"{name}:{parts.pop(0)}"
    options = {}
    for part in parts:
        key, sign, value = part.partition("=")
        if not sign or not key:
            raise SpecError(
                f"{part!r} in {text!r} is not an option; expected name:option=value, for example r1:weight=5"
            )
        options[key.strip()] = value.strip()
    if not name:
        raise SpecError(f"a name is missing in {text!r}; expected name:option=value, for example r1:weight=5")
    return name, options


def build(make: Callable[..., T], options: Mapping[str, str], name: str, **given: Any) -> T:
    """Calls `make` with options converted to the types that its signature states.

    Raises:
        SpecError: an option that `make` doesn't have (with a suggestion), or one of a wrong type or value.
    """
    own = {o.name: o for o in signature_options(make)}
    values: dict[str, Any] = dict(given)
    for key, text in options.items():
        if key not in own or key in given:
            open_to = [o for o in own if o not in given]
            if not open_to:
                raise SpecError(f"{name} has no options; got {key}={text}")
            raise SpecError(f"{name}: {unknown('option', key, open_to)}")
        values[key] = _convert(text, own[key].type, f"{name}:{key}={text}")
    try:
        return make(**values)
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise SpecError(str(error)) from error
    except Exception as error:  # a user's class or function may raise anything
        raise SpecError(f"{name} raised {type(error).__name__}: {error}") from error


class Option(typing.NamedTuple):
    """One option of a trick, detector or workload: its name, type and default."""

    name: str
    type: Any
    default: Any

    def describe(self) -> dict[str, Any]:
        """For `stabilgan list --json`."""
        kind = self.type.__name__ if isinstance(self.type, type) else str(self.type).replace("typing.", "")
        return {
            "name": self.name,
            "type": kind,
            "default": self.default if _plain(self.default) else repr(self.default),
        }


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def signature_options(make: Callable[..., Any]) -> list[Option]:
    """The options of a class's constructor, or of a function, that the grammar can set: numbers, texts, truths."""
    return [
        Option(p.name, _hint(p), p.default)
        for p in inspect.signature(make, eval_str=True).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and _kinds(_hint(p))
    ]


def _hint(parameter: inspect.Parameter) -> Any:
    """The annotation, or the type of the default where there is none."""
    return type(parameter.default) if parameter.annotation is parameter.empty else parameter.annotation


def _kinds(hint: Any) -> tuple[type, ...]:
    """The plain types that a hint admits, the stricter first."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(kind for part in typing.get_args(hint) for kind in _kinds(part))
    if typing.get_origin(hint) is typing.Literal:
        return tuple({type(a) for a in typing.get_args(hint)})
    return (hint,) if hint in (bool, int, float, str, types.NoneType) else ()


def _convert(text: str, hint: Any, where: str) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        choices = {str(choice): choice for choice in typing.get_args(hint)}
        if text not in choices:
            raise SpecError(f"{where}: expected {' or '.join(choices)}")
        return choices[text]
    kinds = _kinds(hint)
    for kind in (types.NoneType, bool, int, float, str):
        if kind in kinds:
            try:
                return _AS[kind](text)
            except ValueError:
                continue
    wanted = " or ".join(_WORDS[kind] for kind in kinds)
    raise SpecError(f"{where}: expected {wanted}")


def _none(text: str) -> None:
    if text.lower() != "none":
        raise ValueError


def _truth(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError from None


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


_AS: dict[type, Callable[[str], Any]] = {types.NoneType: _none, bool: _truth, int: int, float: _finite, str: str}
_WORDS = {types.NoneType: "none", bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def load_path(path: str, kind: str) -> Any:
    """What `package.module.Name`, `package.module:Name` or `file.py:Name` names.

    Raises:
        SpecError: no such module or file, one that can't be imported, or nothing of that name in it.
    """
    if ".py:" in path or path.endswith(".py"):
        return _load_file(path, kind)
    module_name, _, attribute = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code
        raise SpecError(f"{kind} {path!r}: can't import {module_name!r} ({type(error).__name__}: {error})") from error
    return _member(module, attribute, f"{kind} {path!r}", module_name)


def _load_file(name: str, kind: str) -> Any:
    file, _, attribute = name.partition(".py:")
    path = Path(f"{file.removesuffix('.py')}.py")
    if not path.is_file():
        raise SpecError(f"{kind} {name!r}: there is no file {path}")
    if not attribute:
        raise SpecError(f"{kind} {name!r}: say what in the file, {path}:name")
    loading = importlib.util.spec_from_file_location(f"stabilgan_user_{path.stem}", path)
    assert loading is not None
    assert loading.loader is not None
    module = importlib.util.module_from_spec(loading)
    sys.modules[loading.name] = module  # dataclasses and the like look themselves up
    if (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.append(folder)  # for what lies beside it
    try:
        loading.loader.exec_module(module)
    except Exception as error:  # the user's code
        raise SpecError(f"{kind} {name!r}: {path} raised {type(error).__name__}: {error}") from error
    return _member(module, attribute, f"{kind} {name!r}", str(path))


def _member(module: types.ModuleType, attribute: str, asked: str, where: str) -> Any:
    if not hasattr(module, attribute):
        names = [n for n in vars(module) if not n.startswith("_")]
        raise SpecError(f"{asked}: {unknown(f'name in {where}', attribute, names)}")
    return getattr(module, attribute)
