"""Workloads: data, networks, optimizers, and how samples are judged. Each is a function that returns a `Workload`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stabilgan import plugins, spec
from stabilgan.workloads.base import Workload, against
from stabilgan.workloads.digits import fashion_mnist, mnist
from stabilgan.workloads.mixtures import grid, ring

__all__ = ["WORKLOADS", "Workload", "against", "fashion_mnist", "grid", "make", "mnist", "ring"]

WORKLOADS: Mapping[str, Callable[..., Workload]] = {
    "ring": ring,
    "grid": grid,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
}
"""Every workload of the library by its name."""


def make(text: str, *, data_dir: Path | None = None) -> Workload:
    """The workload that a text names, fresh: `ring:modes=16`, `package.module:function`, `file.py:function:option=1`.

    A user's function returns a `Workload`. It takes whatever options it likes, and `data_dir` if it wants the folder.

    Raises:
        SpecError: no such workload or option, or a function that returns something else.
        FileNotFoundError: its data are missing.
    """
    name, options = spec.split(text)
    function = _function_of(name)
    given = {"data_dir": data_dir} if "data_dir" in inspect.signature(function).parameters else {}
    made: Any = spec.build(function, options, name, **given)
    if not isinstance(made, Workload):
        raise spec.SpecError(
            f"workload {name!r} returned a {type(made).__name__}; expected a stabilgan.Workload(g=..., d=..., "
            "opt_g=..., opt_d=..., data=..., latent=..., judge=... or reference=...)"
        )
    return made


def _function_of(name: str) -> Callable[..., Any]:
    if name in WORKLOADS:
        return WORKLOADS[name]
    found = plugins.load("workload", name, wrong_with)
    if found is None and "." in name:
        found = spec.load_path(name, "workload")
        if not callable(found):
            raise spec.SpecError(
                f"workload {name!r} is a {type(found).__name__}; expected a function that returns a Workload"
            )
    if found is None:
        raise spec.SpecError(spec.unknown("workload", name, [*WORKLOADS, *plugins.names("workload")]))
    function: Callable[..., Any] = found
    return function


def wrong_with(name: str, made: Any) -> str | None:
    """What is wrong with what a package registers as a workload."""
    return None if callable(made) else f"is a {type(made).__name__}; expected a function that returns a Workload"
