"""From readings of samples to findings: every threshold, and the sentences that carry the numbers."""

from __future__ import annotations

from stabilgan.detectors import Collapse
from stabilgan.diagnosis.copies import Memory, Repeats
from stabilgan.diagnosis.findings import Evidence, Finding
from stabilgan.diagnosis.null import WIDER, Null
from stabilgan.diagnosis.regions import COARSE, Dropped

ALIKE = Collapse().spread
"""Mode collapse below this spread, relative to the reals, as for the live detector: a generator that holds all digits
of MNIST reads 0.6 and up, one that holds one digit 0.05."""
CLOSE = 0.45
"""Of fakes that are far from the data, those of a smaller spread than this are collapsed where nearly all of them are
nearest to one part of it. Samples in [0, 1] beside data in [-1, 1] read 0.5."""
MOSTLY = 0.7
"""Where more of the data than this is left out, it is called mode collapse, and mode dropping below."""
FAR = 0.15
"""Where a smaller share of the fakes than this is near the data, nobody can say which part of it they leave out."""
REPEATED = 0.02
"""The least share of repeated fakes that matters: a continuous generator repeats none."""
COPIED = 0.05
"""The least share of fakes that are near copies, beyond what held-out reals show."""
TARGETS = 5
"""So many reals have to be copied where no training set is given: by chance one or two may be."""
NEARER = 0.5
"""Memorisation where fakes are so many times as far from the training set as new data are (medians)."""
BLIND = 0.3
"""No clean bill where a loss of this share of the data would not be seen."""
TRUE = 0.9
"""Fakes whose precision is this share of the reals' own and more, at no more than `DENSE` of their density, are as true
as reals; only of these does coverage say that parts are left out. A narrow generator reads denser, a blurred one less
precise."""
DENSE = 1.2
SHORT = 0.8
"""No clean bill where fakes as true as reals reach less than this share of what reals reach."""

VAGUE = 0.1
"""No clean bill where the coarse cells that are empty hold this share of the data, however long their border: on the
tuning runs of the calibration healthy generators lost up to 0.06, those that dropped a digit 0.17 and more."""

MEANINGS = {
    "precision": "of the fakes lie among the reals",
    "recall": "of the reals lie among the fakes",
    "density": "is the density of reals around a fake, where 1 is the data's own",
    "coverage": "of the reals have a fake beside them",
    "near": f"of the fakes are near the data, within {WIDER:g} times the distance that neighbours keep",
    "spread": "of the distance that reals keep from each other is what the fakes keep",
    "variety": "of the reals' effective number of different samples is that of the fakes",
}


def of_null(null: Null) -> dict[str, Evidence]:
    """What is compared with real samples in the fakes' place, by name."""
    said = {}
    for name, r in null.readings.items():
        value = f"{r.value:.2f}" if name == "density" else f"{r.value:.1%}"
        said[name] = Evidence(name, r.value, f"{value} {MEANINGS[name]}", r.reference, r.interval, null.origin)
    return said


def of_repeats(again: Repeats) -> Evidence:
    """How many fakes repeat another one."""
    text = f"{again.share:.1%} of {again.n} fakes repeat another one; {again.distinct} are exactly different"
    origin = f"samples within {again.limit:.3g} of each other, 1 % of the distance that neighbouring reals keep"
    return Evidence("repeated", again.share, text, again.reference, None, origin)


def of_memory(copied: Memory) -> Evidence:
    """How many fakes are copies of training samples."""
    text = f"{copied.share:.1%} of the fakes are near copies of training samples, {copied.exact:.1%} exact ones"
    if copied.nearness is not None:
        text += f"; they lie {copied.nearness:.2g} times as far from the training set as new data do"
    origin = f"{copied.held_out}; a near copy lies within {copied.limit:.2g} of the distance between neighbours"
    return Evidence("copied", max(copied.share, copied.exact), text, copied.reference, None, origin)


def of_regions(d: Dropped) -> Evidence:
    """What is left out under one partition."""
    kind = "classes" if d.centres is None else "regions"
    what = f"{len(d.cells)} of {sum(n > 0 for n in d.real)} {kind} hold less than a tenth of their due"
    text = f"{d.mass:.1%} of the data is left out: {what}; a loss of {d.finest:.1%} could have been seen"
    origin = f"where {sum(d.fake)} of the fakes are nearest, Fisher's test of each of {len(d.real)} {kind}"
    if d.allowed == 1.0:
        text += "; so fine a cut tells nothing where what is lost is no mode of its own"
    interval = None if d.allowed == 1.0 else (0.0, d.allowed)
    return Evidence(f"left out, {len(d.real)} {kind}", d.mass, text, 0.0, interval, origin)


def judged(null: Null, again: Repeats, copied: Memory, dropped: list[Dropped]) -> tuple[list[Finding], str]:
    """The findings, and why nothing can be said where there are none."""
    off, named = far(null), any(d.centres is None for d in dropped)
    # Where classes are known, they are the modes: a region beside them is one of the ways to write a digit.
    lost = [d for d in dropped if d.counts and (d.centres is None or not named)]
    if off:  # which part they stand for is vague then, unless they keep close together beside one
        close = null.readings["spread"].value < CLOSE
        lost = [d for d in lost if close and d.mass >= MOSTLY and len(d.real) <= COARSE]
    worst = max(lost, key=lambda d: d.mass, default=None)
    found = [_collapse(null, again, copied, worst, off), _dropping(null, worst), _memorisation(null, copied, worst)]
    findings = [f for f in found if f is not None]
    if any(f.failure == "mode_collapse" and of_repeats(again) not in f.evidence for f in findings):
        findings = [f for f in findings if f.failure != "mode_dropping"]  # the greater includes the lesser
    return findings, "" if findings else _undecided(null, dropped, off)


def far(null: Null) -> bool:
    """Whether so few fakes are near the data that nobody can say which part of it they stand for."""
    return null.readings["near"].value < FAR * null.readings["near"].reference


def short(null: Null) -> float | None:
    """The share of what reals reach that fakes reach, where it is too small for fakes as true as reals; else None."""
    precision, density, coverage = (null.readings[name] for name in ("precision", "density", "coverage"))
    true = precision.value >= TRUE * precision.reference and density.value <= DENSE * density.reference
    reached = coverage.value / coverage.reference if coverage.reference > 0 else 1.0
    return reached if true and reached < SHORT and coverage.value < coverage.interval[0] else None


def _alike(null: Null) -> bool:
    spread = null.readings["spread"]
    return spread.value < ALIKE * min(1.0, spread.interval[0])


def _collapse(null: Null, again: Repeats, copied: Memory, worst: Dropped | None, off: bool) -> Finding | None:
    told, severity, sure = [], 0.0, 0.0
    said, spread = of_null(null), null.readings["spread"].value
    if alike := _alike(null):
        told += [said["spread"], said["variety"]]
        severity, sure = 1 - spread, _sure(spread, ALIKE, ALIKE / 2) * (0.8 if off else 1.0)
    if worst is not None and (alike or worst.mass >= MOSTLY):
        told.append(of_regions(worst))
        severity = max(severity, worst.mass)
        sure = max(sure, _sure(worst.mass, worst.allowed, 2 * worst.allowed) * (0.7 if off else 1.0))
    more = again.share - again.reference
    if more >= REPEATED and more * again.n >= 3 and again.surely() and copied.exact - copied.exact_reference < COPIED:
        told.insert(0, of_repeats(again))
        severity, sure = max(severity, more), max(sure, _sure(more, REPEATED, 0.1))
    return Finding("mode_collapse", min(1.0, severity), sure, tuple(told)) if told else None


def _dropping(null: Null, worst: Dropped | None) -> Finding | None:
    if worst is None or worst.mass >= MOSTLY or _alike(null):
        return None
    sure = _sure(worst.mass, worst.allowed, 2 * worst.allowed)
    return Finding("mode_dropping", worst.mass, sure, (of_regions(worst), of_null(null)["coverage"]))


def _memorisation(null: Null, copied: Memory, worst: Dropped | None) -> Finding | None:
    exact, close = copied.exact - copied.exact_reference, copied.share - copied.reference
    if _alike(null) and exact < COPIED:  # one point is near some sample or other
        return None
    sure, severity = 0.0, 0.0
    enough = copied.targets >= (2 if copied.trained else TARGETS)
    if max(exact, close) >= COPIED and enough and copied.surely():
        sure, severity = _sure(max(exact, close), COPIED, 0.2), max(copied.exact, copied.share)
    if copied.nearness is not None and copied.nearness < NEARER:
        sure, severity = max(sure, _sure(copied.nearness, NEARER, 0.3)), severity or 1 - copied.nearness
    if not severity:
        return None
    told = [of_memory(copied)]
    if copied.exact > 0.99:
        text = "the fakes are identical to the reals: the same set was given twice, or the generator recites it"
        told.append(Evidence("identical", copied.exact, text, copied.exact_reference))
    return Finding("memorisation", min(1.0, severity), sure, tuple(told))


def _undecided(null: Null, dropped: list[Dropped], off: bool) -> str:
    near = null.readings["near"]
    if off:
        return (
            f"only {near.value:.1%} of the fakes are near the data ({near.reference:.0%} of real samples are), so "
            "nothing can be said about what they leave out; check that reals and fakes had the same preprocessing "
            "(range, size, channels), and whether the generator is trained at all"
        )
    if (reached := short(null)) is not None:
        return (
            f"the fakes are as true as reals, but reach only {reached:.0%} of what reals reach, so parts of the data "
            "are rare among them or left out, and no region shows which; give labels (--labels, class folders, or a "
            "data set by name) so that classes can be counted"
        )
    vague = max((d for d in dropped if len(d.real) <= COARSE), key=lambda d: d.mass, default=None)
    if vague is not None and vague.mass >= VAGUE:
        what = f"{len(vague.cells)} of {len(vague.real)} regions, {vague.mass:.0%} of the data, hold next to no fakes"
        if any(d.centres is None for d in dropped):
            return f"{what}, although no class is missing; look at the samples"
        return (
            f"{what}, and a generator that is too narrow reads the same as one that leaves a kind of sample out; give "
            "labels (--labels, class folders, or a data set by name) so that classes can be counted"
        )
    finest = min((d.finest for d in dropped), default=1.0)
    if finest > BLIND:
        return f"with {null.n} samples of each side a loss of a third of the data would not be seen; draw more"
    return ""


def _sure(value: float, threshold: float, certain: float) -> float:
    """½ at the threshold, 0.99 at `certain` and beyond."""
    return 0.5 + 0.49 * min(1.0, max(0.0, (value - threshold) / (certain - threshold)))
