"""What the rules share: a rule's word, states that last, rows that are finite, and how wrong D's judgement is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stabilgan.diagnosis.families import CHANCE, Columns, Floats, Series, aligned
from stabilgan.diagnosis.findings import Evidence


class Hit(NamedTuple):
    """One rule's word: a failure, how sure the rule is by itself, how bad it is, the evidence, and since when."""

    failure: str
    sure: float
    severity: float
    evidence: Evidence
    onset: int | None


Rule = Callable[[Columns, str], Iterator[Hit]]


def origin(series: Series) -> str:
    return f"column {series.label or '?'}, steps {series.step[0]} to {series.step[-1]}" if len(series) else ""


def rows(rows: int) -> float:
    return 0.6 + 0.4 * min(1.0, rows / 10)


def lasting(flags: NDArray[np.bool_], least: int = 1) -> int | None:
    """The index from which a state lasts: nine of ten flags from there on are set, and most at the end."""
    late = max(1, min(10, len(flags) // 2))
    if len(flags) < least or flags[-late:].mean() < 0.6:
        return None
    share = np.cumsum(flags[::-1])[::-1] / np.arange(len(flags), 0, -1)
    at = np.flatnonzero(flags & (share >= 0.9))
    if not len(at) or len(flags) - at[0] < least:
        return None
    return int(at[0])


def tail(values: Floats, share: float = 0.2, least: int = 5) -> Floats:
    return values[-max(least, int(len(values) * share)) :]


def g(columns: Columns) -> Series | None:
    """G's adversarial loss alone where it is logged, else G's loss."""
    return columns.get("g_adv", columns.get("g_loss"))


def asleep(columns: Columns) -> bool:
    d = columns.get("d_loss")
    return d is not None and len(d) > 0 and bool((d.value == 0).all())


def finite_rows(columns: Columns, *names: str) -> tuple[NDArray[np.int64], Floats] | None:
    """Steps and values (len(names), n) of rows in which all are finite; None where a column is missing or nothing
    is."""
    if any(name not in columns or not len(columns[name]) for name in names):
        return None
    rows = aligned(columns, names)
    ok = np.isfinite(rows).all(0)
    return (columns[names[0]].step[ok], rows[:, ok]) if ok.any() else None


def probabilities(columns: Columns) -> tuple[NDArray[np.int64], Floats] | None:
    found = finite_rows(columns, "d_real", "d_fake")
    if found is None or found[1].min() < 0 or found[1].max() > 1:
        return None
    return found


def summed(columns: Columns, family: str) -> bool | None:
    """Whether D's loss is the sum of its terms (True), their mean (False), or can't be told (None)."""
    d = columns["d_loss"].finite
    known = probabilities(columns)
    if known is not None and family in ("logistic", "saturating"):
        rows = finite_rows(columns, "d_loss", "d_real", "d_fake")
        assert rows is not None
        loss, real, fake = rows[1]
        least = -np.log(np.clip(real, 1e-3, 1)) - np.log(np.clip(1 - fake, 1e-3, 1))
        clear = least > 0.05
        if clear.any():
            return bool(np.median(loss[clear] / least[clear]) > 0.75)
    both = finite_rows(columns, "d_loss", "d_loss_real", "d_loss_fake")
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
    if family in ("logistic", "saturating") and (known := probabilities(columns)) is not None:
        steps, (real, fake) = known
        return steps, (1 - real + fake) / 2, f"{columns['d_real'].label} and {columns['d_fake'].label}"
    if family not in ("logistic", "saturating", "hinge", "least_squares", "relativistic"):
        return None
    both = finite_rows(columns, "d_loss_real", "d_loss_fake")
    if both is not None and family != "least_squares":
        steps, (real, fake) = both
        return steps, (real + fake) / 2, f"{columns['d_loss_real'].label} and {columns['d_loss_fake'].label}"
    alone = finite_rows(columns, "d_loss")
    if alone is None:
        return None
    steps, (loss,) = alone
    factor = {"relativistic": 1.0, "least_squares": 2.0}.get(family)
    if factor is None:
        factor = 0.5 if summed(columns, family) else 1.0
    return steps, np.abs(loss) * factor, columns["d_loss"].label
