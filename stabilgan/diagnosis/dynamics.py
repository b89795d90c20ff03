"""Dynamics: what series of losses, scores and gradients say about a game. Pure rules, wherever the numbers come from.

The same numbers mean opposite things under different losses, so each rule is asked under every loss family that the
numbers allow (`stabilgan.diagnosis.families`), and a finding is as sure as the families that agree on it are likely.
Thresholds are those of the live detectors where the rule is the same: a wrongness of 0.01, the rhythm of a series, NaN,
a thousandfold growth.

How sure: each rule states a base. Where a rule needs rows to be sure, what it says counts base × (0.6 + 0.4 × rows/10)
up to ten rows; a constant that settles a log by itself counts fully from the first. What is under `SURE` in the end is
no finding, but keeps the answer from being "healthy".
How bad: 1 where nothing is left to learn from (NaN, exact constants, a clamped log), else stated with each rule.
When: a state lasts if, from its onset on, nine rows of ten and most of the last ten (of a shorter log, of
its last half) are in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stabilgan.detectors.divergence import Divergence
from stabilgan.detectors.oscillation import Oscillation, rhythm
from stabilgan.detectors.saturation import CHANCE as COIN
from stabilgan.detectors.saturation import Saturation
from stabilgan.diagnosis.families import CHANCE, LN2, Beliefs, Columns, Floats, Series, aligned, believe, clamp_of
from stabilgan.diagnosis.findings import Evidence, Finding

__all__ = ["Judgement", "Series", "judge_series"]

SURE = 0.6
"""From here on a suspicion is a finding."""
SUSPECT = 0.2
"""From here on it stands in the way of "healthy"."""
ENOUGH = 20
"""Rows of both losses that a clean bill takes."""
WRONG = Saturation().threshold
SAME = 3e-4
"""D's mean answers to reals and fakes that are nearer than this on every row are one answer: where D sees anything,
batches alone move them further apart. The rounding of four printed digits is within it."""
SURPRISE = 1e-3
"""How often noise may look like a rhythm, in one window of one series; on the tuning runs of the calibration the
healthy ones stayed at ten times that."""
SWING = 3e-3
"""The least swing of a series, relative to its size. A loss near chance moves little while samples go round; the live
detector, which can't wait for a rhythm to be beyond doubt, asks for more."""
FACTOR = 1e-4
"""Of D(G(z)), under the minimax loss: see `_minimax`."""
NOTHING = 1e-12
"""A learning rate below it moves nothing."""
DECAYED = 1e-9
"""Nor does one below this that has fallen a hundred-thousandfold: Adam's steps are about as large as the rate, and
float32 holds a weight of 0.02 to 1e-9."""


class Judgement(NamedTuple):
    """What series say: findings (the most severe first), all readings, and why no answer can be given (or "")."""

    findings: tuple[Finding, ...]
    evidence: tuple[Evidence, ...]
    undecided: str


class Hit(NamedTuple):
    """One rule's word: a failure, how sure the rule is by itself, how bad it is, the evidence, and since when."""

    failure: str
    sure: float
    severity: float
    evidence: Evidence
    onset: int | None


Rule = Callable[[Columns, str], Iterator[Hit]]


def judge_series(columns: Columns, family: str | None = None, *, beliefs: Beliefs | None = None) -> Judgement:
    """Reads the dynamics of one game.

    Args:
        columns: canonical name -> series; what is used is `d_loss`, `g_loss` (or `g_adv`), `d_loss_real`,
            `d_loss_fake`, `d_real` and `d_fake` (D's mean answers as printed), `d_fake_after`, `score_real`,
            `score_fake`, `gp`, `d_grad`, `g_grad`, `accuracy_d`, `fid`, and every name that begins with `lr`.
        family: of the losses, a name of `stabilgan.losses` or an alias; None infers it.
        beliefs: in place of `family`, from `believe`.

    Raises:
        ValueError: no family has that name.

    >>> quiet = Series.of([0.0] * 50, label="Loss_D")
    >>> loud = Series.of([57.0] * 50, label="Loss_G")
    >>> judge_series({"d_loss": quiet, "g_loss": loud}, "logistic").findings[0].failure
    'discriminator_saturated'
    """
    beliefs = believe(columns, family) if beliefs is None else beliefs
    heard: dict[str, dict[str, list[Hit]]] = {}
    for name, share in beliefs.share.items():
        if share < 0.01:
            continue
        for rule in RULES:
            for hit in rule(columns, name):
                heard.setdefault(hit.failure, {}).setdefault(name, []).append(hit)
    if "discriminator_saturated" in heard and "oscillation" in heard:
        for name in heard["discriminator_saturated"]:  # what is left of D's losses then says nothing about G
            heard["oscillation"].pop(name, None)
    findings, doubts = [], []
    for failure, by_family in heard.items():
        if not by_family:
            continue
        sure = sum(beliefs.share[name] * max(hit.sure for hit in hits) for name, hits in by_family.items())
        spokesman = max(by_family, key=lambda name: beliefs.share[name])
        hits = sorted(by_family[spokesman], key=lambda hit: -hit.sure)
        if sure < SURE:
            if sure >= SUSPECT:
                doubts.append((sure, f"{hits[0].evidence.text} ({_doubt(failure, by_family, beliefs)})"))
            continue
        onsets = [hit.onset for hit in hits if hit.onset is not None and hit.sure >= SURE]
        evidence = tuple({hit.evidence.text: hit.evidence for hit in hits}.values())
        severity = max(hit.severity for hit in hits)
        findings.append(Finding(failure, severity, min(sure, 0.99), evidence, min(onsets, default=hits[0].onset)))
    findings.sort(key=lambda f: (-f.severity, -f.confidence))
    readings = (*_readings(columns), *(e for f in findings for e in f.evidence))
    undecided = "" if findings else _undecided(columns, beliefs, [text for _, text in sorted(doubts, reverse=True)])
    return Judgement(tuple(findings), readings, undecided)


def _doubt(failure: str, by_family: dict[str, list[Hit]], beliefs: Beliefs) -> str:
    plain = failure.replace("_", " ")
    if sum(beliefs.share[name] for name in by_family) > 0.8:
        return f"this may be a {plain}, but the rows don't settle it"
    likely = [name for name in beliefs.share if beliefs.share[name] >= 0.05]
    mean = " or ".join(name for name in likely if name in by_family)
    rest = " or ".join(name for name in likely if name not in by_family)
    return f"under {mean or next(iter(by_family))} it means {plain}, under {rest or 'other losses'} it doesn't"


def _undecided(columns: Columns, beliefs: Beliefs, doubts: Sequence[str]) -> str:
    if doubts:
        hint = "" if beliefs.known else "; say which loss it is (--loss, loss=)"
        return "; ".join(doubts) + hint
    for name, title in (("d_loss", "D's loss"), ("g_loss", "G's loss")):
        series = columns.get(name, columns.get("g_adv")) if name == "g_loss" else columns.get(name)
        if series is None:
            return f"{title} was not found; map its column (--map {name}=NAME, mapping=)"
        if len(series.finite) < ENOUGH:
            return f"{len(series.finite)} rows of {title} were seen, and a clean bill takes {ENOUGH} of both losses"
    if _asleep(columns):
        return "D's loss is exactly 0 from the first row on: D has not started yet, as in a warm-up of G alone"
    if not beliefs.known:
        share = f"{beliefs.best}, at {beliefs.share[beliefs.best]:.0%}"
        return (
            f"the loss family is not known (likeliest: {share}), and numbers mean opposite "
            f"things under different losses; "
            "say which it is (--loss, loss=)"
        )
    return ""


def _readings(columns: Columns) -> Iterator[Evidence]:
    for name, series in columns.items():
        if not name.startswith("other") and len(series.finite):
            tail = series.finite[-max(1, len(series.finite) // 5) :]
            text = f"{series.label or name} ends around {np.median(tail):.4g} (the last fifth)"
            yield Evidence(name, float(np.median(tail)), text, origin=_origin(series))


# --- helpers ---------------------------------------------------------------------------------------------------------


def _origin(series: Series) -> str:
    return f"column {series.label or '?'}, steps {series.step[0]} to {series.step[-1]}" if len(series) else ""


def _rows(rows: int) -> float:
    return 0.6 + 0.4 * min(1.0, rows / 10)


def _lasting(flags: NDArray[np.bool_], least: int = 1) -> int | None:
    """The index from which a state lasts: nine of ten flags from there on are set, and most at the end."""
    late = max(1, min(10, len(flags) // 2))
    if len(flags) < least or flags[-late:].mean() < 0.6:
        return None
    share = np.cumsum(flags[::-1])[::-1] / np.arange(len(flags), 0, -1)
    at = np.flatnonzero(flags & (share >= 0.9))
    if not len(at) or len(flags) - at[0] < least:
        return None
    return int(at[0])


def _tail(values: Floats, share: float = 0.2, least: int = 5) -> Floats:
    return values[-max(least, int(len(values) * share)) :]


def _g(columns: Columns) -> Series | None:
    """G's adversarial loss alone where it is logged, else G's loss."""
    return columns.get("g_adv", columns.get("g_loss"))


def _asleep(columns: Columns) -> bool:
    d = columns.get("d_loss")
    return d is not None and len(d) > 0 and bool((d.value == 0).all())


def _finite_rows(columns: Columns, *names: str) -> tuple[NDArray[np.int64], Floats] | None:
    """Steps and values (len(names), n) of rows in which all are finite; None where a column is missing or nothing
    is."""
    if any(name not in columns or not len(columns[name]) for name in names):
        return None
    rows = aligned(columns, names)
    ok = np.isfinite(rows).all(0)
    return (columns[names[0]].step[ok], rows[:, ok]) if ok.any() else None


def _probabilities(columns: Columns) -> tuple[NDArray[np.int64], Floats] | None:
    found = _finite_rows(columns, "d_real", "d_fake")
    if found is None or found[1].min() < 0 or found[1].max() > 1:
        return None
    return found


def summed(columns: Columns, family: str) -> bool | None:
    """Whether D's loss is the sum of its terms (True), their mean (False), or can't be told (None)."""
    d = columns["d_loss"].finite
    known = _probabilities(columns)
    if known is not None and family in ("logistic", "saturating"):
        rows = _finite_rows(columns, "d_loss", "d_real", "d_fake")
        assert rows is not None
        loss, real, fake = rows[1]
        least = -np.log(np.clip(real, 1e-3, 1)) - np.log(np.clip(1 - fake, 1e-3, 1))
        clear = least > 0.05
        if clear.any():
            return bool(np.median(loss[clear] / least[clear]) > 0.75)
    both = _finite_rows(columns, "d_loss", "d_loss_real", "d_loss_fake")
    if both is not None:
        loss, real, fake = both[1]
        clear = np.abs(real + fake) > 0.05
        if clear.any():
            return bool(np.median(loss[clear] / (real + fake)[clear]) > 0.75)
    if not len(d):
        return None
    large, small = max(CHANCE[family]), min(CHANCE[family])
    if family == "least_squares":  # scores that start at 0 cost 1, halved ½, which is also the sum at chance
        return None
    for constant, answer in ((large, True), (small, False)):
        if constant > 0 and abs(d[0] - constant) < 0.12 * constant:
            return answer
    return True if np.median(d) > 1.3 * small and np.median(d) < 1.2 * large else None


def wrongness(columns: Columns, family: str) -> tuple[NDArray[np.int64], Floats, str] | None:
    """`stabilgan.detectors.saturation.wrongness` as far as a log shows it: steps, readings, and from which columns.

    By D's printed probabilities where they are there. Else by D's loss, which for small readings is: logistic, 2 × the
    reading (the sum of both terms); hinge the same, at a mean depth of ½ inside the margin; least squares, the reading
    (each term ½: half of it); relativistic, the reading. Where it can't be told whether terms were added or
    averaged, the larger reading is taken. None where this family has no such scale, or nothing was logged.
    """
    if family in ("logistic", "saturating") and (known := _probabilities(columns)) is not None:
        steps, (real, fake) = known
        return steps, (1 - real + fake) / 2, f"{columns['d_real'].label} and {columns['d_fake'].label}"
    if family not in ("logistic", "saturating", "hinge", "least_squares", "relativistic"):
        return None
    both = _finite_rows(columns, "d_loss_real", "d_loss_fake")
    if both is not None and family != "least_squares":
        steps, (real, fake) = both
        return steps, (real + fake) / 2, f"{columns['d_loss_real'].label} and {columns['d_loss_fake'].label}"
    alone = _finite_rows(columns, "d_loss")
    if alone is None:
        return None
    steps, (loss,) = alone
    factor = {"relativistic": 1.0, "least_squares": 2.0}.get(family)
    if factor is None:
        factor = 0.5 if summed(columns, family) else 1.0
    return steps, np.abs(loss) * factor, columns["d_loss"].label


# --- rules that hold under some families only ------------------------------------------------------------------------


def _saturated(columns: Columns, family: str) -> Iterator[Hit]:
    """Base 0.95 over at least five rows; 0.85 where fewer rows of both losses settle it. Severity ½ at the threshold,
    1 at a hundredth of it."""
    found = wrongness(columns, family)
    if found is None:
        return
    steps, wrong, where = found
    at = _lasting(wrong < WRONG)
    if at is None:
        return
    g = _g(columns)
    late = float(np.median(_tail(g.finite))) if g is not None and len(g.finite) else math.nan
    lost = (family in ("logistic", "relativistic") and late > 4.6) or (family == "hinge" and late > 1)
    if _asleep(columns) and "d_real" not in columns and not lost:
        return
    level, rows = float(np.median(wrong[at:])), len(wrong) - at
    sure = 0.95 * _rows(rows)
    if rows < 5:
        lost = lost or (family == "saturating" and -0.02 < late <= 0)
        if not lost or (rows < 2 and level > WRONG / 10):
            return
        sure = 0.85
    severity = 0.5 + 0.25 * min(2.0, math.log10(WRONG / max(level, 1e-12)))
    text = (
        f"from step {steps[at]} on, D's judgement is {level:.2g} wrong, where {COIN} is "
        f"chance and below {WRONG} nothing "
        f"is left to learn from (by {where})"
    )
    origin = f"{where}, steps {steps[at]} to {steps[-1]}, read as {family}"
    yield Hit(
        "discriminator_saturated",
        sure,
        severity,
        Evidence("wrongness", level, text, COIN, (WRONG, 1.0), origin),
        int(steps[at]),
    )


def _mean_scores(columns: Columns, family: str) -> Iterator[Hit]:
    """Mean raw scores so far apart that even an average sample is judged with 99 %: base 0.8."""
    names = ("score_real", "score_fake") if "score_real" in columns else ("d_real", "d_fake")
    found = _finite_rows(columns, *names)
    if family not in ("logistic", "saturating") or found is None or _probabilities(columns) is not None:
        return
    steps, (real, fake) = found
    wrong = (1 / (1 + np.exp(np.clip(real, -50, 50))) + 1 / (1 + np.exp(np.clip(-fake, -50, 50)))) / 2
    at = _lasting(wrong < WRONG)
    if at is None:
        return
    level = float(np.median(wrong[at:]))
    text = f"D's mean scores, {real[-1]:.3g} for reals and {fake[-1]:.3g} for fakes, are those of a D that is sure"
    where = f"{columns[names[0]].label}, {columns[names[1]].label}"
    yield Hit(
        "discriminator_saturated",
        0.8,
        0.5 + 0.25 * min(2.0, math.log10(WRONG / max(level, 1e-12))),
        Evidence("wrongness of the mean scores", level, text, COIN, (WRONG, 1.0), where),
        int(steps[at]),
    )


def _clamped(columns: Columns, family: str) -> Iterator[Hit]:
    """G's loss stands at -ln of a clamp: D is saturated and G's gradient is exactly 0. Base 0.95, severity 1."""
    g = _g(columns)
    if family != "logistic" or g is None:
        return
    ok = np.isfinite(g.value)
    values, steps = g.value[ok], g.step[ok]
    constant = clamp_of(values[-min(len(values), 20) :])
    if constant is None or (len(values) < 3 and not g.held):
        return
    at = _lasting(np.abs(values - constant) < 2e-4 * constant)
    at = len(values) - 1 if at is None else at
    text = f"{g.label} stands at {constant:g} from step {steps[at]} on, where a log is cut off and has no gradient"
    evidence = Evidence(g.label or "g_loss", constant, text, LN2, None, _origin(g))
    for failure in ("discriminator_saturated", "vanishing_gradient"):
        yield Hit(failure, 0.95, 1.0, evidence, int(steps[at]))


def _held_high(columns: Columns, family: str) -> Iterator[Hit]:
    """G's loss is said in words, or seen over ten rows, to be constant and high (D(G(z)) below 0.001): base 0.85."""
    g = _g(columns)
    if family != "logistic" or g is None or not len(g.finite):
        return
    tail = _tail(g.finite, least=10)
    constant = g.held or (len(g.finite) >= 10 and float(np.ptp(tail)) < 1e-3 * abs(float(np.median(tail))))
    level = float(np.median(tail))
    if not constant or level < 6.9:
        return
    text = f"{g.label} stays at {level:.4g}, so D gives fakes {math.exp(-level):.1g} and no longer changes its mind"
    evidence = Evidence(g.label or "g_loss", level, text, LN2, None, _origin(g))
    yield Hit("discriminator_saturated", 0.85, 0.9, evidence, int(g.step[-len(tail)]))


def _constant_answer(columns: Columns, family: str) -> Iterator[Hit]:
    """D's loss is what a constant answer costs, beside G's loss, and moves without any noise: base 0.9, severity 1.

    Where D sees anything, batches differ, and losses jitter; a D whose answer is one number c for all pays exactly what
    c costs, and G pays what c gives it. Under the Wasserstein loss that is 0 for D.
    """
    found = _finite_rows(columns, "d_loss")
    if found is None:
        return
    steps, (d,) = found
    if len(d) < 10:
        return
    scale = max(CHANCE[family]) or 1.0
    # Jitter of rows next to each other, beyond a straight line; digits printed are rounded to 1e-4 at best.
    jitter = np.abs(np.convolve(d, [0.5, -1.0, 0.5], "valid"))
    smooth = np.concatenate([[jitter[0] < 4e-4 * scale], jitter < 4e-4 * scale, [jitter[-1] < 4e-4 * scale]])
    costs = CHANCE[family]
    if family == "wasserstein":
        near = np.abs(d) < 1e-3
    elif family in ("relativistic", "relativistic_hinge"):
        near = np.min([np.abs(d - c) < 2e-3 * c for c in costs], 0) if len(costs) == 1 else _any(d, costs)
    else:
        near = _any(d, costs, tolerance=0.1)
    at = _lasting(smooth & near, least=10)
    if at is None:
        return
    level = float(np.median(d[at:]))
    text = (
        f"from step {steps[at]} on, {columns['d_loss'].label} is {level:.4g}, what a "
        f"constant answer costs, and moves by "
        f"less than {4e-4 * scale:.0e} from row to row: D's answer does not depend on what it sees"
    )
    chance = min(CHANCE[family], key=lambda c: abs(c - level))
    evidence = Evidence("d_loss", level, text, chance, None, f"{_origin(columns['d_loss'])}, read as {family}")
    yield Hit("discriminator_dead", 0.9, 1.0, evidence, int(steps[at]))


def _any(d: Floats, costs: Sequence[float], tolerance: float = 2e-3) -> NDArray[np.bool_]:
    near = np.zeros(len(d), dtype=bool)
    for c in costs:
        near |= np.abs(d - c) < tolerance * c
    return near


def _at_chance(columns: Columns, family: str) -> Iterator[Hit]:
    """D's loss has been at chance from the first row on: equilibrium, or a D that learns nothing. Base 0.45, no
    finding.

    With D's printed answers to reals and fakes at one half as well it is no surer: both games look so."""
    whole, part = _finite_rows(columns, "d_loss"), _finite_rows(columns, "d_loss_real")
    name, found = ("d_loss", whole) if whole is not None else ("d_loss_real", part)
    if family == "wasserstein" or found is None:
        return
    steps, (d,) = found
    held = columns[name].held
    tolerance = 0.15 if held else 0.03
    inside = _any(d, CHANCE[family], tolerance)
    if not (held and inside.all()) and not (
        len(d) >= 3 and inside.mean() > 0.95 and inside[: max(3, len(d) // 20)].all()
    ):
        return
    level = float(np.median(d))
    text = f"{columns[name].label} has stood at chance ({level:.4g}) since step {steps[0]}"
    chance = min(CHANCE[family], key=lambda c: abs(c - level))
    yield Hit("discriminator_dead", 0.45, 0.5, Evidence(name, level, text, chance, None, _origin(columns[name])), None)


def _fooled(columns: Columns, family: str) -> Iterator[Hit]:
    """D takes every fake for real: its loss is far above chance and G's next to nothing. Base 0.8, severity 0.8.

    It is counted as a dead discriminator, whose answer is "real" whatever it sees, unless D's printed answers to reals
    say otherwise: a D that G has run away from errs, but still sees something.
    """
    if family != "logistic":
        return
    found = _finite_rows(columns, "d_loss", "g_loss")
    if found is None:
        return
    steps, (d, g) = found
    answers = _probabilities(columns)
    if answers is not None and np.median(_tail(answers[1][0])) < 0.9:
        return  # reals are not taken for real: it errs, but its answer depends on what it sees
    flags = (d > 1.5 * 2 * LN2) & (g < 0.3)
    lasts = _lasting(flags)
    if lasts is None or len(d) - lasts < 3:
        return
    text = (
        f"from step {steps[lasts]} on, D pays {np.median(d[lasts:]):.3g} (chance: {2 * LN2:.3g}) and G "
        f"{np.median(g[lasts:]):.2g}: D takes every fake for real"
    )
    evidence = Evidence("d_loss", float(np.median(d[lasts:])), text, 2 * LN2, None, _origin(columns["d_loss"]))
    yield Hit("discriminator_dead", 0.8 * _rows(len(d) - lasts + 3), 0.8, evidence, int(steps[lasts]))


def _minimax(columns: Columns, family: str) -> Iterator[Hit]:
    """Under the minimax loss G's gradient carries D(G(z)) as a factor. Base 0.85.

    The other factor, D's slope, grows as D wins: it made up for a factor of 0.0006 in the calibration, and not for
    one of 3e-6. So `FACTOR` is well below 1 % of what it is at chance.
    """
    if family != "saturating":
        return
    if (known := _probabilities(columns)) is not None:
        steps, fake, where = known[0], known[1][1], columns["d_fake"].label
    elif (found := _finite_rows(columns, "g_loss")) is not None:
        steps, fake, where = found[0], 1 - np.exp(np.minimum(found[1][0], 0)), columns["g_loss"].label
    else:
        return
    at = _lasting(fake < FACTOR, least=5)
    if at is None:
        return
    level = float(np.median(fake[at:]))
    text = f"from step {steps[at]} on, D gives fakes {level:.2g}, a factor of G's gradient under the minimax loss"
    evidence = Evidence("D(G(z))", level, text, COIN, (FACTOR, 1.0), where)
    severity = 0.7 + 0.1 * min(3.0, math.log10(FACTOR / max(level, 1e-12)))
    yield Hit("vanishing_gradient", 0.85 * _rows(len(fake) - at), severity, evidence, int(steps[at]))


def _explodes(columns: Columns, family: str) -> Iterator[Hit]:
    """A loss beyond what any game of its family costs: base 0.85, severity 0.9.

    Wasserstein: a critic that is Lipschitz can't tell more than how far data and fakes lie apart, which for images in
    [-1, 1] of a megapixel is 3,500; 10,000 says that nothing bounds it. Others: fifty times chance.
    """
    d, g = columns.get("d_loss"), _g(columns)
    limit = 1e4 if family == "wasserstein" else 50 * max(CHANCE[family])
    for series, bound in ((d, limit), (g if family in ("wasserstein", "hinge") else None, 1e4)):
        if series is None:
            continue
        ok = np.isfinite(series.value)
        values, steps = np.abs(series.value[ok]), series.step[ok]
        if not len(values):
            continue
        at = _lasting(values > bound)
        if at is None or (
            series is g and d is not None and len(d.finite) and np.abs(_tail(d.finite)).max() < bound / 10
        ):
            continue  # a critic's offset drifts: G's loss alone says nothing
        level = float(np.median(values[at:]))
        text = (
            f"{series.label} is around {level:.3g} from step {steps[at]} on, beyond "
            f"{bound:g}: nothing bounds the scores"
        )
        yield Hit(
            "divergence",
            0.85,
            0.9,
            Evidence(series.label or "loss", level, text, None, (0.0, bound), f"{_origin(series)}, read as {family}"),
            int(steps[at]),
        )


def _penalty(columns: Columns, family: str) -> Iterator[Hit]:
    """A gradient penalty that stands at its weight (the critic's input gradient is 0): dead, base 0.85, severity 1.
    One in the hundreds: it binds nothing any more, divergence, base 0.8, severity 0.8. D's own loss in the hundreds,
    which only its penalty can make positive: the same, base 0.7."""
    gp = columns.get("gp")
    if gp is not None and len(gp.finite):
        ok = np.isfinite(gp.value)
        values, steps = gp.value[ok], gp.step[ok]
        for weight in (10.0, 1.0):
            at = _lasting(np.abs(values - weight) < 1e-3 * weight, least=1 if weight == 10.0 else 5)
            if at is not None and (len(values) - at >= 3 or (values[at:] == weight).all()):
                text = (
                    f"{gp.label} stands at {weight:g} from step {steps[at]} on, its weight: D's "
                    f"gradient on its input is 0"
                )
                evidence = Evidence(gp.label or "gp", weight, text, 0.0, None, _origin(gp))
                sure = 0.85 if len(values) - at >= 3 else 0.7
                yield Hit("discriminator_dead", sure, 1.0, evidence, int(steps[at]))
                break
        at = _lasting(values > 500)
        if at is not None:
            text = f"{gp.label} is around {np.median(values[at:]):.3g}: the penalty no longer holds the critic"
            evidence = Evidence(gp.label or "gp", float(np.median(values[at:])), text, 0.0, (0.0, 500.0), _origin(gp))
            yield Hit("divergence", 0.8, 0.8, evidence, int(steps[at]))
    found = _finite_rows(columns, "d_loss")
    if family == "wasserstein" and found is not None:
        steps, (d,) = found
        at = _lasting(d > 100, least=5)
        if at is not None:
            text = (
                f"D's loss is around {np.median(d[at:]):.3g} above 0, which only its penalty can "
                f"cost: gradients are far over 1"
            )
            evidence = Evidence("d_loss", float(np.median(d[at:])), text, 0.0, None, _origin(columns["d_loss"]))
            yield Hit("divergence", 0.7, 0.6, evidence, int(steps[at]))


# --- rules that hold under every family ------------------------------------------------------------------------------


def _one_answer(columns: Columns, family: str) -> Iterator[Hit]:
    """D's mean answers to reals and fakes are the same on every row: base 0.95, severity 1.

    Means that are equal on one or two rows say nothing, unless both are at an end of [0, 1].
    """
    for names in (("d_real", "d_fake"), ("score_real", "score_fake")):
        found = _finite_rows(columns, *names)
        if found is None:
            continue
        steps, (real, fake) = found
        digits = _digits(real)  # of two, nothing can be said
        at = _lasting((np.abs(real - fake) < SAME) & (digits >= 3), least=5 if digits > 3 else 10)
        sure = 0.95
        if at is None:
            ends = _probabilities(columns) is not None
            extreme = (np.minimum(real, fake) > 0.99) | (np.maximum(real, fake) < 0.01)
            at, sure = _lasting(extreme & ends), 0.75
        if at is None:
            continue
        text = (
            f"from step {steps[at]} on, D answers {real[-1]:.4g} to reals and {fake[-1]:.4g} to fakes: the same, "
            "whatever it sees"
        )
        where = f"{columns[names[0]].label}, {columns[names[1]].label}, steps {steps[at]} to {steps[-1]}"
        gap = float(np.abs(real[at:] - fake[at:]).max())
        evidence = Evidence("gap of D's answers", gap, text, None, None, where)
        yield Hit("discriminator_dead", sure, 1.0, evidence, int(steps[at]))
        if sure > 0.9:  # what does not depend on its input has no gradient on it
            yield Hit("vanishing_gradient", 0.8, 1.0, evidence, int(steps[at]))


def _digits(values: Floats) -> int:
    """How many decimals were printed, up to 6."""
    for k in range(6):
        if np.allclose(values, np.round(values, k), rtol=0, atol=1e-9):
            return k
    return 6


def _not_numbers(columns: Columns, family: str) -> Iterator[Hit]:
    """NaN or infinity in a loss, or in another column that had numbers: base 0.97, severity 1.

    A column that was never a number, beside losses that are, is one that this run doesn't use. One that recovers within
    the log (a step that a gradient scaler skipped) is no divergence either.
    """
    for name, series in columns.items():
        bad = ~np.isfinite(series.value)
        if series.first_bad is None or not bad.any():
            continue
        loss = name in ("d_loss", "g_loss", "g_adv", "d_loss_real", "d_loss_fake")
        if bad.all() and not loss:
            continue
        if not bad[-1] and bad.mean() < 0.1:
            continue
        if bad.all() or bad[0]:
            text = (
                f"{series.label or name} is not a number from the first row on: look for a bug in the environment, the "
                "data or the set-up, not in the game"
            )
        else:
            text = f"{series.label or name} is not a number from step {series.first_bad} on"
        evidence = Evidence(series.label or name, math.nan, text, None, None, _origin(series))
        yield Hit("divergence", 0.97, 1.0, evidence, series.first_bad)


def _gradients(columns: Columns, family: str) -> Iterator[Hit]:
    """The live rules: a gradient norm a thousand times its median and above all before, base 0.9, severity 0.9; G's
    under a hundredth of what it was at the start, base 0.9, severity by the ratio."""
    rule = Divergence()
    for name, player in (("d_grad", "D"), ("g_grad", "G")):
        series = columns.get(name)
        if series is None or len(series.finite) < 20:
            continue
        ok = np.isfinite(series.value)
        values, steps = series.value[ok], series.step[ok]
        recent = min(rule.recent, len(values) // 4)
        now, past = float(np.median(values[-recent:])), values[:-recent]
        typical = max(float(np.median(past)), 1e-30)
        if now / typical > rule.factor and now > past.max():
            text = f"{player}'s gradient is {now / typical:.3g} times its median over the run"
            evidence = Evidence(name, now, text, typical, (0.0, rule.factor * typical), _origin(series))
            over = np.flatnonzero(values > rule.factor * typical)
            yield Hit("divergence", 0.9, 0.9, evidence, int(steps[over[0]]))
        if name == "g_grad":
            few = max(3, min(50, len(values) // 20))
            first = float(np.median(values[:few]))
            at = _lasting(values <= 0.01 * first, least=5)
            if at is not None:
                ratio = float(np.median(values[at:])) / first if first > 0 else 0.0
                text = (
                    f"from step {steps[at]} on, the gradient that reaches G is {ratio:.2g} of what it was at the start"
                )
                evidence = Evidence(name, ratio, text, 1.0, (0.01, math.inf), _origin(series))
                severity = 0.6 + 0.2 * min(2.0, math.log10(0.01 / max(ratio, 1e-12)))
                yield Hit("vanishing_gradient", 0.9 * _rows(len(values) - at), severity, evidence, int(steps[at]))


def _circles(columns: Columns, family: str) -> Iterator[Hit]:
    """The live rule, in windows of the latest 512, 256, 128, 64 and 32 rows, and over the last half in block means,
    which shows slow circles: one rhythm that holds the share of `Oscillation` and is too strong for noise (`SURPRISE`).
    Base 0.9; severity by how far the rhythm moves the series, relative to its size."""
    rule = Oscillation()
    best: Hit | None = None
    for name in ("d_loss", "g_adv", "g_loss", "d_real", "d_fake", "d_grad", "g_grad"):
        series = columns.get(name)
        if series is None:
            continue
        ok = np.isfinite(series.value)
        values, steps = series.value[ok], series.step[ok]
        for window, block in _windows(len(values)):
            part = values[-window * block :].reshape(window, block).mean(1)
            at = steps[-window * block :]
            share, excess, amplitude, period = rhythm(torch.from_numpy(part.copy()), cycles=rule.cycles).tolist()
            bins = window // 2 - rule.cycles + 1
            if not (share > rule.share and excess > math.log(bins / SURPRISE) and amplitude > SWING):
                continue
            length = period * (at[-1] - at[0]) / max(1, window - 1)
            text = (
                f"over the steps {at[0]} to {at[-1]}, {series.label or name} swings with a period "
                f"of {length:.3g} steps, "
                f"which is {share:.0%} of all it does"
            )
            evidence = Evidence(f"rhythm of {name}", share, text, None, (0.0, rule.share), _origin(series))
            hit = Hit("oscillation", 0.9, min(1.0, 0.4 + amplitude), evidence, int(at[0]))
            if best is None or hit.severity > best.severity:
                best = hit
    if best is not None:
        yield best


def _windows(n: int) -> Iterator[tuple[int, int]]:
    yield from ((w, 1) for w in (512, 256, 128, 64, 32) if n >= w)
    if 32 < n // 2 < 512:
        yield n // 2, 1
    block = -(-(n // 2) // 512)
    if block >= 2:
        yield n // 2 // block, block


def _rates(columns: Columns, family: str) -> Iterator[Hit]:
    """A learning rate that has decayed to nothing, for at least a twentieth of the log: base 0.95, severity 1."""
    for name, series in columns.items():
        if not name.startswith("lr") or not len(series.finite):
            continue
        ok = np.isfinite(series.value)
        values, steps = series.value[ok], series.step[ok]
        decayed = (values < DECAYED) & (values < 1e-5 * values.max())
        at = _lasting((values >= 0) & ((values < NOTHING) | decayed))
        if at is None or (at == 0 and len(values) < 3 and (values == 0).all()):
            continue  # one or two rows of a warm-up
        if len(values) - at < 0.05 * len(values):
            continue  # the last steps of a schedule that ends at 0
        text = f"{series.label or name} is {values[-1]:.3g} from step {steps[at]} on: nothing moves any more"
        evidence = Evidence(series.label or name, float(values[-1]), text, None, (NOTHING, math.inf), _origin(series))
        yield Hit("stalled", 0.95, 1.0, evidence, int(steps[at]))


def _late(columns: Columns, family: str) -> Iterator[Hit]:
    """FID that had been good and jumps fivefold for good: base 0.85, severity by the jump."""
    fid = columns.get("fid")
    if fid is None or len(fid.finite) < 2:
        return
    ok = np.isfinite(fid.value)
    values, steps = fid.value[ok], fid.step[ok]
    lowest = np.minimum.accumulate(values)
    at = _lasting((values > 5 * lowest) & (values > 20))
    if at is None:
        return
    best = float(lowest[at])
    text = f"{fid.label} jumps from {best:.4g} to {values[at]:.4g} at step {steps[at]} and does not come back"
    evidence = Evidence(fid.label or "fid", float(values[-1]), text, best, None, _origin(fid))
    yield Hit("divergence", 0.85, min(1.0, 0.6 + 0.2 * math.log10(values[-1] / best)), evidence, int(steps[at]))


def _coin(columns: Columns, family: str) -> Iterator[Hit]:
    """D's accuracy is exactly one half over ten rows: it gives everything the same name. Base 0.75, severity 0.9."""
    accuracy = columns.get("accuracy_d")
    if accuracy is None or len(accuracy.finite) < 10:
        return
    ok = np.isfinite(accuracy.value)
    values, steps = accuracy.value[ok], accuracy.step[ok]
    at = _lasting((values == 0.5) | (values == 50), least=10)
    if at is not None:
        text = f"{accuracy.label} is exactly one half from step {steps[at]} on: D gives everything the same name"
        evidence = Evidence("accuracy_d", 0.5, text, None, None, _origin(accuracy))
        yield Hit("discriminator_dead", 0.75, 0.9, evidence, int(steps[at]))


RULES: tuple[Rule, ...] = (
    _saturated,
    _mean_scores,
    _clamped,
    _held_high,
    _constant_answer,
    _at_chance,
    _fooled,
    _minimax,
    _explodes,
    _penalty,
    _one_answer,
    _not_numbers,
    _gradients,
    _circles,
    _rates,
    _late,
    _coin,
)


def unused(columns: Columns) -> list[str]:
    """Labels of columns that are never a number, beside losses that are: this run doesn't use them."""
    alive = any(len(columns[name].finite) for name in ("d_loss", "g_loss") if name in columns)
    return [s.label or name for name, s in columns.items() if alive and len(s) and not len(s.finite)]
