"""R1: a gradient penalty on real samples."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import Cost, Game, Player, Trick


def gradient_norm_penalty(scores: Tensor, x: Tensor) -> Tensor:
    """½ E‖∇ₓD‖²: the sum of squares over all dimensions of x, the mean over the batch.

    Args:
        scores: D's raw scores of `x`, any shape whose first dimension is the batch; patches of one sample are summed.
        x: (N, ...) or (N,), what they were computed from, requiring gradients.

    Returns:
        A scalar that can be differentiated again.

    >>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> gradient_norm_penalty(x.square().sum(1) / 2, x).item()  # ½ (3² + 4²)
    12.5
    """
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    return gradient.square().unsqueeze(-1).flatten(1).sum(1).mean() / 2


class R1(Trick):
    """Flattens D where the data are, so that D's gradient vanishes at the equilibrium.

    Adds weight/2 · E‖∇ₓD(x)‖² over real samples to D's loss (Mescheder et al. 2018, arXiv:1801.04406, Eq. 9). On each
    step by default: lazy use made small problems fail completely (Huang et al. 2024, arXiv:2501.05441, appendix E).

    Args:
        weight: γ, at least 0. The paper's is 10.
        every: ask on every n-th step, then n-fold.
    """

    name = "r1"
    changes = "a penalty on D"
    when = "D wins outright, or the losses go round and round: the first remedy to try, with any loss on logits."
    cost = Cost(d_forward=1, d_backward=1, second_order=1)
    needs_logits = True
    off: ClassVar = {"weight": 0.0}
    source = "Mescheder et al. 2018, arXiv:1801.04406, Eq. 9"
    verb: ClassVar = "real"

    def __init__(self, weight: float = 10.0, every: int = 1) -> None:
        if weight < 0:
            raise ValueError(f"{self.name}: weight is {weight}; expected 0 or more")
        if every < 1:
            raise ValueError(f"{self.name}: every is {every}; expected 1 or more")
        self.weight, self.every = weight, every

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "g" or self.weight == 0:
            return None
        seen = game.saw(self.verb, self)
        x = host.full_precision(seen.x.detach()).requires_grad_()
        return self.weight * gradient_norm_penalty(game.score(x, seen), x)


class R2(R1):
    """R1 on the fakes: flattens D where G puts its samples.

    Adds weight/2 · E‖∇ₓD(x)‖² over the fakes that D sees (Mescheder et al. 2018, arXiv:1801.04406, Eq. 10).

    Args:
        weight: γ, at least 0. The paper's is 10.
        every: ask on every n-th step, then n-fold.
    """

    name = "r2"
    when = "Beside R1, where relativistic losses would diverge without it, or D is steep where G puts its samples."
    source = "Mescheder et al. 2018, arXiv:1801.04406, Eq. 10"
    verb: ClassVar = "fake"
