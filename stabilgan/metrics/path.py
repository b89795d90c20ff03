"""Path angle: whether the way to a point is walked straight or around it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stabilgan.metrics.field import GameField, Losses


@dataclass(frozen=True)
class PathAngle:
    """What `path_angle` measured, at places α on the line from `start` (0) to `end` (1) and a little beyond.

    alphas: the places.
    cosines: -1..1, of the angle between (end - start) and the game's gradient; nan where that vanishes.
    norms: of the gradient there.
    turn: cosine just before the end and just after it. Attraction only changes sign at the end, from negative to
        positive: a straight walk. Rotation only leaves a bump of one sign there, with no change of sign.
    """

    alphas: tuple[float, ...]
    cosines: tuple[float, ...]
    norms: tuple[float, ...]
    turn: tuple[float, float]


def path_angle(
    g: nn.Module, d: nn.Module, losses: Losses, start: Tensor, end: Tensor, *, steps: int = 41, beyond: float = 0.25
) -> PathAngle:
    """Measure the angle between the straight line through two points of training and the game's gradient along it.

    g, d, losses: as in `GameField`, whose `point()` gives start and end: the parameters at the beginning, and where the
    training ended. steps: places, from 0 to 1 + beyond. The players' own place does not matter, and nothing of them
    changes. Raises ValueError if start and end are the same, or not points of these players.

    Berard et al. 2020 (arXiv:1906.04848), Sec. 4.1; the gradient v is of the losses, so descent follows -v.

    >>> x, y = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> bowl = lambda: (y.weight.square().sum(), x.weight.square().sum())
    >>> [round(cosine, 6) for cosine in path_angle(x, y, bowl, torch.ones(2), torch.zeros(2)).turn]
    [-1.0, 1.0]
    """
    field = GameField(g, d, losses)
    place = field.point()
    if start.shape != place.shape or end.shape != place.shape:
        raise ValueError(
            f"start has shape {tuple(start.shape)} and end {tuple(end.shape)}; expected "
            f"{tuple(place.shape)}, as GameField(g, d, losses).point() gives"
        )
    line = (end - start).to(place)
    if not line.norm() > 0:
        raise ValueError("start and end are the same point; expected two points of one training")
    if steps < 3 or not beyond > 0:
        raise ValueError(f"steps is {steps} and beyond {beyond}; expected steps >= 3 and beyond > 0")
    alphas = torch.linspace(0, 1 + beyond, steps, dtype=torch.float64).tolist()
    cosines, norms = [], []
    with field.measuring():
        for alpha in alphas:
            field.move(start.to(place) + alpha * line)
            gradient = -field.direction().double()
            norms.append(gradient.norm().item())
            cosines.append((gradient @ line.double() / (gradient.norm() * line.double().norm())).item())
    before = max(i for i, alpha in enumerate(alphas) if alpha < 1 - 1e-9)
    after = min(i for i, alpha in enumerate(alphas) if alpha > 1 + 1e-9)
    return PathAngle(tuple(alphas), tuple(cosines), tuple(norms), (cosines[before], cosines[after]))
