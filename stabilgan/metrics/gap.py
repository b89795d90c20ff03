"""Duality gap: how much either player could still gain while the other stands still. It is 0 at an equilibrium."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Value = Callable[[nn.Module, nn.Module], Tensor]


@dataclass(frozen=True)
class DualityGap:
    """What `duality_gap` measured.

    gap: best_d - best_g; 0 at an equilibrium, larger the more one of them can gain. It can fall below 0 by the
        perturbation, or when the steps are too few or too large to gain anything.
    value: V(g, d), as they are.
    best_d: V(g, d') with a copy of d trained against this g.
    best_g: V(g', d) with a copy of g trained against this d.
    """

    gap: float
    value: float
    best_d: float
    best_g: float
    steps: int
    lr: float
    noise: float
    seed: int


def duality_gap(
    g: nn.Module,
    d: nn.Module,
    value: Value,
    *,
    steps: int = 100,
    lr: float = 1e-2,
    noise: float = 0.01,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    seed: int = 0,
) -> DualityGap:
    """Estimate the duality gap by training a copy of each player for some steps against the other one.

    g, d: the networks; neither is changed. value: V(g, d), a scalar that d maximises and g minimises, such as the mean
    of log D(x) + log(1 - D(G(z))); it may draw new batches at every call (from torch's generators, seeded here and
    given back). noise: standard deviation of the Gaussian noise added to the copies' parameters first, which tells a
    stationary point that is no equilibrium from one that is; 0 gives the plain form. steps, lr, optimizer: of the
    copies. Raises FloatingPointError when a copy diverges.

    Grnarova et al. 2019 (arXiv:1811.05512); perturbed: Sidheekh et al. 2021 (arXiv:2103.01105).

    >>> x, y = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(x.weight, 3.0), nn.init.constant_(y.weight, 2.0)
    >>> gap = duality_gap(x, y, lambda g, d: (g.weight * d.weight).sum(), steps=10, lr=0.1, noise=0.0)
    >>> round(gap.gap, 3)  # 3(2 + 10·0.1·3) - 2(3 - 10·0.1·2) = 15 - 2
    13.0
    """
    if steps < 1 or not lr > 0 or noise < 0:
        raise ValueError(f"steps is {steps}, lr {lr} and noise {noise}; expected steps >= 1, lr > 0 and noise >= 0")
    devices = {p.device for player in (g, d) for p in player.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(list(devices)):
        torch.manual_seed(seed)
        here = _final(value, copy.deepcopy(g), copy.deepcopy(d))
        players = copy.deepcopy(g), copy.deepcopy(d)
        _train(players[1], lambda: -value(*players), steps, lr, noise, optimizer)
        best_d = _final(value, *players)
        players = copy.deepcopy(g), copy.deepcopy(d)
        _train(players[0], lambda: value(*players), steps, lr, noise, optimizer)
        best_g = _final(value, *players)
    return DualityGap(best_d - best_g, here, best_d, best_g, steps, lr, noise, seed)


def _train(
    player: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    lr: float,
    noise: float,
    optimizer: Callable[..., torch.optim.Optimizer],
) -> None:
    parameters = [p for p in player.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in parameters:
            p.add_(noise * torch.randn_like(p))
    opt = optimizer(parameters, lr=lr)
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        opt.step()


def _final(value: Value, g: nn.Module, d: nn.Module) -> float:
    with torch.no_grad():
        result = value(g, d).item()
    if not torch.isfinite(torch.tensor(result)):
        raise FloatingPointError(f"the value of the game became {result}; lower lr, or the training has diverged")
    return result
