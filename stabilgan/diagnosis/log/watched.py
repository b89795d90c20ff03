"""What a live watch wrote into its JSONL file: its alarms and its latest readings, as findings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from stabilgan.diagnosis.findings import Evidence, Finding

KINDS = ("reading", "alarm", "numbers")
RUNS = 1000
"""Runs in one file that are kept apart; of more the first are forgotten."""
SURE = 0.8
"""How sure a live alarm is that still stands at the end."""
FAILURES = {"saturation": "discriminator_saturated", "oscillation": "oscillation", "divergence": "divergence"}
"""The failure that a detector's alarm stands for; of the collapse detector it is in its words."""


def is_entry(record: Mapping[str, Any]) -> bool:
    """Whether this is a line that `stabilgan.Watch(log=...)` wrote.

    >>> is_entry({"run": "5f3a", "kind": "numbers", "step": 50, "d_loss": 1.2}), is_entry({"step": 50, "d_loss": 1.2})
    (True, False)
    """
    return isinstance(record.get("run"), str) and record.get("kind") in KINDS


class Watched:
    """Readings and alarms of every run in a file; of each detector the latest reading and the alarm that stands."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, dict[str, Any]]] = {}
        self.alarms: dict[str, dict[str, dict[str, Any]]] = {}
        self.over: dict[str, list[str]] = {}

    def take(self, entry: Mapping[str, Any]) -> None:
        """Takes in a reading or an alarm; an "ok" ends the alarm before it."""
        run, detector = entry["run"], entry.get("detector")
        if not isinstance(detector, str) or entry["kind"] == "numbers":
            return
        if run not in self.runs and len(self.runs) >= RUNS:
            first = next(iter(self.runs))
            for kept in (self.runs, self.alarms, self.over):
                kept.pop(first, None)
        readings, alarms = self.runs.setdefault(run, {}), self.alarms.setdefault(run, {})
        if entry["kind"] == "alarm":
            alarms.setdefault(detector, dict(entry))
        else:
            readings[detector] = dict(entry)
            if entry.get("state") == "ok" and detector in alarms:
                past = alarms.pop(detector)
                told = self.over.setdefault(run, [])
                if len(told) < 20:
                    told.append(f"{_said(past)}; it was over at step {entry.get('step')}")

    @property
    def last(self) -> str | None:
        """The run that was written last."""
        return next(reversed(self.runs), None)

    def findings(self) -> Iterator[Finding]:
        """Of the last run, the alarms that stand at the end."""
        for detector, alarm in self.alarms.get(self.last or "", {}).items():
            failure = _failure(detector, str(alarm.get("meaning", "")))
            if failure is None:
                continue
            value = _number(alarm.get("reading"))
            interval = (_number(alarm.get("threshold")), math.inf) if detector in ("collapse", "saturation") else None
            evidence = Evidence(
                f"live {detector}", value, _said(alarm), None, interval, "alarm of stabilgan.Watch, still on at the end"
            )
            severity = min(1.0, max(0.5, 1 - value)) if detector in ("collapse", "saturation") else 0.7
            step = alarm.get("step")
            yield Finding(failure, severity, SURE, (evidence,), step if isinstance(step, int) else None)

    def evidence(self) -> Iterator[Evidence]:
        """The latest reading of each detector of the last run."""
        for detector, reading in self.runs.get(self.last or "", {}).items():
            text = f"{detector} at step {reading.get('step')}: {reading.get('text')}"
            yield Evidence(f"live {detector}", _number(reading.get("value")), text, origin="stabilgan.Watch")

    def notes(self) -> list[str]:
        """How many runs there are, and which alarms were over before the end."""
        more = [f"{len(self.runs)} watched runs are in this file; the last one is told"] if len(self.runs) > 1 else []
        foreign = [
            f"{_said(alarm)} (a detector of your own)"
            for detector, alarm in self.alarms.get(self.last or "", {}).items()
            if _failure(detector, "") is None
        ]
        return more + foreign + self.over.get(self.last or "", [])

    def undecided(self) -> str:
        """Why there is no clean bill: what the detectors could not tell; empty where all of them say ok."""
        readings = self.runs.get(self.last or "", {})
        return "; ".join(f"{name}: {r.get('text')}" for name, r in readings.items() if r.get("state") != "ok")


def _failure(detector: str, meaning: str) -> str | None:
    if detector == "collapse":
        return "mode_collapse" if "all alike" in meaning else "mode_dropping"
    return FAILURES.get(detector)


def _said(alarm: Mapping[str, Any]) -> str:
    return f"{alarm.get('detector')} at step {alarm.get('step')}: {alarm.get('meaning')}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
