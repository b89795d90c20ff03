"""Label smoothing: D is asked to be nearly sure, not wholly."""

from __future__ import annotations

from typing import ClassVar

from stabilgan import losses
from stabilgan.game import SELECT, Game, Trick


class LabelSmoothing(Trick):
    """Keeps D from being wholly sure: its target for real samples is 0.9, so that its scores can't run away.

    Only D's loss changes, and only for real samples unless `fake` is set: a target above 0 for fakes would give samples
    of G weight where there are no data (Salimans et al. 2016, arXiv:1606.03498, Sec. 3.4; after Szegedy et al. 2016,
    arXiv:1512.00567, Sec. 7). It acts where the loop takes its loss from `game.loss`, as the Trainer does; in a loop of
    your own call `stabilgan.losses.label_smoothing(pair)`.

    Args:
        real: D's target for real samples, in (0, 1]; the paper's is 0.9.
        fake: D's target for fakes, in [0, real); the paper's is 0.
    """

    name = "label_smoothing"
    order = SELECT  # the target is chosen before other tricks change who is compared with whom
    changes = "the loss"
    when = "D wins outright and its scores run away, under a loss with targets. A mild remedy, at no cost."
    off: ClassVar = {"real": 1.0, "fake": 0.0}
    fits = frozenset(("logistic", "saturating", "least_squares"))
    conflicts: ClassVar = {"relativistic": "a relativistic loss has no target of a single sample to make softer"}
    source = "Salimans et al. 2016, arXiv:1606.03498, Sec. 3.4; Szegedy et al. 2016, arXiv:1512.00567, Sec. 7"

    def __init__(self, real: float = 0.9, fake: float = 0.0) -> None:
        if not 0 <= fake < real <= 1:
            raise ValueError(f"{self.name}: targets are real={real} and fake={fake}; expected 0 <= fake < real <= 1")
        self.real_target, self.fake_target = real, fake

    def loss(self, loss: losses.Loss, game: Game) -> losses.Loss:
        if (self.real_target, self.fake_target) == (1, 0):
            return loss
        return losses.label_smoothing(loss, self.real_target, self.fake_target)

    def __repr__(self) -> str:
        return f"LabelSmoothing(real={self.real_target}, fake={self.fake_target})"
