"""Small worlds to try a trick in: players, and data that both of them learn within a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]
LATENT = 4
"""The length of z in every world."""
MODES = 8


def ring(n: int, generator: torch.Generator) -> Tensor:
    """(n, 2): eight modes on the unit circle."""
    return _around(torch.randint(MODES, (n,), generator=generator), generator)


def pictures(n: int, generator: torch.Generator) -> Tensor:
    """(n, 1, 8, 8) in [-1, 1]: a bright spot at one of eight places on a circle."""
    return _spots(ring(n, generator))


def labelled(n: int, generator: torch.Generator, *, images: bool = False) -> Batch:
    """The same, each sample with the number of its mode."""
    mode = torch.randint(MODES, (n,), generator=generator)
    x = _around(mode, generator)
    return (_spots(x) if images else x), mode


def _around(mode: Tensor, generator: torch.Generator) -> Tensor:
    angle = mode * (2 * torch.pi / MODES)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(len(mode), 2, generator=generator)


def _spots(x: Tensor) -> Tensor:
    places = torch.linspace(-1.5, 1.5, 8)
    across, down = (torch.exp(-4 * (places - x[:, i : i + 1]).square()) for i in (0, 1))
    return 2 * (down.unsqueeze(2) * across.unsqueeze(1)).unsqueeze(1) - 1


def points_g(inputs: int = LATENT) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def points_d(inputs: int = 2) -> nn.Sequential:
    hidden = nn.Linear(inputs, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.LeakyReLU(0.2)
    return nn.Sequential(*hidden, nn.Linear(16, 1))


def normed_d() -> nn.Sequential:
    """D for points with BatchNorm, which notices every pass."""
    return nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.LeakyReLU(0.2), nn.Linear(16, 1))


def images_g(inputs: int = LATENT) -> nn.Sequential:
    end = nn.Linear(16, 128), nn.Unflatten(1, (2, 8, 8)), nn.Conv2d(2, 1, 3, padding=1), nn.Tanh()
    return nn.Sequential(nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), *end)


def images_d(inputs: int = 1) -> nn.Sequential:
    first = nn.Conv2d(inputs, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(64, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))


class Labelled(nn.Module):
    """A player that takes labels: `net` gets their embedding as further features, or channels, of its input."""

    def __init__(self, net: nn.Module, classes: int, features: int) -> None:
        super().__init__()
        self.labels = nn.Embedding(classes, features)
        self.net = net

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        given = self.labels(y).view(len(x), -1, *(1,) * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
        out: Tensor = self.net(torch.cat([x, given.to(x.dtype)], 1))
        return out


@dataclass(frozen=True)
class World:
    """A small GAN to be.

    Attributes:
        name: what reports call it.
        generator, discriminator: make a new player, drawing from torch's global generator.
        data: `(n, generator) -> x` or `(x, labels)`.
        conditional: players take labels.
        images: samples are (N, C, H, W).
    """

    name: str
    generator: Callable[[], nn.Module]
    discriminator: Callable[[], nn.Module]
    data: Callable[[int, torch.Generator], Tensor | Batch]
    conditional: bool = False
    images: bool = False

    def players(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
        """G and D, alike for each call with one seed."""
        torch.manual_seed(seed)
        return self.generator().to(dtype), self.discriminator().to(dtype)

    def batch(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Batch:
        """n samples, with their labels where players take them."""
        drawn = self.data(n, generator)
        x, *labels = (drawn,) if isinstance(drawn, Tensor) else drawn
        return (x.to(dtype), *labels)


def _with_labels(net: Callable[[int], nn.Module], inputs: int) -> nn.Module:
    return Labelled(net(inputs + 3), MODES, 3)


POINTS = World("points", points_g, points_d, ring)
IMAGES = World("images", images_g, images_d, pictures, images=True)
NORMED = World("points, BatchNorm in D", points_g, normed_d, ring)
LABELLED_POINTS = World(
    "labelled points",
    partial(_with_labels, points_g, LATENT),
    partial(_with_labels, points_d, 2),
    labelled,
    conditional=True,
)
LABELLED_IMAGES = World(
    "labelled images",
    partial(_with_labels, images_g, LATENT),
    partial(_with_labels, images_d, 1),
    partial(labelled, images=True),
    conditional=True,
    images=True,
)
