"""Relativistic: D says which of two is more real."""

from __future__ import annotations

from typing import ClassVar

from stabilgan import losses
from stabilgan.game import Cost, Game, Trick


class Relativistic(Trick):
    """Replaces the pair of losses: each player sees real and fake compared, never alone.

    D minimises softplus(-(D(x) - D(G(z)))), G the mirror image (Jolicoeur-Martineau 2018, arXiv:1807.00734, Eq. 3-4).
    With R1 and R2 beside it, it is R3GAN's loss (Huang et al. 2024, arXiv:2501.05441). It acts where the loop takes its
    loss from `game.loss`, as the Trainer does; in a loop of your own call `stabilgan.losses.relativistic`.
    """

    name = "relativistic"
    changes = "the loss"
    when = "Modes are dropped under a plain loss; play R1 and R2 beside it, without which it diverges."
    cost = Cost(d_forward=1)
    needs_logits = True
    conflicts: ClassVar = {}
    source = "Jolicoeur-Martineau 2018, arXiv:1807.00734, Eq. 3-4"

    def loss(self, loss: losses.Loss, game: Game) -> losses.Loss:
        return losses.relativistic
