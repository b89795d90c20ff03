"""Counting the passes of both players, whoever makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stabilgan.game import Cost, Game


@contextmanager
def counting(game: Game) -> Iterator[dict[str, int]]:
    """Counts inside: the fields of `Cost` by name.

    A forward pass is a call of the module; a backward pass is a gradient that reaches a tensor it returned; a
    second-order one is a call of `torch.autograd.grad(..., create_graph=True)`.
    """
    counts = dict.fromkeys(Cost._fields, 0)

    def heard_of(player: str) -> Callable[..., None]:
        def went_back(gradient: Tensor) -> None:
            counts[f"{player}_backward"] += 1

        def heard(module: nn.Module, args: Any, out: Any) -> None:
            counts[f"{player}_forward"] += 1
            if getattr(out, "requires_grad", False):
                out.register_hook(went_back)

        return heard

    def grad(*args: Any, **options: Any) -> Any:
        create = options.get("create_graph", args[4] if len(args) > 4 else False)
        counts["second_order"] += bool(create)
        return plain(*args, **options)

    plain = torch.autograd.grad
    hooks = [game.g.register_forward_hook(heard_of("g")), game.d.register_forward_hook(heard_of("d"))]
    torch.autograd.grad = grad
    try:
        yield counts
    finally:
        torch.autograd.grad = plain
        for hook in hooks:
            hook.remove()
