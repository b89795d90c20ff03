"""Tricks: one idea, one file. The registry maps names to classes; the grammar of `--tricks` makes objects of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib.metadata import entry_points

from stabilgan import spec
from stabilgan.game import Trick
from stabilgan.tricks.balance import Balance
from stabilgan.tricks.ema import EMA
from stabilgan.tricks.extragradient import Extragradient
from stabilgan.tricks.gradient_clipping import GradientClipping
from stabilgan.tricks.lookahead import Lookahead
from stabilgan.tricks.minibatch import Minibatch
from stabilgan.tricks.minibatch_stddev import MinibatchStddev
from stabilgan.tricks.optimistic import Optimistic
from stabilgan.tricks.r1 import R1, R2
from stabilgan.tricks.relativistic import Relativistic
from stabilgan.tricks.replay import Replay
from stabilgan.tricks.spectral_norm import SpectralNorm
from stabilgan.tricks.ttur import TTUR
from stabilgan.tricks.unrolled import Unrolled

__all__ = [
    "EMA",
    "R1",
    "R2",
    "TRICKS",
    "TTUR",
    "Balance",
    "Extragradient",
    "GradientClipping",
    "Lookahead",
    "Minibatch",
    "MinibatchStddev",
    "Optimistic",
    "Relativistic",
    "Replay",
    "SpectralNorm",
    "Unrolled",
    "check",
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
        EMA,
        SpectralNorm,
        Relativistic,
        GradientClipping,
        Lookahead,
        Optimistic,
        Extragradient,
        Unrolled,
        Balance,
        TTUR,
    )
}
"""Every trick of the library by its name."""


def class_of(name: str) -> type[Trick]:
    if name in TRICKS:
        return TRICKS[name]
    plugins = {e.name: e for e in entry_points(group="stabilgan.tricks")}
    if name in plugins:
        found = plugins[name].load()
    elif "." in name:
        found = spec.load_path(name, "trick")
    else:
        raise spec.SpecError(spec.unknown("trick", name, [*TRICKS, *plugins]))
    if not (isinstance(found, type) and issubclass(found, Trick)):
        raise spec.SpecError(f"trick {name!r} is {found!r}; expected a subclass of stabilgan.Trick")
    return found


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
    """Raises SpecError if two of the tricks can't be played together, or one is named twice."""
    for one in tricks:
        if sum(other.name == one.name for other in tricks) > 1:
            raise spec.SpecError(f"{one.name} is twice in one arm; expected each trick once")
        for other in tricks:
            if other is not one and other.name in one.conflicts:
                raise spec.SpecError(f"{one.name} and {other.name}: {one.conflicts[other.name]}")


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
