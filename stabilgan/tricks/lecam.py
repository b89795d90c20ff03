"""LeCam: D's scores are held to where those of the other side have been on average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import relu

from stabilgan import host
from stabilgan.game import Cost, Game, Player
from stabilgan.tricks._penalty import Penalty


def lecam_penalty(real: Tensor, fake: Tensor, anchors: Tensor) -> Tensor:
    """E max(0, D(real) - α_F)² + E max(0, α_R - D(fake))², the means over all scores.

    Args:
        real, fake: D's raw scores, any shape.
        anchors: (2,), the averages α_R of D's scores of real samples and α_F of fakes, so far.

    >>> lecam_penalty(torch.tensor([2.0]), torch.tensor([-3.0]), torch.tensor([1.0, -1.0])).item()  # 3² + 4²
    25.0
    """
    return relu(real - anchors[1]).square().mean() + relu(anchors[0] - fake).square().mean()


class LeCam(Penalty):
    """Keeps D from drawing the scores of real samples and fakes ever further apart, as it does with few data.

    Adds weight · (E max(0, D(real) - α_F)² + E max(0, α_R - D(fake))²) to D's loss, where the anchors α are moving
    averages of D's mean scores of the real samples and of the fakes (Tseng et al. 2021, arXiv:2104.03310, with
    the one-sided squares of the authors' code). The averages take in the scores that the loop's own calls of D gave,
    after each step of D; they start at the first batch and are freed of that start's bias. In several ranks they are
    averaged.

    Args:
        weight: λ, at least 0; 0.3 in the authors' BigGAN on CIFAR. It belongs to scores of the hinge loss's size.
        decay: of the averages, 0 to 1; the authors' is 0.99.
        start: after how many steps of D the term comes in, at least 1; the anchors are warm by then. The authors'
            BigGAN code has 1000, their StyleGAN2 code 1.
        every: ask on every n-th step, then n-fold. The averages take in every step.
    """

    name = "lecam"
    changes = "a penalty on D"
    when = (
        "Few data: D learns them by heart and its two scores drift apart. Nothing happens in the first `start` steps."
    )
    cost = Cost(d_forward=2, d_backward=2)
    needs_logits = True
    limits: ClassVar = {"accumulate": "the averages take in the last micro-batch of each step"}
    made_for: ClassVar = frozenset(("hinge", "logistic", "wasserstein"))
    source = "Tseng et al. 2021, arXiv:2104.03310"

    def __init__(self, weight: float = 0.3, decay: float = 0.99, start: int = 1000, every: int = 1) -> None:
        super().__init__(weight, every)
        if not 0 <= decay < 1:
            raise ValueError(f"{self.name}: decay is {decay}; expected 0 or more and less than 1")
        if start < 1:
            raise ValueError(f"{self.name}: start is {start}; expected 1 or more: at first there are no averages")
        self.decay, self.start = decay, start
        self._seen = 0
        self._sums: Tensor | None = None

    def anchors(self, like: Tensor) -> Tensor:
        """(2,), α_R and α_F, on the device of other scores."""
        if self._sums is None:
            raise RuntimeError(f"{self.name} has no anchors before D has made a step")
        return self._sums.to(like.device, non_blocking=True) / (1 - self.decay**self._seen)

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "g" or self.weight == 0 or self._seen < self.start:
            return None
        real, fake = (
            host.full_precision(game.score(host.full_precision(seen.x.detach()), seen))
            for seen in (game.saw("real", self), game.saw("fake", self))
        )
        return self.weight * lecam_penalty(real, fake, self.anchors(real))

    def after_step(self, player: Player, game: Game) -> None:
        if player == "g" or self.weight == 0:
            return
        for verb in ("real", "fake"):
            game.saw(verb, self)
            if verb not in game.scores:
                raise RuntimeError(
                    f"{self.name} averages D's scores of {verb} samples, but D was not called with the tensor that "
                    f"game.{verb} returned, or gave no tensor of scores; see attach(..., score=)"
                )
        now = torch.stack([host.full_precision(game.scores[verb]).mean() for verb in ("real", "fake")])
        if game.distributed:
            now = host.mean_over_ranks(now)
        before = torch.zeros_like(now) if self._sums is None else self._sums.to(now.device, non_blocking=True)
        self._sums = self.decay * before + (1 - self.decay) * now
        self._seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "sums": self._sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen, self._sums = state["seen"], state["sums"]
