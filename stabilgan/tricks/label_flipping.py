"""Label flipping: now and then D is told the wrong thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from stabilgan import losses
from stabilgan.game import STEP, Game, Trick
from stabilgan.tricks._draws import Draws


class LabelFlipping(Trick):
    """Keeps D from being wholly sure: in its loss some pairs of a real and a fake sample change sides in each step.

    On average it is label smoothing of both sides, with more noise, and it works with any loss: a wrong label costs a
    sure D dearly (Chintala et al. 2016, "How to train a GAN", tip 6). It acts where the loop takes its loss from
    `game.loss`, as the Trainer does; in a loop of your own call
    `stabilgan.losses.label_flipping(pair, share, generator)`.

    Args:
        share: how likely each pair is flipped, in [0, ½). The source names none; 0.05 is ours.
    """

    name = "label_flipping"
    order = STEP  # whatever the pair of losses is in the end, its scores are exchanged
    changes = "the loss"
    when = "D wins outright and label smoothing does not fit the loss. It makes D's gradients noisier."
    off: ClassVar = {"share": 0.0}
    source = 'Chintala et al. 2016, "How to train a GAN", tip 6'

    def __init__(self, share: float = 0.05) -> None:
        if not 0 <= share < 0.5:
            raise ValueError(f"{self.name}: share is {share}; expected 0 or more and less than ½")
        self.share = share
        self._draws = Draws()

    def setup(self, game: Game) -> None:
        self._draws.start(game.generator(self))

    def loss(self, loss: losses.Loss, game: Game) -> losses.Loss:
        return losses.label_flipping(loss, self.share, self._draws.on) if self.share else loss

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self._draws.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._draws.load_state_dict(state["draws"])
