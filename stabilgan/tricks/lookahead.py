"""Lookahead-minimax: every k steps, both players go part of the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan.game import PLAYERS, STEP, Game, Player, Trick
from stabilgan.tricks import _weights


def step_back(fast: Sequence[Tensor], slow: Sequence[Tensor], alpha: float) -> None:
    """Moves slow weights to slow + alpha · (fast - slow), and the fast ones there too; in place.

    >>> fast, slow = torch.tensor([4.0]), torch.tensor([0.0])
    >>> step_back([fast], [slow], alpha=0.25)
    >>> fast.item(), slow.item()
    (1.0, 1.0)
    """
    if slow:
        torch._foreach_lerp_(list(slow), list(fast), alpha)
        _weights.overwrite(fast, slow)


class Lookahead(Trick):
    """Takes both players back towards where they were k steps ago, which turns a rotation around the solution inwards.

    After every k-th step of G, both players at once: slow <- slow + alpha · (fast - slow), fast <- slow, where fast are
    the weights that the optimizers move (Chavdarova et al. 2021, arXiv:2006.14567, Algorithm 1). Optimizers keep their
    state, BatchNorm its statistics. Acts after all else in G's step, so that an EMA takes in every fast iterate. Costs
    a second copy of both players' weights, and no passes.

    Args:
        k: steps of G between two steps back, at least 1. The authors' code has 5 for CIFAR-10, with a second, slower
            level every 10,000 steps that is not here, and 1,000 for MNIST.
        alpha: how far from the slow weights to the fast ones, above 0 up to 1, where nothing is taken back. The paper's
            is 0.5.
    """

    name = "lookahead"
    order = STEP + 1
    off: ClassVar = {"alpha": 1.0}
    conflicts: ClassVar = {
        "extragradient": "while lookahead takes both players back, one may stand at its look-ahead point"
    }
    changes = "how players move"
    when = "Players circle each other, or samples are better at some steps than at others. It slows a healthy run down."
    source = "Chavdarova et al. 2021, arXiv:2006.14567, Algorithm 1"

    def __init__(self, k: int = 5, alpha: float = 0.5) -> None:
        if k < 1:
            raise ValueError(f"lookahead: k is {k}; expected 1 step or more")
        if not 0 < alpha <= 1:
            raise ValueError(f"lookahead: alpha is {alpha}; expected above 0 and at most 1")
        self.k, self.alpha = k, alpha
        self._slow: dict[Player, list[Tensor]] = {}

    def before_step(self, player: Player, game: Game) -> None:
        # At the first step and not at attach: a loop may load weights in between.
        if self.alpha < 1 and not self._slow:
            self._slow = {p: _weights.copied(_weights.moved(p, game)) for p in PLAYERS}

    def after_step(self, player: Player, game: Game) -> None:
        if player == "d" or not self._slow or game.steps["g"] % self.k:
            return
        for p in PLAYERS:
            fast = _weights.moved(p, game)
            self._slow[p] = _weights.beside(self._slow[p], fast)
            step_back(fast, self._slow[p], self.alpha)

    def state_dict(self) -> dict[str, Any]:
        return {"slow": {player: _weights.copied(slow) for player, slow in self._slow.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._slow = {player: _weights.copied(slow) for player, slow in state["slow"].items()}
