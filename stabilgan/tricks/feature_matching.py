"""Feature matching: G's samples are to look to D, on average, as real ones do."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from stabilgan import surgery
from stabilgan.game import Cost, Game, Player, Trick


def feature_distance(fake: Tensor, real: Tensor) -> Tensor:
    """‖E f(x) - E f(G(z))‖²: the squared distance of the two batches' mean features.

    Args:
        fake, real: (N, ...) and (M, ...), features of the same shape; N and M may differ.

    Returns:
        A scalar: the sum over features, not their mean.

    >>> feature_distance(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[5.0, 4.0]])).item()  # (2, 0) to (5, 4)
    25.0
    """
    return (fake.mean(0) - real.mean(0)).square().sum()


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


class FeatureMatching(Trick):
    """Pulls the mean of D's features over the fakes to their mean over the data, a goal that does not run away.

    Adds weight · ‖E f(x) - E f(G(z))‖² to G's loss, f being what D's last layer is given (Salimans et al. 2016,
    arXiv:1606.03498, Sec. 3.1). In the paper this is G's whole loss; here it is a term beside the loop's own, which a
    loop makes the whole by not adding its own. Real features are of the batch that D saw last, by D as it is now.

    Args:
        weight: at least 0. The paper's is 1.
        layer: the name of the linear or convolutional layer of D whose input is f, such as "4"; D's last one if None.
        every: ask on every n-th step, then n-fold.

    Raises:
        ValueError: an option outside its range; D has no such layer.
        RuntimeError: the loop never calls `game.real`, or not the generator that was attached.
    """

    name = "feature_matching"
    changes = "a term for G"
    when = (
        "G chases D's latest whim and neither settles. It matches means alone: several modes can have the mean of one, "
        "so it does not stop collapse by itself."
    )
    needs_latents = True
    cost = Cost(g_forward=1, g_backward=1, d_forward=2)
    off: ClassVar = {"weight": 0.0}
    conflicts: ClassVar = dict.fromkeys(
        ("instance_noise", "diffaugment", "ada"),
        "its real batch is augmented, but the fakes that it makes anew are not: G would be taught the augmentation",
    )
    limits: ClassVar = {
        "g first": "nothing is added until D has seen a first real batch, also after a restart",
        "accumulate": "each of G's micro-batches is held against the last real one of D's turn",
    }
    source = "Salimans et al. 2016, arXiv:1606.03498, Sec. 3.1"

    def __init__(self, weight: float = 1.0, layer: str | None = None, every: int = 1) -> None:
        if weight < 0:
            raise ValueError(f"feature_matching: weight is {weight}; expected 0 or more")
        if every < 1:
            raise ValueError(f"feature_matching: every is {every}; expected 1 or more")
        self.weight, self.layer, self.every = weight, layer, every

    def setup(self, game: Game) -> None:
        surgery.last_layer(game.d, self.layer)

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "d" or self.weight == 0 or (features := features_of_both(game, self, self.layer)) is None:
            return None
        return self.weight * feature_distance(*features)
