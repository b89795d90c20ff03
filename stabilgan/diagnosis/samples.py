"""Samples against samples: what a set of fakes shows about the generator that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stabilgan.diagnosis.copies import MOST, Memory, Neighbours, Repeats, memory, neighbours, repeats
from stabilgan.diagnosis.findings import Evidence, Finding, InputError
from stabilgan.diagnosis.null import WIDER, Null, against_reals
from stabilgan.diagnosis.regions import MODE, Dropped, histogram, partitions

LEAST = 20
"""Samples of each side that are needed: with fewer nobody can say what is missing from the others."""
ALIKE = 0.5
"""Mode collapse below this spread, relative to the reals: a generator that holds all digits of MNIST reads 0.75 and
up, one that holds one digit 0.05."""
FAR = 0.15
"""Where a smaller share of the fakes than this is near the data, nobody can say which part of it they leave out."""
REPEATED = 0.02
"""The least share of repeated fakes that matters: a continuous generator repeats none."""
COPIED = 0.05
"""The least share of fakes that are near copies, beyond what held-out reals show."""
BLIND = 0.5
"""No clean bill where less than this share of the data could have been lost unseen."""

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
    splits: int = 30,
    progress: Progress | None = None,
) -> Judgement:
    """Compares fakes with reals, and with what reals read in their place, and names what is wrong.

    Mode collapse (the fakes differ by less than half of what reals do, or repeat each other), mode dropping (parts of
    the data stay empty), memorisation (fakes are copies of training samples, or of the reals), divergence (samples are
    not finite).

    Args:
        real: (N, d) features, N of at least 20, that training did not see where `train` is given.
        fake: (M, d) features of the same kind, M of at least 20.
        train: (T, d), what the generator was trained on; without it the reals stand for it.
        labels_real, labels_fake: (N,), (M,) classes from 0 on, -1 for none: each class is a mode of its own.
        classes: how many there are, for the report.
        seed: of everything that is drawn here.
        splits: of the reals, for the reference.
        progress: is told of each part of the work: its name, how much is done, of how much.

    Raises:
        InputError: too few samples, reals that are not finite or all alike, sets that don't fit together.
    """
    tell = progress or (lambda what, done, total: None)
    x, y, t = (None if part is None else part.detach().flatten(1).float() for part in (real, fake, train))
    assert x is not None
    assert y is not None
    _check(x, y, t)
    finite = y.isfinite().all(1)
    broken = _broken(finite)
    if int(finite.sum()) < LEAST:
        return Judgement(tuple(broken), broken[0].evidence if broken else (), "", {})
    y = y[finite]
    if labels_fake is not None:
        labels_fake = labels_fake[finite]

    rng = torch.Generator().manual_seed(seed)
    x, labels_real = _some(x, labels_real, rng)
    y, labels_fake = _some(y, labels_fake, rng)
    null = against_reals(x, y, splits=splits, seed=seed, progress=lambda done, n: tell("reals against reals", done, n))
    tell("neighbours", 0, 3)
    found = neighbours(x, y, min(null.k, len(x) - 1))
    tell("copies", 1, 3)
    again, copied = repeats(x, y, found), memory(x, y, found, None if t is None else _some(t, None, rng)[0])
    tell("regions", 2, 3)
    near = found.near(WIDER)
    dropped = partitions(x, y[near], null.rows, null.neighbours, seed=seed) if near.any() else []
    if labels_real is not None and labels_fake is not None:
        dropped.append(histogram(labels_real, labels_fake[near]))
    tell("regions", 3, 3)
    evidence = [*_readings(null), _twins(again), _copies(copied), *map(_regions, dropped)]
    findings, undecided = _judged(null, again, copied, dropped)
    figures = _figures(x, y, found, copied, dropped, labels_real, labels_fake, classes)
    told = [e for f in broken for e in f.evidence]
    ordered = sorted([*broken, *findings], key=lambda f: -f.severity)
    return Judgement(tuple(ordered), tuple(told + evidence), "" if ordered else undecided, figures)


def _check(x: Tensor, y: Tensor, t: Tensor | None) -> None:
    for name, part in (("real", x), ("fake", y), ("train", t)):
        if part is None:
            continue
        if part.shape[1] != x.shape[1]:
            raise InputError(f"{name} has {part.shape[1]} numbers a sample and real {x.shape[1]}; expected one kind")
        if len(part) < LEAST:
            raise InputError(
                f"{name} has {len(part)} samples; expected at least {LEAST}, since so few can't show what the others "
                "would be like; draw more"
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


MEANINGS = {
    "precision": "of the fakes lie among the reals",
    "recall": "of the reals lie among the fakes",
    "density": "reals' neighbourhoods a fake lies in, where 1 is expected",
    "coverage": "of the reals have a fake near them",
    "near": f"of the fakes are near the data, within {WIDER:g} times the distance that neighbours keep",
    "spread": "of the distance that reals keep from each other is what fakes keep",
    "variety": "of the effective number of different reals is that of the fakes",
}


def _readings(null: Null) -> list[Evidence]:
    said = []
    for name, r in null.readings.items():
        low, high = r.interval
        value = f"{r.value:.2f}" if name == "density" else f"{r.value:.1%}"
        text = f"{value} {MEANINGS[name]}"
        said.append(Evidence(name, r.value, text, r.reference, (low, high), null.origin))
    return said


def _twins(again: Repeats) -> Evidence:
    text = f"{again.share:.1%} of {again.n} fakes repeat another one; {again.distinct} differ"
    origin = f"samples within {again.limit:.3g} of each other, 1 % of the distance that neighbouring reals keep"
    return Evidence("repeated", again.share, text, again.reference, None, origin)


def _copies(copied: Memory) -> Evidence:
    text = (
        f"{copied.share:.1%} of the fakes lie within {copied.limit:.2f} of the distance between neighbouring samples "
        f"from a training sample, {copied.exact:.1%} exactly on one; they repeat {copied.targets} of them"
    )
    return Evidence("near copies", copied.share, text, copied.reference, None, copied.held_out)


def _regions(d: Dropped) -> Evidence:
    kind = "classes" if d.centres is None else "regions"
    what = f"{len(d.cells)} of {sum(n > 0 for n in d.real)} {kind} hold less than a tenth of their due"
    text = f"{d.mass:.1%} of the data is left out: {what}; a loss of {d.finest:.1%} would have been seen"
    origin = f"{sum(d.fake)} fakes that are near the data, Poisson test of each of {len(d.real)} {kind}"
    return Evidence(f"left out, {len(d.real)} {kind}", d.mass, text, 0.0, (0.0, d.allowed), origin)


def _judged(null: Null, again: Repeats, copied: Memory, dropped: list[Dropped]) -> tuple[list[Finding], str]:
    findings = []
    spread, near = null.readings["spread"], null.readings["near"]
    readings = {e.name: e for e in _readings(null)}
    far = near.value < FAR * near.reference
    lost = [] if far else [d for d in dropped if d.cells and d.mass >= d.allowed]
    worst = max(lost, key=lambda d: d.mass, default=None)

    identical = copied.exact - copied.exact_reference
    close = copied.share - copied.reference
    copies = max(identical, close) >= COPIED and copied.targets >= min(10, LEAST // 2)
    alike = spread.value < ALIKE * min(1.0, spread.interval[0])
    twins = again.share - again.reference
    count = round(twins * again.n)
    repeated = twins >= REPEATED and count >= 3 and not identical > COPIED
    if alike or repeated:
        severity = max(twins if repeated else 0.0, 1 - spread.value if alike else 0.0)
        if alike and worst is not None:
            severity = max(severity, worst.mass)
        told = [readings["spread"], readings["variety"]] if alike else []
        told += [_twins(again)] if repeated else []
        told += [_regions(worst)] if alike and worst is not None else []
        sure = max(_sure(spread.value, ALIKE, 0.2) if alike else 0, _sure(twins, REPEATED, 0.1) if repeated else 0)
        findings.append(Finding("mode_collapse", min(1.0, severity), sure * (0.8 if far else 1.0), tuple(told)))
    if worst is not None and not alike:
        sure = _sure(worst.mass, worst.allowed, 2 * worst.allowed)
        findings.append(Finding("mode_dropping", worst.mass, sure, (_regions(worst), readings["coverage"])))
    if copies and not (alike and identical < COPIED):
        share = min(1.0, max(copied.share, copied.exact))
        findings.append(Finding("memorisation", share, _sure(max(identical, close), COPIED, 0.2), (_copies(copied),)))
    return findings, _undecided(null, dropped, far)


def _undecided(null: Null, dropped: list[Dropped], far: bool) -> str:
    near = null.readings["near"]
    if far:
        return (
            f"only {near.value:.1%} of the fakes are near the data ({near.reference:.0%} of real samples are), so "
            "nothing can be said about what they leave out; check that reals and fakes had the same preprocessing "
            "(range, size, channels), and whether the generator is trained at all"
        )
    finest = min((d.finest for d in dropped), default=1.0)
    if finest > BLIND:
        return (
            f"with {null.n} samples of each side not even a loss of half of the data would be seen; draw more samples"
        )
    return ""


def _sure(value: float, threshold: float, certain: float) -> float:
    """½ at the threshold, 0.99 at `certain` and beyond."""
    return 0.5 + 0.49 * min(1.0, max(0.0, (value - threshold) / (certain - threshold)))


def _figures(
    x: Tensor,
    y: Tensor,
    found: Neighbours,
    copied: Memory,
    dropped: list[Dropped],
    labels_real: Tensor | None,
    labels_fake: Tensor | None,
    classes: int | None,
) -> dict[str, Any]:
    order = copied.ratio.argsort()[:8]
    figures: dict[str, Any] = {
        "real": x[:2000],
        "fake": y[:2000],
        "pairs": torch.stack([order, copied.nearest[order]], 1),
        "regions": dropped,
        "mode": MODE,
    }
    if labels_real is not None and labels_fake is not None:
        size = classes or int(max(labels_real.max(), labels_fake.max())) + 1
        figures["histogram"] = [
            torch.bincount(part[part >= 0], minlength=size).double() / len(part) for part in (labels_real, labels_fake)
        ]
    return figures
