"""Tricks: one idea, one file. The registry maps names to classes; the grammar of `--tricks` makes objects of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from stabilgan import checks, plugins, spec
from stabilgan.game import Trick
from stabilgan.tricks.ada import ADA
from stabilgan.tricks.balance import Balance
from stabilgan.tricks.consistency import Consistency
from stabilgan.tricks.diffaugment import DiffAugment
from stabilgan.tricks.dragan import DRAGAN
from stabilgan.tricks.ema import EMA
from stabilgan.tricks.ewc import EWC
from stabilgan.tricks.extragradient import Extragradient
from stabilgan.tricks.feature_matching import FeatureMatching
from stabilgan.tricks.gdpp import GDPP
from stabilgan.tricks.gradient_clipping import GradientClipping
from stabilgan.tricks.gradient_normalisation import GradientNormalisation
from stabilgan.tricks.historical_averaging import HistoricalAveraging
from stabilgan.tricks.instance_noise import InstanceNoise
from stabilgan.tricks.label_flipping import LabelFlipping
from stabilgan.tricks.label_smoothing import LabelSmoothing
from stabilgan.tricks.latent_consistency import LatentConsistency
from stabilgan.tricks.lecam import LeCam
from stabilgan.tricks.lookahead import Lookahead
from stabilgan.tricks.minibatch import Minibatch
from stabilgan.tricks.minibatch_stddev import MinibatchStddev
from stabilgan.tricks.mode_seeking import ModeSeeking
from stabilgan.tricks.optimistic import Optimistic
from stabilgan.tricks.orthogonal import Orthogonal
from stabilgan.tricks.packing import Packing
from stabilgan.tricks.path_length import PathLength
from stabilgan.tricks.r1 import R1, R2
from stabilgan.tricks.relativistic import Relativistic
from stabilgan.tricks.replay import Replay
from stabilgan.tricks.replay_hard import ReplayHard
from stabilgan.tricks.respond import Respond
from stabilgan.tricks.spectral_norm import SpectralNorm
from stabilgan.tricks.top_k import TopK
from stabilgan.tricks.ttur import TTUR
from stabilgan.tricks.unrolled import Unrolled
from stabilgan.tricks.virtual_batch_norm import VirtualBatchNorm
from stabilgan.tricks.weight_clipping import WeightClipping
from stabilgan.tricks.wgan_gp import WGANGP
from stabilgan.tricks.zero_gp import ZeroGP

__all__ = [
    "ADA",
    "DRAGAN",
    "EMA",
    "EWC",
    "GDPP",
    "R1",
    "R2",
    "TRICKS",
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
    "Respond",
    "SpectralNorm",
    "TopK",
    "Unrolled",
    "VirtualBatchNorm",
    "WeightClipping",
    "ZeroGP",
    "check",
    "class_of",
    "parse",
    "parse_arms",
]

TRICKS: Mapping[str, type[Trick]] = {
    t.name: t
    for t in (
        Replay,
        Minibatch,
        MinibatchStddev,
        R1,
        R2,
        WGANGP,
        ZeroGP,
        DRAGAN,
        LeCam,
        Consistency,
        LatentConsistency,
        Orthogonal,
        EMA,
        SpectralNorm,
        WeightClipping,
        GradientNormalisation,
        Relativistic,
        TopK,
        HistoricalAveraging,
        FeatureMatching,
        ModeSeeking,
        GDPP,
        PathLength,
        EWC,
        InstanceNoise,
        Packing,
        DiffAugment,
        ADA,
        ReplayHard,
        LabelSmoothing,
        LabelFlipping,
        VirtualBatchNorm,
        GradientClipping,
        Optimistic,
        Extragradient,
        Lookahead,
        Unrolled,
        Balance,
        TTUR,
        Respond,
    )
}
"""Every trick of the library by its name."""


def class_of(name: str) -> type[Trick]:
    """The class that a name means: the library's, an installed package's, or a dotted path's.

    Raises:
        SpecError: there is none, or it can't be used.
    """
    if name in TRICKS:
        return TRICKS[name]
    found = plugins.load("trick", name, wrong_with)
    if found is None and "." in name:
        found = spec.load_path(name, "trick")
        if not (isinstance(found, type) and issubclass(found, Trick)):
            raise spec.SpecError(f"trick {name!r} is {found!r}; expected a subclass of stabilgan.Trick")
    if found is None:
        raise spec.SpecError(spec.unknown("trick", name, [*TRICKS, *plugins.names("trick")]))
    made: type[Trick] = found
    return made


_wrong_with_class = plugins.wrong_with_class(Trick)


def wrong_with(name: str, made: Any) -> str | None:
    """What is wrong with what a package registers as a trick."""
    return _wrong_with_class(name, made) or checks.missaid(made)


def parse(text: str) -> list[Trick]:
    """The objects of one arm.

    Args:
        text: `replay:size=512+r1:weight=1`; `none` or nothing is the arm without tricks. A dotted path names one of
            the user's own.

    Raises:
        SpecError: an unknown name or option (with a suggestion), a wrong type or value, two tricks in conflict.

    >>> parse("r1:weight=5+ema")
    [R1(weight=5.0, every=1), EMA(decay=0.999)]
    """
    if text.strip() in ("", "none"):
        return []
    tricks = []
    for part in text.split("+"):
        name, options = spec.split(part)
        tricks.append(spec.build(class_of(name), options, name))
    check(tricks)
    return tricks


def check(tricks: list[Trick]) -> None:
    """Raises SpecError if two of the tricks can't be played together, one is named twice, or says wrongly with whom."""
    for one in tricks:
        if (wrong := checks.missaid(one)) is not None:
            raise spec.SpecError(f"{one.name}: {wrong}")
        if sum(other.name == one.name for other in tricks) > 1:
            raise spec.SpecError(f"{one.name} is twice in one arm; expected each trick once")
        for other in tricks:
            if other is not one and (why := checks.apart(one, other)) is not None:
                raise spec.SpecError(f"{one.name} and {other.name}: {why}")


def parse_arms(text: str) -> list[str]:
    """The arms that `--tricks` asks for, the one without tricks first.

    Names alone stand for each alone and all together: `replay,minibatch` is none, replay, minibatch and both. As soon
    as one part joins tricks with `+`, every part is one arm as it stands. `none` may be named or not. Tricks that can't
    be played together are not put together.

    Raises:
        SpecError: as `parse`.

    >>> parse_arms("r1,ema")
    ['none', 'r1', 'ema', 'r1+ema']
    >>> parse_arms("r1,relativistic+r1:weight=5")
    ['none', 'r1', 'relativistic+r1:weight=5']
    """
    named = list(dict.fromkeys(p.strip() for p in text.split(",") if p.strip() and p.strip() != "none"))
    arms = ["none", *named]
    for arm in arms:
        parse(arm)
    if not any("+" in p for p in named) and len(named) > 1:
        with contextlib.suppress(spec.SpecError):
            parse("+".join(named))
            arms.append("+".join(named))
    return arms
