"""WGAN-GP: D's slope is pulled to 1 between the real samples and the fakes."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import relu

from stabilgan import host
from stabilgan.game import Cost, Game, Player, Seen
from stabilgan.tricks._penalty import Draws, Penalty


def interpolate(real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """ε · real + (1 - ε) · fake: a point between each real sample and a fake.

    Args:
        real: (N, ...).
        fake: (M, ...); they are gone through again where M is less than N, and the last are left out where it is more.
        epsilon: (N,) in [0, 1].

    Returns:
        (N, ...).

    >>> interpolate(torch.tensor([[4.0], [8.0]]), torch.tensor([[0.0]]), torch.tensor([0.25, 0.75])).tolist()
    [[1.0], [6.0]]
    """
    if len(fake) != len(real):
        fake = fake.index_select(0, torch.arange(len(real), device=fake.device) % len(fake))
    epsilon = epsilon.view(-1, *[1] * (real.dim() - 1))
    return epsilon * real + (1 - epsilon) * fake


def slope_penalty(scores: Tensor, x: Tensor, *, sided: Literal["two", "one"] = "two") -> Tensor:
    """E(‖∇ₓD‖ - 1)²: the norm over all dimensions of x, the mean over the batch.

    Args:
        scores: D's raw scores of `x`, any shape whose first dimension is the batch; patches of one sample are summed.
        x: (N, ...), what they were computed from, requiring gradients.
        sided: "one" for slopes above 1 alone.

    Returns:
        A scalar that can be differentiated again. Where the slope is 0 its derivative is taken to be 0.

    >>> x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> slope_penalty(x.square().sum(1) / 2, x).item()  # (5 - 1)²
    16.0
    """
    (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
    excess = torch.linalg.vector_norm(gradient.reshape(len(x), -1), dim=1) - 1
    return (excess if sided == "two" else relu(excess)).square().mean()


class Between(Draws, Penalty):
    """A penalty on D at random points between real samples and fakes, one for each real sample.

    D is called as it was with the real batch, labels included, whatever the fakes' labels are: a sample between two
    classes has none of its own.
    """

    changes = "a penalty on D"
    cost = Cost(d_forward=1, d_backward=1, second_order=1)
    needs_logits = True

    def points(self, game: Game) -> tuple[Tensor, Seen]:
        """Where to look at D's slope, requiring gradients, and how to call D there."""
        seen = game.saw("real", self)
        real = host.full_precision(seen.x.detach())
        fake = game.saw("fake", self).x.detach().to(real)
        return interpolate(real, fake, self.uniform(len(real), like=real)).requires_grad_(), seen


class WGANGP(Between):
    """Pulls D's slope to 1 between the real samples and the fakes, as a Wasserstein critic has it.

    Adds weight · E(‖∇D(x̂)‖ - 1)² to D's loss, with x̂ = ε · real + (1 - ε) · fake and one uniform ε for each sample
    (Gulrajani et al. 2017, arXiv:1704.00028, Eq. 3). The paper's critic makes five steps for each of G's and has no
    BatchNorm, which would mix the samples of a batch. At the equilibrium, where D is flat, the penalty drives it away
    from there, so that the game need not come to rest (Mescheder et al. 2018, arXiv:1801.04406).

    D is called as with the real batch, labels included. Where the batches differ in size there is one point for each
    real sample, and the fakes are gone through again or left out.

    Args:
        weight: λ, at least 0. The paper's is 10.
        sided: "two" as in the paper; "one" for slopes above 1 alone (WGAN-LP, Petzka et al. 2018, arXiv:1709.08894).
        every: ask on every n-th step, then n-fold.
    """

    name = "wgan_gp"
    when = (
        "The Wasserstein loss needs a bound on D's slope. Beside other losses a zero-centred penalty (R1, zero_gp) is "
        "the better first try: with this one the game need not come to rest."
    )
    source = "Gulrajani et al. 2017, arXiv:1704.00028, Eq. 3"
    made_for: ClassVar = frozenset(("wasserstein",))
    conflicts: ClassVar = {"zero_gp": "at the same points one pulls D's slope to 1 and the other to 0"}

    def __init__(self, weight: float = 10.0, sided: Literal["two", "one"] = "two", every: int = 1) -> None:
        super().__init__(weight, every)
        if sided not in ("two", "one"):
            raise ValueError(f"{self.name}: sided is {sided!r}; expected 'two' or 'one'")
        self.sided: Literal["two", "one"] = sided

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "g" or self.weight == 0:
            return None
        x, seen = self.points(game)
        return self.weight * slope_penalty(game.score(x, seen), x, sided=self.sided)
