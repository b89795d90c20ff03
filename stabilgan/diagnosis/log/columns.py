"""Columns: which of a run's columns plays which part, for each discriminator there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stabilgan import spec
from stabilgan.diagnosis.families import Series, aligned
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.log.names import Role, role
from stabilgan.diagnosis.log.store import Run

TITLES = {
    "d_loss": "D's loss",
    "g_loss": "G's loss",
    "g_adv": "G's adversarial loss",
    "d_real": "D's mean answer to reals",
    "d_fake": "D's mean answer to fakes",
    "d_fake_after": "D's mean answer to fakes after its step",
    "d_loss_real": "D's loss on reals",
    "d_loss_fake": "D's loss on fakes",
    "gp": "the gradient penalty",
    "lr": "the learning rate",
    "lr_d": "D's learning rate",
    "lr_g": "G's learning rate",
    "accuracy_d": "D's accuracy",
    "d_grad": "the norm of D's gradient",
    "g_grad": "the norm of G's gradient",
    "score_real": "D's raw score of reals",
    "score_fake": "D's raw score of fakes",
    "sign_real": "the sign of D's scores of reals",
    "sign_fake": "the sign of D's scores of fakes",
    "fid": "FID",
}
"""The parts a column can play; the keys are what `mapping` takes."""

OF_D = ("d_loss", "d_loss_real", "d_loss_fake", "d_real", "d_fake", "d_fake_after", "score_real", "score_fake", "gp")


class Game(NamedTuple):
    """One discriminator, the columns about it, and what they were called; `name` is "" where there is only one."""

    name: str
    columns: dict[str, Series]


def check_mapping(mapping: Mapping[str, str], names: Sequence[str]) -> None:
    """Raises:
    InputError: a part or a name that there isn't; the message has the nearest.
    """
    for part, name in mapping.items():
        if part not in TITLES:
            raise InputError(f"mapping: {spec.unknown('column', part, TITLES)}")
        if name not in names:
            raise InputError(f"mapping {part}={name}: {spec.unknown('column in the log', name, names)}")


def games(run: Run, mapping: Mapping[str, str]) -> tuple[list[Game], list[str]]:
    """The games of a run, one for each discriminator, and notes of what was taken for what."""
    found: dict[Role, list[str]] = {}
    mapped = {name: part for part, name in mapping.items()}
    for name in run.columns:
        part = Role(mapped[name]) if name in mapped else role(name.removesuffix(" / after"))
        if name.endswith(" / after") and part is not None:
            part = Role("d_fake_after", part.group)
        if part is not None and (part.name not in mapping or name in mapped):
            found.setdefault(part, []).append(name)
    found = _settled(found, run)
    notes, chosen = [], dict[Role, str]()
    for part, names in found.items():
        name = min(names, key=lambda n: _preference(n, run))
        chosen[part] = name
        title = TITLES.get(part.name, part.name) + (f" ({part.group})" if part.group else "")
        others = f"; not used: {', '.join(n for n in names if n != name)}" if len(names) > 1 else ""
        notes.append(f"{name} was taken for {title}, {run.columns[name].n:,} values{others}")
    groups = sorted({p.group for p in chosen if p.name in ("d_loss", "d_loss_real")}) or [""]
    several = len(groups) > 1
    result = []
    for group in groups:
        columns: dict[str, Series] = {}
        for part, name in chosen.items():
            series = run.columns[name].series(name)
            if part.name.startswith("lr"):
                columns[f"{part.name}:{part.group}" if part.group else part.name] = series
                continue
            mine = part.group == group
            if mine or not several or (part.group == "" and part.name not in OF_D):
                columns[part.name] = series if mine else columns.get(part.name, series)
        if "d_loss" not in columns and {"d_loss_real", "d_loss_fake"} <= set(columns):
            columns["d_loss"] = _sum(columns["d_loss_real"], columns["d_loss_fake"])
            notes.append(f"D's loss was taken to be {columns['d_loss'].label}")
        result.append(Game(group if several else "", columns))
    return result, notes


def _preference(name: str, run: Run) -> tuple[int, int, int]:
    low = name.lower()
    aside = 2 * any(w in low for w in ("val", "test", "eval")) + any(
        w in low for w in ("epoch", "avg", "smooth", "ema")
    )
    return (aside, -run.columns[name].n, len(name))


def _settled(found: dict[Role, list[str]], run: Run) -> dict[Role, list[str]]:
    """`D_real` and `D_fake` without a word: answers, scores or losses, by what is there beside them.

    Beside a loss of D they are answers (probabilities within [0, 1]) or raw scores; else, never negative, its two
    losses.
    """
    vague = [part for part in found if part.name.endswith("?")]
    for group in {part.group for part in vague}:
        names = {part.name: found.pop(part) for part in vague if part.group == group}
        values = np.concatenate([np.array(run.columns[n].values) for ns in names.values() for n in ns])
        values = values[np.isfinite(values)]
        beside = any(p.name in ("d_loss", "d_loss_real") and p.group == group for p in found)
        if beside and len(values) and values.min() >= 0 and values.max() <= 1:
            kind = {"d_real?": "d_real", "d_fake?": "d_fake"}
        elif beside or (len(values) and values.min() < 0):
            kind = {"d_real?": "score_real", "d_fake?": "score_fake"}
        else:
            kind = {"d_real?": "d_loss_real", "d_fake?": "d_loss_fake"}
        for name, columns in names.items():
            found.setdefault(Role(kind[name], group), []).extend(columns)
    return found


def _sum(real: Series, fake: Series) -> Series:
    rows = aligned({"real": real, "fake": fake}, ("real", "fake"))
    total = Series.of(rows.sum(0), real.step, f"{real.label} + {fake.label}")
    return replace(total, seen=real.seen, held=real.held and fake.held)
