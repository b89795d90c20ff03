"""Spectral norm: each layer of D is divided by its largest singular value."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils import parametrize

from stabilgan import host
from stabilgan.game import Game, Trick

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # their output channels come second


def power_iteration(matrix: Tensor, u: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The vectors u, v that come nearer to the largest singular value, which is uᵀ matrix v, with each iteration.

    Args:
        matrix: (n, m).
        u: (n,), where to start.

    Returns:
        u (n,) and v (m,), of length 1.

    >>> u, v = power_iteration(torch.diag(torch.tensor([3.0, 1.0])), torch.tensor([1.0, 1.0]), iterations=20)
    >>> round((u @ torch.diag(torch.tensor([3.0, 1.0])) @ v).item(), 4)
    3.0
    """
    v = normalize(matrix.t() @ u, dim=0)
    for _ in range(iterations):
        u = normalize(matrix @ v, dim=0)
        v = normalize(matrix.t() @ u, dim=0)
    return u, v


class Normalised(nn.Module):
    """The parametrization: weight / σ(weight), one power iteration on each pass in training mode.

    Not torch's own: that one breaks under `torch.compile` when D is called twice before one backward, as every loop
    does, because the compiled graph keeps the buffer itself, which the second call changes.
    """

    def __init__(self, u: Tensor, iterations: int, dim: int) -> None:
        super().__init__()
        self.iterations, self.dim = iterations, dim
        self.u: Tensor
        self.register_buffer("u", u)

    @host.uncompiled
    def forward(self, weight: Tensor) -> Tensor:
        matrix = weight.movedim(self.dim, 0).flatten(1)
        with torch.no_grad():
            u, v = power_iteration(matrix, self.u, self.iterations if self.training else 0)
            if self.training:
                self.u.copy_(u)
        return weight / (u @ matrix @ v)


class SpectralNorm(Trick):
    """Bounds how steep D can be: every linear, convolutional and embedding layer has spectral norm 1.

    One power iteration per pass (Miyato et al. 2018, arXiv:1802.05957, Eq. 8 and Alg. 1), fifteen at attach. BatchNorm
    in D undoes the bound; a layer whose weights are all zero at attach is left alone. The parametrization stays in D
    when the game is detached; `torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")` takes it off.

    Args:
        iterations: power iterations in each forward pass of training, at least 1; the paper's is 1.
    """

    name = "spectral_norm"
    changes = "what D is"
    when = "D's gradients explode or D wins outright, where second derivatives are too dear."
    source = "Miyato et al. 2018, arXiv:1802.05957, Eq. 8 and Alg. 1"
    made_for: ClassVar = frozenset(("hinge", "logistic"))
    conflicts: ClassVar = {}

    def __init__(self, iterations: int = 1) -> None:
        if iterations < 1:
            raise ValueError(f"spectral_norm: iterations is {iterations}; expected 1 or more")
        self.iterations = iterations

    def setup(self, game: Game) -> None:
        generator = game.generator(self)
        layers = [layer for layer in game.d.modules() if isinstance(layer, (*LINEAR, *TRANSPOSED))]
        if not layers:
            raise ValueError(
                f"{self.name}: no layer to normalise was found in {type(game.d).__name__}; expected torch's linear, "
                "convolutional or embedding layers (Keras has keras.layers.SpectralNormalization for its own)"
            )
        for layer in layers:
            if not _has_spectral_norm(layer):
                dim = 1 if isinstance(layer, TRANSPOSED) else 0
                matrix = layer.weight.detach().movedim(dim, 0).flatten(1)
                if not bool(matrix.any()):
                    continue  # no direction to normalise: what minibatch discrimination puts beside the last layer
                start = torch.randn(len(matrix), generator=generator).to(matrix)
                u, _ = power_iteration(matrix, start, iterations=15)
                parametrize.register_parametrization(layer, "weight", Normalised(u, self.iterations, dim))


def _has_spectral_norm(layer: nn.Module) -> bool:
    """Ours, torch's parametrization, or its older hook."""
    made_by = [*layer.modules(), *layer._forward_pre_hooks.values()]
    return any(type(m).__name__ in ("Normalised", "_SpectralNorm", "SpectralNorm") for m in made_by)
