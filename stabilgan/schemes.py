"""Step schemes of the Trainer: at which point each player's gradient is taken, and what is made of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from stabilgan.data import Feed

if TYPE_CHECKING:
    from stabilgan.trainer import Trainer

Scheme = Literal["alternating", "simultaneous", "consensus"]


def alternating(t: Trainer, data: Feed) -> None:
    """`n_critic` steps of D, then one of G, who meets the new D."""
    game = t.game
    for _ in range(t.n_critic):
        game.opt_d.zero_grad()
        for _ in range(t.accumulate):
            real = t.next_batch(data)
            with torch.no_grad():
                fake = t.fakes(real)
            d_loss = t.d_loss(real, fake)
            (d_loss / t.accumulate).backward()
        game.record(d_loss=d_loss)
        game.opt_d.step()
    game.opt_g.zero_grad()
    for _ in range(t.accumulate):
        g_loss = t.g_loss(real, t.fakes(real))
        (g_loss / t.accumulate).backward(inputs=_weights(game.g))  # D's weights need no gradient in G's turn
    game.record(g_loss=g_loss)
    game.opt_g.step()


def simultaneous(t: Trainer, data: Feed) -> None:
    """Both gradients at one point, on the same fakes; then both steps, D's first. G's penalties meet the new D."""
    game = t.game
    game.opt_d.zero_grad()
    game.opt_g.zero_grad()
    for _ in range(t.accumulate):
        real = t.next_batch(data)
        fake = t.fakes(real)
        d_loss, g_loss = t.d_loss(real, fake.detach()), t.g_loss(real, fake)
        (d_loss / t.accumulate).backward(inputs=_weights(game.d))
        (g_loss / t.accumulate).backward(inputs=_weights(game.g))
    game.record(d_loss=d_loss, g_loss=g_loss)
    game.opt_d.step()
    game.opt_g.step()


def consensus(t: Trainer, data: Feed) -> None:
    """Both gradients at one point, and down the length of both: v + γ ∇ ½‖v‖², for each player's optimizer.

    Consensus optimisation (Mescheder et al. 2017, arXiv:1705.10461, Eq. 12 and Algorithm 2). v is of the losses alone;
    penalties are added afterwards. Differentiates twice through both players, uncompiled.
    """
    game, weights = t.game, (_weights(t.game.d), _weights(t.game.g))
    with torch.compiler.set_stance("force_eager"):
        real = t.next_batch(data)
        fake = t.fakes(real)
        shown = fake.detach().requires_grad_()  # so that what tricks do to D's fakes is differentiated, too
        d_loss, g_loss = t.d_loss(real, shown), t.g_loss(real, fake)
        gradients = consensus_gradients((d_loss, g_loss), weights, t.consensus, fakes=(shown, fake))
    for parameters, found in zip(weights, gradients, strict=True):
        for p, gradient in zip(parameters, found, strict=True):
            p.grad = gradient
    game.record(d_loss=d_loss, g_loss=g_loss)
    game.opt_d.step()
    game.opt_g.step()


def consensus_gradients(
    losses: tuple[Tensor, Tensor],
    weights: tuple[Sequence[Tensor], Sequence[Tensor]],
    gamma: float,
    *,
    fakes: tuple[Tensor, Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """v + γ ∇ ½‖v‖², where v is the gradient of D's loss in D's weights beside that of G's loss in G's.

    Args:
        losses: D's and G's; scalars.
        weights: D's and G's.
        gamma: γ, at least 0.
        fakes: those that D's loss was computed from, cut off from G, and the same with G's graph.

    Returns:
        What D's and G's optimizers step down.

    Raises:
        ValueError: D's loss does not depend on the fakes.

    In the bilinear game, D's loss x·y and G's -x·y at x = 1, y = 2, v is (x, -y), and ½‖v‖² = ½(x² + y²):

    >>> x, y = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    >>> d, g = consensus_gradients((x * y, -x * y), ([y], [x]), gamma=10.0)
    >>> d[0].item(), g[0].item()  # 1 + 10 · 2, and -2 + 10 · 1
    (21.0, 8.0)
    """
    v = [
        torch.autograd.grad(loss, list(own), create_graph=True, allow_unused=True, materialize_grads=True)
        for loss, own in zip(losses, weights, strict=True)
    ]
    both = [*weights[0], *weights[1]]
    half = torch.stack([g.square().sum() for own in v for g in own]).sum() / 2
    inputs = [*both, fakes[0]] if fakes is not None else both
    slopes = list(torch.autograd.grad(half, inputs, retain_graph=fakes is not None, allow_unused=True))
    if fakes is not None:
        at_fakes = slopes.pop()
        if at_fakes is None:
            raise ValueError(
                "consensus needs D's loss as a function of G, but D was shown fakes that do not depend on those of now "
                "(replay shows old ones); expected tricks that keep the graph, or scheme='simultaneous'"
            )
        through = torch.autograd.grad(fakes[1], list(weights[1]), at_fakes, allow_unused=True, materialize_grads=True)
        for i, slope in enumerate(through, len(weights[0])):
            known = slopes[i]
            slopes[i] = slope if known is None else known + slope
    found = [
        g.detach() if slope is None else g.detach() + gamma * slope
        for g, slope in zip([*v[0], *v[1]], slopes, strict=True)
    ]
    return found[: len(weights[0])], found[len(weights[0]) :]


def _weights(player: torch.nn.Module) -> list[Tensor]:
    return [p for p in player.parameters() if p.requires_grad]


SCHEMES: Mapping[Scheme, Callable[[Trainer, Feed], None]] = {
    "alternating": alternating,
    "simultaneous": simultaneous,
    "consensus": consensus,
}
"""Every scheme by its name."""
