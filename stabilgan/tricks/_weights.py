"""The weights that a player's optimizer moves, and copies of them that lie beside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stabilgan.game import Game, Player


def moved(player: Player, game: Game) -> list[Tensor]:
    """The player's parameters that its optimizer holds, without their graph: what is written there moves them."""
    held = {id(p) for group in game.optimizer(player).param_groups for p in group["params"]}
    return [p.detach() for p in game.player(player).parameters() if id(p) in held]


def copied(weights: Sequence[Tensor]) -> list[Tensor]:
    """Copies that stay as they are."""
    return [w.clone() for w in weights]


def beside(kept: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """The copies on the devices of the weights, where a file has brought them elsewhere."""
    return [k.to(w.device) for k, w in zip(kept, weights, strict=True)]


def overwrite(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Writes values into weights, whatever their devices."""
    if weights:
        torch._foreach_copy_(list(weights), list(values))
