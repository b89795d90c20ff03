"""Extragradient: each player steps with the gradient that it would meet one step ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import STEP, Cost, Game, Player, Trick
from stabilgan.tricks import _weights


def look_ahead(weights: Sequence[Tensor], before: Sequence[Tensor], ahead: float = 1.0) -> None:
    """Moves weights as far again as they have come from `before`, `ahead` times; in place.

    >>> w = torch.tensor([3.0])
    >>> look_ahead([w], [torch.tensor([1.0])])
    >>> w.item()
    5.0
    """
    if weights:
        torch._foreach_add_(list(weights), torch._foreach_sub(list(weights), list(before)), alpha=ahead)


class Extragradient(Trick):
    """Lets each player step with the gradient of a point ahead of it, which makes the bilinear game converge.

    w½ <- w - step(F(.)), w <- w - step(F(w½)), where the optimizer makes the steps (Gidel et al. 2019,
    arXiv:1802.10551). Costs a copy of each player's weights.

    Forms:
        past: the step to w½ is the latest step again, so that a step costs one gradient as ever (Sec. 3.3).
            Between its steps a player stands at w½: there the loop computes gradients, penalties included, and there it
            samples, `Trainer.sample` too. An `EMA` averages w, not w½; detach goes back to w. After a step that
            `GradScaler` left out it stands where it stood.
        two_call: a player's odd steps only look ahead, with the gradient of w, and are not counted; its even ones go
            back to w and step with the gradient of w½ (Sec. 3.2). Other tricks' `after_step` is called for
            the even ones alone. The optimizer's state is shared by both, as in the paper's ExtraAdam (Algorithm 4).
            Twice the gradients: the Trainer goes round twice for one step.

    In a loop of alternating turns D looks ahead and steps before G does; with `Trainer(scheme="simultaneous")` both
    look ahead from one point, as in the paper. BatchNorm's statistics take in what passes at w½.

    Args:
        form: "past" or "two_call".
        ahead: how many steps w½ is away in the form "past", at least 0; the paper's is 1. At 0 nothing looks ahead,
            in either form; "two_call" takes 1 or 0.
    """

    name = "extragradient"
    # After all else: before the step gradients are clipped where they were computed, after it averages see w.
    order = STEP + 2
    off: ClassVar = {"ahead": 0.0}
    conflicts: ClassVar = {
        "optimistic": "both look ahead by the last step, so that together they do it twice; play one of them",
        "lookahead": "while lookahead takes both players back, one may stand at its look-ahead point",
        "balance": "a step that balance takes back would still say how far to look ahead",
    }
    changes = "how players move"
    when = (
        "Players circle each other. The form past costs no gradient more; two_call is the paper's, at twice the time."
    )
    source = "Gidel et al. 2019, arXiv:1802.10551, Sec. 3.2-3.3, Algorithm 4"

    def __init__(self, form: Literal["past", "two_call"] = "past", ahead: float = 1.0) -> None:
        if form not in ("past", "two_call"):
            raise ValueError(f"extragradient: form is {form!r}; expected 'past' or 'two_call'")
        if ahead < 0:
            raise ValueError(f"extragradient: ahead is {ahead}; expected 0 or more")
        if form == "two_call" and ahead not in (0, 1):
            raise ValueError(
                f"extragradient: ahead is {ahead}; expected 1 or 0 in the form two_call, which goes one step ahead"
            )
        self.form, self.ahead = form, ahead
        self._real: dict[Player, list[Tensor]] = {}  # where a player that stands at its look-ahead point belongs
        self._stood: list[Tensor] = []  # that point, for a step that a GradScaler may leave out

    @property
    def cost(self) -> Cost:
        twice = self.form == "two_call" and self.ahead > 0
        return Cost(g_forward=2, g_backward=1, d_forward=3, d_backward=3) if twice else Cost()

    def before_step(self, player: Player, game: Game) -> None:
        if self.ahead == 0:
            return
        weights = _weights.moved(player, game)
        if self.form == "past" and host.left_out(game.optimizer(player)) is not None:
            self._stood = _weights.copied(weights)
        if player in self._real:
            self._real[player] = _weights.beside(self._real[player], weights)
            _weights.overwrite(weights, self._real[player])
            if self.form == "two_call":
                del self._real[player]
        else:
            self._real[player] = _weights.copied(weights)
            if self.form == "two_call":
                game.looking_ahead.add(player)

    def after_step(self, player: Player, game: Game) -> None:
        if self.ahead == 0 or self.form == "two_call":
            return
        weights, before = _weights.moved(player, game), self._real[player]
        self._real[player] = _weights.copied(weights)
        look_ahead(weights, before, self.ahead)
        if (out := host.left_out(game.optimizer(player))) is not None:
            _weights.overwrite(weights, _weights.unless(out, weights, self._stood))
            self._stood = []

    def teardown(self, game: Game) -> None:
        for player, real in self._real.items():
            weights = _weights.moved(player, game)
            _weights.overwrite(weights, _weights.beside(real, weights))
        self._real.clear()

    def state_dict(self) -> dict[str, Any]:
        """The weights to go back to, of each player that stands at its look-ahead point; and the form."""
        return {"form": self.form, "real": {player: _weights.copied(real) for player, real in self._real.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises ValueError if it is of the other form."""
        if state["form"] != self.form:
            raise ValueError(
                f"extragradient: this state is of form={state['form']!r}, but this trick has form={self.form!r}; "
                "expected the same, since the players stand where that form has led them"
            )
        self._real = {player: _weights.copied(real) for player, real in state["real"].items()}
