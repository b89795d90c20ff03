"""Mode seeking: latents that differ are to give samples that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan.game import Cost, Game, Player, Seen, Trick


def mode_seeking_loss(x: Tensor, z: Tensor, epsilon: float = 1e-5) -> Tensor:
    """1 / (d(x₁, x₂) / d(z₁, z₂) + ε), small where the samples of two latents lie apart.

    Distances are means of absolute differences, over the dimensions and over all pairs at once, as in the authors'
    code.

    Args:
        x: (2n, ...), samples; row i is a pair with row n + i.
        z: (2n, ...), the latents that they were made from.

    Returns:
        A scalar: at most 1/ε, which collapsed samples reach, with no gradient there.

    >>> z = torch.tensor([[0.0], [2.0]])
    >>> round(mode_seeking_loss(4 * z, z).item(), 4)  # samples four times as far apart as their latents
    0.25
    """
    (x1, x2), (z1, z2) = x.chunk(2), z.chunk(2)
    return 1 / ((x1 - x2).abs().mean() / (z1 - z2).abs().mean() + epsilon)


def pairs_of(made_by: Seen) -> Seen | None:
    """The same call of G, with the condition of the first half of the batch for the second half, too.

    An odd last sample is left out; None where there is no pair.
    """
    size = len(made_by.x)
    n = size // 2
    if n == 0:
        return None

    def halved(tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return torch.cat([tree[:n], tree[:n]]) if tree.dim() and len(tree) == size else tree
        if isinstance(tree, Mapping):
            return {key: halved(value) for key, value in tree.items()}
        if isinstance(tree, (tuple, list)):
            parts = [halved(value) for value in tree]
            return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
        return tree

    return replace(made_by, x=made_by.x[: 2 * n], args=halved(made_by.args), kwargs=halved(made_by.kwargs))


class ModeSeeking(Trick):
    """Pays G for samples that lie as far apart as their latents, so that it does not ignore them.

    Adds weight / (d(G(z₁), G(z₂)) / d(z₁, z₂) + 10⁻⁵) to G's loss (MSGAN: Mao et al. 2019, arXiv:1903.05628, Eq. 3-4,
    in the form of the authors' code). The pairs are the two halves of the batch's own latents, of which the paper draws
    twice as many; an odd last one is left out, and a batch of one adds nothing. Pairs share a condition, as in the
    paper: whatever else G is called with, row by row, the second half gets from the first.

    Args:
        weight: at least 0. The paper's is 1.
        every: ask on every n-th step, then n-fold.

    Raises:
        ValueError: an option outside its range.
        RuntimeError: the loop does not call the generator that was attached, with latents.
    """

    name = "mode_seeking"
    changes = "a term for G"
    when = (
        "G makes the same few samples whatever z is, above all in conditional games. From total collapse it can't lead "
        "out, since its gradient vanishes there; it can push samples apart past the data."
    )
    needs_latents = True
    cost = Cost(g_forward=1, g_backward=1)
    off: ClassVar = {"weight": 0.0}
    limits: ClassVar = {"batch of one": "there is no pair: nothing is added"}
    source = "Mao et al. 2019, arXiv:1903.05628, Eq. 3-4"

    def __init__(self, weight: float = 1.0, every: int = 1) -> None:
        if weight < 0:
            raise ValueError(f"mode_seeking: weight is {weight}; expected 0 or more")
        if every < 1:
            raise ValueError(f"mode_seeking: every is {every}; expected 1 or more")
        self.weight, self.every = weight, every

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "d" or self.weight == 0:
            return None
        made_by = game.latents("critic", self)
        if (pairs := pairs_of(made_by)) is None:
            return 0 * game.generate(made_by).sum()  # other ranks may have a pair, and wait for this one
        return self.weight * mode_seeking_loss(game.generate(pairs), pairs.x)
