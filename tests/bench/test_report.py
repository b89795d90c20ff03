"""The report, from synthetic records whose answers are known."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from rich.console import Console
from scipy import stats

from stabilgan.bench import pictures, report

BETTER = {
    "modes": "higher",
    "kl": "lower",
    "high_quality": "higher",
    "coverage": "higher",
    "recall": "higher",
    "d_loss_rms": "lower",
    "g_loss_rms": "lower",
    "dominant_share": "lower",
    "forgetting": "lower",
    "held": "higher",
}
LONG = "relativistic+r1:weight=10+r2:weight=10"


def record(
    arm: str = "none",
    seed: int = 0,
    modes: float | None = 8.0,
    *,
    workload: str = "ring:modes=8",
    steps: int | None = 2000,
    seconds: float | None = None,
    status: str = "ok",
    target: float | None = 8.0,
    step_ms: float | None = 4.0,
    alarms: tuple[tuple[str, int], ...] = (),
    **final: Any,
) -> dict[str, Any]:
    """A whole record of schema 1, as a run leaves it."""
    case = {"workload": workload, "arm": arm, "seed": seed, "steps": steps, "seconds": seconds}
    readings = {
        "modes": modes,
        "kl": 0.5,
        "high_quality": 0.9,
        "coverage": 0.8,
        "recall": 0.7,
        "d_loss_rms": 0.1,
        "g_loss_rms": 0.2,
        "dominant_share": 0.3,
        "forgetting": 0.0,
        "held": 1.0,
        "reached": None if target is None or modes is None else modes >= target,
        "success": None if target is None or modes is None else modes >= target,
        **final,
    }
    failed = status == "failed"
    last = 1200 if status == "diverged" else 2000
    at = list(range(0, last + 1, 200))
    return {
        "schema": 1,
        "version": "0.1.0",
        "hash": hashlib.sha256(json.dumps(case).encode()).hexdigest()[:16],
        "case": case,
        "status": status,
        "reason": "out of\n memory" if failed else "",
        "traceback": "",
        "environment": {"torch": "2.6", "python": "3.11", "commit": "abc", "device": "cpu", "device_name": "a CPU"},
        "workload": {"kind": "points", "primary": "modes", "target": target, "better": BETTER, "notes": {"n": 2500}},
        "cost": {
            "wall_s": 8.0,
            "step_ms": step_ms,
            "peak_mb": None,
            "passes": {"g_forward": 2.0, "g_backward": 1.0, "d_forward": 3.0, "d_backward": 2.0},
        },
        "readings": {} if failed else {"step": at, "modes": [modes] * len(at)},
        "series": {} if failed else {"step": at, "d_loss": [1.3] * len(at), "g_loss": [0.7] * len(at)},
        "final": {} if failed else readings,
        "alarms": [
            {"detector": d, "step": s, "reading": 0.1, "threshold": 0.3, "meaning": "one sentence"} for d, s in alarms
        ],
    }


def put(folder: Path, records: list[dict[str, Any]]) -> Path:
    (folder / "records").mkdir(parents=True, exist_ok=True)
    for one in records:
        (folder / "records" / f"{one['hash']}.json").write_text(json.dumps(one), encoding="utf-8")
    return folder


def arm_of(summary: report.Summary, name: str) -> report.Arm:
    (bench,) = summary.benches
    return next(arm for arm in bench.arms if arm.name == name)


def a_bench(long: bool = True) -> list[dict[str, Any]]:
    """Plain fails five times, minibatch never, replay twice diverges."""
    records = []
    for seed in range(5):
        records.append(record("none", seed, 1.0 + seed % 2, alarms=(("collapse", 100 + seed), ("collapse", 900))))
        records.append(record("minibatch", seed, 8.0, kl=0.01 + 0.001 * seed, step_ms=8.0 + seed**2))
        diverged = seed in (1, 3)
        records.append(record("replay", seed, 0.0 if diverged else 2.0, status="diverged" if diverged else "ok"))
        if long:
            records.append(record(LONG, seed, 7.0 + seed % 2))
    return records


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_means_and_paired_differences_are_scipys() -> None:
    plain, arm = [1.0, 3.0, 2.0, 1.0, 4.0, 2.0], [6.0, 7.0, 8.0, 7.0, 6.0, 8.0]
    records = [record("none", s, m) for s, m in enumerate(plain)] + [record("r1", s, m) for s, m in enumerate(arm)]
    found = arm_of(report.summarise(records), "r1").readings["modes"]
    paired = stats.ttest_rel(arm, plain)
    assert found.mean == pytest.approx(np.mean(arm))
    assert found.median == 7.0
    assert (found.least, found.most) == (6.0, 8.0)
    assert found.interval == pytest.approx(tuple(stats.ttest_1samp(arm, 0).confidence_interval()))
    assert found.comparison is not None
    assert found.comparison.difference == pytest.approx(np.mean(np.subtract(arm, plain)))
    assert found.comparison.interval == pytest.approx(tuple(paired.confidence_interval()))
    assert found.comparison.p == pytest.approx(max(paired.pvalue, 2 / 4**6))
    assert found.comparison.improvement == 1.0


def test_verdicts_follow_from_the_records() -> None:
    summary = report.summarise(a_bench())
    verdicts = {arm.name: arm.verdict for arm in summary.benches[0].arms}
    assert verdicts == {"none": None, "minibatch": "helps", "replay": "no detectable difference", LONG: "helps"}


def test_the_correction_counts_both_questions_of_every_arm() -> None:
    (bench,) = report.summarise(a_bench()).benches
    success = {a.name: c for a in bench.arms if (c := a.readings["success"].comparison)}
    modes = {a.name: c for a in bench.arms if (c := a.readings["modes"].comparison)}
    family = [*success.values(), *modes.values()]
    assert len(family) == 6
    smallest = min(c.p for c in family if c.p is not None)
    assert min(c.p_corrected for c in family if c.p_corrected is not None) == pytest.approx(6 * smallest)


def test_success_counts_and_wilsons_interval_stand_beside_the_mean() -> None:
    arm = arm_of(report.summarise(a_bench()), LONG)  # 7, 8, 7, 8, 7
    assert (arm.successes, arm.judged) == (2, 5)
    expected = stats.binomtest(2, 5).proportion_ci(method="wilson")
    assert arm.readings["success"].interval == pytest.approx((expected.low, expected.high))


def test_a_diverged_run_is_a_failure_even_where_the_record_does_not_say_so() -> None:
    records = [record("none", s) for s in range(4)]
    records.append(record("none", 4, None, status="diverged", success=None))
    arm = arm_of(report.summarise(records), "none")
    assert (arm.successes, arm.judged, arm.diverged) == (4, 5, 1)


def test_a_failed_run_is_dropped_from_the_pairs_and_counted() -> None:
    records = [record("none", s, 1.0) for s in range(6)] + [record("r1", s, 8.0) for s in range(5)]
    half = record("r1", 5, status="failed")
    half["final"] = {"modes": 3.0}  # what was read before it failed doesn't count
    records.append(half)
    summary = report.summarise(records)
    arm = arm_of(summary, "r1")
    comparison = arm.readings["modes"].comparison
    assert comparison is not None
    assert (comparison.pairs, comparison.unpaired) == (5, 1)
    assert (arm.failed, arm.judged, arm.readings["modes"].missing, arm.verdict) == (1, 5, 1, "helps")
    assert "r1 failed on seed 5 (out of memory); left out of its readings and of the pairs" in summary.benches[0].notes
    assert "r1: 1 seed without a pair dropped; 5 compared" in summary.benches[0].notes


def test_a_reading_missing_from_a_run_that_ended_is_said() -> None:
    records = [record("none", s) for s in range(3)] + [record("none", 3, None, status="diverged")]
    (bench,) = report.summarise(records).benches
    assert "none: modes could not be computed in 1 run that ended; left out" in bench.notes


@pytest.mark.parametrize(
    ("plain", "arm", "verdict"),
    [
        ("ok", "failed", "failed"),
        ("failed", "ok", "no plain arm"),
        (None, "ok", "no plain arm"),
    ],
)
def test_where_there_is_nothing_to_compare_the_verdict_says_why(plain: str | None, arm: str, verdict: str) -> None:
    records = [record("r1", s, status=arm) for s in range(5)]
    records += [record("none", s, status=plain) for s in range(5)] if plain else []
    assert arm_of(report.summarise(records), "r1").verdict == verdict


def test_two_seeds_are_too_few_and_the_report_says_how_many_are_needed() -> None:
    records = [record(arm, s, 8.0 if arm == "r1" else 1.0) for arm in ("none", "r1") for s in range(2)]
    summary = report.summarise(records)
    assert arm_of(summary, "r1").verdict == "too few seeds"
    assert any("too few seeds" in note for note in summary.benches[0].notes)


def test_a_workload_without_success_is_judged_by_its_reading_alone() -> None:
    records = [record(a, s, 8.0 if a == "r1" else 1.0, target=None) for a in ("none", "r1") for s in range(5)]
    arm = arm_of(report.summarise(records), "r1")
    assert (arm.judged, arm.verdict) == (0, "helps")
    comparison = arm.readings["modes"].comparison
    assert comparison is not None
    assert comparison.p_corrected == 2 / 4**5  # one question, so nothing to correct for


def test_alarms_are_counted_by_run_with_the_median_first_step() -> None:
    (found,) = arm_of(report.summarise(a_bench()), "none").alarms
    assert (found.detector, found.runs, found.first_step) == ("collapse", 5, 102)


def test_the_slowdown_is_the_median_ratio_within_a_seed() -> None:
    assert arm_of(report.summarise(a_bench()), "minibatch").slowdown == 12 / 4  # 8, 9, 12, 17, 24 ms beside 4


def test_oscillation_readings_get_marks_corrected_for_the_arms() -> None:
    records = []
    for seed in range(8):
        records.append(record("none", seed, 8.0, d_loss_rms=1.0 + 0.01 * seed, held=0.5 + 0.01 * seed))
        records.append(record("r1", seed, 8.0, d_loss_rms=0.1 + 0.02 * seed, held=0.1 + 0.02 * seed))
    readings = arm_of(report.summarise(records), "r1").readings
    assert (readings["d_loss_rms"].direction, readings["held"].direction, readings["kl"].direction) == (1, -1, 0)


def test_workloads_and_budgets_are_summed_up_apart() -> None:
    records = [record(steps=100), record(steps=200), record(workload="mnist"), record(steps=None, seconds=1.5)]
    titles = [bench.title for bench in report.summarise(records).benches]
    assert [t.split(", ")[0] for t in titles] == [
        "mnist: 2000 steps", "ring:modes=8: 1.5 s", "ring:modes=8: 100 steps", "ring:modes=8: 200 steps",
    ]  # fmt: skip


def test_the_plain_arm_comes_first_and_single_tricks_before_sets() -> None:
    records = [record(arm) for arm in ("replay+minibatch", "replay", "none", "ema")]
    assert [arm.name for arm in report.summarise(records).benches[0].arms] == [
        "none",
        "ema",
        "replay",
        "replay+minibatch",
    ]


def test_runs_on_unlike_machines_are_noted() -> None:
    other = record("r1")
    other["environment"]["device_name"] = "a GPU"
    (bench,) = report.summarise([record("none"), other]).benches
    assert "the runs differ in device_name: a CPU, a GPU" in bench.notes


def test_records_that_disagree_on_the_judging_are_noted() -> None:
    (bench,) = report.summarise([record("none"), record("r1", target=7.0)]).benches
    assert "the records disagree on how this workload is judged; run it again into a new folder" in bench.notes


# --- files ----------------------------------------------------------------------------------------------------------


def test_summary_json_is_strict_and_holds_the_summary(tmp_path: Path) -> None:
    summary = report.write(put(tmp_path, a_bench()), draw=False)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert data["schema"] == 1
    assert data["rule"] == summary.rule
    found = {arm["name"]: arm for arm in data["benches"][0]["arms"]}
    assert found["minibatch"]["verdict"] == "helps"
    assert found["minibatch"]["readings"]["modes"]["comparison"]["difference"] == pytest.approx(8 - 1.4)
    assert found["none"]["readings"]["kl"]["interval"] is None


def test_summary_csv_has_a_row_for_each_arm_and_reading(tmp_path: Path) -> None:
    summary = report.write(
        put(tmp_path, [*a_bench(), *(record(workload="mnist", seed=s) for s in range(2))]), draw=False
    )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text(encoding="utf-8"))))
    keys = [(r["workload"], r["steps"], r["arm"], r["reading"]) for r in rows]
    assert len(set(keys)) == len(keys) == sum(len(a.readings) + len(a.cost) for b in summary.benches for a in b.arms)
    (row,) = [r for r in rows if (r["arm"], r["reading"]) == ("minibatch", "modes")]
    assert float(row["difference"]) == pytest.approx(8 - 1.4)
    assert (row["pairs"], row["verdict"], row["primary"], row["mean_low"]) == ("5", "helps", "1", "")
    (cost,) = [r for r in rows if (r["arm"], r["reading"]) == ("minibatch", "step_ms")]
    assert (cost["median"], cost["pairs"]) == ("12.0", "")


def test_writing_leaves_the_records_alone_and_no_half_files(tmp_path: Path) -> None:
    put(tmp_path, a_bench())
    before = {p: p.read_bytes() for p in (tmp_path / "records").iterdir()}
    report.write(tmp_path)
    assert {p: p.read_bytes() for p in (tmp_path / "records").iterdir()} == before
    assert {p.name for p in tmp_path.iterdir()} == {
        "records", "summary.json", "summary.csv", "curves-ring-modes=8.png", "success-ring-modes=8.png",
    }  # fmt: skip


def test_a_report_made_twice_is_the_same_to_the_byte(tmp_path: Path) -> None:
    put(tmp_path, a_bench(long=False))
    report.write(tmp_path)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    report.write(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == first


def changed(**parts: Any) -> str:
    return json.dumps({**record(), **parts})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "strict JSON"),
        ('{"schema": 1, "x": NaN}', "NaN is no JSON number"),
        ('{"schema": 1, "x": 1e999}', "too large"),
        ("[]", "not a record"),
        ('{"name": "something else"}', "states no schema"),
        (changed(schema=2, version="9.9"), "schema 2, written by stabilgan 9.9.*use a new folder"),
        ('{"schema": 1}', "nothing for 'hash'"),
        (changed(case={"workload": "ring"}), "nothing for 'case.arm'"),
        (changed(status="done"), "expected ok, diverged or failed"),
        (changed(final={"modes": "many"}), "final.modes is 'many'; expected a number"),
        (changed(alarms=[{"detector": "collapse"}]), "an alarm without"),
        (changed(case={**record()["case"], "steps": None}), "neither steps nor seconds"),
        (changed(hash="b"), "the same case as"),
    ],
)
def test_a_file_that_is_no_record_is_one_line_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    put(tmp_path, [record()])
    (tmp_path / "records" / "zzz.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says) as caught:
        report.write(tmp_path)
    assert "zzz.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_records_says_what_was_expected(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"no records; expected .*records.*stabilgan bench"):
        report.write(tmp_path / name)


def test_hidden_files_beside_the_records_are_not_read(tmp_path: Path) -> None:
    put(tmp_path, [record()])
    (tmp_path / "records" / "._abc.json").write_bytes(b"\x00\xff")
    assert len(report.load(tmp_path)) == 1


# --- tables ---------------------------------------------------------------------------------------------------------


def shown(summary: report.Summary, width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, write_through=True) as out:
        Console(file=out, width=width, legacy_windows=False).print(report.table(summary))
        return raw.getvalue().decode(encoding)


def test_on_120_columns_everything_fits_uncut() -> None:
    text = shown(report.summarise(a_bench()), 120)
    assert max(map(len, text.splitlines())) <= 120
    assert "left out" not in text
    for word in (
        "relativistic",
        "+r1:weight=10",
        "no detectable",
        "helps",
        "2 diverged",
        "collapse 5/5 at 102",
        "2+1, 3+2",
    ):
        assert word in text


@pytest.mark.parametrize("width", [80, 100])
def test_on_fewer_columns_whole_columns_go_and_are_named(width: int) -> None:
    text = shown(report.summarise(a_bench()), width)
    assert max(map(len, text.splitlines())) <= width
    assert "left out to fit this width: recall" in text
    for word in (
        "relativistic",
        "+r1:weight=10",
        "no detectable",
        "helps",
        "2 diverged",
        "collapse 5/5 at 102",
        "modes",
    ):
        assert word in text


def test_the_chance_of_improvement_is_shown_in_percent() -> None:
    text = shown(report.summarise(a_bench()), 120)
    assert "   60 %   " in text  # replay's 2, 0, 2, 0, 2 beside 1, 2, 1, 2, 1


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = shown(report.summarise(a_bench()), 120, encoding="ascii")
    assert "0.012 (+)" in text
    assert "57-100 %" in text
    assert "\ufffd" not in text


def test_names_in_brackets_are_shown_and_not_taken_for_markup() -> None:
    assert "my[bold]" in shown(report.summarise([record("my[bold]"), record()]), 120)


def test_markdown_rows_have_as_many_cells_as_the_header() -> None:
    lines = report.markdown(report.summarise([*a_bench(), record("a|b", 0)])).splitlines()
    tables: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("|"):
            tables[-1].append(line.replace(r"\|", ""))
        elif tables[-1]:
            tables.append([])
    tables = [t for t in tables if t]
    assert len(tables) == 2
    for rows in tables:
        assert len(rows) == 2 + 5
        assert len({row.count("|") for row in rows}) == 1
    assert any("| `minibatch` | 5/5<br>57–100 % | 8.00<br>(all alike) |" in line for line in lines)


# --- pictures -------------------------------------------------------------------------------------------------------


def keep_samples(folder: Path, one: dict[str, Any], samples: Any, real: Any, steps: list[int]) -> None:
    (folder / "samples").mkdir(exist_ok=True)
    np.savez(folder / "samples" / f"{one['hash']}.npz", step=np.array(steps), samples=samples, real=real)


def drawn(kind: str, records: list[dict[str, Any]], folder: Path) -> Figure:
    (bench,) = report.summarise(records).benches
    figure = getattr(pictures, kind)(bench, report.grouped(records, bench), folder / "samples")
    assert isinstance(figure, Figure)
    return figure


def test_every_picture_is_a_png_of_a_readable_size(tmp_path: Path) -> None:
    records = a_bench()
    put(tmp_path, records)
    rng = np.random.default_rng(0)
    for one in records:
        if one["case"]["seed"] == 0:
            keep_samples(
                tmp_path,
                one,
                rng.normal(size=(3, 50, 2)).astype("f4"),
                rng.normal(size=(60, 2)).astype("f4"),
                [0, 1000, 2000],
            )
    assert report.write(tmp_path).notes == []
    for kind in ("samples", "curves", "success"):
        height, width, _ = imread(tmp_path / f"{kind}-ring-modes=8.png").shape
        assert height >= 250
        assert 600 <= width <= 2000


@pytest.mark.parametrize("kind", ["samples", "curves", "success"])
def test_no_label_is_clipped(kind: str, tmp_path: Path) -> None:
    records = a_bench() + [record("failing", s, status="failed") for s in range(5)]
    records += [record(f"{LONG}+ema:decay=0.{i}", s) for i in range(4) for s in range(2)]
    for one in records:
        if one["case"]["seed"] == 0 and one["status"] == "ok":
            keep_samples(tmp_path, one, np.zeros((8, 30, 2), "f4"), np.ones((9, 2), "f4"), list(range(0, 1600, 200)))
    figure = drawn(kind, records, tmp_path)
    figure.draw_without_rendering()
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_visible() and text.get_text():
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
            assert inside, text.get_text()


def test_without_samples_that_picture_is_left_out_with_a_line_and_an_old_one_removed(tmp_path: Path) -> None:
    put(tmp_path, a_bench())
    (tmp_path / "samples-ring-modes=8.png").write_bytes(b"of another bench")
    notes = report.write(tmp_path).notes
    assert notes == ["samples-ring-modes=8.png left out: no samples were kept (samples/*.npz)"]
    assert not (tmp_path / "samples-ring-modes=8.png").exists()
    assert (tmp_path / "curves-ring-modes=8.png").exists()
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["notes"] == notes


def test_samples_that_cannot_be_read_are_as_good_as_none(tmp_path: Path) -> None:
    one = record()
    put(tmp_path, [one])
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / f"{one['hash']}.npz").write_bytes(b"PK\x03\x04 cut short")
    assert "no samples were kept" in report.write(tmp_path).notes[0]


def test_samples_show_one_seed_by_arm_and_step_and_say_which(tmp_path: Path) -> None:
    records = [record("none", 3), record("r1", 3, 0.0, status="diverged"), record("none", 4), record("r1", 4)]
    at = list(range(0, 1001, 100))
    for one in (records[0], records[2]):
        keep_samples(tmp_path, one, np.ones((11, 5, 2), "f4"), np.ones((9, 2), "f4"), at)
    keep_samples(tmp_path, records[1], np.ones((3, 5, 2), "f4"), np.ones((9, 2), "f4"), at[:3])
    figure = drawn("samples", records, tmp_path)
    assert "seed 3" in figure.get_suptitle()
    titles = [axes.get_title() for axes in figure.axes[:6]]
    assert (titles[0], titles[-1], len(figure.axes)) == ("step 0", "step 1,000", 12)
    words = [[t.get_text() for t in axes.texts] for axes in figure.axes]
    assert words[0] == words[6] == []
    assert words[11] == ["diverged"]


def test_points_far_off_are_counted_in_the_panel(tmp_path: Path) -> None:
    one = record()
    samples = np.zeros((1, 10, 2), "f4")
    samples[0, :3] = 1e6
    samples[0, 3] = np.nan
    keep_samples(tmp_path, one, samples, np.array([[-1, -1], [1, 1]], "f4"), [0])
    (axes,) = drawn("samples", [one], tmp_path).axes
    assert [t.get_text() for t in axes.texts] == ["40 % outside"]


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_images_are_tiled_in_order_with_real_ones_beside(tmp_path: Path, channels: int | None) -> None:
    shape = (30, 4, 6) if channels is None else (30, channels, 4, 6)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    one = record()
    keep_samples(tmp_path, one, images, images[0], [0, 10])
    figure = drawn("samples", [one], tmp_path)
    assert [axes.get_title() for axes in figure.axes] == ["step 0", "step 10", "real"]
    sheet = np.asarray(figure.axes[1].images[0].get_array())
    sixth = images[1, 5] if channels is None else np.moveaxis(images[1, 5], 0, -1).squeeze()
    np.testing.assert_array_equal(sheet[6:10, 1:7], sixth)  # second row, first place; one pixel between tiles
    assert sheet.shape[:2] == (5 * 5 + 1, 5 * 7 + 1)


def test_curves_are_the_median_and_quartiles_over_seeds(tmp_path: Path) -> None:
    records = [record("none", s, m) for s, m in enumerate([1.0, 2.0, 3.0, 4.0, 8.0])]
    axes = drawn("curves", records, tmp_path).axes[2]
    assert axes.get_ylabel() == "modes"
    assert set(axes.lines[0].get_ydata()) == {3.0}
    assert {y for _, y in axes.collections[0].get_paths()[0].vertices} == {2.0, 4.0}


def test_long_series_are_drawn_by_stretches_whose_band_keeps_the_swing() -> None:
    steps = np.arange(12_000.0)
    middle, low, centre, high = pictures._band(steps, np.sin(steps), 120)
    assert len(middle) == 120
    # Quartiles of a sine are ±sin(π/4), its median is 0.
    np.testing.assert_allclose(low, -np.sqrt(0.5), atol=0.05)
    np.testing.assert_allclose(high, np.sqrt(0.5), atol=0.05)
    np.testing.assert_allclose(centre, 0, atol=0.1)


def test_a_diverged_run_stays_in_the_curve_at_its_final_reading(tmp_path: Path) -> None:
    records = [record("none", 0, 8.0), record("none", 1, 8.0)]
    records += [record("none", s, 8.0, status="diverged", modes_after=None) for s in (2, 3, 4)]
    for one in records[2:]:
        one["final"]["modes"] = 0.0
    line = drawn("curves", records, tmp_path).axes[2].lines[0]
    by_step = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert (by_step[1200.0], by_step[1400.0], by_step[2000.0]) == (8.0, 0.0, 0.0)


def test_the_success_picture_shows_rate_and_interval(tmp_path: Path) -> None:
    axes = drawn("success", a_bench(), tmp_path).axes[0]
    rates = [line.get_xdata()[0] for line in axes.lines[1::2]]
    assert rates == [0.0, 1.0, 0.0, 0.4]
    low, high = stats.binomtest(2, 5).proportion_ci(method="wilson")
    assert tuple(axes.lines[6].get_xdata()) == pytest.approx((low, high))
    assert "5 of 5\nhelps" in [t.get_text() for t in axes.texts]


def test_a_bench_that_failed_throughout_still_gets_its_report(tmp_path: Path) -> None:
    summary = report.write(put(tmp_path, [record(a, s, status="failed") for a in ("none", "r1") for s in range(2)]))
    assert len(summary.notes) == 3
    assert not list(tmp_path.glob("*.png"))
    assert "failed on seeds 0, 1 (out of memory)" in shown(summary, 120)


def test_a_workload_without_success_has_no_success_picture(tmp_path: Path) -> None:
    notes = report.write(put(tmp_path, [record(target=None)])).notes
    assert "success-ring-modes=8.png left out: ring:modes=8 has no notion of success" in notes


def test_pictures_of_unlike_benches_never_share_a_file(tmp_path: Path) -> None:
    names = ["a:b", "a-b", "../../a b", "ring"]
    records = [record(workload=w) for w in names] + [record(workload="ring", steps=50)]
    report.write(put(tmp_path / "out", records))
    made = {p.name for p in (tmp_path / "out").glob("success-*.png")}
    assert len(made) == 5
    assert {"success-ring-50-steps.png", "success-ring-2000-steps.png"} < made
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_report_is_imported_without_matplotlib() -> None:
    code = "import sys, stabilgan.bench.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
