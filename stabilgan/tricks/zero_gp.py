"""Zero-centred gradient penalty between real and fake: D is flattened along the way from one to the other."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from stabilgan.game import Game, Player
from stabilgan.tricks.r1 import gradient_norm_penalty
from stabilgan.tricks.wgan_gp import Between


class ZeroGP(Between):
    """Flattens D between the real samples and the fakes, so that it can't learn the training set by heart.

    Adds weight · E‖∇D(x̂)‖² to D's loss, with x̂ = ε · real + (1 - ε) · fake and one uniform ε for each sample
    (Thanh-Tung et al. 2019, arXiv:1902.03984), without the ½ that R1 has. Unlike a penalty centred at 1 it vanishes at
    the equilibrium, which attracts.

    D is called as with the real batch, labels included. Where the batches differ in size there is one point for each
    real sample, and the fakes are gone through again or left out.

    Args:
        weight: λ, at least 0; 10 as in WGAN-GP.
        every: ask on every n-th step, then n-fold.
    """

    name = "zero_gp"
    when = "As R1, where D also overfits: it flattens D between the distributions and not only where the data are."
    source = "Thanh-Tung et al. 2019, arXiv:1902.03984"
    conflicts: ClassVar = {"wgan_gp": "at the same points one pulls D's slope to 0 and the other to 1"}

    def __init__(self, weight: float = 10.0, every: int = 1) -> None:
        super().__init__(weight, every)

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "g" or self.weight == 0:
            return None
        x, seen = self.points(game)
        return 2 * self.weight * gradient_norm_penalty(game.score(x, seen), x)
