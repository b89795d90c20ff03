"""Gradient clipping: no step is driven by a gradient longer than a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from stabilgan.game import Game, Player, Trick


def clip_by_norm(gradients: Sequence[Tensor], norm: float, *, always: bool = False, scale: Any = 1.0) -> None:
    """Shortens gradients, taken together as one vector, to length `norm` where they are longer; in place.

    Args:
        gradients: any shapes, on one device or several.
        norm: the longest length they may have, above 0.
        always: scale shorter ones up to that length as well; a gradient of zero stays zero.
        scale: what the gradients were multiplied by before (a `GradScaler`'s factor, a tensor), and stay.

    >>> gradients = [torch.tensor([3.0]), torch.tensor([4.0])]  # of length 5
    >>> clip_by_norm(gradients, 10.0)
    >>> [g.item() for g in gradients]
    [3.0, 4.0]
    >>> clip_by_norm(gradients, 10.0, always=True)
    >>> [g.item() for g in gradients]
    [6.0, 8.0]
    """
    length = get_total_norm(gradients) / scale
    factor = norm / length.clamp_min(1e-30) if always else (norm / (length + 1e-6)).clamp(max=1.0)
    for device in {g.device for g in gradients}:
        torch._foreach_mul_([g for g in gradients if g.device == device], factor.to(device))


class GradientClipping(Trick):
    """Shortens each player's gradient where it is longer than a limit, so that one bad batch can't throw it far.

    Acts on the whole gradient, penalties included, just before the optimizer's step. By length: g <- g · min(1,
    norm/‖g‖) over all parameters of the player (Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1). By value: each
    entry into [-value, value]. Normalised: g <- g · norm/‖g‖ always, so that only the direction counts. Adam divides a
    gradient by its own running size, so that a limit matters there only where gradients change their size fast.

    Args:
        norm: the longest length, above 0, or None for no such limit. The paper suggests 0.5 to 10 times the average
            length; 1 is only a common choice.
        value: the largest entry, above 0, or None for no such limit; applied before `norm`.
        normalise: every gradient gets the length `norm`; one of zero stays zero.
        player: "both", or only "d" or "g".
    """

    name = "gradient_clipping"
    off: ClassVar = {"norm": None, "value": None}
    changes = "how players move"
    when = "Gradients explode now and then, or the divergence detector fires. It steadies steps, not who wins."
    source = "Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1"

    def __init__(
        self,
        norm: float | None = 1.0,
        value: float | None = None,
        normalise: bool = False,
        player: Literal["both", "d", "g"] = "both",
    ) -> None:
        for option, limit in (("norm", norm), ("value", value)):
            if limit is not None and not limit > 0:
                raise ValueError(f"gradient_clipping: {option} is {limit}; expected above 0, or None for no limit")
        if player not in ("both", "d", "g"):
            raise ValueError(f"gradient_clipping: player is {player!r}; expected 'both', 'd' or 'g'")
        if normalise and norm is None:
            raise ValueError("gradient_clipping: normalise needs a length; expected norm above 0, for example norm=1")
        self.norm, self.value, self.normalise, self.player = norm, value, normalise, player

    def before_step(self, player: Player, game: Game) -> None:
        if self.player not in ("both", player):
            return
        gradients = [p.grad.detach() for p in game.player(player).parameters() if p.grad is not None]
        # A fused optimizer under GradScaler is given scaled gradients and takes the scale out itself.
        scale = getattr(game.optimizer(player), "grad_scale", None)
        scale = 1.0 if scale is None else scale
        if self.value is not None:
            for gradient in gradients:
                limit = self.value * scale
                gradient.clamp_(-limit, limit)
        if self.norm is not None and gradients:
            clip_by_norm(gradients, self.norm, always=self.normalise, scale=scale)
