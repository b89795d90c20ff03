"""Features for images without labels and without any file: edges at three scales, on the principal axes of the reals.

A first-order scattering transform (Bruna and Mallat 2013, arXiv:1203.1513) in small: how strong edges of each direction
are in each part of the image, which moves little when the image does, beside a coarse copy of the image itself. Nothing
is trained; the axes are those along which the reals vary most.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabilgan.diagnosis.features.batches import mapped
from stabilgan.diagnosis.inputs import Progress

SIDE = 64
"""Larger images are brought to squares of this side."""
LEVELS, DIRECTIONS, GRID, COARSE = 3, 6, 4, 8
AXES = 64
FITTED = 5000
"""Reals that the axes are fitted to."""


def gabor(directions: int = DIRECTIONS, size: int = 7, sigma: float = 1.6, wave: float = 4.0) -> Tensor:
    """(2 directions, 1, size, size): waves under a Gaussian, even and odd, of zero mean and unit norm."""
    at = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    hill = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    kernels = []
    for phase in (0.0, math.pi / 2):
        for k in range(directions):
            angle = math.pi * k / directions
            wavy = hill * torch.cos(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wave + phase)
            wavy -= hill * wavy.sum() / hill.sum()
            kernels.append(wavy / wavy.norm())
    return torch.stack(kernels)[:, None].float()


class Edges(nn.Module):
    """(N, C, H, W) in [0, 1] to (N, up to 64): strengths of edges, scaled and projected as fitted to the reals."""

    kernel: Tensor
    mean: Tensor
    axes: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.version = channels, 1
        self.register_buffer("kernel", gabor().repeat(channels, 1, 1, 1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("axes", torch.zeros(1, 1))

    def fit(self, real: Tensor, *, device: torch.device, progress: Progress | None = None) -> Edges:
        """Takes scale and axes from the reals, at most 5,000 of them, evenly spread."""
        some = real[:: max(1, -(-len(real) // FITTED))]
        raw = mapped(self.raw, some, device=device, what="axes of the reals", progress=progress).double()
        raw = raw[raw.isfinite().all(1)]
        mean, parts = raw.mean(0), []
        start = 0
        for width in self.widths():
            spread = (raw[:, start : start + width] - mean[start : start + width]).square().sum(1).mean().sqrt()
            parts.append(torch.full((width,), 1.0 if spread < 1e-12 else 1 / spread.item(), dtype=torch.float64))
            start += width
        scale = torch.cat(parts)
        centred = (raw - mean) * scale
        _, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        vectors = vectors[:, -min(AXES, len(raw), vectors.shape[1]) :].flip(1)
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        self.mean, self.axes = mean.float().to(device), (scale[:, None] * vectors).float().to(device)
        return self

    def widths(self) -> list[int]:
        """Values of each kind: edges of each scale, and the coarse copy."""
        return [self.channels * DIRECTIONS * GRID**2] * LEVELS + [self.channels * COARSE**2]

    def raw(self, x: Tensor) -> Tensor:
        """Every strength and the coarse copy, (N, C (3 · 6 · 16 + 64))."""
        side = min(SIDE, max(*x.shape[2:], 16))
        if x.shape[2:] != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
        coarse = F.adaptive_avg_pool2d(x, COARSE).flatten(1)
        found = []
        for _ in range(LEVELS):
            waves = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), self.kernel, groups=self.channels)
            even, odd = waves.unflatten(1, (self.channels, 2, DIRECTIONS)).unbind(2)
            strength = (even.square() + odd.square()).sqrt().flatten(1, 2)
            found.append(F.adaptive_avg_pool2d(strength, GRID).flatten(1))
            x = F.avg_pool2d(x, 2)
        return torch.cat([*found, coarse], 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.raw(x) - self.mean) @ self.axes
