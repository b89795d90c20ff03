"""Detectors: measures with a threshold, one file each, and the watch that feeds them inside a game."""

from stabilgan.detectors.base import Alarm, Detector, Reading, View
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
    "Saturation",
    "View",
    "Watch",
]

DETECTORS: dict[str, type[Detector]] = {d.name: d for d in (Collapse, Saturation, Oscillation, Divergence)}
"""Every detector by its name."""
