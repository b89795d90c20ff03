"""Consistency: D has to say the same of a sample and of its augmented copy."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import Cost, Game, Player
from stabilgan.tricks._penalty import Draws, Penalty


def flip_and_shift(x: Tensor, flip: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images, some mirrored left to right, then moved; what comes in at the edges is mirrored there.

    Args:
        x: (N, C, H, W).
        flip: (N,) of truths.
        down, right: (N,) whole numbers of pixels, less than H and W in size.

    >>> row = torch.tensor([[[[1, 2, 3, 4]]]])
    >>> flip_and_shift(row, torch.tensor([True]), torch.tensor([0]), torch.tensor([1])).tolist()
    [[[[3, 4, 3, 2]]]]
    """
    x = torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)
    n, channels, height, width = x.shape
    samples = torch.arange(n, device=x.device).view(-1, 1, 1, 1)
    layers = torch.arange(channels, device=x.device).view(1, -1, 1, 1)
    rows, columns = _moved(height, down), _moved(width, right)
    return x[samples, layers, rows.view(n, 1, -1, 1), columns.view(n, 1, 1, -1)]


def _moved(size: int, by: Tensor) -> Tensor:
    """(N, size): from where each place takes its value when all is moved, mirrored at both ends."""
    places = (torch.arange(size, device=by.device) - by.view(-1, 1)).abs()
    return size - 1 - (size - 1 - places).abs()


def disagreement(scores: Tensor, others: Tensor) -> Tensor:
    """The mean of the squared differences of D's scores, over the batch and over the patches of a sample.

    >>> disagreement(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])).item()
    2.0
    """
    return (scores - others).square().mean()


class Consistency(Draws, Penalty):
    """Makes D say the same of a sample and of a slightly changed copy, so that it attends to what matters.

    Adds weight · E(D(x) - D(T(x)))² to D's loss, for real samples (CR, Zhang et al. 2020, arXiv:1910.12027) or for real
    samples and fakes (balanced, bCR, Zhao et al. 2020, arXiv:2002.04724). T mirrors images (N, C, H, W) with
    probability ½ and moves them by up to `shift` pixels each way; to all else it adds Gaussian noise. D gives its
    scores, before any sigmoid; both passes teach it.

    With CR alone G can learn the augmentation, since D does not mind it in real samples: then take on="both".

    Args:
        weight: λ, at least 0. The papers' is 10.
        on: "real" for CR, "both" for bCR.
        shift: in pixels, at least 0, at most what the image leaves; the papers' for small images is 4.
        flip: mirror images; false for digits, text and whatever else has a left and a right.
        noise: standard deviation for what is no image, at least 0, in the units of the data.
        every: ask on every n-th step, then n-fold; the papers ask on each.
    """

    name = "consistency"
    changes = "a penalty on D"
    when = "D overfits on images whose shifts and mirror images mean the same; spectral norm goes well with it."
    needs_logits = True
    source = "Zhang et al. 2020, arXiv:1910.12027; Zhao et al. 2020, arXiv:2002.04724"

    def __init__(
        self,
        weight: float = 10.0,
        on: Literal["real", "both"] = "real",
        shift: int = 4,
        flip: bool = True,
        noise: float = 0.05,
        every: int = 1,
    ) -> None:
        super().__init__(weight, every)
        if on not in ("real", "both"):
            raise ValueError(f"{self.name}: on is {on!r}; expected 'real' or 'both'")
        if shift < 0:
            raise ValueError(f"{self.name}: shift is {shift}; expected 0 or more")
        if noise < 0:
            raise ValueError(f"{self.name}: noise is {noise}; expected 0 or more")
        self.on: Literal["real", "both"] = on
        self.shift, self.flip, self.noise = shift, flip, noise

    @property
    def cost(self) -> Cost:
        passes = 2 if self.on == "real" else 4
        return Cost(d_forward=passes, d_backward=passes)

    def augment(self, x: Tensor) -> Tensor:
        """T(x), of the shape of x."""
        if x.dim() != 4:
            return x + self.noise * self.normal(*x.shape, like=x)
        down, right = (min(self.shift, size - 1) for size in x.shape[2:])
        flips = self.whole(0, int(self.flip), len(x), like=x).bool()
        return flip_and_shift(x, flips, self.whole(-down, down, len(x), x), self.whole(-right, right, len(x), x))

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if player == "g" or self.weight == 0:
            return None
        terms = []
        for verb in ("real", "fake") if self.on == "both" else ("real",):
            seen = game.saw(verb, self)
            x = host.full_precision(seen.x.detach())
            scores, others = (host.full_precision(game.score(copy, seen)) for copy in (x, self.augment(x)))
            terms.append(disagreement(scores, others))
        return self.weight * torch.stack(terms).sum()
