"""Features beside the input of one of D's layers, at zero weight."""

from __future__ import annotations

import torch.distributed
from torch import Tensor, nn

from stabilgan import host, surgery
from stabilgan.game import Game

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

WRAPPED_ALREADY = {
    "D in DDP already": "refused at attach, since what is added then would not be synchronised: attach first, then wrap"
}
"""The limit of tricks that give D parameters."""


class Beside(nn.Module):
    """last(h) + extra(features(h)): a layer with more inputs, whose new weights start at zero.

    `last` stays the object it was, with its parameters and their optimizer state. `extra` has no bias and starts at
    zero, so that D's output does not change until D has learned to look. What it gives broadcasts to last(h).
    """

    def __init__(self, features: nn.Module, extra: nn.Module, last: nn.Module) -> None:
        super().__init__()
        for p in extra.parameters():
            nn.init.zeros_(p)
        self.features = features
        self.extra = extra
        self.last = last  # registered last, so that it is still D's last layer for the next trick

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.last(h) + self.extra(self.features(h))
        return out


def put_beside(game: Game, name: str, features: nn.Module, extra: nn.Module) -> None:
    """Puts features beside the input of D's layer of that name, and tells D's optimizer of the new parameters.

    Raises:
        ValueError: D is wrapped in (Distributed)DataParallel already; is that layer; its optimizer lacks the layer.
    """
    refuse_parallel(game)
    last = game.d.get_submodule(name)
    near = next(last.parameters())
    beside = Beside(features, extra, last).train(last.training)
    features.to(near.device, near.dtype)
    extra.to(near.device, near.dtype)
    if host.ranks() > 1:  # each rank drew from a generator of its own
        for p in features.parameters():
            torch.distributed.broadcast(p.detach(), 0)
    surgery.replace(game.d, name, lambda _: beside)
    try:
        surgery.tell(game.opt_d, near, [*features.parameters(), *extra.parameters()])
    except ValueError:
        surgery.replace(game.d, name, lambda _: last)
        raise


def refuse_parallel(game: Game) -> None:
    """Raises ValueError where D is wrapped already, so that its new parameters would not be synchronised."""
    wrapped: object = game.called_d
    while wrapped is not None:
        if isinstance(wrapped, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            raise ValueError(
                f"D is wrapped in {type(wrapped).__name__} already, which would not synchronise parameters added now; "
                "attach the game to the bare modules first, then wrap them"
            )
        inner = getattr(wrapped, "_forward_module", None)  # Fabric's wrapper stands around DDP's
        wrapped = getattr(wrapped, "_orig_mod", None) if inner is None else inner
