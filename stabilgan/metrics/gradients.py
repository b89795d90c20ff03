"""Gradient norms of the two players, and how they compare."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GradientNorms:
    """What `gradient_norms` measured; nan where gradients are nan or a player has none.

    g, d: Euclidean norm over all of the player's gradients, as they are after backward().
    ratio: g/d; inf if d's is 0 and g's is not, nan if both are 0. Far under 1 with a vanishing g: D gives G no signal.
    """

    g: float
    d: float
    ratio: float


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm over all gradients, a scalar on their device; nan if no parameter has one.

    >>> p = nn.Parameter(torch.zeros(2))
    >>> p.grad = torch.tensor([3.0, 4.0])
    >>> gradient_norm([p]).item()
    5.0
    """
    gradients = [p.grad.detach() for p in parameters if p.grad is not None]
    if not gradients:
        return torch.tensor(math.nan)
    # scaled by the largest entry, so that norms of 1e-30 or 1e30 neither vanish nor overflow
    largest = torch.stack([part.abs().amax().float() for part in gradients if part.numel()]).amax()
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1)
    return torch.stack([(part.float() / scale).square().sum() for part in gradients]).sum().sqrt() * scale


def gradient_norms(g: nn.Module, d: nn.Module) -> GradientNorms:
    """Measure both players' gradient norms and their ratio, after backward() and before the gradients are cleared.

    >>> g, d = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> g.weight.grad, d.weight.grad = torch.tensor([[1.0]]), torch.tensor([[-4.0]])
    >>> gradient_norms(g, d).ratio
    0.25
    """
    norms = [gradient_norm(player.parameters()).item() for player in (g, d)]
    still = math.inf if norms[0] > 0 and norms[1] == 0 else math.nan
    return GradientNorms(norms[0], norms[1], norms[0] / norms[1] if norms[1] > 0 else still)
