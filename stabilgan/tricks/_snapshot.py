"""A snapshot of a game in memory: both players, what their optimizers remember, and every trick's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from stabilgan import host
from stabilgan.game import PLAYERS, Game, Trick


def take(game: Game, tricks: Sequence[Trick]) -> dict[str, Any]:
    """Copies, on their devices, of all that `put_back` brings back; learning rates and step counts are not in it."""
    return {
        "step": game.steps["g"],
        "players": {p: [x.detach().clone() for x in host.state(game.player(p))] for p in PLAYERS},
        "optimizers": {p: [_copied(game.optimizer(p).state.get(w, {})) for w in _held(game, p)] for p in PLAYERS},
        "tricks": [_copied(t.state_dict()) for t in tricks],
    }


@torch.no_grad()
def put_back(snapshot: Mapping[str, Any], game: Game, tricks: Sequence[Trick]) -> None:
    """Brings a game back to where `take` found it; the snapshot stays as it is."""
    for player in PLAYERS:
        for now, before in zip(host.state(game.player(player)), snapshot["players"][player], strict=True):
            now.copy_(before)
        optimizer = game.optimizer(player)
        for weight, state in zip(_held(game, player), snapshot["optimizers"][player], strict=True):
            _remember(optimizer, weight, state)
    for trick, state in zip(tricks, snapshot["tricks"], strict=True):
        trick.load_state_dict(_copied(state))


def _held(game: Game, player: Any) -> list[Tensor]:
    return list(game.player(player).parameters())


def _remember(optimizer: Optimizer, weight: Tensor, state: Mapping[str, Any]) -> None:
    now = optimizer.state.pop(weight, {})
    if state:
        optimizer.state[weight] = {name: _where(x, now.get(name), weight) for name, x in _copied(state).items()}


def _where(x: Any, now: Any, weight: Tensor) -> Any:
    """On the device where the optimizer keeps it now; a file may have brought it elsewhere."""
    if not isinstance(x, Tensor):
        return x
    if isinstance(now, Tensor):
        return x.to(now.device)
    return x.to(weight.device) if x.dim() else x


def _copied(tree: Any) -> Any:
    """The same nest of dicts, lists and tuples with tensors of its own."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_copied(value) for value in tree)
    return tree
