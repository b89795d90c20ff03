"""An optimizer's steps as functions of weights and gradients, to differentiate through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer


class Steps(Protocol):
    """Where a step leads; what an optimizer remembers from one to the next is kept inside."""

    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]: ...


def unroll(loss: Callable[[list[Tensor]], Tensor], weights: Sequence[Tensor], steps: Steps, k: int) -> list[Tensor]:
    """The weights after k steps down a loss, differentiable through all of them.

    Args:
        loss: of weights; a scalar.
        weights: where the steps start, requiring gradients.
        steps: where a step leads.
        k: how many, at least 0.

    Half a step at a time towards x, from 0 to 3/4 of it; so it moves by 3/4 with x:

    >>> x = torch.tensor(4.0, requires_grad=True)
    >>> (w,) = unroll(lambda w: (w[0] - x).square() / 2, [torch.tensor(0.0, requires_grad=True)], SGDSteps([0.5]), 2)
    >>> w.item(), torch.autograd.grad(w, x)[0].item()
    (3.0, 0.75)
    """
    now = list(weights)
    for _ in range(k):
        found = torch.autograd.grad(loss(now), now, create_graph=True, allow_unused=True, materialize_grads=True)
        now = steps(now, found)
    return now


class SGDSteps:
    """Plain gradient steps: w - rate · gradient, with a rate for each weight."""

    def __init__(self, rates: Sequence[Any]) -> None:
        self.rates = rates

    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        return [w - rate * g for w, g, rate in zip(weights, gradients, self.rates, strict=True)]


class AdamSteps:
    """The steps that an Adam or AdamW would make next, from the state that it is in, which stays.

    With its rates, betas, eps, weight decay and AMSGrad. Bias corrections are tensors, so that nothing waits for a step
    count that lies on a device.
    """

    def __init__(self, parameters: Sequence[Tensor], optimizer: Optimizer) -> None:
        groups = groups_of(parameters, optimizer)
        decoupled = isinstance(optimizer, torch.optim.AdamW)  # before torch 2.7 groups do not say it
        self._each = [_Adam(p, groups[id(p)], optimizer.state.get(p, {}), decoupled) for p in parameters]

    def __call__(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        return [adam(w, g) for adam, w, g in zip(self._each, weights, gradients, strict=True)]


class _Adam:
    """Of one parameter."""

    def __init__(self, p: Tensor, group: Mapping[str, Any], state: Mapping[str, Any], decoupled: bool) -> None:
        zero = torch.zeros_like(p, requires_grad=False)
        self.m, self.v = state.get("exp_avg", zero), state.get("exp_avg_sq", zero)
        self.largest = state.get("max_exp_avg_sq", zero) if group["amsgrad"] else None
        self.t = torch.as_tensor(state.get("step", 0.0), dtype=torch.float64).clone()
        self.group, self.decoupled = group, decoupled

    def __call__(self, w: Tensor, gradient: Tensor) -> Tensor:
        group = self.group
        (beta1, beta2), rate, decay = group["betas"], group["lr"], group["weight_decay"]
        if decay and group.get("decoupled_weight_decay", self.decoupled):
            w = w - rate * decay * w
        elif decay:
            gradient = gradient + decay * w
        self.t = self.t + 1
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient.square()
        second = self.v
        if self.largest is not None:
            second = self.largest = torch.maximum(self.largest, self.v)
        first_bias, second_bias = ((1 - beta**self.t).to(w.dtype) for beta in (beta1, beta2))
        # The root of 0 has an infinite slope, which would make NaN of a weight that has had no gradient yet.
        root = second.clamp_min(torch.finfo(w.dtype).tiny).sqrt() / second_bias.sqrt()
        led: Tensor = w - rate / first_bias * self.m / (root + group["eps"])
        return led


def groups_of(parameters: Sequence[Tensor], optimizer: Optimizer) -> dict[int, Mapping[str, Any]]:
    """The optimizer's options for each parameter, by its id."""
    wanted = {id(p) for p in parameters}
    return {id(p): group for group in optimizer.param_groups for p in group["params"] if id(p) in wanted}
