"""What only a generator can be asked: whether its latent matters, how it moves between latents, what never changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stabilgan.diagnosis.models import Generator

LATENTS = 128
PATHS, STEPS = 8, 16


@dataclass(frozen=True)
class Latent:
    """How much the latent decides, distances in units of those between two reals.

    Attributes:
        over_latents: the mean distance between outputs of different latents, labels and the generator's own noise held
            still.
        over_noise: the same of one latent, under different noise of the generator's own and different labels.
        share: of the variance, what the latent explains, 0..1; nan where nothing varies.
    """

    over_latents: float
    over_noise: float
    share: float


@dataclass(frozen=True)
class Path:
    """What the outputs do while a latent goes over into another one.

    Attributes:
        moved: the length of the way, in units of the distance between two reals.
        jump: the share of its way that the output goes in the largest of 16 steps: 1/16 for a smooth one, 1 for a step.
        strips: (PATHS, STEPS, ...) the outputs, as the generator puts them out.
    """

    moved: float
    jump: float
    strips: Tensor


@torch.no_grad()
def latent(generator: Generator, scale: float, *, seed: int = 0) -> Latent:
    """Varies the latent alone, and then all else alone.

    Args:
        scale: the mean distance between two reals, in the generator's own units.
        seed: of the latents.
    """
    z = generator.latents(LATENTS, seed)
    labels = None if generator.classes is None else torch.zeros(LATENTS, dtype=torch.int64, device=z.device)
    one = _rows(_one_by_one(generator, z, labels, seed))
    still = z[:1].expand_as(z).contiguous()
    other = _rows(generator.generate(still, generator.labels(LATENTS, seed), seed=seed + 1))
    moves = one.var(0).sum().item(), other.var(0).sum().item()
    share = moves[0] / sum(moves) if sum(moves) else float("nan")
    return Latent(_apart(one) / scale, _apart(other) / scale, share)


@torch.no_grad()
def path(generator: Generator, scale: float, *, seed: int = 0) -> Path:
    """Goes from latent to latent on great circles, all else held still."""
    ends = generator.latents(2 * PATHS, seed + 2)
    t = torch.linspace(0, torch.pi / 2, STEPS, device=ends.device).view(1, STEPS, *[1] * (ends.ndim - 1))
    z = ends[:PATHS, None] * t.cos() + ends[PATHS:, None] * t.sin()
    strips = _one_by_one(generator, z.flatten(0, 1), None, seed).float().cpu()
    rows = strips.flatten(1).double().view(PATHS, STEPS, -1)
    steps = torch.linalg.vector_norm(rows.diff(dim=1), dim=2)
    lengths = steps.sum(1)
    moving = lengths > 1e-6 * scale
    jump = (steps[moving].amax(1) / lengths[moving]).median().item() if moving.any() else 0.0
    return Path(lengths.median().item() / scale, jump, strips.view(PATHS, STEPS, *strips.shape[1:]))


def dead(fake: Tensor, real: Tensor) -> Tensor:
    """(d,) the outputs that never change, though those of the data do.

    Args:
        fake: (M, d), finite. real: (N, d).

    >>> dead(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [4.0, 2.0]])).tolist()
    [True, False]
    """
    theirs, ours = real.double().std(0), fake.double().std(0)
    return (theirs > 0.1 * theirs.max()) & (ours <= 1e-4 * theirs)


def _one_by_one(generator: Generator, z: Tensor, labels: Tensor | None, seed: int) -> Tensor:
    """Samples of the latents with one and the same noise: in a batch each row would have noise of its own."""
    kept = [None] * len(z) if labels is None else [labels[i : i + 1] for i in range(len(z))]
    return torch.cat([generator.generate(z[i : i + 1], kept[i], seed=seed) for i in range(len(z))])


def _rows(x: Tensor) -> Tensor:
    return x.detach().flatten(1).double().cpu()


def _apart(rows: Tensor) -> float:
    return torch.nn.functional.pdist(rows).mean().item()
