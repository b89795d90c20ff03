"""The README's code runs, and its tables are those of the committed records."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readmes_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    made = names["mine"](width=8)  # type: ignore[operator]
    assert made.g[0].out_features == 8
    assert tuple(names["samples"].shape) == (500, 2)  # type: ignore[attr-defined]


def test_the_readmes_own_trick_can_be_played() -> None:
    import torch
    from torch import nn

    import stabilgan

    code = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Rescale" in b)
    names = {"stabilgan": stabilgan, "torch": torch}
    exec(compile(code, "README.md", "exec"), names)
    g, d = nn.Linear(2, 2), nn.Linear(2, 1)
    make = lambda m: torch.optim.SGD(m.parameters(), 0.1)  # noqa: E731
    t = stabilgan.Trainer(g, d, make(g), make(d), [names["Rescale"](0.5)], latent=2)  # type: ignore[operator]
    before = t.game.d.weight.clone()
    t.fit(torch.randn(100, 2), 2)
    assert not torch.equal(before, t.game.d.weight)


def test_the_readmes_tables_are_those_of_the_committed_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import readme

    assert "no detectable" in README or "helps" in README
    assert readme.filled(README) == README, "run `python benchmarks/readme.py`"


def test_the_table_of_all_tricks_is_that_of_the_committed_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compare_tricks

    page = (ROOT / "docs" / "compared.md").read_text()
    assert compare_tricks.filled(page) == page, "run `python benchmarks/compare_tricks.py table`"
