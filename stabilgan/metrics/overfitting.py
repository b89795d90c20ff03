"""How much the discriminator has learnt its training set by heart, read from its scores."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Overfitting:
    """What `overfitting` read from D's logits; nan for what it was not given, or where a score is nan.

    r_t: E[sign D(train)], -1..1. 0: D can't tell; 1: every training sample is called real. ADA aims at 0.6.
    r_v: (E D(train) - E D(holdout)) / (E D(train) - E D(fake)). 0: as sure of new real samples as of old ones;
        1: new real samples look fake.
    gap: E D(train) - E D(holdout), in logits.
    effect: the gap in standard deviations of the scores (pooled), as a size that does not depend on D's scale.
    """

    r_t: float
    r_v: float
    gap: float
    effect: float
    n: int


def overfitting(train: Tensor, holdout: Tensor | None = None, fake: Tensor | None = None) -> Overfitting:
    """Read from the discriminator's logits how far it has overfitted.

    train, holdout, fake: logits (before any sigmoid) of real samples it was trained on, of real samples it never saw,
    and of generated ones; any shape. After a sigmoid every sign is positive: subtract ½ first. Raises ValueError for
    an empty tensor.

    Karras et al. 2020 (arXiv:2006.06676), Eq. 1.

    >>> scores = overfitting(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 2.0]), torch.tensor([-2.0, -2.0]))
    >>> scores.r_t, scores.r_v, scores.gap
    (1.0, 0.25, 1.0)
    """
    given = {"train": train, "holdout": holdout, "fake": fake}
    for name, scores in given.items():
        if scores is not None and not scores.numel():
            raise ValueError(f"{name} is empty; expected at least one of D's logits")
    t = train.detach().double()
    mean = t.mean().item()
    gap = effect = r_v = math.nan
    if holdout is not None:
        h = holdout.detach().double()
        gap = mean - h.mean().item()
        count = t.numel() + h.numel()
        pooled = math.sqrt(((t - t.mean()).square().sum().item() + (h - h.mean()).square().sum().item()) / count)
        effect = gap / pooled if pooled else math.nan
        if fake is not None:
            span = mean - fake.detach().double().mean().item()
            r_v = gap / span if span else math.nan
    sign = torch.where(t.isnan(), t, t.sign()).mean().item()
    return Overfitting(sign, r_v, gap, effect, t.numel())
