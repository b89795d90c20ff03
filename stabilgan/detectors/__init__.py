"""Detectors: measures with a threshold, one file each, and the watch that feeds them inside a game."""

from __future__ import annotations

from stabilgan import plugins, spec
from stabilgan.detectors.base import Alarm, Detector, Reading, Response, View
from stabilgan.detectors.collapse import Collapse
from stabilgan.detectors.divergence import Divergence
from stabilgan.detectors.oscillation import Oscillation
from stabilgan.detectors.saturation import Saturation
from stabilgan.detectors.sinks import AlarmWarning
from stabilgan.detectors.watch import Watch

__all__ = [
    "DETECTORS",
    "Alarm",
    "AlarmWarning",
    "Collapse",
    "Detector",
    "Divergence",
    "Oscillation",
    "Reading",
    "Response",
    "Saturation",
    "View",
    "Watch",
    "class_of",
    "parse",
]

DETECTORS: dict[str, type[Detector]] = {d.name: d for d in (Collapse, Saturation, Oscillation, Divergence)}
"""Every detector by its name."""

wrong_with = plugins.wrong_with_class(Detector)
"""What is wrong with what a package registers as a detector."""


def class_of(name: str) -> type[Detector]:
    """The class that a name means: the library's, an installed package's, or a dotted path's.

    Raises:
        SpecError: there is none, or it can't be used.
    """
    if name in DETECTORS:
        return DETECTORS[name]
    found = plugins.load("detector", name, wrong_with)
    if found is None and "." in name:
        found = spec.load_path(name, "detector")
        if not (isinstance(found, type) and issubclass(found, Detector)):
            raise spec.SpecError(f"detector {name!r} is {found!r}; expected a subclass of stabilgan.Detector")
    if found is None:
        raise spec.SpecError(spec.unknown("detector", name, [*DETECTORS, *plugins.names("detector")]))
    made: type[Detector] = found
    return made


def parse(text: str) -> list[Detector]:
    """The detectors that a text names, fresh: `collapse,oscillation:window=512`, plug-ins and dotted paths too.

    Raises:
        SpecError: no such detector or option, or a value of a wrong type.

    >>> [d.name for d in parse("collapse,divergence")]
    ['collapse', 'divergence']
    """
    made = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, options = spec.split(part)
        made.append(spec.build(class_of(name), options, name))
    return made
