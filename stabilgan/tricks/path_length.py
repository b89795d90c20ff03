"""Path length regularisation: a step in latent space is to move the sample by the same length everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import Cost, Game, Player, Trick


def path_lengths(x: Tensor, z: Tensor, noise: Tensor) -> Tensor:
    """‖Jᵀy‖₂ for each sample, J = ∂x/∂z, by one backward pass through G.

    Args:
        x: (N, ...), G's samples of `z`.
        z: (N, ...), requiring gradients.
        noise: y, like x.

    Returns:
        (N,), which can be differentiated again; where a length is 0 its gradient is 0.

    >>> z = torch.ones(1, 2, requires_grad=True)
    >>> path_lengths(z * torch.tensor([3.0, 4.0]), z, torch.ones(1, 2)).item()  # J = diag(3, 4)
    5.0
    """
    (gradient,) = torch.autograd.grad((x * noise).sum(), z, create_graph=True)
    lengths: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return lengths


class PathLength(Trick):
    """Makes G smooth and well-conditioned: equal steps of z move the sample equally far, wherever and whereto.

    Adds weight · E (‖Jᵀy‖ - a)² to G's loss, with J the Jacobian of G at the batch's latents, y ~ N(0, I / dim x), and
    a the running mean of the lengths (Karras et al. 2020, arXiv:1912.04958, Eq. 4). J is with respect to what the loop
    calls G with, the first tensor of numbers: z, or w where the loop has mapped z itself. As in StyleGAN2, a starts at
    0 and y is scaled down by the size of x, for which its authors count the pixels alone, not the channels: with
    C channels lengths are √C shorter here, and the term counts 1/C of theirs. Unlike there, the whole batch is used on
    every step by default (theirs: half of it, on every fourth), and a is a constant for the gradient. Under DDP the
    mean is over all ranks.

    Args:
        weight: at least 0. StyleGAN2's is 2.
        decay: of the running mean, at least 0 and below 1. StyleGAN2's is 0.99.
        every: ask on every n-th step, then n-fold. StyleGAN2's is 4.

    Raises:
        ValueError: an option outside its range.
        RuntimeError: the loop does not call the generator that was attached, with latents.
    """

    name = "path_length"
    changes = "a term for G"
    when = (
        "Samples jump or stand still as z moves, and you want smooth interpolations. It asks for an even G, not for "
        "diversity, and costs a second-order pass through G."
    )
    needs_latents = True
    cost = Cost(g_forward=1, g_backward=1, second_order=1)
    off: ClassVar = {"weight": 0.0}
    source = "Karras et al. 2020, arXiv:1912.04958, Eq. 4"

    def __init__(self, weight: float = 2.0, decay: float = 0.99, every: int = 1) -> None:
        if weight < 0:
            raise ValueError(f"path_length: weight is {weight}; expected 0 or more")
        if not 0 <= decay < 1:
            raise ValueError(f"path_length: decay is {decay}; expected 0 or more and less than 1")
        if every < 1:
            raise ValueError(f"path_length: every is {every}; expected 1 or more")
        self.weight, self.decay, self.every = weight, decay, every
        self._mean: Tensor | None = None
        self._generator = torch.Generator()

    def setup(self, game: Game) -> None:
        self._generator = game.generator(self)

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "d" or self.weight == 0:
            return None
        made_by = game.latents("critic", self)
        z = host.full_precision(made_by.x.detach()).requires_grad_()
        x = game.generate(made_by, z)
        noise = torch.randn(x.shape, dtype=x.dtype, generator=self._generator).to(x.device, non_blocking=True)
        lengths = path_lengths(x, z, noise / x[0].numel() ** 0.5)
        return self.weight * (lengths - self._update(lengths.detach().mean(), game)).square().mean()

    def _update(self, length: Tensor, game: Game) -> Tensor:
        """a <- decay · a + (1 - decay) · length."""
        if game.distributed:
            length = host.mean_over_ranks(length)
        before = torch.zeros_like(length) if self._mean is None else self._mean.to(length)
        self._mean = before.lerp(length, 1 - self.decay)
        return self._mean

    def state_dict(self) -> dict[str, Any]:
        mean = None if self._mean is None else self._mean.clone()
        return {"mean": mean, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._mean = state["mean"]
        self._generator.set_state(state["generator"].cpu())
