"""`stabilgan diagnose` and `stabilgan.diagnose`: exit codes, one-line errors, what is written where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import stabilgan
from stabilgan.cli import main
from stabilgan.diagnosis import InputError

LOG = "".join(f"[{i}/200] Loss_D: 0.0000 Loss_G: 57.0 D(x): 1.0000 D(G(z)): 0.0000\n" for i in range(120))
MODEL = """
import torch
from torch import nn
def make(): return nn.Linear(4, 2)
def critic(): return nn.Linear(2, 1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "real.npy", rng.normal(size=(300, 2)).astype("f4"))
    np.save(tmp_path / "fake.npy", rng.normal(size=(300, 2)).astype("f4"))
    np.save(tmp_path / "collapsed.npy", np.full((300, 2), 0.5, "f4"))
    np.save(tmp_path / "few.npy", rng.normal(size=(12, 2)).astype("f4"))
    (tmp_path / "log.txt").write_text(LOG)
    (tmp_path / "net.py").write_text(MODEL)
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "g.pt")
    return tmp_path


def run(folder: Path, *words: str, **options: str) -> Result:
    paths = [str(folder / w) if (folder / w.partition(":")[0]).exists() and w else w for w in words]
    return CliRunner().invoke(main, ["diagnose", *paths], **options)  # type: ignore[arg-type]


def test_healthy_samples_are_exit_code_0(folder: Path) -> None:
    result = run(folder, "samples", "real.npy", "fake.npy")
    assert result.exit_code == 0, result.output
    assert "healthy" in result.stdout


def test_collapsed_samples_are_exit_code_1_and_a_page(folder: Path) -> None:
    page = folder / "out.html"
    result = run(folder, "samples", "real.npy", "collapsed.npy", "--html", str(page))
    assert result.exit_code == 1, result.output
    assert "Mode collapse" in result.stdout
    assert "Mode collapse" in page.read_text()


def test_json_is_all_that_standard_output_holds(folder: Path) -> None:
    result = run(folder, "samples", "real.npy", "collapsed.npy", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["findings"][0]["failure"] == "mode_collapse"


@pytest.mark.parametrize(
    ("watched", "code"), [("never", 0), ("memorisation", 0), ("memorisation,mode_collapse", 1), ("any", 1)]
)
def test_fail_on_says_what_counts(folder: Path, watched: str, code: int) -> None:
    assert run(folder, "samples", "real.npy", "collapsed.npy", "--fail-on", watched).exit_code == code


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("samples", "real.npy", "nowhere.npy"), "nowhere.npy"),
        (("samples", "real.npy", "few.npy"), "12 samples; expected at least 20"),
        (("samples", "real.npy", "fake.npy", "--fail-on", "mode_colapse"), "did you mean 'mode_collapse'"),
        (("samples", "real.npy", "fake.npy", "--limits", "5"), "--limit"),
        (("samples", "real.npy", "fake.npy", "--limit", "0"), "--limit"),
        (("samples", "real.npy", "fake.npy", "--features", "pixel"), "pixel"),
        (("samples", "real.npy", "fake.npy", "--device", "gpu"), "--device"),
        (("samples", "real.npy", "fake.npy", "--html", "nowhere/out.html"), "there is no folder"),
        (("smaples", "real.npy", "fake.npy"), "did you mean 'samples'"),
        (("log", "log.txt", "--map", "d_loss"), "--map"),
        (("log", "log.txt", "--loss", "bcee"), "bce"),
        (("model", "net.py:mkae", "--data", "real.npy"), "make"),
        (("model", "net.py:make"), "--data"),
    ],
)
def test_bad_input_is_one_line_that_helps_and_exit_code_2(folder: Path, words: tuple[str, ...], says: str) -> None:
    result = run(folder, *words)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()[-1]) > 10


def test_a_log_is_read_from_a_file_and_from_standard_input(folder: Path) -> None:
    for result in (run(folder, "log", "log.txt", "--json"), run(folder, "log", "-", "--json", input=LOG)):
        assert result.exit_code == 1, result.output
        failures = [f["failure"] for f in json.loads(result.stdout)["findings"]]
        assert "discriminator_saturated" in failures


def test_a_model_is_built_loaded_drawn_from_and_judged(folder: Path) -> None:
    words = ("model", "net.py:make", "--weights", "g.pt", "--data", "real.npy", "--samples", "200", "--json")
    result = run(folder, *words, "--discriminator", "net.py:critic", "--loss", "wgan")
    assert result.exit_code in (0, 1), result.output
    found = json.loads(result.stdout)
    assert found["source"] == "model"
    assert {"over latents", "D(real)"} <= {e["name"] for e in found["evidence"]}


def test_the_function_takes_tensors_modules_and_logs(folder: Path) -> None:
    real = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    assert stabilgan.diagnose(real=real[:100], fake=real[100:]).verdict == "healthy"
    assert stabilgan.diagnose(model=nn.Linear(4, 2), data=real, n=100).source == "model"
    assert stabilgan.diagnose(log=folder / "log.txt").source == "log"
    assert stabilgan.diagnose("samples", real=str(folder / "real.npy"), fake=np.zeros((99, 2), "f4")).findings


@pytest.mark.parametrize(
    ("given", "says"),
    [({}, "nothing"), ({"real": 1}, "real"), ({"log": "x", "real": 1}, "real, log"), ({"model": 1}, "model")],
)
def test_the_function_says_what_belongs_together(given: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        stabilgan.diagnose(**given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no way named 'sample'; did you mean 'samples'"):
        stabilgan.diagnose("sample")  # type: ignore[arg-type]


@pytest.mark.slow
def test_help_is_there_without_waiting_for_torch_and_ctrl_c_is_130(folder: Path) -> None:
    probe = "import sys, stabilgan.cli; assert 'torch' not in sys.modules; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)
    stop = (
        "import stabilgan.diagnosis.command as c\n"
        "def stopped(*a, **k): raise KeyboardInterrupt\n"
        "c.diagnose = stopped\n"
        "from stabilgan.cli import main\n"
        f"main(['diagnose', 'log', {str(folder / 'log.txt')!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", stop], env=os.environ, capture_output=True, check=False)
    assert done.returncode == 130
