"""What the diagnosis finds in a run, by every way in: its log, its samples, its model, and the live watch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibrating import nets
from stabilgan.diagnosis import Diagnosis, InputError

WAYS = ("log", "log, family told", "series", "samples", "model", "live")
Found = dict[str, Any]


def of(diagnosis: Diagnosis) -> Found:
    """A diagnosis in short: its verdict, and severity, confidence and onset of each failure that it names."""
    return {
        "verdict": diagnosis.verdict,
        "failures": {
            f.failure: {"severity": round(f.severity, 3), "confidence": round(f.confidence, 3), "onset": f.onset}
            for f in diagnosis.findings
        },
    } | ({"undecided": diagnosis.undecided} if diagnosis.undecided else {})


def in_log(folder: Path, run: Mapping[str, Any], *, told: bool) -> Found:
    """What is found in log.txt; `told` says which family of losses it is."""
    from stabilgan.diagnosis.log import diagnose_log

    return of(diagnose_log(folder / "log.txt", loss=run["family"] if told else None))


def in_series(folder: Path, run: Mapping[str, Any]) -> Found:
    """What is found in the columns of every step, gradient norms and rates included, with the family told."""
    from stabilgan.diagnosis.dynamics import judge_series
    from stabilgan.diagnosis.families import Series

    log = np.load(folder / "log.npz")
    columns = {name: Series.of(log[name], log["step"], name) for name in log.files if name != "step"}
    said = judge_series(columns, run["family"])
    return of(Diagnosis(str(folder), "log", tuple(said.findings), undecided=said.undecided))


def in_samples(folder: Path, run: Mapping[str, Any], shared: Path) -> Found:
    """What is found in samples.npz against held-out reals, and against the training set where that is small."""
    from stabilgan.diagnosis.inputs import load
    from stabilgan.diagnosis.samples import diagnose_samples

    real = load(shared / f"{run['workload']}.npz")
    fake = load(folder / "samples.npz", like=real, allow_nonfinite=True)
    small = folder / "train.npz"
    train = load(small, like=real, least=1) if small.exists() else None
    return of(diagnose_samples(real, fake, train=train))


def in_model(folder: Path, run: Mapping[str, Any], shared: Path) -> Found:
    """What is found in the generator and the discriminator, built by `calibration.py`, loaded from their files."""
    from stabilgan.diagnosis.inputs import load
    from stabilgan.diagnosis.model import diagnose_model
    from stabilgan.diagnosis.models import load_discriminator, load_generator

    script = Path(__file__).parents[1] / "calibration.py"
    target = f"{script}:{{}}:run={folder.name}"
    g = load_generator(target.format("generator"), folder / "generator.safetensors", latent=nets.LATENT)
    d = load_discriminator(target.format("discriminator"), folder / "discriminator.safetensors")
    real = load(shared / f"{run['workload']}.npz")
    return of(diagnose_model(g, real, discriminator=d, loss=run["family"]))


def live(folder: Path) -> Found:
    """What the watch said during training; the onset is the step of the first alarm."""
    watched = json.loads((folder / "watch.json").read_text())
    failures: dict[str, Any] = {}
    for alarm in watched["alarms"]:
        failures.setdefault(named(alarm), {"onset": alarm["iteration"]})
    return {"verdict": "problem" if failures else "healthy", "failures": failures}


def named(alarm: Mapping[str, Any]) -> str:
    """The failure that an alarm of a detector stands for."""
    if alarm["detector"] == "collapse":
        return "mode_collapse" if "all alike" in alarm["meaning"] else "mode_dropping"
    return {"saturation": "discriminator_saturated"}.get(alarm["detector"], alarm["detector"])


def everything(folder: Path, run: Mapping[str, Any], shared: Path, ways: tuple[str, ...] = WAYS) -> dict[str, Found]:
    """Way in -> what it finds. An input that is refused is an answer, too: the verdict is "refused"."""
    how: dict[str, Callable[[], Found]] = {
        "log": lambda: in_log(folder, run, told=False),
        "log, family told": lambda: in_log(folder, run, told=True),
        "series": lambda: in_series(folder, run),
        "samples": lambda: in_samples(folder, run, shared),
        "model": lambda: in_model(folder, run, shared),
        "live": lambda: live(folder),
    }
    found = {}
    for way in ways:
        try:
            found[way] = how[way]()
        except InputError as error:
            found[way] = {"verdict": "refused", "failures": {}, "undecided": str(error)}
        # A diagnosis that breaks is a result like any other and counts as a miss; it must not cost the other runs.
        except Exception as error:
            found[way] = {"verdict": "failed", "failures": {}, "undecided": f"{type(error).__name__}: {error}"}
    return found
