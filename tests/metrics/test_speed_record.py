"""The published times of the measures: the table is that of the record, and the record can be gone on with."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.usefixtures("_benchmarks")
def test_the_table_of_times_is_that_of_the_committed_record() -> None:
    import readme

    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert "<!-- speed:metrics-cpu -->" in text
    assert readme.filled(text) == text, "run `python benchmarks/readme.py`"


def test_every_row_of_the_record_says_when_and_from_which_commit_it_is() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "metrics-cpu.json").read_text())
    assert {"torch", "numpy", "scipy", "device_name", "cores"} <= set(record["environment"])
    for row in record["rows"]:
        assert {"date", "commit", "measure", "n", "d", "threads", "contender"} <= set(row)
        assert "left_out" in row or {"wall", "processor", "memory", "rounds"} <= set(row)
