"""A loop written by hand, for tests to hold a trick against, and what they compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabilgan import losses
from stabilgan.game import Trick, attach
from stabilgan.testing.worlds import LATENT, POINTS, Batch, World

MakeOptimizer = Callable[[nn.Module], Optimizer]
Around = Callable[[int], AbstractContextManager[Any]]
"""What is entered around a step, given how many were made before."""


def calmly(step: int) -> AbstractContextManager[Any]:
    """Nothing around any step."""
    return nullcontext()


def adam(module: nn.Module) -> Optimizer:
    return torch.optim.Adam(module.parameters(), lr=1e-2, betas=(0.5, 0.99))


def sgd(module: nn.Module) -> Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1e-2, momentum=0.9)


def fused_sgd(module: nn.Module) -> Optimizer:
    """The same, which under a `GradScaler` is given scaled gradients, and asked for its step after an overflow too."""
    return torch.optim.SGD(module.parameters(), lr=1e-2, momentum=0.9, fused=True)


def _as_given(x: Tensor, *labels: Tensor) -> Any:
    return (x, *labels) if labels else x


def _tuple(shown: Any) -> Batch:
    return shown if isinstance(shown, tuple) else (shown,)


def by_hand(
    tricks: Sequence[Trick] | None,
    steps: int,
    *,
    optimizer: MakeOptimizer = adam,
    batch: int = 8,
    g_first: bool = False,
    dtype: torch.dtype = torch.float32,
    wrap: Callable[[Optimizer], Any] = lambda o: o,
    freeze: bool = False,
    sizes: Mapping[int, int] | None = None,
    autocast: bool = False,
    low: torch.dtype = torch.bfloat16,
    closure: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    overflow: int | None = None,
    world: World = POINTS,
    loss: losses.Loss = losses.logistic,
    attach: Callable[..., Any] = attach,
    device: torch.device | str = "cpu",
    around: Around = calmly,
) -> tuple[nn.Module, nn.Module]:
    """Trains a small GAN in a plain loop with the three words in it, and returns G and D.

    Args:
        tricks: None is the loop without stabilgan.
        steps: of each player.
        optimizer: makes one for a player.
        batch: samples in a batch, and `sizes` those of the steps in which there are others.
        g_first: G moves before D.
        dtype: of players and data.
        wrap: what is done to an optimizer before the game is given it.
        freeze: D needs no gradients in G's turn.
        autocast: players and losses run under autocast, in `low`.
        closure: optimizers are given a closure.
        scaler: scales the losses, as under float16.
        overflow: the step in which losses, and so gradients, are infinite.
        world: players and data.
        loss: the pair of losses, before tricks change it.
        attach: makes the game.
        device: where it is played; batches and latents are drawn on the CPU.
        around: entered around each step.
    """
    device = torch.device(device)
    g, d = (player.to(device) for player in world.players(dtype=dtype))
    opt_g, opt_d = optimizer(g), optimizer(d)
    real_word: Callable[..., Any] = _as_given
    fake_word: Callable[..., Any] = _as_given
    critic: Callable[..., Any] = d
    pair, of_real = loss, dict[str, Any]()
    if tricks is not None:
        game = attach(g, d, wrap(opt_g), wrap(opt_d), tricks, loss=loss)
        pair, real_word, fake_word, critic, of_real = game.loss, game.real, game.fake, game.critic, {"real": True}
    order, latents = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    cast = torch.autocast(device.type, low, enabled=autocast)
    times = 1.0

    def latents_for(n: int) -> Tensor:
        return torch.randn(n, LATENT, generator=latents).to(device, dtype, non_blocking=True)

    def move(optimizer: Optimizer, objective: Callable[[], Tensor]) -> None:
        def turn() -> Any:  # torch says a float
            value = times * objective()
            optimizer.zero_grad()
            (value if scaler is None else scaler.scale(value)).backward()
            return value

        if closure:
            optimizer.step(turn)
            return
        turn()
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)

    def discriminator_turn(x: Tensor, *labels: Tensor) -> None:
        z = latents_for(len(x))
        with torch.no_grad(), cast:
            fake = g(z, *labels)

        def objective() -> Tensor:
            with cast:
                return pair.d(d(*_tuple(real_word(x, *labels))), d(*_tuple(fake_word(fake, *labels))))

        move(opt_d, objective)

    def generator_turn(x: Tensor, *labels: Tensor) -> None:
        if freeze:
            d.requires_grad_(False)
        z = latents_for(len(x))

        def objective() -> Tensor:
            with cast:
                scores = critic(g(z, *labels), *labels)
                return pair.g(scores, critic(x, *labels, **of_real) if pair.needs_real else None)

        move(opt_g, objective)
        if freeze:
            d.requires_grad_(True)

    for step in range(steps):
        times = torch.inf if step == overflow else 1.0
        with around(step):
            drawn = [t.to(device, non_blocking=True) for t in world.batch((sizes or {}).get(step, batch), order, dtype)]
            for turn in [generator_turn, discriminator_turn] if g_first else [discriminator_turn, generator_turn]:
                turn(*drawn)
            if scaler is not None:
                scaler.update()
    return g, d


def same(a: Any, b: Any) -> bool:
    """Whether two states, or modules, hold the same; NaN is NaN.

    Bit for bit on a CPU; elsewhere, where sums need not come in one order, numbers are to be close to each other.
    """
    if isinstance(a, nn.Module):
        return same(a.state_dict(), b.state_dict())
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.device.type != "cpu" and a.is_floating_point():
            return torch.allclose(a, b.to(a.device), rtol=1e-4, atol=1e-5, equal_nan=True)
        return torch.equal(a, b.to(a.device))
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


def difference(a: Any, b: Any, where: str = "") -> str:
    """Where two states differ first, in words; empty where they are the same (`same`).

    >>> difference({"g": {"w": torch.ones(2)}}, {"g": {"w": torch.tensor([1.0, 1.5])}})
    'g.w differs by up to 0.5'
    """
    if isinstance(a, nn.Module):
        return difference(a.state_dict(), b.state_dict(), where)
    if same(a, b):
        return ""
    at = where or "the state"
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype:
        return f"{at} differs by up to {(a.double() - b.double()).abs().max().item():.3g}"
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if only := [str(k) for k in a.keys() ^ b.keys()]:
            return f"{at} has {sorted(only)[0]!r} in one of the two alone"
        return next(filter(None, (difference(a[k], b[k], f"{where}.{k}".lstrip(".")) for k in a)))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        found = (difference(x, y, f"{where}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return next(filter(None, found))
    return f"{at} is {_short(a)} in one and {_short(b)} in the other"


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return repr(value) if len(repr(value)) < 40 else type(value).__name__


def params(module: nn.Module) -> Tensor:
    """All parameters in one vector, detached."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])
