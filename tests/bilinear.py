"""The bilinear game x·y, in which simultaneous steps spiral out and whatever looks ahead spirals in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

import stabilgan

Make = Callable[[nn.Module], torch.optim.Optimizer]


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


class Bilinear:
    """G's one weight x against D's one weight y: D minimises x·y, G minimises -x·y; from (1, 1), in float64.

    D's real samples are zero and G's latents one, so that with the Wasserstein losses D pays y·x and G -y·x.
    """

    def __init__(self, tricks: Sequence[stabilgan.Trick] = (), make: Make = sgd) -> None:
        self.g, self.d = (nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(2))
        for net in (self.g, self.d):
            nn.init.ones_(net.weight)
        self.opt_g, self.opt_d = make(self.g), make(self.d)
        self.game = stabilgan.attach(self.g, self.d, self.opt_g, self.opt_d, tricks, loss=stabilgan.losses.wasserstein)
        self.real, self.z = (torch.full((1, 1), value, dtype=torch.float64) for value in (0.0, 1.0))

    def turn(self, player: str, *, step: bool = True) -> None:
        """One player's gradient, and its step."""
        game, pair = self.game, stabilgan.losses.wasserstein
        if player == "d":
            self.opt_d.zero_grad()
            pair.d(self.d(game.real(self.real)), self.d(game.fake(self.g(self.z).detach()))).backward()
        else:
            self.opt_g.zero_grad()
            loss = pair.g(game.critic(self.g(self.z)), None)
            loss.backward(inputs=list(self.g.parameters()))
        if step:
            game.optimizer(player).step()  # type: ignore[arg-type]

    def alternate(self, steps: int) -> Bilinear:
        for _ in range(steps):
            self.turn("d")
            self.turn("g")
        return self

    def simultaneous(self, steps: int) -> Bilinear:
        for _ in range(steps):
            self.turn("d", step=False)
            self.turn("g", step=False)
            self.opt_d.step()
            self.opt_g.step()
        return self

    @property
    def point(self) -> torch.Tensor:
        """(x, y), where the players stand."""
        return torch.cat([net.weight.detach().reshape(-1) for net in (self.g, self.d)])

    @property
    def distance(self) -> float:
        """From the solution, the origin."""
        return self.point.norm().item()

    def state(self) -> dict[str, Any]:
        nets = {"g": self.g, "d": self.d, "opt_g": self.opt_g, "opt_d": self.opt_d, "game": self.game}
        return {name: one.state_dict() for name, one in nets.items()}
