"""stabilgan: makes GAN training stable and shows when it isn't.

Names are imported when they are first used, so that `stabilgan --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stabilgan._version import __version__

if TYPE_CHECKING:
    from stabilgan.checks import LoopWarning
    from stabilgan.detectors import (
        Alarm,
        AlarmWarning,
        Collapse,
        Detector,
        Divergence,
        Oscillation,
        Reading,
        Saturation,
        Watch,
    )
    from stabilgan.diagnosis.api import diagnose
    from stabilgan.game import CHANGE, SELECT, STEP, Cost, Game, Trick, attach
    from stabilgan.trainer import Trainer
    from stabilgan.tricks import (
        ADA,
        DRAGAN,
        EMA,
        EWC,
        GDPP,
        R1,
        R2,
        TTUR,
        WGANGP,
        Balance,
        Consistency,
        DiffAugment,
        Extragradient,
        FeatureMatching,
        GradientClipping,
        GradientNormalisation,
        HistoricalAveraging,
        InstanceNoise,
        LabelFlipping,
        LabelSmoothing,
        LatentConsistency,
        LeCam,
        Lookahead,
        Minibatch,
        MinibatchStddev,
        ModeSeeking,
        Optimistic,
        Orthogonal,
        Packing,
        PathLength,
        Relativistic,
        Replay,
        ReplayHard,
        SpectralNorm,
        TopK,
        Unrolled,
        WeightClipping,
        ZeroGP,
    )
    from stabilgan.workloads import Workload

_HOMES = {
    "stabilgan.checks": ("LoopWarning",),
    "stabilgan.detectors": (
        "Alarm",
        "AlarmWarning",
        "Collapse",
        "Detector",
        "Divergence",
        "Oscillation",
        "Reading",
        "Saturation",
        "Watch",
    ),
    "stabilgan.diagnosis.api": ("diagnose",),
    "stabilgan.game": ("CHANGE", "SELECT", "STEP", "Cost", "Game", "Trick", "attach"),
    "stabilgan.trainer": ("Trainer",),
    "stabilgan.tricks": (
        "ADA",
        "DRAGAN",
        "EMA",
        "EWC",
        "GDPP",
        "R1",
        "R2",
        "TTUR",
        "WGANGP",
        "Balance",
        "Consistency",
        "DiffAugment",
        "Extragradient",
        "FeatureMatching",
        "GradientClipping",
        "GradientNormalisation",
        "HistoricalAveraging",
        "InstanceNoise",
        "LabelFlipping",
        "LabelSmoothing",
        "LatentConsistency",
        "LeCam",
        "Lookahead",
        "Minibatch",
        "MinibatchStddev",
        "ModeSeeking",
        "Optimistic",
        "Orthogonal",
        "Packing",
        "PathLength",
        "Relativistic",
        "Replay",
        "ReplayHard",
        "SpectralNorm",
        "TopK",
        "Unrolled",
        "WeightClipping",
        "ZeroGP",
    ),
    "stabilgan.workloads": ("Workload",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ADA",
    "CHANGE",
    "DRAGAN",
    "EMA",
    "EWC",
    "GDPP",
    "R1",
    "R2",
    "SELECT",
    "STEP",
    "TTUR",
    "WGANGP",
    "Alarm",
    "AlarmWarning",
    "Balance",
    "Collapse",
    "Consistency",
    "Cost",
    "Detector",
    "DiffAugment",
    "Divergence",
    "Extragradient",
    "FeatureMatching",
    "Game",
    "GradientClipping",
    "GradientNormalisation",
    "HistoricalAveraging",
    "InstanceNoise",
    "LabelFlipping",
    "LabelSmoothing",
    "LatentConsistency",
    "LeCam",
    "Lookahead",
    "LoopWarning",
    "Minibatch",
    "MinibatchStddev",
    "ModeSeeking",
    "Optimistic",
    "Orthogonal",
    "Oscillation",
    "Packing",
    "PathLength",
    "Reading",
    "Relativistic",
    "Replay",
    "ReplayHard",
    "Saturation",
    "SpectralNorm",
    "TopK",
    "Trainer",
    "Trick",
    "Unrolled",
    "Watch",
    "WeightClipping",
    "Workload",
    "ZeroGP",
    "__version__",
    "attach",
    "diagnose",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'stabilgan' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
