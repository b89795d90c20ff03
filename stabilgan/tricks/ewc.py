"""Elastic weight consolidation: D keeps the weights by which it knew G's earlier samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import Game, Player, Trick


def consolidation_penalty(weights: Sequence[Tensor], anchors: Sequence[Tensor], importance: Sequence[Tensor]) -> Tensor:
    """½ Σᵢ Fᵢ (θᵢ - θ*ᵢ)²: what it costs to leave the anchors, where the weights matter. A scalar.

    >>> consolidation_penalty([torch.tensor([3.0, 9.0])], [torch.tensor([1.0, 0.0])], [torch.tensor([5.0, 0.0])]).item()
    10.0
    """
    parts = [(f * (w - a).square()).sum() for w, a, f in zip(weights, anchors, importance, strict=True)]
    return torch.stack(parts).sum() / 2


class EWC(Trick):
    """Holds those weights of D that mattered for telling earlier fakes from data, so that D forgets them less.

    Adds weight/2 · Σᵢ Fᵢ (θᵢ - θ*ᵢ)² to D's loss (Kirkpatrick et al. 2017, arXiv:1612.00796, Eq. 3), with each stretch
    of `interval` steps of D as a task, as G's samples go on changing (Liang et al. 2018, arXiv:1811.11083). A stretch's
    Fisher information is the mean of the squares of the gradients that the loop has computed for D's loss, penalties
    not included; so it takes no passes. All tasks so far are one quadratic: at the end of each,
    F <- decay · F + (1 - decay) · F_now, and θ* moves to the mean of the tasks' weights, weighted by their shares in F.
    It takes three copies of D, and no passes.

    The squared gradients of a whole batch are small, the more so the larger the network and the nearer to rest the
    players are. So the weight is the option to tune; its default, as those of the others, is of no paper. Under plain
    gradient descent at rate η it diverges where η · weight · F exceeds 2.

    Measured: 500 alternating steps of the Dirac-GAN at rate 0.1 from (1, 1) end 0.05 from the equilibrium with the
    defaults, and 1.4 from it, as they began, without.

    Args:
        weight: λ, at least 0.
        interval: steps of D to a task, at least 1.
        decay: the older tasks' share at the end of each, at least 0 and below 1; at 0 only the last task counts.

    Raises:
        ValueError: an option outside its range.
    """

    name = "ewc"
    changes = "a penalty on D"
    when = "D forgets what G did before and both go in circles, and a pool of old samples (replay) is too dear."
    off: ClassVar = {"weight": 0.0}
    limits: ClassVar = {"D that grows": "layers that are added after the first step raise ValueError"}
    source = "Kirkpatrick et al. 2017, arXiv:1612.00796, Eq. 3; Liang et al. 2018, arXiv:1811.11083"

    def __init__(self, weight: float = 10.0, interval: int = 10, decay: float = 0.9) -> None:
        if weight < 0:
            raise ValueError(f"ewc: weight is {weight}; expected 0 or more")
        if interval < 1:
            raise ValueError(f"ewc: interval is {interval}; expected 1 step or more")
        if not 0 <= decay < 1:
            raise ValueError(f"ewc: decay is {decay}; expected 0 or more and less than 1")
        self.weight, self.interval, self.decay = weight, interval, decay
        self._squares: list[Tensor] = []
        self._importance: list[Tensor] = []
        self._anchors: list[Tensor] = []
        self._summed = 0
        self._step: int | None = None

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "g" or self.weight == 0:
            return None
        parameters = list(game.d.parameters())
        if self._step != game.steps["d"]:  # the gradients are the loop's alone, and once in an accumulated step
            self._step = game.steps["d"]
            self._add_squares(parameters, getattr(game.opt_d, "grad_scale", None))
        if not self._importance:
            return None
        weights = [host.full_precision(p) for p in parameters]
        for kept in (self._importance, self._anchors):
            kept[:] = [k.to(w.device) for k, w in zip(kept, weights, strict=True)]
        return self.weight * consolidation_penalty(weights, self._anchors, self._importance)

    def after_step(self, player: Player, game: Game) -> None:
        if player == "d" and self._squares and game.steps["d"] % self.interval == 0:
            self._consolidate([host.full_precision(p.detach()) for p in game.d.parameters()])

    @torch.no_grad()
    def _add_squares(self, parameters: Sequence[Tensor], scale: Tensor | None) -> None:
        if not self._squares:
            self._squares, self._summed = [torch.zeros_like(host.full_precision(p)) for p in parameters], 0
        for i, (square, p) in enumerate(zip(self._squares, parameters, strict=True)):
            if p.grad is not None:
                gradient = host.full_precision(p.grad if scale is None else p.grad / scale)
                # A scaler's overflow is skipped by the optimizer; it is not to stay here for good.
                gradient = gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                self._squares[i] = square.to(gradient.device).addcmul_(gradient, gradient)
        self._summed += 1

    @torch.no_grad()
    def _consolidate(self, weights: Sequence[Tensor]) -> None:
        """A task ends: its information and its weights join those of the earlier ones."""
        now = [square / self._summed for square in self._squares]
        if not self._importance:
            self._importance, self._anchors = now, [w.clone() for w in weights]
        else:
            for total, anchor, f, w in zip(self._importance, self._anchors, now, weights, strict=True):
                total.lerp_(f, 1 - self.decay)
                share = (1 - self.decay) * f / total.clamp_min(torch.finfo(f.dtype).tiny)
                anchor.lerp_(w, share.clamp_max(1.0))
        self._squares, self._summed = [], 0

    def state_dict(self) -> dict[str, Any]:
        kept = {"squares": self._squares, "importance": self._importance, "anchors": self._anchors}
        return {"summed": self._summed, **{name: [t.clone() for t in tensors] for name, tensors in kept.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._squares, self._importance, self._anchors = (
            [t.clone() for t in state[name]] for name in ("squares", "importance", "anchors")
        )
        self._summed, self._step = state["summed"], None
