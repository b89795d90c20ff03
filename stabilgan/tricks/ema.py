"""EMA: an exponential moving average of G's weights, to sample from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stabilgan import host
from stabilgan.game import Game, Player, Trick


class EMA(Trick):
    """Leaves training as it is and keeps an average of G's weights, which oscillates less than G does.

    After each step of G, average <- decay · average + (1 - decay) · G (Yazıcı et al. 2019, arXiv:1806.04498, Sec. 2.1).
    What is not trained (BatchNorm statistics, frozen layers) is copied. `average` is the module to sample from, in
    evaluation mode.

    Args:
        decay: 0 to 1; the usual 0.999 averages over about a thousand steps. At 0 the average is G.
    """

    name = "ema"
    off: ClassVar = {"decay": 0.0}
    changes = "memory"
    when = "Samples from G swing from step to step. It steadies what you sample, not the training itself."
    source = "Yazıcı et al. 2019, arXiv:1806.04498, Sec. 2.1"

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema: decay is {decay}; expected 0 or more and less than 1")
        self.decay = decay
        self._average: nn.Module | None = None
        self._trained: list[bool] = []

    @property
    def average(self) -> nn.Module:
        """The averaged generator."""
        if self._average is None:
            raise RuntimeError("ema has no average before it is attached to a game")
        return self._average

    def setup(self, game: Game) -> None:
        self._average = copy.deepcopy(game.g).eval().requires_grad_(False)
        held = {id(p) for group in game.opt_g.param_groups for p in group["params"]}
        self._trained = [id(p) in held for p in host.state(game.g)]

    @torch.no_grad()
    def after_step(self, player: Player, game: Game) -> None:
        if player == "d":
            return
        pairs = list(zip(host.state(self.average), host.state(game.g), strict=True))
        kept = [average for (average, _), trained in zip(pairs, self._trained, strict=True) if trained]
        current = [now.detach() for (_, now), trained in zip(pairs, self._trained, strict=True) if trained]
        if kept:
            get_ema_multi_avg_fn(self.decay)(kept, current, 0)  # not kept: a process can't be sent it
        for (average, now), trained in zip(pairs, self._trained, strict=True):
            if not trained:
                average.copy_(now)

    def state_dict(self) -> dict[str, Any]:
        # Keras' names for a model's variables change from one model to the next; their order does not.
        if host.keras_variables(self.average) is not None:
            return {"average": [p.detach().clone() for p in host.state(self.average)]}
        return {"average": self.average.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if host.keras_variables(self.average) is not None:
            for kept, saved in zip(host.state(self.average), state["average"], strict=True):
                kept.copy_(saved)
        else:
            self.average.load_state_dict(state["average"])
