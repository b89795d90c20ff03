"""Samples against samples: what a set of fakes shows about the generator that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stabilgan.diagnosis import verdicts
from stabilgan.diagnosis.copies import MOST, Memory, memory, neighbours, repeats
from stabilgan.diagnosis.findings import Diagnosis, Evidence, Finding, InputError
from stabilgan.diagnosis.inputs import Samples, matched
from stabilgan.diagnosis.named import by_name
from stabilgan.diagnosis.null import WIDER, against_reals
from stabilgan.diagnosis.regions import Dropped, histogram, partitions

LEAST = 20
"""Samples of each side that are needed: with fewer nobody can say what is missing from the others."""
PICTURED = 2000
"""Samples of each side that go into figures."""

Progress = Callable[[str, int, int], None]


class Judgement(NamedTuple):
    """What `judge_samples` found: the failures, the most severe first; every reading; why nothing can be said, or
    nothing; and arrays for pictures by name."""

    findings: tuple[Finding, ...]
    evidence: tuple[Evidence, ...]
    undecided: str
    figures: Mapping[str, Any]


def judge_samples(
    real: Tensor,
    fake: Tensor,
    *,
    train: Tensor | None = None,
    labels_real: Tensor | None = None,
    labels_fake: Tensor | None = None,
    classes: int | None = None,
    seed: int = 0,
    splits: int = 20,
    known_by_name: bool = True,
    progress: Progress | None = None,
) -> Judgement:
    """Compares fakes with reals, and with what reals read in their place, and names what is wrong.

    Mode collapse (the fakes differ by less than a fifth of what reals do, or repeat each other), mode dropping (parts
    of the data stay empty), memorisation (fakes are copies of training samples, or of the reals), divergence (samples
    are not finite).

    Args:
        real: (N, d) features, N of at least 20, that training did not see where `train` is given.
        fake: (M, d) features of the same kind, M of at least 20.
        train: (T, d), what the generator was trained on; without it the reals stand for it.
        labels_real, labels_fake: (N,), (M,) classes from 0 on, -1 for none: each class is a mode of its own.
        classes: how many there are, for the report.
        seed: of everything that is drawn here.
        splits: of the reals, for the reference.
        known_by_name: take the measures that the literature knows by name, too; they decide nothing.
        progress: is told of each part of the work: its name, how much is done, of how much.

    Raises:
        InputError: too few samples, reals that are not finite or all alike, sets that don't fit together.
    """
    tell = progress or (lambda what, done, total: None)
    x, y = (part.detach().flatten(1).float() for part in (real, fake))
    t = None if train is None else train.detach().flatten(1).float()
    _check(x, y, t)
    finite = y.isfinite().all(1)
    broken = _broken(finite)
    told = tuple(e for f in broken for e in f.evidence)
    if int(finite.sum()) < LEAST:
        return Judgement(tuple(broken), told, "", {})
    y, labels_fake = y[finite], None if labels_fake is None else labels_fake[finite]

    rng = torch.Generator().manual_seed(seed)
    x, labels_real = _some(x, labels_real, rng)
    y, labels_fake = _some(y, labels_fake, rng)
    null = against_reals(x, y, splits=splits, seed=seed, progress=lambda done, n: tell("reals against reals", done, n))
    tell("neighbours", 0, 1)
    found = neighbours(x, y, null.k)
    tell("neighbours", 1, 1)
    again, copied = repeats(x, y, found), memory(x, y, found, None if t is None else _some(t, None, rng)[0])
    near = found.near(WIDER)
    if verdicts.far(null):
        near = torch.ones_like(near)  # none of them says where it belongs; see what they are nearest to
    tell("regions", 0, 1)
    dropped = partitions(x, y[near], null.rows, null.neighbours, seed=seed)
    if labels_real is not None and labels_fake is not None:
        dropped.append(histogram(labels_real, labels_fake[near]))
    tell("regions", 1, 1)
    findings, undecided = verdicts.judged(null, again, copied, dropped)
    evidence = [*verdicts.of_null(null).values(), verdicts.of_repeats(again), verdicts.of_memory(copied)]
    evidence += [verdicts.of_regions(d) for d in dropped]
    if known_by_name:
        tell("measures by name", 0, 1)
        evidence += by_name(x, y, seed=seed)
        tell("measures by name", 1, 1)
    ordered = tuple(sorted([*broken, *findings], key=lambda f: -f.severity))
    figures = _figures(x, y, copied, dropped, labels_real, labels_fake, classes)
    return Judgement(ordered, told + tuple(evidence), "" if ordered else undecided, figures)


def diagnose_samples(
    real: Samples,
    fake: Samples,
    *,
    train: Samples | None = None,
    features: str = "auto",
    weights_dir: Path | None = None,
    save: Path | None = None,
    device: str | torch.device = "cpu",
    strict: bool = False,
    seed: int = 0,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Brings reals and fakes to one form, takes their features, and judges these.

    Args:
        real: held-out real samples. fake: generated ones, with their rows that are not finite.
        train: what the generator was trained on, to look for copies of it; without it the reals stand for it.
        features, weights_dir, save, device: as in `stabilgan.diagnosis.features.embed`.
        strict: samples of different sizes or channels are an error instead of being brought to one.
        seed: of all that is drawn. data_dir: where known data sets lie. progress: as in `judge_samples`.

    Returns:
        The diagnosis; `figures` hold what a report draws, the samples themselves among them.

    Raises:
        InputError: the samples can't be compared, are too few, or the features can't be had.
    """
    from stabilgan.diagnosis.features import embed

    def told(what: str, done: int, total: int) -> None:
        if progress is not None:
            progress(what, done, total)

    options: dict[str, Any] = {
        "weights_dir": weights_dir, "device": device, "seed": seed, "data_dir": data_dir, "progress": progress
    }  # fmt: skip
    real, fake = matched(real, fake, strict=strict)
    finite = fake.x.flatten(1).isfinite().all(1)
    broken = _broken(finite)
    notes = dict.fromkeys((*real.notes, *fake.notes))
    if int(finite.sum()) < LEAST and broken:
        told_of = broken[0].evidence
        return Diagnosis(
            fake.source, "samples", tuple(broken), told_of, tuple(notes), real.skipped + fake.skipped
        )  # fmt: skip
    made = embed(real, fake, features, save=save, **options)
    learned = None
    if train is not None:
        real_too, train = matched(real, train, strict=strict)
        learned = embed(real_too, train, features, **options).fake
        notes |= dict.fromkeys(train.notes)
    judgement = judge_samples(
        made.real,
        made.fake,
        train=learned,
        labels_real=made.labels_real,
        labels_fake=made.labels_fake,
        classes=made.classes,
        seed=seed,
        progress=progress,
    )
    figures = dict(judgement.figures)
    if real.kind == "images":
        figures |= _pictures(real, fake, train, judgement.figures)
    return Diagnosis(
        subject=fake.source,
        source="samples",
        findings=judgement.findings,
        evidence=judgement.evidence,
        notes=tuple(notes | dict.fromkeys((f"features: {made.name}", *made.notes))),
        skipped=real.skipped + fake.skipped,
        undecided=judgement.undecided,
        figures=figures | {"kind": real.kind, "classes": real.classes},
    )


def _check(x: Tensor, y: Tensor, t: Tensor | None) -> None:
    for name, part in (("real", x), ("fake", y), ("train", t)):
        if part is None:
            continue
        if part.shape[1] != x.shape[1]:
            raise InputError(f"{name} has {part.shape[1]} numbers a sample and real {x.shape[1]}; expected one kind")
        if len(part) < (2 if name == "train" else LEAST):
            raise InputError(
                f"{name} has {len(part)} samples; expected at least {LEAST}, since so few can't show what the "
                "others would be like; draw more"
            )
        if name != "fake" and not (good := part.isfinite().all(1)).all():
            raise InputError(
                f"{name} has nan or infinity in {int((~good).sum())} of {len(part)} samples; mend the data"
            )
    if (x == x[0]).all():
        raise InputError(f"all {len(x)} real samples are identical, so that nothing can be compared with them")


def _some(x: Tensor, labels: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """At most `MOST` samples, drawn; all of them in their order where there are fewer."""
    if len(x) <= MOST:
        return x, labels
    rows = torch.randperm(len(x), generator=rng)[:MOST].to(x.device)
    return x[rows], None if labels is None else labels[rows.to(labels.device)]


def _broken(finite: Tensor) -> list[Finding]:
    bad = int((~finite).sum())
    if not bad:
        return []
    share = bad / len(finite)
    text = f"{bad} of {len(finite)} fakes have nan or infinity in them"
    return [Finding("divergence", share, 0.99, (Evidence("not finite", share, text, 0.0, (0.0, 0.0), "the fakes"),))]


def _figures(
    x: Tensor,
    y: Tensor,
    copied: Memory,
    dropped: list[Dropped],
    labels_real: Tensor | None,
    labels_fake: Tensor | None,
    classes: int | None,
) -> dict[str, Any]:
    """Features of both sides, on their first two principal axes where there are more; nearest pairs; histograms."""
    order = copied.ratio.argsort()[:8]
    axes = _axes(x)
    figures: dict[str, Any] = {
        "real": ((x[:PICTURED] - x.mean(0)) @ axes if x.shape[1] > 2 else x[:PICTURED]).cpu(),
        "fake": ((y[:PICTURED] - x.mean(0)) @ axes if x.shape[1] > 2 else y[:PICTURED]).cpu(),
        "projected": x.shape[1] > 2,
        "pairs": torch.stack([order, copied.nearest[order]], 1).cpu(),
        "pair_ratios": copied.ratio[order].cpu(),
        "regions": [
            {
                "real": d.real,
                "fake": d.fake,
                "cells": d.cells,
                "labels": d.centres is None,
                "mass": d.mass,
                "counts": d.counts,
            }
            for d in dropped
        ],
    }
    if labels_real is not None and labels_fake is not None:
        size = classes or int(max(labels_real.max(), labels_fake.max())) + 1
        figures["histogram"] = tuple(
            (torch.bincount(part[part >= 0], minlength=size).double() / len(part)).cpu()
            for part in (labels_real, labels_fake)
        )
    return figures


def _axes(x: Tensor) -> Tensor:
    """(d, 2) the first two principal axes of up to a thousand samples."""
    if x.shape[1] <= 2:
        return torch.eye(x.shape[1], device=x.device)
    few = x[:1000] - x.mean(0)
    axes: Tensor = torch.linalg.svd(few, full_matrices=False).Vh[:2].T
    return axes


def _pictures(real: Samples, fake: Samples, train: Samples | None, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Images for a report: some of each side, and the fakes that are nearest to a training sample beside it."""
    there = real if train is None else train
    good = fake.x.flatten(1).isfinite().all(1).nonzero().flatten()
    pairs = figures.get("pairs")
    shown = [] if pairs is None or len(good) > MOST or len(there) > MOST else pairs.tolist()
    return {
        "real_images": real.x[:64],
        "fake_images": fake.x[:64].nan_to_num(),
        "pair_images": [(fake.x[int(good[i])], there.x[j]) for i, j in shown],
    }
