"""Latent consistency: near latents make different samples, of which D has to say the same."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import Cost, Game, Player
from stabilgan.tricks._penalty import Draws
from stabilgan.tricks.consistency import disagreement


class LatentConsistency(Draws):
    """Makes G answer a small change of its latents with a change of the sample, which D must not mind.

    Adds d_weight · E(D(G(z)) - D(G(z + δ)))² to D's loss and -g_weight · E(G(z) - G(z + δ))² to G's, with Gaussian δ
    (zCR, Zhao et al. 2020, arXiv:2002.04724, Alg. 2). G's term is the mean over all elements of the samples, so that
    its strength does not depend on their size. By itself it has no lower bound: it leans on a G whose output is bounded
    (tanh), or on D.

    G is called again with the latents of the batch in hand. What the loop or other tricks do to its samples before D
    sees them is not done again; labels that replay has moved are then those of other samples.

    Args:
        d_weight: λ of D's term, at least 0. The three defaults are those of a reimplementation that names the paper;
            its own table was not at hand. Users differ: PyTorch-StudioGAN has 20, 0.5 and 0.05 beside bCR, the
            comparison in StyleGAN2-ADA 0.2, 0.02 and 0.1.
        g_weight: λ of G's term, at least 0.
        noise: the standard deviation of δ, at least 0, for latents whose own is 1.
        every: ask on every n-th step of each player, then n-fold.
    """

    name = "latent_consistency"
    changes = "a penalty on D"
    when = "G ignores its latents or few of them matter, and D minds every small step; images of a bounded range."
    off: ClassVar = {"d_weight": 0.0, "g_weight": 0.0}
    needs_logits = True
    needs_latents = True
    source = "Zhao et al. 2020, arXiv:2002.04724, Alg. 2"

    def __init__(self, d_weight: float = 5.0, g_weight: float = 0.5, noise: float = 0.03, every: int = 1) -> None:
        for option, value in (("d_weight", d_weight), ("g_weight", g_weight), ("noise", noise)):
            if value < 0:
                raise ValueError(f"{self.name}: {option} is {value}; expected 0 or more")
        if every < 1:
            raise ValueError(f"{self.name}: every is {every}; expected 1 or more")
        self.d_weight, self.g_weight, self.noise, self.every = d_weight, g_weight, noise, every

    @property
    def cost(self) -> Cost:
        d, g = 2 * (self.d_weight > 0), 2 * (self.g_weight > 0)
        return Cost(g_forward=d + g, g_backward=g, d_forward=d, d_backward=d)

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        weight = self.d_weight if player == "d" else self.g_weight
        if weight == 0:
            return None
        made_by = game.latents("fake" if player == "d" else "critic", self)
        z = host.full_precision(made_by.x)
        near = z + self.noise * self.normal(*z.shape, like=z)
        with torch.set_grad_enabled(player == "g"):
            samples = [host.full_precision(game.generate(made_by, at)) for at in (z, near)]
        if player == "g":
            return -weight * disagreement(*samples)
        seen = game.saw("fake", self)
        return weight * disagreement(*(host.full_precision(game.score(x, seen)) for x in samples))
