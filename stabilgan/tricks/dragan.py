"""DRAGAN: D's slope is pulled to 1 around the real samples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import Cost, Game, Player
from stabilgan.tricks._penalty import Draws, Penalty
from stabilgan.tricks.wgan_gp import slope_penalty


def perturb(x: Tensor, alpha: Tensor, u: Tensor, *, noise: float = 0.5) -> Tensor:
    """x + α · noise · std(x) · u: each sample on its way to a noisy copy, with the spread of the whole batch.

    Args:
        x: (N, ...).
        alpha: (N,) in [0, 1], how far on the way.
        u: like x, in [0, 1], the direction; the noise is never negative, as in the authors' code.
        noise: in standard deviations of x over all its elements, divided by their number.

    >>> perturb(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 0.5]), torch.ones(2, 1)).tolist()  # std 1
    [[1.5], [3.25]]
    """
    return x + alpha.view(-1, *[1] * (x.dim() - 1)) * noise * torch.std(x, correction=0) * u


class DRAGAN(Draws, Penalty):
    """Pulls D's slope to 1 in the neighbourhood of the real samples, and leaves it free elsewhere.

    Adds weight · E(‖∇D(x̂)‖ - 1)² to D's loss (Kodali et al. 2017, arXiv:1705.07215). x̂ is taken as in the
    authors' code, a uniform way from each real sample towards x + noise · std(x) · u, with u uniform in [0, 1] for
    each element and the standard deviation of the whole batch; the paper writes Gaussian noise. In several ranks each
    takes the deviation of its own batch.

    Args:
        weight: λ, at least 0. The authors' is 10.
        noise: how far the neighbourhood reaches, in standard deviations of the batch, at least 0. The authors' is 0.5.
        every: ask on every n-th step, then n-fold.
    """

    name = "dragan"
    changes = "a penalty on D"
    when = "D gets sharp peaks at the data and the fakes gather there, under the logistic loss. It needs no fakes."
    cost = Cost(d_forward=1, d_backward=1, second_order=1)
    needs_logits = True
    source = "Kodali et al. 2017, arXiv:1705.07215, with the authors' noise"
    made_for: ClassVar = frozenset(("logistic", "saturating"))
    conflicts: ClassVar = {
        "r1": "around the data one pulls D's slope to 1 and the other to 0",
        "zero_gp": "near the data one pulls D's slope to 1 and the other to 0",
    }

    def __init__(self, weight: float = 10.0, noise: float = 0.5, every: int = 1) -> None:
        super().__init__(weight, every)
        if noise < 0:
            raise ValueError(f"{self.name}: noise is {noise}; expected 0 or more")
        self.noise = noise

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "g" or self.weight == 0:
            return None
        seen = game.saw("real", self)
        real = host.full_precision(seen.x.detach())
        alpha, u = self.uniform(len(real), like=real), self.uniform(*real.shape, like=real)
        x = perturb(real, alpha, u, noise=self.noise).requires_grad_()
        return self.weight * slope_penalty(game.score(x, seen), x)
