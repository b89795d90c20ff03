"""What a promise is, who is on trial, and the ways in which a check can end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from stabilgan import losses
from stabilgan.data import Feed
from stabilgan.game import Game, Trick, attach
from stabilgan.testing.play import Around, MakeOptimizer, adam, by_hand, calmly
from stabilgan.testing.worlds import LATENT, World
from stabilgan.trainer import Trainer

CONDITIONS = {
    "points": "samples that are points, and a D of linear layers",
    "images": "samples that are images (N, C, H, W), in either memory format",
    "labels": "a conditional game",
    "resume": "stopping and taking a run up",
    "no waiting": "steps in which the host never waits for the device",
    "float64": "players in double precision",
    "autocast": "bfloat16 autocast",
    "scaler": "a GradScaler",
    "accumulate": "gradient accumulation",
    "g first": "G moving before D",
    "frozen d": "a D without gradients in G's turn",
    "batch size": "batches of changing sizes",
    "closure": "an optimizer with a closure",
    "wrapped": "an optimizer in the wrapper of a framework",
    "compile": "players under torch.compile",
    "ranks": "several DDP ranks",
}
"""What a trick may say in `limits` that it can't honour, and what each word means."""


class Broken(AssertionError):  # noqa: N818 - what it says is not an error of the check
    """A promise does not hold; the message says what was seen."""


class NotAsked(Exception):  # noqa: N818 - not an error
    """The promise says nothing about this trick; the message says why."""


class Refused(Exception):  # noqa: N818 - not an error
    """The trick refused these players at attach, in these words."""


@dataclass(frozen=True)
class Promise:
    """One thing that every trick promises.

    Attributes:
        name: a few words, for reports.
        says: the promise, a sentence.
        check: raises Broken, NotAsked or Refused, or whatever the trick itself raises.
        condition: the word in `CONDITIONS` with which a trick may say that it can't.
        slow: takes seconds rather than a blink.
    """

    name: str
    says: str
    check: Callable[[Subject], None]
    condition: str | None = None
    slow: bool = False


@dataclass(frozen=True)
class Subject:
    """A trick on trial.

    Attributes:
        make: a new object of it, with the options that are on trial.
        off: the same at zero strength; None where it knows none.
        world: where it plays, unless a promise names another world.
        loss: a pair that it fits.
        device: where it plays.
        around: entered around each step of a game.
        low: the type of autocast in loops by hand; a Trainer's is bfloat16.
    """

    make: Callable[[], Trick]
    off: Callable[[], Trick] | None
    world: World
    loss: losses.Loss
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    around: Around = calmly
    low: torch.dtype = torch.bfloat16

    def by_hand(self, steps: int, *, tricks: list[Trick] | None = None, **options: Any) -> tuple[nn.Module, nn.Module]:
        """G and D after a loop written by hand, with a new object of the trick or with `tricks`."""
        played = [self.make()] if tricks is None else tricks
        given: dict[str, Any] = {"world": self.world, "loss": self.loss, "attach": _attach, "low": self.low}
        return by_hand(played, steps, device=self.device, around=self.around, **(given | options))

    def trainer(
        self,
        *,
        tricks: list[Trick] | None = None,
        world: World | None = None,
        optimizer: MakeOptimizer = adam,
        players: tuple[nn.Module, nn.Module] | None = None,
        **options: Any,
    ) -> Trainer:
        """A trainer with a new object of the trick, or with `tricks`."""
        world = world or self.world
        g, d = (player.to(self.device) for player in players or world.players())
        given: dict[str, Any] = {
            "latent": LATENT,
            "batch_size": 8,
            "loss": self.loss,
            "conditional": world.conditional,
        } | options
        try:
            trainer = _Guarded(g, d, optimizer(g), optimizer(d), [self.make()] if tricks is None else tricks, **given)
        except ValueError as error:
            raise Refused(str(error)) from error
        trainer.around = self.around
        return trainer


class _Guarded(Trainer):
    """A trainer with something around each of its steps."""

    around: Around = staticmethod(calmly)
    made = 0

    def _step(self, data: Feed) -> None:
        with self.around(self.made):  # which need not be its steps: it may have taken up a run
            super()._step(data)
        self.made += 1


def _attach(*args: Any, **options: Any) -> Game:
    try:
        return attach(*args, **options)
    except ValueError as error:
        raise Refused(str(error)) from error
