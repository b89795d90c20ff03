"""Spectral norm: each layer of D is divided by its largest singular value."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrizations

from stabilgan import host
from stabilgan.game import Game, Trick

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Embedding,
)


class SpectralNorm(Trick):
    """Bounds how steep D can be: every linear, convolutional and embedding layer has spectral norm 1.

    torch's own parametrization, one power iteration per pass (Miyato et al. 2018, arXiv:1802.05957, Eq. 8 and Alg. 1).
    BatchNorm in D undoes the bound. The parametrization stays in D when the game is detached;
    `torch.nn.utils.parametrize.remove_parametrizations` takes it off.

    Args:
        iterations: power iterations in each forward pass of training, at least 1; the paper's is 1.
    """

    name = "spectral_norm"
    conflicts: ClassVar = {}
    source = "Miyato et al. 2018, arXiv:1802.05957, Eq. 8 and Alg. 1"

    def __init__(self, iterations: int = 1) -> None:
        if iterations < 1:
            raise ValueError(f"spectral_norm: iterations is {iterations}; expected 1 or more")
        self.iterations = iterations

    def setup(self, game: Game) -> None:
        # The vectors to iterate from are drawn from torch's global generator; it is put back as it was.
        layers = [m for m in game.d.modules() if isinstance(m, LAYERS) and not _has_spectral_norm(m)]
        if not layers:
            return
        seed = int(torch.randint(2**31, (), generator=game.generator(self)))
        with host.drawing_from(seed, layers[0].weight.device):
            for layer in layers:
                parametrizations.spectral_norm(layer, n_power_iterations=self.iterations)


def _has_spectral_norm(module: nn.Module) -> bool:
    """By torch's parametrization, or by its older hook."""
    made_by = [type(m).__name__ for m in module.modules()] + [
        type(h).__name__ for h in module._forward_pre_hooks.values()
    ]
    return "_SpectralNorm" in made_by or "SpectralNorm" in made_by
