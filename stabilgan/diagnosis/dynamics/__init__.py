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

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from stabilgan.diagnosis.dynamics import by_any, by_family, reading
from stabilgan.diagnosis.dynamics.reading import Hit
from stabilgan.diagnosis.families import Beliefs, Columns, Series, believe
from stabilgan.diagnosis.findings import Evidence, Finding

__all__ = ["Judgement", "Series", "judge_series", "passing", "unused"]

SURE = 0.6
"""From here on a suspicion is a finding."""
SUSPECT = 0.2
"""From here on it stands in the way of "healthy"."""
ENOUGH = 20
"""Rows of both losses that a clean bill takes."""


class Judgement(NamedTuple):
    """What series say: findings (the most severe first), all readings, and why no answer can be given (or "")."""

    findings: tuple[Finding, ...]
    evidence: tuple[Evidence, ...]
    undecided: str


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
        for rule in (*by_family.RULES, *by_any.RULES):
            for hit in rule(columns, name):
                heard.setdefault(hit.failure, {}).setdefault(name, []).append(hit)
    if "discriminator_saturated" in heard and "oscillation" in heard:
        for name in heard["discriminator_saturated"]:  # what is left of D's losses then says nothing about G
            heard["oscillation"].pop(name, None)
    findings, doubts = [], []
    for failure, asked in heard.items():
        if not asked:
            continue
        sure = sum(beliefs.share[name] * max(hit.sure for hit in hits) for name, hits in asked.items())
        spokesman = max(asked, key=lambda name: beliefs.share[name])
        hits = sorted(asked[spokesman], key=lambda hit: -hit.sure)
        if sure < SURE:
            if sure >= SUSPECT:
                doubts.append((sure, f"{hits[0].evidence.text} ({_doubt(failure, asked, beliefs)})"))
            continue
        onsets = [hit.onset for hit in hits if hit.onset is not None and hit.sure >= SURE]
        evidence = tuple({hit.evidence.text: hit.evidence for hit in hits}.values())
        severity = max(hit.severity for hit in hits)
        findings.append(Finding(failure, severity, min(sure, 0.99), evidence, min(onsets, default=hits[0].onset)))
    findings.sort(key=lambda f: (-f.severity, -f.confidence))
    readings = (*_readings(columns), *(e for f in findings for e in f.evidence))
    undecided = "" if findings else _undecided(columns, beliefs, [text for _, text in sorted(doubts, reverse=True)])
    return Judgement(tuple(findings), readings, undecided)


def _doubt(failure: str, asked: dict[str, list[Hit]], beliefs: Beliefs) -> str:
    plain = failure.replace("_", " ")
    if sum(beliefs.share[name] for name in asked) > 0.8:
        return f"this may be a {plain}, but the rows don't settle it"
    likely = [name for name in beliefs.share if beliefs.share[name] >= 0.05]
    mean = " or ".join(name for name in likely if name in asked)
    rest = " or ".join(name for name in likely if name not in asked)
    return f"under {mean or next(iter(asked))} it means {plain}, under {rest or 'other losses'} it doesn't"


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
    if reading.asleep(columns):
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
            yield Evidence(name, float(np.median(tail)), text, origin=reading.origin(series))


def unused(columns: Columns) -> list[str]:
    """Labels of columns that are never a number, beside losses that are: this run doesn't use them."""
    alive = any(len(columns[name].finite) for name in ("d_loss", "g_loss") if name in columns)
    return [s.label or name for name, s in columns.items() if alive and len(s) and not len(s.finite)]


def passing(columns: Columns) -> list[str]:
    """What was not a number for a while in each loss, and came again: no divergence, but worth a note.

    >>> passing({"d_loss": Series.of([1.2, np.nan, 1.1, 1.3], label="Loss_D")})[0][:60]
    'Loss_D is not a number in 1 of 4 rows, first at step 1, and '
    """
    notes = []
    for name in by_any.LOSSES:
        if name in columns and (bad := ~np.isfinite(columns[name].value)).any() and by_any.lost(bad) is None:
            series = columns[name]
            notes.append(
                f"{series.label or name} is not a number in {bad.sum()} of {len(bad)} rows, first at step "
                f"{series.first_bad}, and numbers came again: no divergence, but a step that was skipped (a gradient "
                "scaler), a misprint, or a loss that not every row has"
            )
    return notes
