"""The calibration: its plan, its training, the rules that say what a run came to, and how the answers are counted."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import calibration
from calibrating import few, keep, nets, plan, play, report, truth


@pytest.fixture(autouse=True)
def quiet_for_itself_alone() -> Iterator[None]:
    """The script turns warnings off, which is its right as a script; other tests want them."""
    log, threads = logging.getLogger("stabilgan"), torch.get_num_threads()
    level = log.level
    yield
    log.setLevel(level)
    torch.set_num_threads(threads)


TINY = plan.Run(id="ring-hinge-tiny-0", workload="ring", family="hinge", intended="healthy", seed=3, steps=40, batch=16)


# --- the plan ------------------------------------------------------------------------------------------------------


def test_the_plan_is_the_same_at_every_call_and_names_every_run_once() -> None:
    runs = list(plan.runs())
    assert runs == list(plan.runs())
    assert len({run.id for run in runs}) == len(runs) >= 300
    # what a name stands for must not drift: a record says only the name
    assert runs[0].id == "ring-logistic-healthy-0"
    assert next(r for r in runs if r.id == "ring-hinge-nan-1").inject == "weights"


def test_every_failure_is_split_evenly_on_every_workload() -> None:
    parts, strata = plan.parts(), Counter()
    for run in plan.runs():
        if parts[run.id] != "confirm":
            strata[run.intended, run.workload] += 1 if parts[run.id] == "tune" else -1
    assert max(map(abs, strata.values())) <= 1
    assert abs(sum(strata.values())) <= 2


def test_the_confirming_part_has_settings_and_seeds_that_no_other_run_had() -> None:
    parts = plan.parts()
    confirming = [run for run in plan.runs() if parts[run.id] == "confirm"]
    before = [run for run in plan.runs() if parts[run.id] != "confirm"]
    assert not {run.seed for run in confirming} & {run.seed for run in before}
    healthy = [run for run in confirming if run.intended == "healthy"]
    assert len(healthy) >= 188  # so many without a false alarm bound the rate at 2 %
    points = [run for run in healthy if run.workload == "ring" and run.family == "logistic"]
    assert len({run.lr_d for run in points}) == len(points) == 15
    assert all(2e-3 * 0.8 * 0.7 <= run.lr_g <= 2e-3 * 1.25 * 1.4 and 48 <= run.width_g <= 96 for run in points)
    assert {run.batch for run in healthy} == {32, 48, 64, 96, 128}


def test_the_confirming_part_aims_at_every_failure_of_every_family() -> None:
    parts = plan.parts()
    aimed = Counter(run.intended for run in plan.runs() if parts[run.id] == "confirm")
    least = dict.fromkeys(("memorisation", "mode_dropping", "discriminator_saturated", "discriminator_dead"), 20)
    least |= {"stalled": 20, "oscillation": 20}
    assert {kind: n for kind, n in least.items() if aimed[kind] < n} == {}
    assert aimed["latent_ignored"] + aimed["latent_replaced"] >= 20
    assert aimed["nan"] + aimed["rate_too_high"] >= 20
    for kind in plan.CONFIRMED:
        families = {r.family for r in plan.runs() if parts[r.id] == "confirm" and r.intended == kind}
        assert families >= set(plan.FAMILIES) - ({"wasserstein"} if kind == "discriminator_saturated" else set())


def test_every_family_is_driven_into_every_failure_and_is_healthy_on_every_workload() -> None:
    parts = plan.parts()
    healthy = {(r.family, r.workload) for r in plan.runs() if r.intended == "healthy" and parts[r.id] != "confirm"}
    assert healthy == {(f, w) for f in plan.FAMILIES for w in plan.WORKLOADS}
    for kind in plan.COUNTS:
        families = {r.family for r in plan.runs() if r.intended == kind and parts[r.id] != "confirm"}
        assert families == set(plan.FAMILIES) - ({"wasserstein"} if kind == "discriminator_saturated" else set())


# --- training ------------------------------------------------------------------------------------------------------


def test_a_run_is_trained_once_and_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [TINY, replace(TINY, id="ring-wasserstein-tiny-1", family="wasserstein", penalty=0.1)]
    monkeypatch.setattr(plan, "runs", lambda: iter(runs))
    command = ["train", "--out", str(tmp_path)]
    done = CliRunner().invoke(calibration.main, [*command, "--only", "hinge"])
    assert done.exit_code == 0, done.output
    kept = {path.parent.name: path for path in tmp_path.glob("*/*/run.json")}
    assert list(kept) == [TINY.id]
    first = kept[TINY.id].read_bytes()
    assert {p.name for p in kept[TINY.id].parent.iterdir()} == {
        "run.json",
        "log.txt",
        "log.npz",
        "path.npz",
        "samples.npz",
        "watch.json",
        "generator.safetensors",
        "discriminator.safetensors",
    }

    trained: list[str] = []
    train = play.train
    monkeypatch.setattr(play, "train", lambda run: (trained.append(run.id), train(run))[1])
    assert CliRunner().invoke(calibration.main, command).exit_code == 0
    assert trained == [runs[1].id]
    assert kept[TINY.id].read_bytes() == first


def test_a_finished_run_is_watched_again_by_detectors_that_have_changed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / TINY.id
    play.keep(TINY, play.train(TINY), tmp_path)
    first = (folder / "watch.json").read_text()
    played: list[str] = []
    train = play.train
    monkeypatch.setattr(play, "train", lambda run, **options: (played.append(run.id), train(run, **options))[1])
    play.watch_again(TINY, folder)
    assert played == []
    monkeypatch.setattr(play, "detectors", lambda: "others")
    play.watch_again(TINY, folder)
    assert played == [TINY.id]
    assert json.loads((folder / "watch.json").read_text()) == json.loads(first) | {"detectors": "others"}
    kept = dict(np.load(folder / "log.npz"))
    np.savez(folder / "log.npz", **kept | {"g_loss": kept["g_loss"] + 1})
    monkeypatch.setattr(play, "detectors", lambda: "more")
    with pytest.raises(RuntimeError, match="takes another course than before"):
        play.watch_again(TINY, folder)


def test_what_was_cut_off_leaves_no_run_behind(tmp_path: Path) -> None:
    def cut(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play.keep(TINY, play.train(TINY, cut), tmp_path)
    assert not (tmp_path / TINY.id).exists()


def test_the_kept_generator_fits_the_builder_and_makes_the_kept_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    run = replace(TINY, tricks="spectral_norm+ema:decay=0.5")
    play.keep(run, play.train(run), tmp_path / "tune")
    folder = tmp_path / "tune" / run.id
    g = calibration.generator(run=run.id, root=str(tmp_path))
    g.load_state_dict(load_file(folder / "generator.safetensors"))
    d = calibration.discriminator(run=run.id, root=str(tmp_path))
    d.load_state_dict(load_file(folder / "discriminator.safetensors"))
    z = torch.randn(2000, nets.LATENT, generator=torch.Generator().manual_seed(run.seed + 3))
    with torch.no_grad():
        assert np.allclose(np.load(folder / "samples.npz")["x"], g(z).numpy())
    with pytest.raises(ValueError, match="no run 'typo'"):
        calibration.generator(run="typo", root=str(tmp_path))


def test_a_nan_put_into_a_batch_is_seen_at_its_step() -> None:
    run = replace(TINY, inject="batch", inject_at=17)
    found = play.train(run)
    assert play.first_non_finite(found["columns"]) == 17
    assert truth.judge({"run": asdict(run), "checkpoints": found["checkpoints"], "non_finite_at": 17}, found["path"])[
        "failures"
    ]["divergence"] == {"state": "yes", "reading": pytest.approx(float("nan"), nan_ok=True), "onset": 17}


def test_the_log_is_printed_as_people_print_it() -> None:
    columns = {name: np.full(40, 0.5) for name in play.COLUMNS}
    lines = play.text_log(TINY, columns).splitlines()
    assert lines[4] == "[2/5][4/8]\tLoss_D: 0.5000\tLoss_G: 0.5000\tD(x): 0.5000\tD(G(z)): 0.5000 / 0.5000"
    assert "lr: 5.000e-01" in play.text_log(replace(TINY, schedule="linear"), columns)


# --- what a run came to ----------------------------------------------------------------------------------------------

STILL = np.stack([np.arange(5, 1005, 5), np.zeros(200), np.zeros(200)], 1)


def record(**series: Any) -> dict[str, Any]:
    """A run of 1,000 steps on the ring that is healthy throughout, but for the series given."""
    fine: dict[str, Any] = {
        "n": 800,
        "counts": [100] * 8 + [0],
        "nearest": [100] * 8,
        "high_quality": 1.0,
        "spread": 1.0,
        "over_latents": 1.0,
        "size_samples": 1.0,
        "score_spread": 0.5,
        "wrong": 0.45,
        "g_gradient": 1.0,
        "size_g": 10.0,
        "size_d": 10.0,
        "moved_g": 0.01,
        "moved_d": 0.01,
    }
    points = []
    for i in range(21):
        given = {name: value[i] if isinstance(value, tuple) else value for name, value in series.items()}
        points.append(fine | {"step": 50 * i} | given)
    run = asdict(replace(TINY, steps=1000))
    return {"run": run, "checkpoints": points, "non_finite_at": None}


def there(record: dict[str, Any], path: np.ndarray = STILL) -> dict[str, int | None]:
    return {
        failure: verdict["onset"]
        for failure, verdict in truth.judge(record, path)["failures"].items()
        if verdict["state"] == "yes"
    }


def late(before: Any, after: Any, at: int = 10) -> tuple[Any, ...]:
    return tuple(before if i < at else after for i in range(21))


def test_a_run_that_holds_all_modes_is_healthy() -> None:
    said = truth.judge(record(), STILL)
    assert said["healthy"]["state"] == "yes"
    assert {v["state"] for v in said["failures"].values()} == {"no"}


@pytest.mark.parametrize(
    ("failure", "series"),
    [
        ("mode_collapse", {"nearest": late([100] * 8, [800] + [0] * 7)}),
        (
            "mode_dropping",
            {
                "nearest": late([100] * 8, [200] * 4 + [0] * 4),
                "counts": late([100] * 8 + [0], [200] * 4 + [0] * 5),
            },
        ),
        ("latent_ignored", {"over_latents": late(1.0, 0.001)}),
        ("discriminator_saturated", {"wrong": late(0.4, 0.001)}),
        ("discriminator_dead", {"score_spread": late(0.5, 0.0)}),
        ("vanishing_gradient", {"g_gradient": late(1.0, 1e-4)}),
        ("divergence", {"size_samples": late(1.0, 50.0)}),
    ],
)
def test_each_failure_is_told_with_its_onset(failure: str, series: dict[str, Any]) -> None:
    made = record(**series)
    assert there(made) == {failure: 500}
    assert truth.judge(made, STILL)["healthy"]["state"] == "no"


def test_a_failure_that_passes_is_ambiguous_or_gone_at_the_end() -> None:
    passing = tuple(0.001 if 5 <= i < 9 else 0.4 for i in range(21))
    said = truth.judge(record(wrong=passing), STILL)
    assert said["failures"]["discriminator_saturated"]["state"] == "ambiguous"
    assert said["healthy"]["state"] == "ambiguous"


def test_one_mode_that_is_thin_but_there_is_ambiguous() -> None:
    thin = record(nearest=[110] * 7 + [30], counts=[110] * 7 + [12, 18])
    said = truth.judge(thin, STILL)
    assert said["failures"]["mode_dropping"]["state"] == "ambiguous"


def test_a_rate_decayed_to_nothing_is_a_stall_and_a_small_step_alone_is_not() -> None:
    made = record(moved_g=late(0.01, 1e-9), moved_d=late(0.01, 1e-9))
    assert there(made) == {}
    made["run"]["schedule"] = "exp:0.9"
    assert there(made) == {"stalled": 500}


def test_going_round_is_oscillation_and_wandering_is_not() -> None:
    t = np.arange(200)
    around = np.stack([5 * t + 5, 0.5 * np.cos(t / 3), 0.5 * np.sin(t / 3)], 1)
    assert list(there(record(), around)) == ["oscillation"]
    walk = np.random.default_rng(0).normal(size=(200, 2)).cumsum(0)
    wandering = np.column_stack([5 * t + 5, walk / walk.std()])
    assert truth.judge(record(), wandering)["failures"]["oscillation"]["state"] == "ambiguous"
    noise = np.column_stack([5 * t + 5, 0.02 * np.random.default_rng(0).normal(size=(200, 2))])
    assert truth.judge(record(), noise)["failures"]["oscillation"]["state"] == "no"


def test_after_a_nan_only_divergence_is_certain() -> None:
    made = record() | {"non_finite_at": 321}
    assert there(made) == {"divergence": 321}
    others = {f: v["state"] for f, v in truth.judge(made, STILL)["failures"].items() if f != "divergence"}
    assert set(others.values()) == {"ambiguous"}


def test_a_watch_cannot_miss_what_g_was_never_shown() -> None:
    made = record()
    made["run"]["keep"] = [0, 1]
    assert "live" not in truth.visible(made["run"], "mode_dropping", made)
    assert "samples" in truth.visible(made["run"], "mode_dropping", made)


# --- how the answers are counted ------------------------------------------------------------------------------------


def line(name: str, healthy: str, *, true: str = "", found: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "id": name,
        "healthy": healthy,
        "truth": {f: "yes" if f == true else "no" for f in report.FAILURES},
        "onset": {f: 100 if f == true else None for f in report.FAILURES},
        "visible": {f: ["log"] for f in report.FAILURES},
        "found": {
            "log": {"verdict": "problem" if found else "healthy", "failures": {f: {"onset": 130} for f in found}}
        },
    }


def test_rates_are_counted_as_by_hand() -> None:
    lines = [
        line("a", "yes"),
        line("b", "yes", found=("oscillation",)),
        line("c", "no", true="divergence", found=("divergence",)),
        line("d", "no", true="divergence"),
        line("e", "ambiguous", found=("divergence",)),
    ]
    log = report.summary(lines)["ways"]["log"]
    assert (log["false_alarms"]["hits"], log["false_alarms"]["n"]) == (1, 2)
    assert (log["detected"]["divergence"]["hits"], log["detected"]["divergence"]["n"]) == (1, 2)
    assert log["confusion"] == {
        "healthy": {"healthy": 1, "oscillation": 1},
        "divergence": {"divergence": 1, "healthy": 1},
    }
    assert log["delay"]["divergence"]["median"] == 30
    assert ("log", "false alarm on a healthy run", "oscillation", "b") in report.misses(lines)
    table = report.table("test", report.summary(lines))
    assert "| **false alarms on healthy runs** | 50 % (1 of 2; 9 to 91) |" in table


def test_each_part_has_a_title_and_the_matrices_only_where_they_are_asked_for() -> None:
    found = report.summary([line("a", "yes"), line("b", "no", true="divergence", found=("divergence",))])
    for part in plan.PARTS:
        assert report.table(part, found).startswith(f"### {report.TITLES[part]}\n")
    assert "What is found by log" in report.table("confirm", found)
    assert "What is found by log" not in report.table("test", found, matrices=False)


def test_few_samples_are_drawn_twice_from_the_same_data_and_counted() -> None:
    found = few._one(few.cloud, 20, 3)
    assert (found["hits"], found["n"], found["cannot tell"], found["failures"]) == (0, 3, 3, {})

    def other(n: int, rng: torch.Generator) -> few.Side:  # the second half is one point
        x = torch.randn(n, 2, generator=rng)
        x[n // 2 :] = x[0]
        return x, None

    found = few._one(other, 30, 2)
    assert (found["hits"], found["failures"]["mode_collapse"]) == (2, 2)
    assert "| a cloud: alarms | 100 % (2 of 2; 34 to 100) |" in few.table({"a cloud": {"30": found}})


def test_a_part_is_used_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "RESULTS", tmp_path)
    (tmp_path / "confirm.jsonl").write_text("")
    said = CliRunner().invoke(calibration.main, ["once", str(tmp_path), "--part", "confirm"])
    assert said.exit_code == 1
    assert "the part was used; --again uses it again" in said.output


def test_the_table_replaces_only_what_is_between_the_marks() -> None:
    page = f"above\n{report.START}\nold\n{report.END}\nbelow"
    assert report.put("new", page) == f"above\n{report.START}\nnew\n{report.END}\nbelow"
    with pytest.raises(ValueError, match="no <!-- calibration -->"):
        report.put("new", "a page without marks")


def test_a_record_is_plain_json_and_small(tmp_path: Path) -> None:
    run = replace(TINY, inject="weights", inject_at=20)
    play.keep(run, play.train(run), tmp_path)
    kept = json.loads((tmp_path / run.id / "run.json").read_text())
    said = truth.judge(kept, np.load(tmp_path / run.id / "path.npz")["path"])
    short = json.dumps(keep.record("tune", kept | {"truth": said, "folder": tmp_path / run.id}), allow_nan=False)
    assert len(short) < 8000
    assert json.loads(short)["truth"]["divergence"]["onset"] in (20, 21)
