"""Detector: a measure with a threshold, what it sees, what it answers, and how it says that something is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

State = Literal["ok", "alarm", "unknown"]


@dataclass(frozen=True)
class View:
    """What can be seen of a game at one step. Whatever is missing is None; tensors stay on their device.

    Attributes:
        step: how often G has moved.
        real, fake: (N, ...) samples of the data and of G, as comparable as the loop allows: before tricks change them.
        scores_real, scores_fake: D's raw scores, any shape whose first dimension is the batch.
        d_loss, g_loss: scalars that the loop told `game.record`.
        d_grad, g_grad: Euclidean norms of each player's whole gradient.
        probabilities: D ends in a sigmoid, so that its scores are in [0, 1].
        loss: the family of the losses (a name in `stabilgan.losses`), or None where nobody said.
    """

    step: int
    real: Tensor | None = None
    fake: Tensor | None = None
    scores_real: Tensor | None = None
    scores_fake: Tensor | None = None
    d_loss: Tensor | None = None
    g_loss: Tensor | None = None
    d_grad: Tensor | None = None
    g_grad: Tensor | None = None
    probabilities: bool = False
    loss: str | None = None


@dataclass(frozen=True)
class Alarm:
    """Something is wrong: which detector says so, at which step, by which reading against which threshold, and what it
    means, in one sentence."""

    detector: str
    step: int
    reading: float
    threshold: float
    meaning: str

    def __str__(self) -> str:
        return (
            f"{self.detector} at step {self.step}: {self.meaning} ({self.reading:.4g}, threshold {self.threshold:.4g})"
        )


@dataclass(frozen=True)
class Response:
    """What was done about an alarm: at which step, of which detector, which action, and what it was, in words."""

    step: int
    detector: str
    action: str
    text: str

    def __str__(self) -> str:
        return f"{self.action} at step {self.step}, for {self.detector}: {self.text}"


@dataclass(frozen=True)
class Reading:
    """A detector's answer. `unknown` is an answer: `text` says why, and what would help."""

    detector: str
    step: int
    value: float | None
    threshold: float
    state: State
    text: str

    @property
    def alarm(self) -> Alarm | None:
        """The alarm that this reading is, or None."""
        if self.state != "alarm" or self.value is None:
            return None
        return Alarm(self.detector, self.step, self.value, self.threshold, self.text)


class Ring:
    """The latest `size` rows, in one float32 tensor on the device of what is pushed; never asks the device.

    >>> ring = Ring(3)
    >>> ring.push(torch.tensor([1.0, 2.0]))
    >>> ring.push(torch.tensor([3.0, 4.0]))
    >>> ring.rows().tolist()
    [2.0, 3.0, 4.0]
    """

    def __init__(self, size: int) -> None:
        self.size, self.seen = size, 0
        self._rows: Tensor | None = None

    @property
    def full(self) -> bool:
        return self.seen >= self.size

    def push(self, rows: Tensor) -> None:
        """Writes `rows` (N, ...) over the oldest ones.

        Raises:
            ValueError: rows of another shape are there already.
        """
        rows = rows.detach()[-self.size :]
        if self._rows is None:
            self._rows = torch.zeros((self.size, *rows.shape[1:]), dtype=torch.float32, device=rows.device)
        if self._rows.shape[1:] != rows.shape[1:]:
            raise ValueError(f"rows of shape {tuple(rows.shape[1:])}; so far they were {tuple(self._rows.shape[1:])}")
        if self._rows.device != rows.device:  # loaded from a file
            self._rows = self._rows.to(rows.device)
        at = self.seen % self.size
        first = min(len(rows), self.size - at)
        self._rows[at : at + first].copy_(rows[:first])
        self._rows[: len(rows) - first].copy_(rows[first:])
        self.seen += len(rows)

    def rows(self) -> Tensor:
        """What is there, the oldest first; a copy."""
        if self._rows is None:
            raise ValueError("nothing was pushed yet")
        if not self.full:
            return self._rows[: self.seen].clone()
        return self._rows.roll(-(self.seen % self.size), 0)

    def clear(self) -> None:
        self.seen, self._rows = 0, None

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "rows": None if self._rows is None else self._rows.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        rows = state["rows"]
        if rows is not None and len(rows) != self.size:
            raise ValueError(f"this state is of a window of {len(rows)}; this one has {self.size}")
        self.seen, self._rows = state["seen"], None if rows is None else rows.clone()


class Detector:
    """A measure with a threshold.

    `update` takes in what there is to see, on its device. `compute` asks the device and answers; whoever can't wait for
    the device calls `measure`, fetches the numbers when they are there, and has them judged by `answer`.

    A subclass writes `update`, `missing`, `measure` and `judge`. Options are keyword arguments of its constructor.
    """

    name: ClassVar[str]
    source: ClassVar[str] = ""
    statistics: ClassVar[tuple[str, ...]]
    """What `measure` returns, in that order."""
    kept: ClassVar[tuple[str, ...]] = ("_step",)
    """Attributes of plain numbers, texts and lists that the state carries; rings are found by themselves."""

    patience: int = 1
    """So many readings in a row have to be alarms before a watch raises one."""

    reading: Reading | None = None
    """The latest answer."""
    _step: int = 0

    def update(self, view: View) -> None:
        """Takes in one step; no host synchronisation."""
        raise NotImplementedError

    def missing(self) -> str | None:
        """Why there is nothing to measure yet, and what would help; None when there is."""
        return None

    def measure(self) -> Tensor:
        """(len(statistics),), on the device; no host synchronisation. Only where nothing is `missing`."""
        raise NotImplementedError

    def judge(self, values: Mapping[str, float], step: int) -> Reading:
        """What the measured statistics mean; on the host."""
        raise NotImplementedError

    def answer(self, values: Sequence[float] | None, step: int) -> Reading:
        """Judges what `measure` returned, or says what is `missing`; remembers the answer as `reading`."""
        if values is None:
            self.reading = self.unknown(self.missing() or "nothing was measured", step)
        else:
            self.reading = self.judge(dict(zip(self.statistics, values, strict=True)), step)
        return self.reading

    def compute(self) -> Reading:
        """Measures and judges now; asks the device."""
        return self.answer(None if self.missing() else self.measure().tolist(), self._step)

    @property
    def alarm(self) -> Alarm | None:
        """The latest answer as an alarm, or None if it isn't one."""
        return self.reading.alarm if self.reading else None

    def unknown(self, why: str, step: int, value: float | None = None, threshold: float = float("nan")) -> Reading:
        return Reading(self.name, step, value, threshold, "unknown", f"cannot tell: {why}")

    def state_dict(self) -> dict[str, Any]:
        return {
            key: value.state_dict() if isinstance(value, Ring) else value
            for key, value in vars(self).items()
            if isinstance(value, Ring) or key in self.kept
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            mine = getattr(self, key)
            if isinstance(mine, Ring):
                mine.load_state_dict(value)
            else:
                setattr(self, key, value)

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_") and k != "reading")
        return f"{type(self).__name__}({options})"


def at_least(who: str, **options: tuple[float, float]) -> None:
    """Refuses an option below its least value: `at_least("collapse", window=(window, 16))`."""
    for option, (value, least) in options.items():
        if not value >= least:
            raise ValueError(f"{who}: {option} is {value}; expected {least} or more")
