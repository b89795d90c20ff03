"""Weight clipping: no weight of D is larger than a constant."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from stabilgan.game import Game, Player, Trick


@torch.no_grad()
def clip(weights: Iterable[Tensor], c: float) -> None:
    """Clips each element of the weights to [-c, c], in place.

    >>> weight = torch.tensor([0.5, -0.002, -3.0])
    >>> clip([weight], 0.01)
    >>> weight.tolist() == torch.tensor([0.01, -0.002, -0.01]).tolist()
    True
    """
    for weight in weights:
        weight.clamp_(-c, c)


class WeightClipping(Trick):
    """Bounds how steep D can be by keeping each of its weights small: the first Wasserstein GAN's way.

    After each step of D, all parameters that its optimizer moves are clipped to [-c, c] (Arjovsky et al. 2017,
    arXiv:1701.07875, Alg. 1): biases, and the scales and shifts of BatchNorm too, as in the authors' code, so that a
    BatchNorm in D starts anew from a scale of c. Statistics, and layers that are not trained, are left alone. The
    authors' code clips before each of D's steps, which differs in D's very first.

    The paper's critic makes five steps for each of G's, with RMSProp: momentum pushes against the walls.

    Args:
        c: above 0. The paper's is 0.01; infinity clips nothing.
    """

    name = "weight_clipping"
    changes = "what D is"
    when = (
        "The Wasserstein loss where second derivatives are out of reach. Else take wgan_gp or spectral_norm: clipping "
        "leaves D simple, and its gradient vanishes or explodes with c and depth."
    )
    off: ClassVar = {"c": math.inf}
    source = "Arjovsky et al. 2017, arXiv:1701.07875, Alg. 1"
    made_for: ClassVar = frozenset(("wasserstein",))
    conflicts: ClassVar = {
        "spectral_norm": "it divides the clipped weights by their norm again, so that c no longer bounds anything",
    }

    def __init__(self, c: float = 0.01) -> None:
        if not c > 0:
            raise ValueError(f"{self.name}: c is {c}; expected more than 0")
        self.c = c

    def after_step(self, player: Player, game: Game) -> None:
        if player == "g" or self.c == math.inf:
            return
        held = {id(p) for group in game.opt_d.param_groups for p in group["params"]}
        clip([p for p in game.d.parameters() if id(p) in held], self.c)
