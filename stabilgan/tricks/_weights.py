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


def unless(out: Tensor | None, values: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """The values, or the others where the step is left out (`host.left_out`), which nobody waits to know."""
    if out is None:
        return list(values)
    return [torch.where(out.to(v.device, non_blocking=True), o, v) for v, o in zip(values, others, strict=True)]


def with_state(player: Player, game: Game) -> dict[tuple[int, str], Tensor]:
    """The weights that its optimizer moves, and what that remembers of each, but for step counters.

    By the weight's number among the player's and the name in the optimizer's state, or "" for the weight itself.
    """
    optimizer = game.optimizer(player)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    found: dict[tuple[int, str], Tensor] = {}
    for i, p in enumerate(game.player(player).parameters()):
        if id(p) in held:
            found[i, ""] = p.detach()
            state = optimizer.state.get(p, {})
            found |= {(i, name): x for name, x in state.items() if isinstance(x, Tensor) and _of_shape(name, x, p)}
    return found


def _of_shape(name: str, x: Tensor, p: Tensor) -> bool:
    """Whether it is a momentum or an average of a weight, rather than a count."""
    return x.dim() > 0 or (p.dim() == 0 and name != "step")
