"""The plan of a bench: which cases there are, and where their records lie."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stabilgan import spec
from stabilgan._version import __version__

SCHEMA = 1


@dataclass(frozen=True)
class Case:
    """One training run: everything that decides its result.

    Attributes:
        workload, arm: in the grammar of `stabilgan.spec`.
        seed: of weights, data, latents and tricks.
        steps: of G; None if the budget is in seconds, or for the workload's own.
        seconds: of training, evaluations aside; None if the budget is in steps.
        evaluations: how often samples are judged, evenly over the budget.
        device: "cpu" or "cuda"; results differ in their last digits.
        threads: on the CPU, which change the order of additions.
        amp: bfloat16 autocast.
    """

    workload: str
    arm: str
    seed: int
    steps: int | None = None
    seconds: float | None = None
    evaluations: int = 20
    device: str = "cpu"
    threads: int = 1
    amp: bool = False

    @property
    def hash(self) -> str:
        """16 hexadecimal digits that name the record."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Folder:
    """A results folder: `bench.json` says who wrote it; records, samples and unfinished runs lie beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def record(self, case: Case) -> Path:
        return self.root / "records" / f"{case.hash}.json"

    def samples(self, case: Case) -> Path:
        return self.root / "samples" / f"{case.hash}.npz"

    def unfinished(self, case: Case) -> Path:
        return self.root / "unfinished" / f"{case.hash}.pt"

    def open(self) -> None:
        """Makes the folder, or checks that this version wrote it.

        Raises:
            SpecError: another version wrote it, or it is not a results folder.
        """
        manifest = self.root / "bench.json"
        if manifest.exists():
            try:
                found = json.loads(manifest.read_text())
                version, schema = found["version"], found["schema"]
            except (ValueError, KeyError, TypeError):
                raise spec.SpecError(f"{manifest} can't be read as a bench's manifest; give another --out") from None
            if (version, schema) != (__version__, SCHEMA):
                raise spec.SpecError(
                    f"{self.root} was written by stabilgan {version} (schema {schema}), this is {__version__} (schema "
                    f"{SCHEMA}); records of different versions are not compared: give another --out"
                )
        elif self.root.exists() and not self.root.is_dir():
            raise spec.SpecError(f"{self.root} is a file; --out expects a folder")
        elif self.root.is_dir() and any(self.root.iterdir()):
            raise spec.SpecError(f"{self.root} holds something else than a bench's results; give another --out")
        self.root.mkdir(parents=True, exist_ok=True)
        write_json(manifest, {"schema": SCHEMA, "version": __version__})
        for name in ("records", "samples", "unfinished"):
            (self.root / name).mkdir(exist_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Strict JSON, a line for each key, written atomically."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    lines = [f"{json.dumps(key)}: {json.dumps(v, allow_nan=False)}" for key, v in value.items()]
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    os.replace(part, path)


def seeds(text: str) -> list[int]:
    """The seeds that a text names: `5` is the first five, `3-7` and `0,2,9` are what they say.

    >>> seeds("3"), seeds("3-5"), seeds("0,2-3")
    ([0, 1, 2], [3, 4, 5], [0, 2, 3])

    Raises:
        SpecError: it is none of these, or no seed is left.
    """
    try:
        if text.strip().isdigit():
            found = list(range(int(text)))
        else:
            found = []
            for part in text.split(","):
                first, _, last = part.partition("-")
                found += range(int(first), int(last or first) + 1)
    except ValueError:
        raise spec.SpecError(f"--seeds {text!r}; expected a count such as 5, or seeds such as 3-7 or 0,2,9") from None
    if not found:
        raise spec.SpecError(f"--seeds {text!r} names no seed; expected 1 or more")
    return list(dict.fromkeys(found))


def cases(workloads: list[str], arms: list[str], which: list[int], **budget: Any) -> list[Case]:
    """Every workload with every arm and every seed; seed by seed, so that an unfinished bench compares already."""
    return [Case(w, a, s, **budget) for w in workloads for s in which for a in arms]
