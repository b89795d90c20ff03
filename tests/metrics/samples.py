"""Samples that the tests of the measures share, the same at every call."""

import itertools
import os
from functools import cache

import pytest
import torch
from torch import Tensor

GRID = torch.tensor(list(itertools.product([-4.0, -2.0, 0.0, 2.0, 4.0], repeat=2)))


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    """Standard normal rows."""
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def grid(n: int, kept: int = 25, sigma: float = 0.05, seed: int = 0) -> Tensor:
    """The 25-grid, from the first `kept` modes alone."""
    rng = torch.Generator().manual_seed(seed)
    return GRID[torch.randint(kept, (n,), generator=rng)] + sigma * torch.randn(n, 2, generator=rng)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """20,000 MNIST digits as 50 principal components (scaled to unit total variance), and their labels."""
    root = os.environ.get("STABILGAN_DATA")
    if not root:
        pytest.skip("set STABILGAN_DATA to a folder with MNIST/raw to run this test on real digits")
    from torchvision.datasets import MNIST

    data = MNIST(root, train=True, download=False)
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))[:20_000]  # MNIST is not shuffled
    x = data.data[order].flatten(1).double() / 255
    x = x - x.mean(0)
    _, vectors = torch.linalg.eigh(x.T @ x)
    features = x @ vectors[:, -50:]
    return (features / features.square().sum(1).mean().sqrt()).float(), data.targets[order]
