"""That a run can be stopped and taken up."""

from __future__ import annotations

import io
from typing import Any

import torch

from stabilgan.testing.play import difference
from stabilgan.testing.promise import Broken, Promise, Subject
from stabilgan.testing.worlds import Batch
from stabilgan.trainer import Trainer


def resumes_at_every_step(subject: Subject, steps: int = 5) -> None:
    data = few(subject)

    def trainer() -> Trainer:
        return subject.trainer(n_critic=2)

    whole = trainer().fit(data, steps).state_dict()
    going = trainer()
    files = [written(going.fit(data, 1).state_dict()) for _ in range(1, steps)]
    for stop, file in enumerate(files, start=1):
        again = taken_up(file, trainer()).fit(data, steps - stop)
        if found := difference(again.state_dict(), whole):
            raise Broken(f"taken up after step {stop}, the run ends otherwise: {found}")


def few(subject: Subject) -> Batch:
    """Twenty samples: in batches of eight, the last of an epoch is smaller."""
    return subject.world.batch(20, torch.Generator().manual_seed(0))


def written(state: dict[str, Any]) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    return file


def taken_up(file: io.BytesIO, trainer: Trainer) -> Trainer:
    """The trainer at the state that was written; no code is run for it."""
    file.seek(0)
    trainer.load_state_dict(torch.load(file, weights_only=True))
    return trainer


def is_saved_as_plain_values(subject: Subject) -> None:
    """In a stranger's loop, which saves the game and its players by itself."""
    t = subject.trainer().fit(subject.world.data, 3)
    file = written(t.game.state_dict())
    file.seek(0)
    try:
        state = torch.load(file, weights_only=True)
    except Exception as error:  # unpickling says what it refuses in several ways
        raise Broken(f"what state_dict gave can't be loaded without running code: {_first_line(error)}") from error
    again = subject.trainer()
    again.game.load_state_dict(state)
    if found := difference(again.game.state_dict(), t.game.state_dict()):
        raise Broken(f"load_state_dict does not take back what state_dict gave: {found}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


PROMISES = (
    Promise(
        "resume",
        "Stopped and taken up at any step, a run ends as if it had gone on.",
        resumes_at_every_step,
        "resume",
    ),
    Promise("plain state", "Its state is plain values, which load without running code.", is_saved_as_plain_values),
)
