"""What a workload is: data, networks, optimizers, a budget, and how samples are judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabilgan.data import feed
from stabilgan.metrics import prdc
from stabilgan.schemes import SCHEMES, Scheme
from stabilgan.trainer import Latent

Judge = Callable[[Tensor], Mapping[str, float]]
Better = Literal["higher", "lower"]

BETTER: Mapping[str, Better] = {
    "modes": "higher",
    "high_quality": "higher",
    "kl": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "held": "higher",
    "forgetting": "lower",
    "d_loss_rms": "lower",
    "g_loss_rms": "lower",
    "dominant_share": "lower",
}
"""Which way each reading is better."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One GAN to train, fresh: what a workload function returns for each case.

    The function is called anew for each case with torch's global generator seeded by the case's seed, so initial
    weights differ by seed and are the same for all arms. Networks may be on any device; the bench moves them.

    Attributes:
        g, d: the players; D gives raw scores.
        opt_g, opt_d: their optimizers.
        data: what `stabilgan.data.feed` takes: tensors, a function `(n, generator) -> batch`, or a loader.
        latent: the length or shape of z, or a function `(n, generator) -> z`.
        judge: takes samples (n, ...) and returns readings by name. None compares them with `reference`.
        reference: (n, ...) real samples that training does not see, to judge against and to draw beside the fakes. None
            takes some of the data.
        batch_size, loss, n_critic, scheme: as in the Trainer.
        steps: the budget if the user names none.
        samples: how many samples are judged, from fixed latents.
        primary: the reading that the verdict rests on.
        target: where `primary` counts as reached.
        better: which way each reading is better, beside the known ones in `BETTER`.
        kind: what samples are: "points" (n, 2), "images" (n, C, H, W) or (n, H·W) with values in [-1, 1], "other".
        notes: facts for the record, such as the accuracy of the judge's classifier.
    """

    g: nn.Module
    d: nn.Module
    opt_g: Optimizer
    opt_d: Optimizer
    data: Any
    latent: Latent
    judge: Judge | None = None
    reference: Tensor | None = None
    batch_size: int = 64
    loss: str = "logistic"
    n_critic: int = 1
    scheme: Scheme = "alternating"
    steps: int = 2000
    samples: int = 2500
    primary: str = "coverage"
    target: float = 0.9
    better: Mapping[str, Better] = field(default_factory=dict)
    kind: Literal["points", "images", "other"] = "other"
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("g", nn.Module), ("d", nn.Module), ("opt_g", Optimizer), ("opt_d", Optimizer)):
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(f"Workload({name}=...) is a {type(value).__name__}; expected a {kind.__name__}")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme is {self.scheme!r}; expected one of {', '.join(SCHEMES)}")
        if self.kind not in ("points", "images", "other"):
            raise ValueError(f"kind is {self.kind!r}; expected 'points', 'images' or 'other'")
        directions = {**BETTER, **self.better}
        if wrong := [name for name, word in directions.items() if word not in ("higher", "lower")]:
            raise ValueError(f"better[{wrong[0]!r}] is {directions[wrong[0]]!r}; expected 'higher' or 'lower'")
        if self.primary not in directions:
            raise ValueError(
                f"which way is {self.primary!r} better? say better={{{self.primary!r}: 'higher'}} or 'lower'"
            )
        try:
            json.dumps([self.target, dict(self.notes)], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"target and notes go into a JSON record; expected plain finite values: {error}") from None
        if self.steps < 1 or self.samples < 1:
            raise ValueError(f"steps is {self.steps} and samples is {self.samples}; expected 1 or more")


def against(reference: Tensor, k: int = 5) -> Judge:
    """A judge by precision, recall, density and coverage of flattened samples against real ones (`metrics.prdc`)."""

    def judge(samples: Tensor) -> dict[str, float]:
        if not bool(samples.isfinite().all()):
            return dict.fromkeys(("precision", "recall", "density", "coverage"), 0.0)
        found = prdc(reference.to(samples.device).flatten(1), samples.flatten(1), k=k)
        return {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")}

    return judge


def judge_of(workload: Workload) -> Judge:
    """The workload's judge; or one that compares with its reference, or with a thousand samples of its data."""
    if workload.judge is not None:
        return workload.judge
    if workload.reference is not None:
        return against(workload.reference)
    stream, parts = feed(workload.data, workload.batch_size, seed=2**31 - 1), list[Tensor]()
    while sum(map(len, parts)) < 1000:
        parts.append(stream.next()[0].cpu())
    return against(torch.cat(parts)[:1000])
