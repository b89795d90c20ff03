"""What is committed of a run: its settings, its truth, and its curves at 60 points or fewer."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibrating.plan import Run

POINTS = 60
CURVES = ("d_loss", "g_loss", "d_real", "d_fake", "g_grad")
READINGS = ("high_quality", "spread", "over_latents", "wrong", "accuracy", "g_gradient", "nearness")
DEFAULTS = {f.name: f.default for f in dataclasses.fields(Run) if f.default is not dataclasses.MISSING}


def short(value: float) -> float | str:
    """Four digits; what is not finite by its name, as JSON has no word for it."""
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)


def record(part: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """A run as it is committed; `run` has the record of training, `truth` and `folder`."""
    settings = {k: v for k, v in run["run"].items() if k not in DEFAULTS or json.dumps(v) != json.dumps(DEFAULTS[k])}
    verdicts = run["truth"]["failures"]
    truth = {
        f: {k: _plain(x) for k, x in v.items() if x is not None} for f, v in verdicts.items() if v["state"] != "no"
    }
    log = np.load(Path(run["folder"]) / "log.npz")
    rows = np.unique(np.linspace(0, len(log["step"]) - 1, POINTS).astype(int))
    points = run["checkpoints"]
    return {
        **settings,
        "part": part,
        "healthy": run["truth"]["healthy"]["state"],
        "truth": truth,
        "counts": points[-1]["counts"],
        "checkpoints": {"step": [c["step"] for c in points]}
        | {name: [short(c[name]) for c in points] for name in READINGS if name in points[-1]},
        "modes": [sum(x >= 0.2 * c["n"] / len(c["nearest"]) for x in c["counts"][:-1]) for c in points],
        "curves": {"step": (rows + 1).tolist()}
        | {name: [short(x) for x in log[name][rows].tolist()] for name in CURVES},
    }


def _plain(value: Any) -> Any:
    return short(value) if isinstance(value, float) else value
