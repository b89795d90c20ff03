"""What a run of the calibration trains on and with: the three data sets, the two players, and how both are judged."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from stabilgan.metrics import label_modes, mixture_modes
from stabilgan.metrics.modes import Modes
from stabilgan.workloads import digits
from stabilgan.workloads.mixtures import dense, draw_mixture

SIGMA = 0.15
LATENT = 16
IMAGES = 12_000
"""Training images of MNIST; the judged ones are of its test set."""


@functools.cache
def centres(workload: str) -> Tensor:
    """(K, 2), the modes of the ring (8, radius 2) or the grid (5 x 5 on -2 to 2)"""
    if workload == "ring":
        angle = torch.arange(8) * (2 * torch.pi / 8)
        return 2 * torch.stack([angle.cos(), angle.sin()], 1)
    axis = torch.linspace(-2, 2, 5)
    return torch.cartesian_prod(axis, axis)


def modes_of(workload: str) -> int:
    """How many modes the data have."""
    return 10 if workload == "mnist" else len(centres(workload))


@functools.cache
def images(train: bool) -> tuple[Tensor, Tensor]:
    """(n, 1, 28, 28) in [-1, 1] and labels (n,): 12,000 training images, or the 10,000 test images."""
    x, y = digits.load("MNIST", None, train=train)
    n = IMAGES if train else len(x)
    return digits.scaled(x[:n]).view(-1, 1, 28, 28), y[:n]


@functools.cache
def classifier() -> digits.Classifier:
    """The classifier that names digits."""
    return digits.judge_of("MNIST", None)[0]


class Data:
    """Draws batches: of all modes or of those in `keep`; where `size` is given, of a training set that small.

    Attributes:
        train: the training set (size, ...), or None where every batch is drawn anew.
    """

    def __init__(self, workload: str, keep: tuple[int, ...] = (), size: int = 0, seed: int = 0) -> None:
        self.workload, self.generator = workload, torch.Generator().manual_seed(seed)
        self.keep = torch.tensor(keep or range(modes_of(workload)))
        self.train: Tensor | None = None
        if workload == "mnist":
            x, y = images(True)
            self._pool = x[torch.isin(y, self.keep)] if keep else x
        if size:
            self.train = self._fresh(size)

    def _fresh(self, n: int) -> Tensor:
        if self.workload == "mnist":
            return self._pool[torch.randint(len(self._pool), (n,), generator=self.generator)]
        return draw_mixture(centres(self.workload)[self.keep], SIGMA, n, self.generator)

    def draw(self, n: int) -> Tensor:
        """(n, ...)."""
        if self.train is None:
            return self._fresh(n)
        return self.train[torch.randint(len(self.train), (n,), generator=self.generator)]


@functools.cache
def held_out(workload: str, n: int = 2000) -> Tensor:
    """(n, ...) real samples of all modes that no run trains on."""
    if workload == "mnist":
        return images(False)[0][:n]
    return draw_mixture(centres(workload), SIGMA, n, torch.Generator().manual_seed(2**31 - 1))


def modes(workload: str, x: Tensor) -> Modes:
    """Which modes the samples are in; by a classifier that has to be half sure for digits. Not finite is no mode."""
    if workload != "mnist":
        return mixture_modes(x, centres(workload), SIGMA)
    finite = x.flatten(1).isfinite().all(1)
    with torch.no_grad():
        sure, label = classifier()(x.nan_to_num().clamp(-1, 1)).softmax(1).max(1)
    return label_modes(torch.where((sure >= 0.5) & finite, label, -1), 10)


class Generator(nn.Module):
    """A dense generator. `scale` shrinks its latent; `noise` gives it as many numbers of its own at each call."""

    def __init__(self, workload: str, width: int, depth: int = 2, scale: float = 1.0, noise: int = 0) -> None:
        super().__init__()
        self.scale, self.noise = scale, noise
        last = 784 if workload == "mnist" else 2
        self.body = dense([LATENT + noise, *[width] * depth, last], nn.ReLU)
        self.out = nn.Sequential(nn.Tanh(), nn.Unflatten(1, (1, 28, 28))) if workload == "mnist" else nn.Identity()

    def forward(self, z: Tensor, own: Tensor | None = None) -> Tensor:
        """(N, 16) to (N, 2) or (N, 1, 28, 28); `own` (N, noise) in the place of the numbers it would draw."""
        z = self.scale * z
        if self.noise:
            z = torch.cat([z, torch.randn(len(z), self.noise) if own is None else own], 1)
        x: Tensor = self.out(self.body(z))
        return x


def players(run: Any) -> tuple[Generator, nn.Sequential]:
    """Both players of a run, fresh, from torch's global generator."""
    g = Generator(run.workload, run.width_g, run.depth_g, run.latent_scale, run.noise)
    first = 784 if run.workload == "mnist" else 2
    d = nn.Sequential(
        nn.Flatten(), *dense([first, *[run.width_d] * run.depth_d, 1], lambda: nn.LeakyReLU(0.0 if run.zero_d else 0.2))
    )
    return g, d
