"""Divergence: NaN, infinity, exploding gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan.detectors.base import Detector, Reading, Ring, View, at_least

SOURCES = {
    "d_loss": "D's loss",
    "g_loss": "G's loss",
    "d_grad": "D's gradient",
    "g_grad": "G's gradient",
    "scores_real": "D's scores of real samples",
    "scores_fake": "D's scores of fakes",
    "fake": "G's samples",
    "real": "the real samples",
}


class History:
    """Up to `size` values from the whole of a run, evenly spaced; when full, every second one is let go.

    >>> history = History(4)
    >>> for i in range(10):
    ...     history.push(torch.tensor(float(i)))
    >>> history.values().tolist()
    [0.0, 4.0, 8.0]
    """

    def __init__(self, size: int) -> None:
        self.size, self.stride, self.seen, self.count = size, 1, 0, 0
        self._values: Tensor | None = None

    def push(self, value: Tensor) -> None:
        if self._values is None:
            self._values = torch.zeros(self.size, dtype=torch.float32, device=value.device)
        if self._values.device != value.device:  # loaded from a file
            self._values = self._values.to(value.device)
        if self.seen % self.stride == 0:
            if self.count == self.size:
                self.count = self.size // 2
                self._values[: self.count] = self._values[::2].clone()
                self.stride *= 2
            if self.seen % self.stride == 0:
                self._values[self.count].copy_(value)
                self.count += 1
        self.seen += 1

    def values(self) -> Tensor:
        assert self._values is not None
        return self._values[: self.count]

    def state_dict(self) -> dict[str, Any]:
        values = None if self._values is None else self._values.clone()
        return {"stride": self.stride, "seen": self.seen, "count": self.count, "values": values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stride, self.seen, self.count = state["stride"], state["seen"], state["count"]
        self._values = None if state["values"] is None else state["values"].clone()


def median(x: Tensor) -> Tensor:
    """The middle value of a 1-D tensor, the upper one of two; NaN counts as largest."""
    return x.sort().values[len(x) // 2]


class Divergence(Detector):
    """Says that training is blowing up: something is NaN or infinite, or a gradient grew far beyond its own history.

    A gradient explodes when the median norm of the latest ten steps is both `factor` times the median of the run so far
    and above every norm kept from before. The first alone would also hold when a saturated D recovers.

    Args:
        factor: how far a gradient norm may rise over the median of the run. From a start with small weights a healthy
            run can rise far: 116-fold was seen on a ring.
        after: steps before growth is judged; NaN and infinity are judged from the first.
        window: steps for which a NaN is remembered.
    """

    name = "divergence"
    source = "a norm against its own running median, as in Seetharaman et al. 2020, arXiv:2007.14469"
    statistics = (*(f"bad_{source}" for source in SOURCES), "growth_d", "growth_g")
    kept = ("_step", "_watched")
    recent: ClassVar = 10

    def __init__(self, factor: float = 1000.0, after: int = 100, window: int = 1000) -> None:
        at_least(self.name, factor=(factor, 1), after=(after, 2 * self.recent), window=(window, 1))
        self.factor, self.after, self.window = factor, after, window
        self._bad = Ring(window)
        self._latest = {player: Ring(self.recent) for player in ("d", "g")}
        self._history = {player: History(64) for player in ("d", "g")}
        self._watched: list[str] = []

    def update(self, view: View) -> None:
        self._step = view.step
        seen = {source: x for source in SOURCES if (x := getattr(view, source)) is not None}
        if not seen:
            return
        self._watched = [s for s in SOURCES if s in seen or s in self._watched]
        # A sum is finite only where every number in it is, and is one pass; one that overflows has diverged, too.
        nothing = next(iter(seen.values())).new_zeros((), dtype=torch.float32)
        sums = [seen[s].detach().sum(dtype=torch.float32) if s in seen else nothing for s in SOURCES]
        self._bad.push(1 - torch.stack(sums).isfinite().float()[None])
        for player in ("d", "g"):
            if (norm := seen.get(f"{player}_grad")) is not None:
                latest = self._latest[player]
                if latest.full:  # what leaves the latest steps becomes history
                    self._history[player].push(latest.rows()[0])
                latest.push(norm.reshape(1))

    def missing(self) -> str | None:
        if not self._watched:
            return "no loss, score, sample or gradient was seen; does the loop step the optimizers given to attach?"
        return None

    def measure(self) -> Tensor:
        bad = self._bad.rows().sum(0)
        growth = []
        for player in ("d", "g"):
            if self._history[player].seen < self.after - self.recent:
                growth.append(bad.new_full((), -1.0))  # not judged yet
                continue
            now, past = median(self._latest[player].rows()), self._history[player].values()
            growth.append(torch.where(now > past.amax(), now / median(past).clamp_min(1e-30), 0.0))
        return torch.cat([bad, torch.stack(growth)])

    def judge(self, values: Mapping[str, float], step: int) -> Reading:
        bad = {s: values[f"bad_{s}"] for s in SOURCES if values[f"bad_{s}"] > 0}
        if bad:
            what = ", ".join(SOURCES[s] for s in bad)
            text = f"training has diverged: NaN or infinity in {what}; go back to an earlier state"
            return Reading(self.name, step, max(bad.values()), 0.0, "alarm", text)
        growth = {p: values[f"growth_{p}"] for p in ("d", "g")}
        player = max(growth, key=lambda p: growth[p] if math.isfinite(growth[p]) else math.inf)
        if not growth[player] <= self.factor:
            text = (
                f"{player.upper()}'s gradient explodes: its norm is {growth[player]:.3g} times the median of the run "
                "and above all that came before"
            )
            return Reading(self.name, step, growth[player], self.factor, "alarm", text)
        unseen = [name for source, name in SOURCES.items() if source not in self._watched]
        text = "all that was seen is finite"
        if unseen:
            text += f"; not seen: {', '.join(unseen)}"
            if "d_loss" not in self._watched or "g_loss" not in self._watched:
                text += " (write game.record(d_loss=..., g_loss=...))"
        if min(growth.values()) < 0:
            text += "; growth of the gradients is not judged yet"
        return Reading(self.name, step, max(growth[player], 0.0), self.factor, "ok", text)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "latest": {player: ring.state_dict() for player, ring in self._latest.items()},
            "history": {player: history.state_dict() for player, history in self._history.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state.items() if k not in ("latest", "history")})
        for player in ("d", "g"):
            self._latest[player].load_state_dict(state["latest"][player])
            self._history[player].load_state_dict(state["history"][player])
