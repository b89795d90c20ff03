"""Reals against reals where samples are few: how often an alarm is raised although both sides are the same data."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from calibrating import nets
from calibrating.report import percent, rate

SIZES = (20, 30, 50, 75, 100, 150)
"""Samples of each side."""

Side = tuple[Tensor, Tensor | None]
"""Features (n, d), and labels (n,) where a classifier names them."""


def grid(n: int, rng: torch.Generator) -> Side:
    """Points of the 25 modes."""
    from stabilgan.workloads.mixtures import draw_mixture

    return draw_mixture(nets.centres("grid"), nets.SIGMA, n, rng), None


def cloud(n: int, rng: torch.Generator) -> Side:
    """64 numbers of a Gaussian whose axes differ in length, as features do."""
    return torch.randn(n, 64, generator=rng) * torch.linspace(1, 0.05, 64), None


def pixels(n: int, rng: torch.Generator) -> Side:
    """Digits as pixels, none of them twice."""
    x = nets.images(False)[0].flatten(1)
    return x[torch.randperm(len(x), generator=rng)[:n]], None


def features(n: int, rng: torch.Generator) -> Side:
    """Digits as the classifier's features, with the labels that it gives."""
    x, y = _features()
    rows = torch.randperm(len(x), generator=rng)[:n]
    return x[rows], y[rows]


@functools.cache
def _features() -> Side:
    from stabilgan.diagnosis.features import embed
    from stabilgan.diagnosis.inputs import load

    images = nets.images(False)[0]
    digits = load("MNIST:test", limit=20)
    made = embed(digits, load(images, like=digits), "classifier")
    return made.fake, made.labels_fake


KINDS: Mapping[str, Callable[[int, torch.Generator], Side]] = {
    "25-mode grid, points": grid,
    "Gaussian, 64 numbers": cloud,
    "MNIST, pixels": pixels,
    "MNIST, classifier": features,
}


def study(draws: int = 200, sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """Kind -> size -> how many of so many draws raise an alarm, of what, and how many are "cannot tell"."""
    return {kind: {str(n): _one(make, n, draws) for n in sizes} for kind, make in KINDS.items()}


def _one(make: Callable[[int, torch.Generator], Side], n: int, draws: int) -> dict[str, Any]:
    alarms: Counter[str] = Counter()
    raised = undecided = 0
    for failures, why in _judged(make, n, draws):
        alarms.update(failures)
        raised += bool(failures)
        undecided += not failures and bool(why)
    return rate(raised, draws) | {"failures": dict(alarms), "cannot tell": undecided}


def _judged(make: Callable[[int, torch.Generator], Side], n: int, draws: int) -> Iterator[tuple[list[str], str]]:
    from stabilgan.diagnosis.samples import judge_samples

    for seed in range(draws):
        x, labels = make(2 * n, torch.Generator().manual_seed(seed))
        named = (None, None) if labels is None else (labels[:n], labels[n:])
        said = judge_samples(x[:n], x[n:], labels_real=named[0], labels_fake=named[1], seed=seed, known_by_name=False)
        yield [f.failure for f in said.findings], said.undecided


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The study as markdown."""
    sizes = list(next(iter(found.values())))
    draws = next(iter(next(iter(found.values())).values()))["n"]
    rows = [
        "### Few samples: reals against reals",
        "",
        f"False alarms in {draws} draws each, with 95 % intervals, and in how many of the others the answer is "
        '"cannot tell".',
        "",
        "| samples of each side | " + " | ".join(sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for kind, by_size in found.items():
        rows.append(f"| {kind}: alarms | " + " | ".join(percent(by_size[n]) for n in sizes) + " |")
        rows.append(f"| {kind}: cannot tell | " + " | ".join(str(by_size[n]["cannot tell"]) for n in sizes) + " |")
    return "\n".join(rows) + "\n"
