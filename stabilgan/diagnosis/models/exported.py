"""torch.export files (.pt2), checked before they are loaded, since torch's own loader unpickles and evaluates.

`torch.export.load` falls back to a full unpickling where the safe one fails, and hands texts in the file to `sympify`
and to generated code. So the archive is read first, and whatever a plain network doesn't need is refused.
"""

from __future__ import annotations

import inspect
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import sniff

NAME = re.compile(r"[A-Za-z_]\w*|", re.ASCII)
PATH = re.compile(r"[\w.\-]*", re.ASCII)
TARGET = re.compile(r"torch\.ops\.(aten|prims)\.[a-z0-9_]+(\.[A-Za-z0-9_]+)?|_operator\.[a-z_]+|torch\.sym_[a-z]+|")
PATHS = ("parameter_name", "buffer_name", "tensor_constant_name", "path_name", "fqn")
WORDS = {
    *("Symbol", "positive", "nonnegative", "integer", "True", "False", "Integer", "Add", "Mul", "Pow", "Max", "Min"),
    *("Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "oo", "int_oo"),
}
"""Words in the expressions of sizes, beside symbols such as s0."""


def load(path: Path) -> nn.Module:
    """The module in a torch.export file, whose archive holds tensors and a graph of torch's own operators alone.

    Raises:
        InputError: it is damaged, or holds pickles, texts to be evaluated, or other operators; with what.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _check(path, archive, entry)
        with warnings.catch_warnings(action="ignore"):  # torch's own on a format in flux
            program = torch.export.load(path)
            known = inspect.signature(program.module).parameters
            module: nn.Module = program.module(**({"check_guards": False} if "check_guards" in known else {}))
    except InputError:
        raise
    except Exception as error:  # torch's reader raises anything on damaged files
        raise InputError(
            f"{path} is no torch.export file of this torch, or is damaged or cut short: {sniff.one_line(error)}"
        ) from None
    return module


def takes(module: nn.Module) -> tuple[int | None, tuple[tuple[int, ...], ...]]:
    """The size of a batch, where the export fixed it, and the shape of each input without it."""
    assert isinstance(module, torch.fx.GraphModule)
    inputs = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder" and "val" in node.meta]
    tensors = [v for v in inputs if isinstance(v, torch.Tensor) and v.ndim]
    batch = tensors[0].shape[0] if tensors else None
    shapes = tuple(tuple(s if isinstance(s, int) else 1 for s in v.shape[1:]) for v in tensors)
    return (batch if isinstance(batch, int) else None), shapes


def _check(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    name = entry.filename
    with archive.open(entry) as file:
        head = file.read(4)
    if name.endswith(".json"):
        _check_texts(path, name, json.loads(archive.read(entry)))
    elif name.endswith((".pt", ".pkl")) or head.startswith((b"PK", b"\x80")):
        raw = archive.read(entry)
        if "/weights/" in name and not name.endswith((".pt", ".pkl")):
            return  # raw numbers that happen to begin so
        try:
            if raw:
                torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
        except Exception:  # whatever the safe loader says, the unsafe one would be tried next
            raise InputError(f"{path}: {name} in it is a pickle that names Python objects; not loaded") from None
    elif name.endswith((".so", ".cpp", ".py")):
        raise InputError(
            f"{path} holds compiled or written code ({name}); not loaded; export it with torch.export.save"
        )


def _check_texts(path: Path, name: str, value: Any) -> None:
    for key, text in _texts(value):
        bad = (
            (key == "use_pickle" and text is True)
            or (key == "expr_str" and not _plain_expression(str(text)))
            or (key == "name" and not NAME.fullmatch(str(text or "")))
            or (key in PATHS and not PATH.fullmatch(str(text or "")))
            or (key == "target" and not TARGET.fullmatch(str(text or "")))
            or (key in ("class_fqn", "custom_obj") and bool(text))
        )
        if bad:
            raise InputError(
                f"{path}: {name} in it has {key} {str(text)[:60]!r}, which no plain network needs; not loaded; "
                "give the code that builds the model, and its weights"
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for inner, v in value.items():
            if inner != "metadata":
                yield from _texts(v, inner)
    elif isinstance(value, list):
        for v in value:
            yield from _texts(v, key)
    else:
        yield key, value


def _plain_expression(text: str) -> bool:
    """Whether an expression of sizes has numbers, symbols and sympy's arithmetic in it and nothing else.

    >>> _plain_expression("2*Symbol('s31', positive=True, integer=True)")
    True
    >>> _plain_expression("__import__('os')")
    False
    """
    words = re.findall(r"[A-Za-z_]\w*", text)
    return bool(re.fullmatch(r"[\w\s+\-*/%(),'<>=]*", text)) and all(
        w in WORDS or re.fullmatch(r"[suz]\d+", w) for w in words
    )
