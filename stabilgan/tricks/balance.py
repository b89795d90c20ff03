"""Balance: the player that is too far ahead waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stabilgan import host, losses
from stabilgan.game import PLAYERS, SELECT, Game, Player, Trick
from stabilgan.tricks import _weights


def accuracy(real: Tensor, fake: Tensor, middle: float = 0.0) -> Tensor:
    """The share of samples that D judges rightly: real ones above the middle, fakes below; half each.

    >>> accuracy(torch.tensor([2.0, 1.0, -1.0, 3.0]), torch.tensor([-1.0, 1.0])).item()  # 3 of 4, 1 of 2
    0.625
    """
    return ((real > middle).float().mean() + (fake < middle).float().mean()) / 2


class Balance(Trick):
    """Has the player that is too far ahead wait: D where it judges too well, G where D judges too badly.

    D's step is not made where the measure of its latest scores is above `high`, G's where it is below `low`. With
    D's accuracy and high = 0.8 that is the "adaptive training strategy" of 3D-GAN (Wu et al. 2016, arXiv:1610.07584,
    Sec. 3.1), which looks at the batch before; here it is the very batch of the step, and under gradient accumulation
    the last micro-batch. Ranks of one game decide together.

    Nothing asks the device whether to step: each step is made, then taken back where it should not have been. That
    costs a copy of the player's weights and of its optimizer's state while it steps. Momenta and running averages are
    put back too; step counters, which most optimizers keep on the CPU, go on, so that Adam's bias corrections count
    steps that were not made. `game.steps` and other tricks count them as well. The first step of each player is always
    made.

    Args:
        high: D waits above it; None never.
        low: G waits below it; None never, as in the paper.
        measure: "accuracy", the share of samples that D judges rightly, half real, half fake, in [0, 1]; or "gap", the
            mean score of real samples less that of fakes, which also suits a critic whose scores have no middle. Under
            least squares the middle is ½; with "accuracy", Wasserstein's and the relativistic loss are refused.
        loss: the losses' name in a loop that owns its loss, which is the only way to know it there; None takes scores
            above 0 for real ones, as under the logistic loss. Under least squares say so.
    """

    name = "balance"
    # First of all: what the step changed is put back before averages see it.
    order = SELECT
    off: ClassVar = {"high": None, "low": None}
    conflicts: ClassVar = {
        "extragradient": "a step that balance takes back would still say how far to look ahead",
        "optimistic": "a step that balance takes back would still change where optimistic goes",
    }
    limits: ClassVar = {
        "accumulate": "what is measured is the last micro-batch of each step",
        "a loop that owns its loss": "scores are taken about 0 unless `loss` names least squares",
    }
    fits: frozenset[str] | None = losses.WITH_MIDDLE
    made_for: ClassVar = frozenset(("logistic", "saturating"))
    changes = "how players move"
    when = "D wins within the first steps, and a lower rate for it is not enough. A waiting D does not mend a collapse."
    source = "Wu et al. 2016, arXiv:1610.07584, Sec. 3.1"

    def __init__(
        self,
        high: float | None = 0.8,
        low: float | None = None,
        measure: Literal["accuracy", "gap"] = "accuracy",
        loss: str | None = None,
    ) -> None:
        if measure not in ("accuracy", "gap"):
            raise ValueError(f"balance: measure is {measure!r}; expected 'accuracy' or 'gap'")
        for option, bound in (("high", high), ("low", low)):
            if measure == "accuracy" and bound is not None and not 0 <= bound <= 1:
                raise ValueError(f"balance: {option} is {bound}; expected an accuracy between 0 and 1, or None")
        if high is not None and low is not None and low > high:
            raise ValueError(f"balance: low is {low} and high is {high}; expected low below high")
        self.high, self.low, self.measure = high, low, measure
        if measure == "gap" or (high is None and low is None):
            self.fits = None
        self._measured: Tensor | None = None
        self._skipped: dict[Player, Tensor] = {}
        self._before: dict[tuple[int, str], Tensor] = {}
        self._pair = None if loss is None or self.fits is None else losses.with_middle(loss, self.name)
        self._middle = 0.0

    @property
    def skipped(self) -> dict[Player, int]:
        """How many steps of each player were not made; waits for the device."""
        return {player: int(self._skipped[player]) if player in self._skipped else 0 for player in PLAYERS}

    def setup(self, game: Game) -> None:
        self._middle = losses.middle_of(game.loss or self._pair)

    def before_step(self, player: Player, game: Game) -> None:
        if self.high is None and self.low is None:
            return
        if player == "d":
            self._measured = self._measure(game)
        if self._bound(player) is None or self._measured is None or game.steps[player] == 0:
            return
        self._before = {name: x.clone() for name, x in _weights.with_state(player, game).items()}

    def after_step(self, player: Player, game: Game) -> None:
        bound = self._bound(player)
        if not self._before or self._measured is None or bound is None:
            return
        now = _weights.with_state(player, game)
        wait = self._measured > bound if player == "d" else self._measured < bound
        wait = wait.to(next(iter(now.values())).device)
        for name, before in self._before.items():
            now[name].copy_(torch.where(wait.to(before.device), before, now[name]))
        self._before.clear()
        counted = self._skipped.get(player)
        self._skipped[player] = wait.long() if counted is None else counted.to(wait.device) + wait

    def _bound(self, player: Player) -> float | None:
        return self.high if player == "d" else self.low

    def _measure(self, game: Game) -> Tensor:
        for verb in ("real", "fake"):
            game.saw(verb, self)
        if not {"real", "fake"} <= game.scores.keys():
            raise RuntimeError(
                "balance needs D's scores of real and fake samples, but D was never called with the tensors that "
                "game.real and game.fake returned; write `output = netD(game.real(real))`"
            )
        real, fake = game.scores["real"], game.scores["fake"]
        if self.measure == "accuracy":
            measured = accuracy(real, fake, middle=0.5 if game.probabilities else self._middle)
        else:
            measured = host.full_precision(real).mean() - host.full_precision(fake).mean()
        return host.mean_over_ranks(measured) if game.distributed else measured

    def state_dict(self) -> dict[str, Any]:
        measured = None if self._measured is None else self._measured.clone()
        return {"measured": measured, "skipped": {player: n.clone() for player, n in self._skipped.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._measured, self._skipped = state["measured"], dict(state["skipped"])
