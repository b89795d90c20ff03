"""Diagnose a log: read it, find its games, judge each, and say what was taken for what."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any

from stabilgan.diagnosis.dynamics import Judgement, judge_series, passing, unused
from stabilgan.diagnosis.dynamics.by_any import LOSSES
from stabilgan.diagnosis.families import believe, named
from stabilgan.diagnosis.findings import Diagnosis, Evidence, Finding, InputError
from stabilgan.diagnosis.log.columns import Game, check_mapping, games
from stabilgan.diagnosis.log.names import role
from stabilgan.diagnosis.log.read import read_log
from stabilgan.diagnosis.log.source import Progress
from stabilgan.diagnosis.log.store import Run, Store

SHOWN = 2000
"""Points of a curve in `figures`."""
FEW = 10
LEAST = 3
"""Rows without a number that a resumed run must have to count."""


def diagnose_log(
    path_or_text_file: str | os.PathLike[str] | IO[Any],
    *,
    mapping: Mapping[str, str] | None = None,
    loss: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Diagnosis:
    """Reads a training log and judges its dynamics.

    Text as people print it, CSV and TSV, JSON and JSON lines, what `stabilgan.Watch(log=...)` writes, TensorBoard event
    files or a folder of them; gzip, UTF-8, UTF-16, Latin-1. Memory does not grow with the size of the file.

    Args:
        path_or_text_file: a path, or an open stream (standard input).
        mapping: part -> name of a column, such as `{"d_loss": "Loss_D"}`, where names don't say what they are; the
            parts are the keys of `stabilgan.diagnosis.log.columns.TITLES`.
        loss: the loss family, a name in `stabilgan.losses` or a usual one (bce, lsgan, wgan-gp, rahinge);
            None infers it.
        strict: rows that can't be read are an error.
        progress: called with bytes read so far, and bytes in all or None.

    Returns:
        findings with the step of onset; `figures["curves"]` has name -> (steps, values) of what was judged.

    Raises:
        InputError: it can't be read, has no numbers, or `mapping` or `loss` names what isn't there.

    >>> import io
    >>> log = io.StringIO("".join(f"step {i} d_loss: 0.0000, g_loss: 57.31\\n" for i in range(50)))
    >>> diagnose_log(log, loss="bce").findings[0].failure
    'discriminator_saturated'
    """
    mapping = dict(mapping or {})
    if loss is not None:
        try:
            loss = named(loss)
        except ValueError as error:
            raise InputError(str(error)) from None
    log = read_log(path_or_text_file, tuple(mapping.values()), progress)
    if strict and log.skipped:
        what, why = log.skipped[0]
        more = f" (and {len(log.skipped) - 1} more)" if len(log.skipped) > 1 else ""
        raise InputError(f"{log.name}: {what} was skipped: {why}{more}; without strict the rest is read")
    check_mapping(mapping, log.names)
    notes: list[str] = [f"read as {log.format}", *log.notes, *_about_runs(log.store)]
    findings: list[Finding] = []
    evidence: list[Evidence] = []
    undecided: list[str] = []
    curves: dict[str, Any] = {}
    runs = _judged(log.store)
    for run in runs:
        playing, taken = games(run, mapping)
        notes += [note for note in taken if note not in notes]
        for game in playing:
            who = ", ".join(
                words
                for words in (f"run {run.number + 1}" if len(runs) > 1 else "", f"D {game.name}" if game.name else "")
                if words
            )
            judgement, said = _judge(game, loss)
            notes += [f"{who}: {note}" if who else note for note in said]
            findings += [_of(f, who) for f in judgement.findings]
            evidence += [_named(e, who) for e in judgement.evidence]
            if judgement.undecided:
                undecided.append(f"{who}: {judgement.undecided}" if who else judgement.undecided)
            for series in game.columns.values():
                every = max(1, len(series) // SHOWN)
                curves.setdefault(
                    f"{who}: {series.label}" if who else series.label, (series.step[::every], series.value[::every])
                )
    if log.store.crowded:
        undecided.append("rows of several runs are mixed and can't be told apart; give each run a file of its own")
    if log.watched is not None:
        known = {f.failure for f in findings}
        findings += [f for f in log.watched.findings() if f.failure not in known]
        evidence += log.watched.evidence()
        notes += log.watched.notes()
        undecided = [log.watched.undecided()] if log.watched.undecided() else []  # detectors see more than losses
    elif not curves:
        listed = ", ".join(log.names[:12])
        undecided = [f"no losses were found among {listed}; say which they are (--map d_loss=NAME, mapping=)"]
    findings.sort(key=lambda f: (-f.severity, -f.confidence))
    return Diagnosis(
        subject=log.name,
        source="log",
        findings=tuple(findings),
        evidence=tuple(evidence),
        notes=tuple(notes),
        skipped=log.skipped,
        undecided="" if findings else "; ".join(undecided),
        figures={"curves": curves, "onset": min((f.onset for f in findings if f.onset is not None), default=None)},
    )


def _judge(game: Game, loss: str | None) -> tuple[Judgement, list[str]]:
    beliefs = believe(game.columns, loss)
    notes = [str(beliefs)] if {"d_loss", "g_loss", "g_adv"} & set(game.columns) else []
    idle = unused(game.columns)
    notes += [f"{name} is never a number: a term that this run does not use, no fault" for name in idle]
    notes += passing(game.columns)
    return judge_series(game.columns, beliefs=beliefs), notes


def _judged(store: Store) -> list[Run]:
    """Of runs after each other the last that says something, and one that came to nothing after it; of runs at the same
    time all."""
    told = [run for run in store.runs if run.columns]
    enough = [run for run in told if run.rows >= FEW]
    if store.interleaved:
        return enough or told
    last = (enough or sorted(told, key=lambda run: run.rows))[-1:]
    return last + [run for run in told[-1:] if run not in last and run.rows >= LEAST and _came_to_nothing(run)]


def _came_to_nothing(run: Run) -> bool:
    """Whether there are losses, and none of them is ever a number: resumed from weights that are NaN."""
    losses = [c for name, c in run.columns.items() if (part := role(name)) is not None and part.name in LOSSES]
    return bool(losses) and not any(math.isfinite(value) for c in losses for value in c.values)


def _about_runs(store: Store) -> list[str]:
    notes = []
    if len(store.runs) > 1:
        spans = ", ".join(f"run {r.number + 1} of {r.rows:,} rows up to step {r.step}" for r in store.runs[:6])
        if store.interleaved:
            notes.append(f"two or more runs write into this log at the same time; each is judged: {spans}")
        else:
            judged = _judged(store)[0].number + 1
            notes.append(
                f"the step goes back {store.restarts} times: a resumed or a new run; judged is run {judged}: {spans}"
            )
    if store.crowded:
        notes.append("the step goes back so often that runs can't be told apart; rows were taken as they come")
    if not store.placed:
        notes.append("no step or epoch was found; rows were counted")
    return notes


def _named(evidence: Evidence, who: str) -> Evidence:
    return replace(evidence, text=f"{who}: {evidence.text}") if who else evidence


def _of(finding: Finding, who: str) -> Finding:
    return replace(finding, evidence=tuple(_named(e, who) for e in finding.evidence))
