"""That a trick draws from a generator of its own, so that runs of one seed stay comparable."""

from __future__ import annotations

import pickle
import random

import numpy as np
import torch

from stabilgan.game import Game, Trick
from stabilgan.testing.play import difference
from stabilgan.testing.promise import Broken, Promise, Subject
from stabilgan.testing.worlds import Batch


def draws_from_its_own_generator(subject: Subject) -> None:
    players = subject.world.players()
    torch_state, numpy_state, python_state = torch.get_rng_state(), _numpy_state(), random.getstate()
    t = subject.trainer(players=players)
    if not torch.equal(torch.get_rng_state(), torch_state):
        raise Broken("attaching it draws from torch's global generator; take game.generator(self) in setup")
    taken = _taken_in_steps(t.game)
    t.fit(subject.world.data, 6)
    if len(taken) > 1:
        raise Broken(
            f"it took game.generator(self) anew {len(taken)} times in 6 steps, and each draws what the last one drew; "
            "take it once, in setup, keep it, and save its state"
        )
    if not torch.equal(torch.get_rng_state(), torch_state):
        raise Broken("a step draws from torch's global generator; take game.generator(self) in setup, and save it")
    if _numpy_state() != numpy_state:
        raise Broken("it draws from numpy's global generator; take game.generator(self) in setup, and save it")
    if random.getstate() != python_state:
        raise Broken("it draws from Python's global generator; take game.generator(self) in setup, and save it")


def _taken_in_steps(game: Game) -> list[Trick]:
    """Grows by a trick each time that one takes a generator from now on."""
    taken, take = list[Trick](), game.generator

    def noted(trick: Trick) -> torch.Generator:
        taken.append(trick)
        return take(trick)

    vars(game)["generator"] = noted
    return taken


def _numpy_state() -> bytes:
    return pickle.dumps(np.random.get_state())  # noqa: NPY002 - the generator that is not to be used


def leaves_data_and_latents_alone(subject: Subject) -> None:
    def seen(with_it: bool) -> dict[str, object]:
        drawn: list[Batch] = []

        def draw(n: int, generator: torch.Generator) -> Batch:
            drawn.append(subject.world.batch(n, generator))
            return drawn[-1]

        t = subject.trainer(tricks=[subject.make()] if with_it else [])
        start = {name: value.clone() for name, value in t.game.g.state_dict().items()}
        t.fit(draw, 4)
        return {"the data": drawn, "the latents' generator": t.generator.get_state(), "G at the start": start}

    if found := difference(seen(True), seen(False)):
        raise Broken(f"a run of the same seed without it sees something else: {found}")


PROMISES = (
    Promise("own generator", "What it draws comes from a generator of its own.", draws_from_its_own_generator),
    Promise(
        "same data", "Runs of one seed see the same data and latents as without it.", leaves_data_and_latents_alone
    ),
)
