"""Unrolled GAN: G plays against the D that will have answered it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan import host, losses
from stabilgan.game import STEP, Cost, Critic, Game, Player, Seen, Trick
from stabilgan.tricks._unrolled_steps import AdamSteps, SGDSteps, Steps, groups_of, unroll


class Unrolled(Trick):
    """Judges G by the D that would answer it k steps later, so that G gains nothing by moving all samples to one place.

    D's weights go k steps down D's loss, on this step's real batch and the fakes that G plays with, and G's gradient
    flows through all of those steps (Metz et al. 2017, arXiv:1611.02163, Sec. 2.2-2.3). D itself stays as it is and
    learns in its own turn. Penalties are no part of the unrolled loss. Passes of the k steps are in float32 and
    uncompiled, and change no statistics; their graphs are held in memory. Where G moves before D, its first step, and
    the first one after a resume, is played against D as it stands, for want of a real batch.

    Args:
        k: how many steps, at least 0. The paper plays 1 to 10, more of which did better there.
        lr: the rate of plain gradient steps, as in the paper's text. None makes the steps that D's optimizer would if
            it is an Adam or AdamW, from its own state, as the authors' code does; else plain ones at its rate.
        loss: the losses' name, in a loop that owns its loss; otherwise the game's.

    Raises:
        ValueError: an option out of range; a loop that owns its loss, without `loss`; an optimizer that maximises.
    """

    name = "unrolled"
    order = STEP  # around what other tricks put before D
    off: ClassVar = {"k": 0}
    limits: ClassVar = {
        "g first": "G's first step, and the first one after a restart, is played against D as it stands, for want of a "
        "real batch",
        "accumulate": "D is unrolled on each of G's micro-batches with the last real one of D's turn",
    }
    needs_logits = True
    changes = "how players move"
    when = "G drops modes or jumps from one to the next. Costs k times D's passes, and second derivatives through D."
    source = "Metz et al. 2017, arXiv:1611.02163, Sec. 2.2-2.3"

    def __init__(self, k: int = 5, lr: float | None = None, loss: str | None = None) -> None:
        if k < 0:
            raise ValueError(f"unrolled: k is {k}; expected 0 steps or more")
        if lr is not None and not lr > 0:
            raise ValueError(f"unrolled: lr is {lr}; expected above 0, or None for the steps of D's optimizer")
        self.k, self.lr = k, lr
        self._pair = None if loss is None else losses.named(loss)
        self._names: list[str] = []
        self._answered: dict[str, Tensor] | None = None  # D's weights k steps later, in this turn of G
        self._d_moved = False

    @property
    def cost(self) -> Cost:
        # Two passes a step, of real and fake. Each goes back in its own step, and once more from G's loss, save that of
        # the first real batch, which no fake has touched.
        return Cost(d_forward=2 * self.k, d_backward=max(0, 4 * self.k - 1), second_order=self.k)

    def setup(self, game: Game) -> None:
        if self._pair is None and game.loss is None:
            raise ValueError(
                "unrolled has to know D's loss, which this loop owns; expected its name, Unrolled(loss='logistic') "
                f"or another of {', '.join(losses.LOSSES)}; or attach(loss=...) with losses taken from game.loss"
            )
        if any(group.get("maximize") for group in game.opt_d.param_groups):
            raise ValueError("unrolled: D's optimizer has maximize=True; expected one that minimises D's loss")
        held = {id(p) for group in game.opt_d.param_groups for p in group["params"]}
        self._names = [name for name, p in game.d.named_parameters() if id(p) in held and p.requires_grad]

    def critic(self, d: Critic, game: Game) -> Critic:
        if self.k == 0 or ("real" not in game.seen and not self._d_moved):
            return d

        def unrolled(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if x.requires_grad:  # fakes; what comes without a gradient is judged by the D that answers them
                self._answered = self._answer(Seen(x, args, (x, *args), kwargs), d, game)
            if self._answered is None:
                return d(x, *args, **kwargs)
            with host.without_reducing(game.called_d), torch.compiler.set_stance("force_eager"):
                return host.called_with(game.d, self._answered, (x, *args), kwargs, through=d)

        return unrolled

    def _answer(self, fake: Seen, d: Critic, game: Game) -> dict[str, Tensor]:
        """D's weights, by name, k steps down its loss."""
        pair = game.loss if self._pair is None else self._pair
        assert pair is not None
        real, own = game.saw("real", self), dict(game.d.named_parameters())
        parameters = [own[name] for name in self._names]

        def loss(weights: list[Tensor]) -> Tensor:
            named = dict(zip(self._names, weights, strict=True))
            with host.without_reducing(game.called_d):
                fakes = game.score(fake.x, fake, weights=named, through=d)
            return pair.d(
                host.full_precision(game.score(real.x.detach(), real, weights=named)), host.full_precision(fakes)
            )

        start = [p.detach().requires_grad_() for p in parameters]
        return dict(zip(self._names, unroll(loss, start, self._steps(parameters, game), self.k), strict=True))

    def _steps(self, parameters: list[torch.nn.Parameter], game: Game) -> Steps:
        if self.lr is not None:
            return SGDSteps([self.lr] * len(parameters))
        if isinstance(game.opt_d, (torch.optim.Adam, torch.optim.AdamW)):
            return AdamSteps(parameters, game.opt_d)
        groups = groups_of(parameters, game.opt_d)
        return SGDSteps([groups[id(p)]["lr"] for p in parameters])

    def after_step(self, player: Player, game: Game) -> None:
        if player == "d":
            self._d_moved = True
        else:
            self._answered = None  # and the graphs with it

    def teardown(self, game: Game) -> None:
        self._answered = None
