"""Optimism: each step counts twice and takes the one before back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import SELECT, Game, Player, Trick
from stabilgan.tricks import _weights


def optimism(weights: Sequence[Tensor], now: Sequence[Tensor], before: Sequence[Tensor], weight: float = 1.0) -> None:
    """Adds weight · (now - before) to the weights, in place: `now` is the step just made, `before` the one before it.

    >>> w = torch.tensor([10.0])
    >>> optimism([w], [torch.tensor([3.0])], [torch.tensor([1.0])])
    >>> w.item()
    12.0
    """
    if weights:
        torch._foreach_add_(list(weights), list(now), alpha=weight)
        torch._foreach_sub_(list(weights), list(before), alpha=weight)


class Optimistic(Trick):
    """Lets each player step as if its next gradient were its last one, which makes the bilinear game converge.

    After the optimizer's own step δₜ the weights move by δₜ - δₜ₋₁ more, so that in all w <- w + 2δₜ - δₜ₋₁. Around SGD
    that is optimistic mirror descent, around Adam optimistic Adam (Daskalakis et al. 2018, arXiv:1711.00141, Eq. 6 and
    Algorithm 1); around any other optimizer it is the same with its δ, weight decay included. The first step counts
    twice, as in the paper. A step that `GradScaler` leaves out is none. Costs two copies of a player's weights, and no
    passes.

    Args:
        weight: of δₜ - δₜ₋₁, at least 0; the paper's is 1.
    """

    name = "optimistic"
    # Before what averages or clips weights after the step; before the step it only notes where they are.
    order = SELECT
    off: ClassVar = {"weight": 0.0}
    conflicts: ClassVar = {
        "extragradient": "both look ahead by the last step, so that together they do it twice; play one of them",
        "balance": "a step that balance takes back would still change where optimistic goes",
    }
    changes = "how players move"
    when = "Players circle each other, above all with plain gradient steps. Wants half the rate: a step counts twice."
    source = "Daskalakis et al. 2018, arXiv:1711.00141, Eq. 6 and Algorithm 1"

    def __init__(self, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"optimistic: weight is {weight}; expected 0 or more")
        self.weight = weight
        self._from: list[Tensor] = []
        self._last: dict[Player, list[Tensor]] = {}

    def before_step(self, player: Player, game: Game) -> None:
        if self.weight:
            self._from = _weights.copied(_weights.moved(player, game))

    def after_step(self, player: Player, game: Game) -> None:
        if not self._from:
            return
        weights, out = _weights.moved(player, game), host.left_out(game.optimizer(player))
        now = list(torch._foreach_sub(weights, self._from))
        before = _weights.beside(self._last.get(player) or [torch.zeros_like(w) for w in weights], weights)
        optimism(weights, now, before, self.weight)
        if out is not None:
            _weights.overwrite(weights, _weights.unless(out, weights, self._from))
        self._last[player], self._from = _weights.unless(out, now, before), []

    def state_dict(self) -> dict[str, Any]:
        return {"last": {player: _weights.copied(last) for player, last in self._last.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._last = {player: _weights.copied(last) for player, last in state["last"].items()}
