"""Every file in examples/ runs for a few steps, as its reader would run it."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")  # before anyone imports keras

EXAMPLES = Path(__file__).parents[1] / "examples"
FEW = {
    "audio": ["--steps", "2", "--batch", "4", "--out", "tones.wav"],
    "cyclegan": ["--steps", "2", "--batch", "2", "--width", "2", "--out", "picture.png"],
    "keras_gan": ["--epochs", "1", "--steps", "2", "--batch", "4", "--out", "picture.png"],
    "tabular": ["--steps", "2", "--batch", "20"],
}
"""What makes an example short; `--steps 2` where nothing else is said."""
ON_REAL_DATA = ("cyclegan", "keras_gan")


def test_each_of_them_is_there() -> None:
    assert set(FEW) <= {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.filterwarnings("default")  # frameworks warn of their own affairs
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(p.stem, marks=pytest.mark.data if p.stem in ON_REAL_DATA else ())
        for p in sorted(EXAMPLES.glob("*.py"))
    ],
)
def test_an_example_runs(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in ON_REAL_DATA:
        request.getfixturevalue("data_dir")
    few = FEW.get(name, ["--steps", "2"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *few])
    drawn = torch.manual_seed(918_273_645).get_state()
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert not torch.equal(drawn, torch.get_rng_state())  # it drew weights, at the least
    if "--out" in few:
        assert (tmp_path / few[few.index("--out") + 1]).stat().st_size > 500
