"""Measures of what a generator makes and of how its training goes.

Each is a function, with a meter of the same name where data come in batches. Known modes and the readings of a series
are modules too, since both have a `forgetting`: `metrics.modes` (between two times), `metrics.series` (over all).
"""

from stabilgan.metrics import modes, series
from stabilgan.metrics.modes import (
    LabelModesMeter,
    MixtureModesMeter,
    Modes,
    churn,
    joint_labels,
    label_modes,
    mixture_modes,
)
from stabilgan.metrics.prdc import PRDC, PRDCMeter, expected_coverage, prdc

__all__ = [
    "PRDC",
    "LabelModesMeter",
    "MixtureModesMeter",
    "Modes",
    "PRDCMeter",
    "churn",
    "expected_coverage",
    "joint_labels",
    "label_modes",
    "mixture_modes",
    "modes",
    "prdc",
    "series",
]
