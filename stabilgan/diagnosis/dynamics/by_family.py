"""Rules that hold under some loss families only: each is asked under one, and says what it sees there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stabilgan.detectors.saturation import CHANCE as COIN
from stabilgan.detectors.saturation import Saturation
from stabilgan.diagnosis.dynamics import reading
from stabilgan.diagnosis.dynamics.reading import Hit, Rule
from stabilgan.diagnosis.families import CHANCE, LN2, Columns, Floats, clamp_of
from stabilgan.diagnosis.findings import Evidence

WRONG = Saturation().threshold
FACTOR = 1e-4
"""Of D(G(z)), under the minimax loss: see `_minimax`."""


def _saturated(columns: Columns, family: str) -> Iterator[Hit]:
    """Base 0.95 over at least five rows; 0.85 where fewer rows of both losses settle it. Severity ½ at the threshold,
    1 at a hundredth of it."""
    found = reading.wrongness(columns, family)
    if found is None:
        return
    steps, wrong, where = found
    at = reading.lasting(wrong < WRONG)
    if at is None:
        return
    g = reading.g(columns)
    late = float(np.median(reading.tail(g.finite))) if g is not None and len(g.finite) else math.nan
    lost = (family in ("logistic", "relativistic") and late > 4.6) or (family == "hinge" and late > 1)
    if reading.asleep(columns) and "d_real" not in columns and not lost:
        return
    level, rows = float(np.median(wrong[at:])), len(wrong) - at
    sure = 0.95 * reading.rows(rows)
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
    found = reading.finite_rows(columns, *names)
    if family not in ("logistic", "saturating") or found is None or reading.probabilities(columns) is not None:
        return
    steps, (real, fake) = found
    wrong = (1 / (1 + np.exp(np.clip(real, -50, 50))) + 1 / (1 + np.exp(np.clip(-fake, -50, 50)))) / 2
    at = reading.lasting(wrong < WRONG)
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
    g = reading.g(columns)
    if family != "logistic" or g is None:
        return
    ok = np.isfinite(g.value)
    values, steps = g.value[ok], g.step[ok]
    constant = clamp_of(values[-min(len(values), 20) :])
    if constant is None or (len(values) < 3 and not g.held):
        return
    at = reading.lasting(np.abs(values - constant) < 2e-4 * constant)
    at = len(values) - 1 if at is None else at
    text = f"{g.label} stands at {constant:g} from step {steps[at]} on, where a log is cut off and has no gradient"
    evidence = Evidence(g.label or "g_loss", constant, text, LN2, None, reading.origin(g))
    for failure in ("discriminator_saturated", "vanishing_gradient"):
        yield Hit(failure, 0.95, 1.0, evidence, int(steps[at]))


def _held_high(columns: Columns, family: str) -> Iterator[Hit]:
    """G's loss is said in words, or seen over ten rows, to be constant and high (D(G(z)) below 0.001): base 0.85."""
    g = reading.g(columns)
    if family != "logistic" or g is None or not len(g.finite):
        return
    tail = reading.tail(g.finite, least=10)
    constant = g.held or (len(g.finite) >= 10 and float(np.ptp(tail)) < 1e-3 * abs(float(np.median(tail))))
    level = float(np.median(tail))
    if not constant or level < 6.9:
        return
    text = f"{g.label} stays at {level:.4g}, so D gives fakes {math.exp(-level):.1g} and no longer changes its mind"
    evidence = Evidence(g.label or "g_loss", level, text, LN2, None, reading.origin(g))
    yield Hit("discriminator_saturated", 0.85, 0.9, evidence, int(g.step[-len(tail)]))


def _constant_answer(columns: Columns, family: str) -> Iterator[Hit]:
    """D's loss is what a constant answer costs, beside G's loss, and moves without any noise: base 0.9, severity 1.

    Where D sees anything, batches differ, and losses jitter; a D whose answer is one number c for all pays exactly what
    c costs, and G pays what c gives it. Under the Wasserstein loss that is 0 for D.
    """
    found = reading.finite_rows(columns, "d_loss")
    if found is None:
        return
    steps, (d,) = found
    printed = columns["d_loss"].digits
    if len(d) < 10 or (printed is not None and printed < 3):
        return  # in two decimals the mean of any epoch stands still
    scale = max(CHANCE[family]) or 1.0
    # Jitter of rows next to each other, beyond a straight line; digits printed are rounded to 1e-4 at best.
    jitter = np.abs(np.convolve(d, [0.5, -1.0, 0.5], "valid"))
    smooth = np.concatenate([[jitter[0] < 4e-4 * scale], jitter < 4e-4 * scale, [jitter[-1] < 4e-4 * scale]])
    costs = CHANCE[family]
    if family == "wasserstein":
        # 0, or what is printed so: a clipped critic's gap may be small, and move.
        near = np.abs(d) < (1e-5 if printed is None else max(1e-5, 1.5 * 10.0**-printed))
    elif family in ("relativistic", "relativistic_hinge"):
        near = np.min([np.abs(d - c) < 2e-3 * c for c in costs], 0) if len(costs) == 1 else _any(d, costs)
    else:
        near = _any(d, costs, tolerance=0.1)
    at = reading.lasting(smooth & near, least=10)
    if at is None:
        return
    level = float(np.median(d[at:]))
    text = (
        f"from step {steps[at]} on, {columns['d_loss'].label} is {level:.4g}, what a "
        f"constant answer costs, and moves by "
        f"less than {4e-4 * scale:.0e} from row to row: D's answer does not depend on what it sees"
    )
    chance = min(CHANCE[family], key=lambda c: abs(c - level))
    evidence = Evidence("d_loss", level, text, chance, None, f"{reading.origin(columns['d_loss'])}, read as {family}")
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
    whole, part = reading.finite_rows(columns, "d_loss"), reading.finite_rows(columns, "d_loss_real")
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
    yield Hit(
        "discriminator_dead", 0.45, 0.5, Evidence(name, level, text, chance, None, reading.origin(columns[name])), None
    )


def _fooled(columns: Columns, family: str) -> Iterator[Hit]:
    """D takes every fake for real: its loss is far above chance and G's next to nothing. Base 0.8, severity 0.8.

    It is counted as a dead discriminator, whose answer is "real" whatever it sees, unless D's printed answers to reals
    say otherwise: a D that G has run away from errs, but still sees something.
    """
    if family != "logistic":
        return
    found = reading.finite_rows(columns, "d_loss", "g_loss")
    if found is None:
        return
    steps, (d, g) = found
    answers = reading.probabilities(columns)
    if answers is not None and np.median(reading.tail(answers[1][0])) < 0.9:
        return  # reals are not taken for real: it errs, but its answer depends on what it sees
    flags = (d > 1.5 * 2 * LN2) & (g < 0.3)
    lasts = reading.lasting(flags)
    if lasts is None or len(d) - lasts < 3:
        return
    text = (
        f"from step {steps[lasts]} on, D pays {np.median(d[lasts:]):.3g} (chance: {2 * LN2:.3g}) and G "
        f"{np.median(g[lasts:]):.2g}: D takes every fake for real"
    )
    evidence = Evidence("d_loss", float(np.median(d[lasts:])), text, 2 * LN2, None, reading.origin(columns["d_loss"]))
    yield Hit("discriminator_dead", 0.8 * reading.rows(len(d) - lasts + 3), 0.8, evidence, int(steps[lasts]))


def _minimax(columns: Columns, family: str) -> Iterator[Hit]:
    """Under the minimax loss G's gradient carries D(G(z)) as a factor. Base 0.85.

    The other factor, D's slope, grows as D wins: it made up for a factor of 0.0006 in the calibration, and not for
    one of 3e-6. So `FACTOR` is well below 1 % of what it is at chance.
    """
    if family != "saturating":
        return
    if (known := reading.probabilities(columns)) is not None:
        steps, fake, where = known[0], known[1][1], columns["d_fake"].label
    elif (found := reading.finite_rows(columns, "g_loss")) is not None:
        steps, fake, where = found[0], 1 - np.exp(np.minimum(found[1][0], 0)), columns["g_loss"].label
    else:
        return
    at = reading.lasting(fake < FACTOR, least=5)
    if at is None:
        return
    level = float(np.median(fake[at:]))
    text = f"from step {steps[at]} on, D gives fakes {level:.2g}, a factor of G's gradient under the minimax loss"
    evidence = Evidence("D(G(z))", level, text, COIN, (FACTOR, 1.0), where)
    severity = 0.7 + 0.1 * min(3.0, math.log10(FACTOR / max(level, 1e-12)))
    yield Hit("vanishing_gradient", 0.85 * reading.rows(len(fake) - at), severity, evidence, int(steps[at]))


def _explodes(columns: Columns, family: str) -> Iterator[Hit]:
    """A loss beyond what any game of its family costs: base 0.85, severity 0.9.

    Wasserstein: a critic that is Lipschitz can't tell more than how far data and fakes lie apart, which for images in
    [-1, 1] of a megapixel is 3,500; 10,000 says that nothing bounds it. Others: fifty times chance.
    """
    d, g = columns.get("d_loss"), reading.g(columns)
    limit = 1e4 if family == "wasserstein" else 50 * max(CHANCE[family])
    for series, bound in ((d, limit), (g if family in ("wasserstein", "hinge") else None, 1e4)):
        if series is None:
            continue
        ok = np.isfinite(series.value)
        values, steps = np.abs(series.value[ok]), series.step[ok]
        if not len(values):
            continue
        at = reading.lasting(values > bound)
        if at is None or (
            series is g and d is not None and len(d.finite) and np.abs(reading.tail(d.finite)).max() < bound / 10
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
            Evidence(
                series.label or "loss", level, text, None, (0.0, bound), f"{reading.origin(series)}, read as {family}"
            ),
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
            at = reading.lasting(np.abs(values - weight) < 1e-3 * weight, least=1 if weight == 10.0 else 5)
            if at is not None and (len(values) - at >= 3 or (values[at:] == weight).all()):
                text = (
                    f"{gp.label} stands at {weight:g} from step {steps[at]} on, its weight: D's "
                    f"gradient on its input is 0"
                )
                evidence = Evidence(gp.label or "gp", weight, text, 0.0, None, reading.origin(gp))
                sure = 0.85 if len(values) - at >= 3 else 0.7
                yield Hit("discriminator_dead", sure, 1.0, evidence, int(steps[at]))
                break
        at = reading.lasting(values > 500)
        if at is not None:
            text = f"{gp.label} is around {np.median(values[at:]):.3g}: the penalty no longer holds the critic"
            evidence = Evidence(
                gp.label or "gp", float(np.median(values[at:])), text, 0.0, (0.0, 500.0), reading.origin(gp)
            )
            yield Hit("divergence", 0.8, 0.8, evidence, int(steps[at]))
    found = reading.finite_rows(columns, "d_loss")
    if family == "wasserstein" and found is not None:
        steps, (d,) = found
        at = reading.lasting(d > 100, least=5)
        if at is not None:
            text = (
                f"D's loss is around {np.median(d[at:]):.3g} above 0, which only its penalty can "
                f"cost: gradients are far over 1"
            )
            evidence = Evidence("d_loss", float(np.median(d[at:])), text, 0.0, None, reading.origin(columns["d_loss"]))
            yield Hit("divergence", 0.7, 0.6, evidence, int(steps[at]))


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
)
