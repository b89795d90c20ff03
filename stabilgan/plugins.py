"""What installed packages register under our entry points; it is loaded when a name asks for it, or to list it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NamedTuple

from stabilgan import spec

Kind = Literal["trick", "detector", "workload"]
GROUPS: dict[Kind, str] = {kind: f"stabilgan.{kind}s" for kind in ("trick", "detector", "workload")}
"""The entry points of a package, `[project.entry-points."stabilgan.tricks"]` and so on."""

Wrong = Callable[[str, Any], str | None]
"""Says what is wrong with an object that is registered under a name, or nothing."""


class Plugin(NamedTuple):
    """What a package registers: the name, the package with its version, and the object."""

    name: str
    package: str
    made: Any


class Broken(NamedTuple):
    """What a package registers and can't be used, and why."""

    kind: Kind
    name: str
    package: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} of the package {self.package}: {self.why}"


def names(kind: Kind) -> list[str]:
    """What is registered; nothing is loaded."""
    return sorted({entry.name for entry in entry_points(group=GROUPS[kind])})


def load(kind: Kind, name: str, wrong: Wrong) -> Any | None:
    """The object that is registered under a name, or None where none is.

    Raises:
        SpecError: it is broken; the message is one line.
    """
    for entry in _entries(kind):
        if entry.name == name:
            loaded = _load(kind, entry, wrong)
            if isinstance(loaded, Broken):
                raise spec.SpecError(str(loaded))
            return loaded.made
    return None


def load_all(kind: Kind, taken: Collection[str], wrong: Wrong) -> tuple[list[Plugin], list[Broken]]:
    """All that is registered, and what of it can't be used: one broken package does not hide another.

    Args:
        taken: the names that the library has.
        wrong: as for `load`.
    """
    good: dict[str, Plugin] = {}
    bad = []
    for entry in _entries(kind):
        owner = "the library" if entry.name in taken else good[entry.name].package if entry.name in good else None
        if owner is not None:
            why = f"{owner} has a {kind} of that name already; register it under another one"
            loaded: Plugin | Broken = Broken(kind, entry.name, _package(entry), why)
        else:
            loaded = _load(kind, entry, wrong)
        if isinstance(loaded, Broken):
            bad.append(loaded)
        else:
            good[entry.name] = loaded
    return list(good.values()), bad


def _entries(kind: Kind) -> list[EntryPoint]:
    """By name, and for one name by package: the first one has it."""
    return sorted(entry_points(group=GROUPS[kind]), key=lambda entry: (entry.name, _package(entry)))


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value


def _load(kind: Kind, entry: EntryPoint, wrong: Wrong) -> Plugin | Broken:
    try:
        made = entry.load()
    except (Exception, SystemExit) as error:  # importing runs the package's code, which may do anything
        said = " ".join(str(error).split())
        return Broken(kind, entry.name, _package(entry), f"{entry.value} raises {type(error).__name__}: {said}")
    if (why := wrong(entry.name, made)) is not None:
        return Broken(kind, entry.name, _package(entry), f"{entry.value} {why}")
    return Plugin(entry.name, _package(entry), made)


def wrong_with_class(base: type[Any]) -> Wrong:
    """For tricks and detectors: a subclass whose own name is the registered one."""

    def wrong(name: str, made: Any) -> str | None:
        if not (isinstance(made, type) and issubclass(made, base)):
            return f"is {made!r}; expected a subclass of stabilgan.{base.__name__}"
        own = getattr(made, "name", "")
        if not own:
            return f"has no name; give the class one: name = {name!r}"
        return None if own == name else f"is named {own!r}; expected the name under which it is registered"

    return wrong
