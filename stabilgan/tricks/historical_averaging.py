"""Historical averaging: each player is held near the mean of its own past."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import PLAYERS, Game, Player, Trick


def squared_distance(weights: Iterable[Tensor], means: Iterable[Tensor]) -> Tensor:
    """‖θ - mean‖² over all tensors of a player, a scalar.

    >>> squared_distance([torch.tensor([3.0]), torch.tensor([0.0, 4.0])], [torch.zeros(1), torch.zeros(2)]).item()
    25.0
    """
    parts = [(w - mean).square().sum() for w, mean in zip(weights, means, strict=True)]
    return torch.stack(parts).sum()


class HistoricalAveraging(Trick):
    """Holds each player near the mean of its past weights, which damps going round and round.

    Adds weight · ‖θ - (1/t) Σᵢ θ[i]‖² to both players' losses, θ[1..t] being the weights before each of its steps up
    to now (Salimans et al. 2016, arXiv:1606.03498, Sec. 3.3). The mean is a constant: no gradient runs through it. It
    is of all history alike and moves ever more slowly: in the bilinear game the distance to the equilibrium falls as
    t^(-1 / (1 + 4 weight²)), where without it, it grows. It takes a copy of both players, and no passes.

    Args:
        weight: at least 0. The paper gives no number; 1 is its formula as it stands. For one step of plain gradient
            descent at rate η it pulls by 2 · weight · η towards the mean: keep that below 1.
    """

    name = "historical_averaging"
    changes = "how players move"
    when = (
        "The players orbit an equilibrium in small games. In large networks the mean of all past weights is a poor "
        "place to be held at: prefer r1, or ema for what you sample."
    )
    off: ClassVar = {"weight": 0.0}
    source = "Salimans et al. 2016, arXiv:1606.03498, Sec. 3.3"

    def __init__(self, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"historical_averaging: weight is {weight}; expected 0 or more")
        self.weight = weight
        self._means: dict[Player, list[Tensor]] = {"d": [], "g": []}
        self._counts: dict[Player, int] = {"d": 0, "g": 0}

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if self.weight == 0:
            return None
        weights = [host.full_precision(p) for p in game.player(player).parameters()]
        return self.weight * squared_distance(weights, self._mean_of(player, weights))

    @torch.no_grad()
    def after_step(self, player: Player, game: Game) -> None:
        if self.weight == 0:
            return
        weights = [host.full_precision(p) for p in game.player(player).parameters()]
        means = self._mean_of(player, weights)
        self._counts[player] += 1
        for mean, w in zip(means, weights, strict=True):
            mean.lerp_(w, 1 / self._counts[player])

    def _mean_of(self, player: Player, weights: list[Tensor]) -> list[Tensor]:
        """The running mean, which begins at the weights of the first step, or follows them to another device."""
        means = self._means[player]
        if not means:
            means, self._counts[player] = [w.detach().clone() for w in weights], 1
        self._means[player] = [mean.to(w.device) for mean, w in zip(means, weights, strict=True)]
        return self._means[player]

    def state_dict(self) -> dict[str, Any]:
        return {p: {"count": self._counts[p], "means": [m.clone() for m in self._means[p]]} for p in PLAYERS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for player in PLAYERS:
            self._counts[player] = state[player]["count"]
            self._means[player] = [m.clone() for m in state[player]["means"]]
