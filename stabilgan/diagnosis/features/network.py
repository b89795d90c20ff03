"""A small convolutional classifier of images of any size, and how it is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabilgan import host
from stabilgan.diagnosis.inputs import Progress

SIDE = 64
"""Larger images are brought to squares of this side."""
WIDTH = 64
"""Values in a feature."""
VERSION = "small network 1"


class SmallNetwork(nn.Module):
    """Halves the image until it is 4 to 7 pixels wide, then two dense layers; `features` are what the last one sees.

    Args:
        shape: of an image, (C, H, W).
        classes: how many it tells apart.
    """

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.side = min(SIDE, max(height, width, 8))
        halvings = max(2, math.ceil(math.log2(self.side / 7)))
        layers: list[nn.Module] = []
        for i in range(halvings):
            out = min(64, 16 * 2**i)
            layers += [nn.Conv2d(channels, out, 4, stride=2, padding=1), nn.ReLU()]
            channels = out
        left = self.side // 2**halvings
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * left**2, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, classes)

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to (N, 64)."""
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        out: Tensor = self.body(x * 2 - 1)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x))
        return out


def trained(
    x: Tensor,
    labels: Tensor,
    classes: int,
    *,
    device: torch.device,
    seed: int = 0,
    steps: int | None = None,
    batch: int = 100,
    progress: Progress | None = None,
) -> SmallNetwork:
    """A network trained on (N, C, H, W) images in [0, 1] and their labels; the same for the same seed, on a CPU.

    Args:
        steps: by default three epochs, at least 300 and at most 1,500 steps.
    """
    with host.drawing_from(seed, torch.device("cpu")):
        net = SmallNetwork(tuple(x.shape[1:]), classes)
    net.to(device)
    batch = min(batch, len(x))
    total = steps or min(1500, max(300, 3 * (len(x) // batch)))
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=max(total, 2))
    order = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.int64)
    for step in range(total):
        if len(rows) < batch:
            rows = torch.randperm(len(x), generator=order)
        now, rows = rows[:batch], rows[batch:]
        optimizer.zero_grad()
        F.cross_entropy(net(x[now].to(device)), labels[now].to(device)).backward()
        optimizer.step()
        schedule.step()
        if progress and (step % 20 == 19 or step + 1 == total):
            progress("training the classifier", step + 1, total)
    return net.eval().requires_grad_(False)
