"""Saturation: the discriminator has won, and there is nothing left to learn from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stabilgan.detectors.base import Detector, Reading, Ring, View, at_least

CHANCE = 0.5
"""What `wrongness` reads where D can't tell the two apart."""

MEANINGLESS = {
    "wasserstein": "a Wasserstein critic's scores have no scale and no sign, so a wide gap is no sign of saturation; "
    "watch its gradient norms instead"
}
FAMILIES = ("logistic", "saturating", "hinge", "least_squares", "relativistic")


def wrongness(real: Tensor, fake: Tensor, *, loss: str = "logistic", probabilities: bool = False) -> Tensor:
    """How much of D's judgement is wrong: ½ where it can't tell real from fake, 0 where it has nothing left to learn.

    What is averaged over both batches is what D's loss still reacts to:

    - logistic, saturating: the probability on the wrong side, 1 - D(real) and D(fake);
    - hinge: half the share of samples that are not beyond the margin;
    - least squares: twice the squared distance to the targets 1 and 0;
    - relativistic: the probability that the fake is the more real of a pair.

    Args:
        real, fake: D's raw scores, any shape whose first dimension is the batch.
        loss: the family, a name in `stabilgan.losses`.
        probabilities: the scores have passed a sigmoid.

    Returns:
        A scalar in float32.

    Raises:
        ValueError: absolute scores say nothing under this family.

    >>> wrongness(torch.zeros(4), torch.zeros(4)).item()
    0.5
    >>> wrongness(torch.tensor([0.75]), torch.tensor([0.5]), probabilities=True).item()  # (1/4 + 1/2) / 2
    0.375
    """
    real, fake = real.detach().float(), fake.detach().float()
    if loss in ("logistic", "saturating"):
        wrong = (1 - real, fake) if probabilities else ((-real).sigmoid(), fake.sigmoid())
    elif loss == "hinge":
        wrong = ((real < 1).float() / 2, (fake > -1).float() / 2)
    elif loss == "least_squares":
        wrong = (2 * (real - 1).square(), 2 * fake.square())
    elif loss == "relativistic":
        if probabilities:
            raise ValueError("a relativistic loss works on logits, but these scores have passed a sigmoid")
        n = min(len(real), len(fake))  # a last batch may be smaller on one side
        wrong = ((fake[:n] - real[:n]).sigmoid(),) * 2
    else:
        why = MEANINGLESS.get(loss, f"no rule is known for the loss {loss!r}; known are {', '.join(FAMILIES)}")
        raise ValueError(why)
    # A comparison is False for NaN: the scores themselves must carry it into the mean.
    return (wrong[0].mean() + wrong[1].mean()) / 2 + 0 * (real.mean() + fake.mean())


class Saturation(Detector):
    """Says that D has won: it tells real from fake so surely that its gradient, and with it G's, is vanishing.

    Reads the mean `wrongness` of D's scores over the latest steps. At 0.01, D's own gradient is 2 % of what it is at
    chance, and so is G's under the saturating loss (Goodfellow et al. 2014, Sec. 3; Arjovsky & Bottou 2017, Sec. 2).

    Args:
        threshold: an alarm below it; chance is 0.5.
        window: steps that have to be seen, and over which it averages.
    """

    name = "saturation"
    source = "Arjovsky & Bottou 2017, arXiv:1701.04862, Sec. 2"
    statistics = ("wrong", "lowest", "highest", "mean_real", "mean_fake")
    kept = ("_step", "_loss", "_probabilities")

    def __init__(self, threshold: float = 0.01, window: int = 50) -> None:
        at_least(self.name, threshold=(threshold, 0), window=(window, 1))
        self.threshold, self.window = threshold, window
        self._ring = Ring(window)
        self._loss: str | None = None
        self._probabilities = False

    def update(self, view: View) -> None:
        self._step = view.step
        if (view.loss, view.probabilities) != (self._loss, self._probabilities):
            self._loss, self._probabilities = view.loss, view.probabilities
            self._ring.clear()
        real, fake = view.scores_real, view.scores_fake
        if real is None or fake is None or self._senseless():
            return
        wrong = wrongness(real, fake, loss=self._loss or "logistic", probabilities=self._probabilities)
        scores = torch.cat([real.flatten(), fake.flatten()]).float()
        row = [wrong, *scores.aminmax(), real.float().mean(), fake.float().mean()]
        self._ring.push(torch.stack(row)[None])

    def _senseless(self) -> str | None:
        family = self._loss or "logistic"
        if family == "relativistic" and self._probabilities:
            return "a relativistic loss works on logits, but this discriminator ends in a sigmoid"
        if family not in FAMILIES:
            return MEANINGLESS.get(family) or f"no rule is known for the loss {family!r}"
        return None

    def missing(self) -> str | None:
        if senseless := self._senseless():
            return senseless
        if self._ring.seen == 0:
            return (
                "D's scores of real samples and fakes were never seen; call D with the very tensors that "
                "game.real(x) and game.fake(x) return, or tell attach how to read them: attach(..., score=...)"
            )
        if not self._ring.full:
            return f"scores of {self._ring.seen} steps were seen, and {self.window} are needed"
        return None

    def measure(self) -> Tensor:
        rows = self._ring.rows()
        return torch.stack([rows[:, 0].mean(), rows[:, 1].amin(), rows[:, 2].amax(), *rows[:, 3:].mean(0)])

    def judge(self, values: Mapping[str, float], step: int) -> Reading:
        wrong, family = values["wrong"], self._loss or "logistic"
        if wrong != wrong:
            return self.unknown("D's scores are not finite", step, None, self.threshold)
        logits = family in ("logistic", "saturating") and not self._probabilities
        bounded = values["lowest"] >= 0 and values["highest"] <= 1
        as_probabilities = (1 - values["mean_real"] + values["mean_fake"]) / 2
        if logits and bounded and as_probabilities < self.threshold:
            return self.unknown(
                "every score was near 0 or 1, as if D applied a sigmoid inside its forward and had won; if it does, "
                'write Watch(scores="probabilities")',
                step,
                None,
                self.threshold,
            )
        assumed = "" if self._loss else " (the loss was not declared; the logistic one is assumed)"
        if wrong < self.threshold:
            text = f"D has won: it judges nearly every sample rightly and surely, so G learns next to nothing{assumed}"
            return Reading(self.name, step, wrong, self.threshold, "alarm", text)
        text = f"D's judgement is {wrong:.3g} wrong, where {CHANCE} is chance{assumed}"
        return Reading(self.name, step, wrong, self.threshold, "ok", text)
