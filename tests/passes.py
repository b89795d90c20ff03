"""Counts the passes that a trick adds to one step of each player."""

from __future__ import annotations

from typing import Any

import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import losses


def extra(trick: stabilgan.Trick, *, steps: int = 4) -> dict[str, float]:
    """What the last of `steps` steps took more than the same step without tricks, in the words of `Cost`."""
    with_trick, without = _count([trick], steps), _count([], steps)
    return {what: with_trick[what] - without[what] for what in with_trick}


def _count(tricks: list[stabilgan.Trick], steps: int) -> dict[str, float]:
    found = dict.fromkeys(stabilgan.Cost._fields, 0.0)

    def listen(player: nn.Module, name: str) -> None:
        def heard(module: nn.Module, args: Any, out: Tensor) -> None:
            found[f"{name}_forward"] += 1
            if out.requires_grad:
                out.register_hook(lambda _: found.__setitem__(f"{name}_backward", found[f"{name}_backward"] + 1))

        player.register_forward_hook(heard)

    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), tricks)
    listen(g, "g")
    listen(d, "d")
    once = torch.autograd.grad

    def grad(*args: Any, create_graph: bool = False, **kwargs: Any) -> Any:
        found["second_order"] += create_graph
        return once(*args, create_graph=create_graph, **kwargs)

    data = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", grad)
        for _ in range(steps):
            found.update(dict.fromkeys(found, 0.0))
            x, fake = play.ring(8, data), g(torch.randn(8, 4, generator=data))
            game.opt_d.zero_grad()
            losses.logistic.d(d(game.real(x)), d(game.fake(fake.detach()))).backward()
            game.opt_d.step()
            game.opt_g.zero_grad()
            losses.logistic.g(game.critic(fake), None).backward()
            game.opt_g.step()
    return found
