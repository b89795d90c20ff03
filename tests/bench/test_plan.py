"""The plan: which cases, under which names, in which folders."""

from dataclasses import replace
from pathlib import Path

import pytest

from stabilgan import spec
from stabilgan.bench.plan import Case, Folder, cases, seeds


def test_every_workload_meets_every_arm_and_seed() -> None:
    planned = cases(["ring", "grid"], ["none", "r1"], [0, 1], steps=5)
    assert len(planned) == len(set(planned)) == 8
    assert len({c.hash for c in planned}) == 8


def test_whatever_decides_the_result_decides_the_name() -> None:
    case = Case("ring", "r1", 0, steps=10)
    others = [
        replace(case, **change)  # type: ignore[arg-type]
        for change in (
            {"workload": "grid"},
            {"arm": "r2"},
            {"seed": 1},
            {"steps": 11},
            {"steps": None, "seconds": 3.0},
            {"evaluations": 3},
            {"device": "cuda"},
            {"threads": 2},
            {"amp": True},
        )
    ]
    assert len({c.hash for c in [case, *others]}) == 1 + len(others)
    assert case.hash == Case("ring", "r1", 0, steps=10).hash


@pytest.mark.parametrize("text", ["0", "", "x", "5-3", "1,,2", "-2"])
def test_seeds_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(spec.SpecError, match="--seeds"):
        seeds(text)


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    Folder(tmp_path / "r").open()
    manifest = tmp_path / "r" / "bench.json"
    manifest.write_text('{"version": "9.9", "schema": 1}')
    with pytest.raises(spec.SpecError, match=r"written by stabilgan 9.9 .* give another --out"):
        Folder(tmp_path / "r").open()
    manifest.write_text("half a")
    with pytest.raises(spec.SpecError, match="can't be read"):
        Folder(tmp_path / "r").open()


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(spec.SpecError, match="something else"):
        Folder(tmp_path).open()
    with pytest.raises(spec.SpecError, match="is a file"):
        Folder(tmp_path / "thesis.tex").open()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
