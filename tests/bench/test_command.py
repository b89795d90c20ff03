"""The command line, run the way a user runs it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from stabilgan.cli import main

QUICK = ["--steps", "40", "--evaluations", "4", "--seeds", "2"]


def stabilgan(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stabilgan", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ | env, timeout=280)


def records(folder: Path) -> dict[str, Any]:
    """Every record by its name, without what depends on the clock."""
    found = {}
    for path in sorted((folder / "records").glob("*.json")):
        record = json.loads(path.read_text())
        record["cost"] = {"passes": record["cost"]["passes"]}
        found[path.name] = record
    return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    cwd = tmp_path_factory.mktemp("bench")
    return cwd, stabilgan("bench", "--tricks", "replay:size=100,r1:weight=1", *QUICK, "--out", "out", cwd=cwd)


def test_a_bench_ends_with_records_a_table_a_summary_and_pictures(
    bench: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, done = bench
    assert done.returncode == 0, done.stderr
    assert len(records(cwd / "out")) == 8  # four arms, two seeds
    for arm in ("none", "replay:size=100", "r1:weight=1", "replay:size=100+r1:weight=1"):
        assert arm.split("+")[-1][:10] in done.stdout
    summary = json.loads((cwd / "out" / "summary.json").read_text())
    assert summary
    assert (cwd / "out" / "summary.csv").stat().st_size > 0
    assert {p.name for p in (cwd / "out").glob("*.png")} == {"samples-ring.png", "curves-ring.png", "success-ring.png"}
    assert "[8/8]" in done.stderr
    assert not list((cwd / "out" / "unfinished").iterdir())


def test_finished_cases_are_not_run_again(bench: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    cwd, _ = bench
    times = {p: p.stat().st_mtime_ns for p in (cwd / "out" / "records").iterdir()}
    again = stabilgan("bench", "--tricks", "replay:size=100,r1:weight=1", *QUICK, "--out", "out", "--json", cwd=cwd)
    assert again.returncode == 0
    assert "8 of 8 cases are in out already" in again.stderr
    assert {p: p.stat().st_mtime_ns for p in (cwd / "out" / "records").iterdir()} == times
    assert json.loads(again.stdout) == json.loads((cwd / "out" / "summary.json").read_text())


def test_the_report_is_made_again_from_the_records_alone(
    bench: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    cwd, _ = bench
    before = (cwd / "out" / "summary.json").read_text()
    for name in ("summary.json", "summary.csv", "curves-ring.png"):
        (cwd / "out" / name).unlink()
    done = stabilgan("report", "out", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert (cwd / "out" / "summary.json").read_text() == before
    assert (cwd / "out" / "curves-ring.png").exists()


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--tricks", "replya"], "no trick named 'replya'; did you mean 'replay'?"),
        (["--tricks", "r1:wieght=3"], "r1: no option named 'wieght'; did you mean 'weight'?"),
        (["--tricks", "r1:weight=heavy"], "r1:weight=heavy: expected a number"),
        (["--tricks", "none"], "names no trick to compare"),
        (["--workload", "rign"], "no workload named 'rign'; did you mean 'ring'?"),
        (["--workload", "ring:mode=3"], "ring: no option named 'mode'; did you mean 'modes'?"),
        (["--workload", "ring:modes=many"], "ring:modes=many: expected a whole number"),
        (["--workload", "ring:protocol=metz"], "ring:protocol=metz: expected quick or pacgan or dual"),
        (["--workload", "ring:modes=1"], "1 modes; expected 2 or more"),
        (["--workload", "nowhere.py:make"], "there is no file nowhere.py"),
        (["--workload", "ring:radius=-1"], "expected above 0"),
        (["--tricks", "r1:weight=nan"], "r1:weight=nan: expected a number"),
        (["--tricks", "r1+r1"], "r1 is twice in one arm"),
        (["--seconds", "nan"], "finite"),
        (["--seeds", "0"], "names no seed"),
        (["--steps", "0"], "0 is not in the range x>=1"),
        (["--jobs", "-2"], "-2 is not in the range x>=1"),
        (["--steps", "5", "--seconds", "5"], "two budgets"),
        (["--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--trick", "r1"], "--tricks"),
    ],
)
def test_bad_input_gets_one_clear_line_and_exit_code_2(args: list[str], line: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["bench", *args, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2, done.stderr
    assert line in done.stderr
    assert not (tmp_path / "out").exists()


USER = """
import torch
from torch import nn
import stabilgan

class Wiggle(stabilgan.Trick):
    name = "wiggle"

    def __init__(self, size: float = 0.1) -> None:
        self.size = size

    def fake(self, x, game):
        return x * (1 + self.size)

def good(width: int = 8):
    g, d = nn.Linear(3, 2), nn.Linear(2, 1)
    adam = torch.optim.Adam
    return stabilgan.Workload(g=g, d=d, opt_g=adam(g.parameters()), opt_d=adam(d.parameters()),
                              data=torch.randn(100, 2), latent=3, reference=torch.randn(50, 2), samples=50)

def wrong_return(): return 3
def wrong_net(): return stabilgan.Workload(g=1, d=2, opt_g=3, opt_d=4, data=5, latent=6)
def raises(): raise RuntimeError("no camera")
def wrong_judge():
    w = good()
    return stabilgan.Workload(g=w.g, d=w.d, opt_g=w.opt_g, opt_d=w.opt_d, data=w.data, latent=3, judge=lambda x: 3)
def wrong_shape():
    w = good()
    d = nn.Linear(5, 1)
    return stabilgan.Workload(g=w.g, d=d, opt_g=w.opt_g, opt_d=torch.optim.Adam(d.parameters()), data=w.data,
                              latent=3, reference=w.reference)
def typo_in_kind():
    w = good()
    return stabilgan.Workload(g=w.g, d=w.d, opt_g=w.opt_g, opt_d=w.opt_d, data=w.data, latent=3, kind="image")
def unknown_direction():
    w = good()
    return stabilgan.Workload(g=w.g, d=w.d, opt_g=w.opt_g, opt_d=w.opt_d, data=w.data, latent=3, primary="fid",
                              judge=lambda x: {"fid": 1.0})
def no_judge(width=8):
    w = good(width)
    return stabilgan.Workload(g=w.g, d=w.d, opt_g=w.opt_g, opt_d=w.opt_d, data=w.data, latent=3, samples=50, steps=20)
class Clash(stabilgan.Trick):
    name = "clash"
    conflicts = {"r1": "both pull at D"}
class Fussy(stabilgan.Trick):
    name = "fussy"
    def __init__(self, must): ...
def fails_later():
    w = good()
    calls = iter(range(2))
    return stabilgan.Workload(g=w.g, d=w.d, opt_g=w.opt_g, opt_d=w.opt_d, data=w.data, latent=3,
                              judge=lambda x: {"coverage": 1.0 / (1 - next(calls))}, samples=50)
"""


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("wrong_return", "returned a int; expected a stabilgan.Workload"),
        ("wrong_net", "Workload(g=...) is a int; expected a Module"),
        ("raises", "raised RuntimeError: no camera"),
        ("wrong_judge", "does not work"),
        ("wrong_shape", "does not work: RuntimeError: mat1 and mat2 shapes"),
        ("good:widht=3", "no option named 'widht'; did you mean 'width'?"),
        ("god", "did you mean 'good'?"),
        ("typo_in_kind", "kind is 'image'; expected 'points', 'images' or 'other'"),
        ("unknown_direction", "which way is 'fid' better?"),
    ],
)
def test_a_users_function_that_returns_the_wrong_things_is_told(function: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    args = ["bench", "--workload", f"{tmp_path}/mine.py:{function}", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2, done.stderr
    assert line in done.stderr


def test_a_users_own_workload_and_trick_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    args = ["--workload", "mine.py:good", "--tricks", "mine.Wiggle:size=0.2", *QUICK, "--out", "out"]
    done = stabilgan("bench", *args, cwd=tmp_path, PYTHONPATH=f".{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert done.returncode == 0, done.stderr
    assert {r["status"] for r in records(tmp_path / "out").values()} == {"ok"}


def test_a_scheme_is_an_option_of_the_workload(tmp_path: Path) -> None:
    """Consensus takes both gradients on the same fakes, so that each step makes them once and not twice."""
    args = ["--tricks", "r1", "--steps", "10", "--evaluations", "2", "--seeds", "1", "--out", "out"]
    done = stabilgan("bench", "--workload", "ring:scheme=consensus", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {r["case"]["arm"]: r for r in records(tmp_path / "out").values()}
    assert {arm: r["status"] for arm, r in found.items()} == {"none": "ok", "r1": "ok"}
    for record in found.values():
        assert record["case"]["workload"] == "ring:scheme=consensus"
        assert record["cost"]["passes"]["g_forward"] == 1
    assert found["none"]["final"] != found["r1"]["final"]


def test_a_case_that_fails_is_a_record_and_the_bench_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    args = ["--workload", "mine.py:fails_later,ring", "--tricks", "r1", *QUICK, "--out", "out"]
    done = stabilgan("bench", *args, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = records(tmp_path / "out").values()
    assert sorted(r["status"] for r in found) == ["failed"] * 4 + ["ok"] * 4
    assert all("ZeroDivisionError" in r["traceback"] for r in found if r["status"] == "failed")


@pytest.mark.parametrize(
    ("trick", "line"),
    [
        ("mine.py:Clash+r1", "clash and r1: both pull at D"),
        ("mine.py:Fussy", "mine.py:Fussy raised TypeError"),
        ("mine.py:Clsh", "did you mean 'Clash'?"),
        ("broken.py:x", "broken.py raised SyntaxError"),
    ],
)
def test_a_users_trick_that_cannot_be_played_is_told(
    trick: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(USER)
    (tmp_path / "broken.py").write_text("def x(:")
    done = CliRunner().invoke(main, ["bench", "--tricks", trick, "--out", "out"])
    assert done.exit_code == 2, done.stderr
    assert line in done.stderr


def test_one_folder_may_hold_runs_of_several_budgets_and_a_failure_with_the_default_one(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    for extra in ([], ["--evaluations", "2"], ["--workload", "mine.py:no_judge,mine.py:no_judge", "--steps", "10"]):
        args = ["--workload", "mine.py:no_judge", "--tricks", "mine.py:Wiggle", "--seeds", "1", "--out", "out", *extra]
        done = stabilgan("bench", *args, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "out")) == 6
    broken = ["--workload", "mine.py:fails_later", "--tricks", "r1", "--seeds", "1", "--evaluations", "2"]
    done = stabilgan("bench", *broken, "--out", "out", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "mine.py:fails_later" in done.stdout


def test_bad_input_at_the_shell_is_one_line(tmp_path: Path) -> None:
    done = stabilgan("bench", "--tricks", "replya", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stabilgan: no trick named 'replya'; did you mean 'replay'?\n"


def test_a_folder_of_another_version_and_missing_data_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "bench.json").write_text('{"version": "0.0.1", "schema": 1}')
    done = stabilgan("bench", "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "written by stabilgan 0.0.1" in done.stderr
    from torchvision import datasets

    def refused(self: object) -> None:
        raise RuntimeError("Error downloading")

    monkeypatch.setattr(datasets.MNIST, "download", refused)
    monkeypatch.setenv("STABILGAN_CACHE", str(tmp_path / "cache"))
    args = ["bench", "--workload", "mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "new")]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2
    assert "train-images-idx3-ubyte" in done.stderr
    assert "--data-dir or STABILGAN_DATA" in done.stderr


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = "import sys, stabilgan.cli; assert not {'torch', 'numpy', 'torchvision', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
    assert "Compares tricks" in stabilgan("bench", "--help", cwd=tmp_path).stdout


def test_the_list_names_every_trick_with_options_and_source(tmp_path: Path) -> None:
    done = stabilgan("list", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found.pop("broken") == []
    assert set(found) == {"tricks", "detectors", "workloads", "losses"}
    r1 = next(t for t in found["tricks"] if t["name"] == "r1")
    assert {"name": "weight", "type": "float", "default": 10.0} in r1["options"]
    assert all(entry["source"] for kind in ("tricks", "losses") for entry in found[kind])
    assert all(entry["does"] for kind in found for entry in found[kind])
    assert "experience replay" in stabilgan("list", "tricks", cwd=tmp_path).stdout.lower()


@pytest.mark.slow
def test_a_bench_killed_at_ten_moments_ends_with_the_records_of_an_undisturbed_one(tmp_path: Path) -> None:
    args = ["bench", "--tricks", "replay:size=200,r1:weight=1", "--seeds", "2", "--steps", "600", "--evaluations", "12"]
    args += ["--save-every", "0", "--jobs", "2"]
    assert stabilgan(*args, "--out", "whole", cwd=tmp_path).returncode == 0
    moments = random.Random(0)
    killed = taken_up = 0
    unfinished = tmp_path / "torn" / "unfinished"
    for n in range(10):
        running = subprocess.Popen(
            [sys.executable, "-m", "stabilgan", *args, "--out", "torn"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Every other time it gets as far as the middle of a case, however slow the machine is.
        deadline = time.monotonic() + (60 if n % 2 else 0)
        while time.monotonic() < deadline and running.poll() is None and not list(unfinished.glob("*.pt")):
            time.sleep(0.1)
        time.sleep(moments.uniform(0, 1) if n % 2 else moments.uniform(2, 8))
        killed += running.poll() is None
        running.send_signal(signal.SIGKILL)
        running.wait()
        taken_up += bool(list(unfinished.glob("*.pt")))
    assert killed >= 3  # it was killed while it had work to do
    assert taken_up  # and more than once in the middle of a case
    assert stabilgan(*args, "--out", "torn", cwd=tmp_path).returncode == 0
    assert records(tmp_path / "torn") == records(tmp_path / "whole")


def test_ctrl_c_keeps_what_was_done(tmp_path: Path) -> None:
    args = [sys.executable, "-m", "stabilgan", "bench", "--tricks", "r1", "--seeds", "1", "--steps", "100000"]
    running = subprocess.Popen(
        [*args, "--out", "out"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    begun = tmp_path / "out" / "bench.json"
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(8)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "the same command goes on where this one stopped" in " ".join(said.split())
    assert "Traceback" not in said
    assert list((tmp_path / "out" / "unfinished").glob("*.pt"))
    assert not list((tmp_path / "out" / "records").iterdir())
