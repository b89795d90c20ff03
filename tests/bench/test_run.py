"""One case: its record, its interruptions, its failures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stabilgan import workloads
from stabilgan.bench import run as running
from stabilgan.bench.plan import Case, Folder
from stabilgan.workloads import Workload

CPU = torch.device("cpu")
CASE = Case("ring", "replay:size=100+r1:weight=1", seed=3, steps=60, evaluations=6)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "results")
    made.open()
    return made


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what depends on the clock."""
    cost = {k: v for k, v in record["cost"].items() if k == "passes"}
    return record | {"cost": cost}


def test_a_record_says_what_was_run_and_what_came_of_it(folder: Folder) -> None:
    record = running.run(CASE, folder, device=CPU)
    assert json.loads(folder.record(CASE).read_text()) == record
    assert record["status"] == "ok"
    assert record["readings"]["step"] == [10, 20, 30, 40, 50, 60]
    assert len(record["readings"]["modes"]) == 6
    assert len(record["series"]["d_loss"]) == 60
    assert record["environment"]["threads"] == 1
    # One step: D and G each see G's samples; D judges real, fake, R1's own pass, and the fake in G's turn.
    assert record["cost"]["passes"]["g_forward"] == 2
    assert record["cost"]["passes"]["d_forward"] == 4
    assert record["cost"]["step_ms"] > 0
    kept = np.load(folder.samples(CASE))
    assert kept["samples"].shape[1:] == (500, 2)
    assert kept["step"][-1] == 60


def test_one_case_gives_one_record_whoever_runs_it(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "again")
    other.open()
    assert timeless(running.run(CASE, folder, device=CPU)) == timeless(running.run(CASE, other, device=CPU))


@pytest.mark.parametrize("arm", ["none", "replay:size=100+minibatch:kernels=4:dims=2", "relativistic+r1+r2+ema"])
def test_a_run_stopped_at_any_evaluation_ends_with_the_same_record(folder: Folder, tmp_path: Path, arm: str) -> None:
    case = replace(CASE, arm=arm)
    whole = running.run(case, folder, device=CPU)
    torn = Folder(tmp_path / "torn")
    torn.open()
    for after in (1, 2, 1):
        calls = iter(range(10**6))

        def stop(after: int = after, calls: Iterator[int] = calls) -> bool:
            return next(calls) >= after

        with pytest.raises(running.Stopped):
            running.run(case, torn, device=CPU, save_every=0, stop=stop)
        assert torn.unfinished(case).exists()
    assert timeless(running.run(case, torn, device=CPU)) == timeless(whole)
    assert not torn.unfinished(case).exists()


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_run_killed_before_an_evaluation_makes_it_when_taken_up(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    torn = Folder(tmp_path / "torn")
    torn.open()
    judged = running._Run._evaluate
    calls = iter(range(1, 100))

    def killed(run: Any) -> None:
        if next(calls) == at:
            raise KeyboardInterrupt
        judged(run)

    monkeypatch.setattr(running._Run, "_evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        running.run(CASE, torn, device=CPU, save_every=0)
    monkeypatch.undo()
    assert timeless(running.run(CASE, torn, device=CPU)) == timeless(running.run(CASE, folder, device=CPU))


def test_a_failure_becomes_a_record_with_its_traceback(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Workload:
        made = workloads.ring()
        return replace(made, judge=lambda samples: {"modes": 1 / 0})

    monkeypatch.setitem(workloads.WORKLOADS, "broken", broken)  # type: ignore[misc]
    record = running.run(Case("broken", "none", 0, steps=4, evaluations=1), folder, device=CPU)
    assert record["status"] == "failed"
    assert record["reason"] == "ZeroDivisionError: division by zero"
    assert "judge=lambda" in record["traceback"]
    assert json.loads(folder.record(Case("broken", "none", 0, steps=4, evaluations=1)).read_text()) == record


def test_a_run_that_diverges_is_stopped_and_counts_as_no_success(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exploding() -> Workload:
        made = workloads.ring()
        return replace(made, opt_d=torch.optim.SGD(made.d.parameters(), lr=1e20))

    monkeypatch.setitem(workloads.WORKLOADS, "exploding", exploding)  # type: ignore[misc]
    record = running.run(Case("exploding", "none", 0, steps=100, evaluations=10), folder, device=CPU)
    assert record["status"] == "diverged"
    assert "is not finite from step" in record["reason"] or "are not finite" in record["reason"]
    assert record["final"]["success"] is False
    assert record["readings"]["step"][-1] < 100
    assert "divergence" in {a["detector"] for a in record["alarms"]} or record["readings"]["step"][-1] < 50


def test_a_budget_in_seconds_ends_by_the_clock(folder: Folder) -> None:
    record = running.run(Case("ring", "none", 0, seconds=3.0, evaluations=3), folder, device=CPU)
    assert record["status"] == "ok"
    assert len(record["readings"]["step"]) == 3
    assert record["readings"]["step"][-1] > record["readings"]["step"][0] > 0


def test_arms_of_one_seed_start_from_the_same_weights_and_see_the_same_data(folder: Folder) -> None:
    """So the losses of the first step, before any trick has acted, are the same to the last bit."""
    records = [running.run(replace(CASE, arm=arm), folder, device=CPU) for arm in ("none", "ema", "r1")]
    assert len({r["series"]["d_loss"][0] for r in records}) == 1


def test_success_is_reached_and_held_to_the_end(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def scripted(values: list[float]) -> dict[str, Any]:
        at = iter([0.0, *values][1:])

        def workload() -> Workload:
            torch.manual_seed(0)
            g, d = nn.Linear(2, 2), nn.Linear(2, 1)
            return Workload(
                g=g,
                d=d,
                opt_g=torch.optim.SGD(g.parameters(), 0.01),
                opt_d=torch.optim.SGD(d.parameters(), 0.01),
                data=torch.randn(50, 2),
                latent=2,
                judge=lambda samples: {"modes": next(at)},
                primary="modes",
                target=8,
            )

        monkeypatch.setitem(workloads.WORKLOADS, "scripted", workload)  # type: ignore[misc]
        case = Case("scripted", "none", len(values), steps=20, evaluations=10)
        folder.record(case).unlink(missing_ok=True)
        return running.run(case, folder, device=CPU)["final"]

    held = scripted([1, 2, 8, 8, 8, 8, 8, 8, 8, 8])
    assert (held["reached"], held["success"], held["held"], held["forgetting"]) == (True, True, 1.0, 0.0)
    lost = scripted([1, 2, 8, 8, 8, 8, 8, 8, 8, 3])
    assert (lost["reached"], lost["success"], lost["held"], lost["forgetting"]) == (True, False, 0.875, 5.0)
    never = scripted([1, 2, 3, 3, 3, 3, 3, 3, 3, 3])
    assert (never["reached"], never["success"], never["held"]) == (False, False, 0.0)
