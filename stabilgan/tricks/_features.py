"""What terms share that compare D's features of fakes and of real samples."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from stabilgan import surgery
from stabilgan.game import Cost, Game, Player, Trick
from stabilgan.tricks._penalty import Penalty


def features_of_both(game: Game, trick: Trick, layer: str | None) -> tuple[Tensor, Tensor] | None:
    """D's features of G's latest batch, made once more so that gradients reach G, and of the latest real batch.

    Returns:
        (N, ...) with G's graph and (M, ...) without one, in float32 at least; or None as long as D has not moved, which
        in a loop where G moves first has seen nothing real yet.
    """
    if "real" not in game.seen and game.steps["d"] == 0:
        return None
    real = game.saw("real", trick)
    made_by = game.latents("critic", trick)
    with torch.no_grad():
        of_real = game.features(real.x, real, layer)
    return game.features(game.generate(made_by), game.saw("critic", trick), layer), of_real


class FeatureTerm(Penalty):
    """`weight` times what `compare` says of D's features of G's batch and of the latest real one, for G."""

    changes = "a term for G"
    needs_latents = True
    cost = Cost(g_forward=1, g_backward=1, d_forward=2)
    conflicts: ClassVar = dict.fromkeys(
        ("instance_noise", "diffaugment", "ada"),
        "its real batch is augmented, but the fakes that it makes anew are not: G would be taught the augmentation",
    )
    limits: ClassVar = {
        "g first": "nothing is added until D has seen a first real batch, also after a restart",
        "accumulate": "each of G's micro-batches is held against the last real one of D's turn",
    }

    def __init__(self, weight: float = 1.0, layer: str | None = None, every: int = 1) -> None:
        super().__init__(weight, every)
        self.layer = layer

    def setup(self, game: Game) -> None:
        surgery.last_layer(game.d, self.layer)

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "d" or self.weight == 0 or (features := features_of_both(game, self, self.layer)) is None:
            return None
        return self.weight * self.compare(*features)

    @abstractmethod
    def compare(self, fake: Tensor, real: Tensor) -> Tensor:
        """A number, from (N, ...) features of the fakes and (M, ...) of real samples."""
