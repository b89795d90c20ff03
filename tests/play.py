"""The library's own tricks in the small worlds of `stabilgan.testing`, for tests to hold it against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import pytest
import torch
from torch import nn

import stabilgan
from stabilgan.detectors import Detector, Reading, View
from stabilgan.testing import NotAsked, Promise, Refused, Subject
from stabilgan.testing import play as by_any
from stabilgan.testing.check import subject_of
from stabilgan.testing.play import adam, params, same, sgd
from stabilgan.testing.refuse_sync import RefuseSync
from stabilgan.testing.worlds import IMAGES as IMAGE_WORLD
from stabilgan.testing.worlds import POINTS, pictures, ring
from stabilgan.tricks import TRICKS, parse

__all__ = ["RefuseSync", "adam", "params", "pictures", "ring", "same", "sgd"]

SMALL = {
    "gradient_clipping": "gradient_clipping:norm=0.1",
    "lookahead": "lookahead:k=2",
    "label_flipping": "label_flipping:share=0.3",
    "ada": "ada:images=100:p=0.5",
    "replay": "replay:size=12",
    "lecam": "lecam:start=1",
    "replay_hard": "replay_hard:size=12:share=0.5",
    "ewc": "ewc:interval=2:weight=100",
    "minibatch": "minibatch:kernels=4:dims=3",
    "minibatch_stddev": "minibatch_stddev",
    "top_k": "top_k:epoch=1:decay=0.8",
}
"""Options that make a trick act within a few steps of a small game; the others act by default."""


def spec_of(name: str) -> str:
    return SMALL.get(name, name)


def trick(name: str) -> stabilgan.Trick:
    (made,) = parse(spec_of(name))
    return made


def off(name: str) -> stabilgan.Trick | None:
    """The trick at the options at which it is to do nothing, or None where it has none."""
    options = TRICKS[name].off
    return None if options is None else TRICKS[name](**options)


@cache
def subject(name: str) -> Subject:
    """The trick on trial, in the first world that it does not refuse."""
    zero = TRICKS[name].off
    found, refusals = subject_of(lambda: trick(name), None if zero is None else lambda: TRICKS[name](**zero))
    assert found is not None, refusals
    return found


def hold(promise: Promise, subject: Subject) -> None:
    """Fails where a trick breaks a promise, or where it refuses it and its `limits` don't say so, or the other way."""
    limits = subject.make().limits
    said = limits.get(promise.condition or "", "")
    try:
        promise.check(subject)
    except NotAsked:
        return
    except Refused as words:
        if not said.startswith("refused"):
            pytest.fail(f"it refuses ({words}), but its limits say {said!r} of {promise.condition!r}")
    except Exception:  # whatever it is that its limits announce
        if not said:
            raise
    else:
        if said.startswith("refused"):
            pytest.fail(f"it plays, but its limits say of {promise.condition!r} that it is {said}")


class Says(Detector):
    """In alarm at the readings of the given steps."""

    name = "says"
    statistics = ("step",)

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def update(self, view: View) -> None:
        self._step, self._now = view.step, torch.tensor([float(view.step)])

    def measure(self) -> torch.Tensor:
        return self._now

    def judge(self, values: Any, step: int) -> Reading:
        return Reading(self.name, step, values["step"], 0.0, "alarm" if step in self.steps else "ok", "as told")


Kind = Literal["points", "images"]
WORLDS = {"points": POINTS, "images": IMAGE_WORLD}


def kind_of(*names: str) -> Kind:
    """What the players of a test with these tricks play with: images where one of them refuses points."""
    return "images" if any(name and subject(name).world is IMAGE_WORLD for name in names) else "points"


def generator_net(kind: Kind = "points") -> nn.Module:
    return WORLDS[kind].generator()


def discriminator_net(kind: Kind = "points") -> nn.Module:
    return WORLDS[kind].discriminator()


def players(seed: int = 0, dtype: torch.dtype = torch.float32, kind: Kind = "points") -> tuple[nn.Module, nn.Module]:
    return WORLDS[kind].players(seed, dtype)


def data(kind: Kind) -> Callable[[int, torch.Generator], Any]:
    return WORLDS[kind].data


def by_hand(
    tricks: Sequence[stabilgan.Trick] | None, steps: int, *, kind: Kind = "points", **options: Any
) -> tuple[nn.Module, nn.Module]:
    """`stabilgan.testing.play.by_hand` in the world of that kind."""
    return by_any.by_hand(tricks, steps, world=WORLDS[kind], **options)
