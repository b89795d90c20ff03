"""EMA: an exponential moving average of G's weights, to sample from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stabilgan.game import Game, Player, Trick


class EMA(Trick):
    """Leaves training as it is and keeps an average of G's weights, which oscillates less than G does.

    After each step of G, average <- decay · average + (1 - decay) · G (Yazıcı et al. 2019, arXiv:1806.04498, Sec. 2.1).
    Buffers (BatchNorm statistics) are copied. `average` is the module to sample from, in evaluation mode.

    Args:
        decay: 0 to 1; the usual 0.999 averages over about a thousand steps. At 0 the average is G.
    """

    name = "ema"
    off: ClassVar = {"decay": 0.0}
    source = "Yazıcı et al. 2019, arXiv:1806.04498, Sec. 2.1"

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema: decay is {decay}; expected 0 or more and less than 1")
        self.decay = decay
        self._average: nn.Module | None = None

    @property
    def average(self) -> nn.Module:
        """The averaged generator."""
        if self._average is None:
            raise RuntimeError("ema has no average before it is attached to a game")
        return self._average

    def setup(self, game: Game) -> None:
        self._average = copy.deepcopy(game.g).eval().requires_grad_(False)

    @torch.no_grad()
    def after_step(self, player: Player, game: Game) -> None:
        if player == "d":
            return
        average, current = list(self.average.parameters()), [p.detach() for p in game.g.parameters()]
        if average:
            get_ema_multi_avg_fn(self.decay)(average, current, 0)  # not kept: a process can't be sent it
        for kept, buffer in zip(self.average.buffers(), game.g.buffers(), strict=True):
            kept.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average.load_state_dict(state["average"])
