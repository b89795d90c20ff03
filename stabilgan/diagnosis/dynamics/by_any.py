"""Rules that hold under every loss family."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stabilgan.detectors.divergence import Divergence
from stabilgan.detectors.oscillation import Oscillation, rhythm
from stabilgan.diagnosis.dynamics import reading
from stabilgan.diagnosis.dynamics.reading import Hit, Rule
from stabilgan.diagnosis.families import Columns, Floats, Series
from stabilgan.diagnosis.findings import Evidence

SAME = 3e-4
"""D's mean answers to reals and fakes that are nearer than this on every row are one answer: where D sees anything,
batches alone move them further apart. The rounding of four printed digits is within it."""
SURPRISE = 2e-3
"""How often noise may look like a rhythm, in one window of one series; on the tuning runs of the calibration the
healthy ones stayed at seven times that."""
DRIFT = 3
"""Degree of the polynomial that is taken out of a window first: as a game settles, its level falls in a bend, which
would outweigh the rounds it still goes. Four rounds are too many for a cubic to take them along."""
SWING = 3e-3
"""The least swing of a series, relative to its size. A loss near chance moves little while samples go round; the live
detector, which can't wait for a rhythm to be beyond doubt, asks for more."""
NOTHING = 1e-12
"""A learning rate below it moves nothing."""
DECAYED = 1e-9
"""Nor does one below this that has fallen a hundred-thousandfold: Adam's steps are about as large as the rate, and
float32 holds a weight of 0.02 to 1e-9."""
LOSSES = ("d_loss", "g_loss", "g_adv", "d_loss_real", "d_loss_fake")
EVERY_OTHER = 2.1
"""Rows; what is otherwise in every second row is printed so (a term that comes in lazily), and no circle."""
NOW_AND_THEN = ("fid", "accuracy_d")
"""Columns that are measured in some rows alone."""


def _one_answer(columns: Columns, family: str) -> Iterator[Hit]:
    """D's mean answers to reals and fakes are the same on every row: base 0.95, severity 1.

    Means that are equal on one or two rows say nothing, unless both are at an end of [0, 1].
    """
    for names in (("d_real", "d_fake"), ("score_real", "score_fake")):
        found = reading.finite_rows(columns, *names)
        if found is None:
            continue
        steps, (real, fake) = found
        digits = _digits(real)  # of two, nothing can be said
        at = reading.lasting((np.abs(real - fake) < SAME) & (digits >= 3), least=5 if digits > 3 else 10)
        sure = 0.95
        if at is None:
            ends = reading.probabilities(columns) is not None
            extreme = (np.minimum(real, fake) > 0.99) | (np.maximum(real, fake) < 0.01)
            at, sure = reading.lasting(extreme & ends), 0.75
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
    """NaN or infinity in a loss, or in another column that had numbers, that stays to the end: base 0.97, severity 1.

    A column that was never a number, beside losses that are, is one that this run doesn't use. Where numbers come again
    the weights are numbers too, since NaN in a weight is NaN in every later loss: a step that a gradient scaler
    skipped, a misprint, a loss that only every fifth row has. What is measured now and then (FID, accuracy, rates) has
    NaN for "not measured".
    """
    for name, series in columns.items():
        bad = ~np.isfinite(series.value)
        if not bad.any() or name in NOW_AND_THEN or name.startswith("lr"):
            continue
        loss = name in LOSSES
        if bad.all() and not loss:
            continue
        end = lost(bad)
        if end is None or (not loss and (end.sure < 0.9 or len(bad) - end.at < 2)):
            continue
        onset = _step(series, end.at)
        if bad.all():
            text = (
                f"{series.label or name} is not a number from the first row on: look for a bug in the environment, the "
                "data or the set-up, not in the game"
            )
        elif end.sure < 0.9:
            text = f"{series.label or name} ends without a number from step {onset} on, as it did before it came again"
        else:
            text = f"{series.label or name} is not a number from step {onset} on"
        evidence = Evidence(series.label or name, math.nan, text, None, None, reading.origin(series))
        yield Hit("divergence", end.sure, 1.0, evidence, onset)


class End(NamedTuple):
    """The row from which there is no number any more, and how sure it is that none comes."""

    at: int
    sure: float


def lost(bad: NDArray[np.bool_]) -> End | None:
    """Where numbers end for good; None where they come again.

    Args:
        bad: (n,) rows without a number, one at least.

    A single number after two or more rows without one, or where there was none before, may be misread, and is no
    return. Rows without a number that end the log, and are no more in a row than some that numbers came after, are a
    habit if there were three such gaps before; if there were fewer, nobody can tell: 0.4.

    >>> rows = np.arange(9)
    >>> lost(rows >= 6), lost(rows == 6), lost((rows == 2) | (rows == 8))
    (End(at=6, sure=0.97), None, End(at=8, sure=0.4))
    """
    good, first = np.flatnonzero(~bad), int(bad.argmax())
    again = good[good > first]
    if not len(again) or (len(again) == 1 and (bad.sum() > 1 or first == 0)):
        return End(first, 0.97)
    last = int(good[-1])
    waits = np.diff(np.concatenate([[-1], good])) - 1
    trailing = len(bad) - 1 - last
    if trailing > waits.max():
        return End(last + 1, 0.97)
    return End(last + 1, 0.4) if trailing and (waits >= trailing).sum() < 3 else None


def _step(series: Series, at: int) -> int:
    """The step of a row without a number; of a thinned series the first one since the row before, where it is known."""
    after = int(series.step[at - 1]) if at else -1
    known = series.first_bad
    return known if known is not None and after < known < series.step[at] else int(series.step[at])


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
            evidence = Evidence(name, now, text, typical, (0.0, rule.factor * typical), reading.origin(series))
            over = np.flatnonzero(values > rule.factor * typical)
            yield Hit("divergence", 0.9, 0.9, evidence, int(steps[over[0]]))
        if name == "g_grad":
            few = max(3, min(50, len(values) // 20))
            first = float(np.median(values[:few]))
            at = reading.lasting(values <= 0.01 * first, least=5)
            if at is not None:
                ratio = float(np.median(values[at:])) / first if first > 0 else 0.0
                text = (
                    f"from step {steps[at]} on, the gradient that reaches G is {ratio:.2g} of what it was at the start"
                )
                evidence = Evidence(name, ratio, text, 1.0, (0.01, math.inf), reading.origin(series))
                severity = 0.6 + 0.2 * min(2.0, math.log10(0.01 / max(ratio, 1e-12)))
                yield Hit(
                    "vanishing_gradient", 0.9 * reading.rows(len(values) - at), severity, evidence, int(steps[at])
                )


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
            share, excess, amplitude, period = rhythm(torch.from_numpy(_level(part)), cycles=rule.cycles).tolist()
            bins = window // 2 - rule.cycles + 1
            if not (share > rule.share and excess > math.log(bins / SURPRISE) and amplitude > SWING):
                continue
            if period * block < EVERY_OTHER:
                continue
            length = period * (at[-1] - at[0]) / max(1, window - 1)
            text = (
                f"over the steps {at[0]} to {at[-1]}, {series.label or name} swings with a period "
                f"of {length:.3g} steps, "
                f"which is {share:.0%} of all it does"
            )
            evidence = Evidence(f"rhythm of {name}", share, text, None, (0.0, rule.share), reading.origin(series))
            hit = Hit("oscillation", 0.9, min(1.0, 0.4 + amplitude), evidence, int(at[0]))
            if best is None or hit.severity > best.severity:
                best = hit
    if best is not None:
        yield best


def _level(series: Floats) -> Floats:
    """The series without its drift, around its mean."""
    t = np.linspace(-1, 1, len(series))
    drift = np.polynomial.legendre.legval(t, np.polynomial.legendre.legfit(t, series, DRIFT))
    level: Floats = np.asarray(series - drift + series.mean(), dtype=np.float64)
    return level


def _windows(n: int) -> Iterator[tuple[int, int]]:
    """Rows of a window, and how many rows are averaged into one. A rhythm that is shorter than an eighth of a log is an
    episode, and no state of the game."""
    yield from ((w, 1) for w in (512, 256, 128, 64, 32) if n >= w >= min(512, n / 8))
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
        # A 0 in two to eight decimals may be a rate too small to be printed; without decimals, or as 0.0, it is 0.
        printed = (values == 0) & (series.digits is not None and 2 <= series.digits <= 8)
        at = reading.lasting((values >= 0) & ((values < NOTHING) | decayed) & ~printed)
        if at is None or (at == 0 and len(values) < 3 and (values == 0).all()):
            continue  # one or two rows of a warm-up
        if len(values) - at < 0.05 * len(values):
            continue  # the last steps of a schedule that ends at 0
        text = f"{series.label or name} is {values[-1]:.3g} from step {steps[at]} on: nothing moves any more"
        evidence = Evidence(
            series.label or name, float(values[-1]), text, None, (NOTHING, math.inf), reading.origin(series)
        )
        yield Hit("stalled", 0.95, 1.0, evidence, int(steps[at]))


def _late(columns: Columns, family: str) -> Iterator[Hit]:
    """FID that had been good and jumps fivefold for good: base 0.85, severity by the jump."""
    fid = columns.get("fid")
    if fid is None or len(fid.finite) < 2:
        return
    ok = np.isfinite(fid.value)
    values, steps = fid.value[ok], fid.step[ok]
    lowest = np.minimum.accumulate(values)
    at = reading.lasting((values > 5 * lowest) & (values > 20))
    if at is None:
        return
    best = float(lowest[at])
    text = f"{fid.label} jumps from {best:.4g} to {values[at]:.4g} at step {steps[at]} and does not come back"
    evidence = Evidence(fid.label or "fid", float(values[-1]), text, best, None, reading.origin(fid))
    yield Hit("divergence", 0.85, min(1.0, 0.6 + 0.2 * math.log10(values[-1] / best)), evidence, int(steps[at]))


def _coin(columns: Columns, family: str) -> Iterator[Hit]:
    """D's accuracy is exactly one half over ten rows: it gives everything the same name. Base 0.75, severity 0.9."""
    accuracy = columns.get("accuracy_d")
    if accuracy is None or len(accuracy.finite) < 10:
        return
    ok = np.isfinite(accuracy.value)
    values, steps = accuracy.value[ok], accuracy.step[ok]
    digits = math.inf if accuracy.digits is None else accuracy.digits
    # A half in one or two decimals, or 50 without any, is what many an accuracy is rounded to.
    at = reading.lasting(((values == 0.5) & (digits >= 3)) | ((values == 50) & (digits >= 1)), least=10)
    if at is not None:
        text = f"{accuracy.label} is exactly one half from step {steps[at]} on: D gives everything the same name"
        evidence = Evidence("accuracy_d", 0.5, text, None, None, reading.origin(accuracy))
        yield Hit("discriminator_dead", 0.75, 0.9, evidence, int(steps[at]))


RULES: tuple[Rule, ...] = (
    _one_answer,
    _not_numbers,
    _gradients,
    _circles,
    _rates,
    _late,
    _coin,
)
