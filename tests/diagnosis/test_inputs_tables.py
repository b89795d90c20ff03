"""Tables, known data sets, and reals and fakes brought to one form."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from input_files import Payload, tensor

from stabilgan.diagnosis import InputError
from stabilgan.diagnosis.inputs import load, matched


def table(path: Path, rows: list[str], header: str = "age,sex,id") -> Path:
    path.write_text("\n".join([*([header] if header else []), *rows]) + "\n")
    return path


PEOPLE = [f"{20 + i},{'mf'[i % 2]},n{i}" for i in range(60)]


def test_numbers_stay_categories_become_columns_and_names_are_left_aside(tmp_path: Path) -> None:
    made = load(table(tmp_path / "a.csv", PEOPLE))
    assert made.kind == "table"
    assert made.columns == ("age", "sex=f", "sex=m")
    assert made.x[1].tolist() == [21, 1, 0]
    assert any("id (60 different texts)" in note for note in made.notes)
    assert any("sex: 2 categories, one-hot" in note for note in made.notes)
    assert made.names[0] == "line 2"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_delimiter_and_the_header_are_found(tmp_path: Path, delimiter: str) -> None:
    rows = [delimiter.join(map(str, row)) for row in tensor(12, 4).tolist()]
    made = load(table(tmp_path / "a.csv", rows, delimiter.join("abcd")))
    assert made.columns == tuple("abcd")
    assert torch.allclose(made.x, tensor(12, 4))
    bare = load(table(tmp_path / "b.csv", rows, ""))
    assert torch.allclose(bare.x, tensor(12, 4))
    assert bare.columns[0] == "column 0"


def test_decimal_commas_and_utf_16_are_read(tmp_path: Path) -> None:
    rows = "größe;gewicht\n" + "".join(f"{i},5;2\n" for i in range(12))
    (tmp_path / "a.csv").write_text(rows, encoding="utf-16")
    made = load(tmp_path / "a.csv")
    assert made.columns == ("größe", "gewicht")
    assert made.x[3].tolist() == [3.5, 2]
    (tmp_path / "b.csv").write_text(rows, encoding="latin-1")
    assert load(tmp_path / "b.csv").columns == ("größe", "gewicht")


def test_two_columns_of_numbers_without_a_header_are_points(tmp_path: Path) -> None:
    assert load(table(tmp_path / "a.csv", [f"{i},{i * i}" for i in range(12)], "")).kind == "points"


def test_rows_with_gaps_are_left_out_and_counted(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [*PEOPLE, ",m,x", "3,NA,y", "1,2", "4,f,z"])
    made = load(path)
    assert len(made) == 61
    assert dict(made.skipped) == {
        "line 62": "no value in 'age'",
        "line 63": "no value in 'sex'",
        "line 64": "2 cells where the others have 3",
    }
    with pytest.raises(InputError, match=r"3 rows can't be used \(strict\)"):
        load(path, strict=True)


def test_nan_in_a_table_is_refused_or_kept_and_named(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", [f"{i},{'nan' if i == 3 else i}" for i in range(12)], "a,b")
    with pytest.raises(InputError, match="nan or infinity in 1 rows, the first line 5"):
        load(path)
    assert load(path, allow_nonfinite=True).nonfinite == (3,)


def test_a_column_of_labels_is_taken_out(tmp_path: Path) -> None:
    made = load(f"{table(tmp_path / 'a.csv', PEOPLE)}:labels=sex")
    assert made.columns == ("age",)
    assert made.classes == ("f", "m")
    assert made.labels is not None
    assert made.labels[:3].tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="no column named 'sx'; did you mean 'sex'"):
        load(tmp_path / "a.csv", labels="sx")


def test_tables_without_rows_or_usable_columns_say_so(tmp_path: Path) -> None:
    for text, match in (("\n\n", "is empty"), ("a,b\n", "0 samples|no column"), ("x\n" * 3, "3 samples")):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(InputError, match=match):
            load(tmp_path / "a.csv")
    names = table(tmp_path / "b.csv", [f"name{i}" for i in range(90)], "name")
    with pytest.raises(InputError, match="no column of numbers or of few categories"):
        load(names)


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    columns = {
        "age": [20.0 + i for i in range(60)],
        "sex": pa.array(["m", "f"] * 30).dictionary_encode(),
        "when": pa.array([0] * 60, pa.timestamp("s")),
        "well": [True, None] + [False] * 58,
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    made = load(tmp_path / "a.parquet")
    assert made.columns == ("age", "sex=f", "sex=m", "well")
    assert len(made) == 59
    assert made.skipped == (("row 1", "no value in 'well'"),)
    assert any("when (holds timestamp" in note for note in made.notes)
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged or cut short"):
        load(tmp_path / "a.parquet")


@pytest.mark.data
def test_mnist_is_read_by_name(data_dir: Path) -> None:
    made = load("mnist:test", data_dir=data_dir)
    assert made.x.shape == (10_000, 1, 28, 28)
    assert made.x.max() == 1
    assert made.labels is not None
    assert made.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert made.classes[0].startswith("0")
    some = load("mnist:test", data_dir=data_dir, limit=50)
    assert some.labels is not None
    assert some.labels.tolist() == [int(made.labels[int(name.split()[1])]) for name in some.names]


def test_a_data_set_that_is_nowhere_or_unknown_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABILGAN_CACHE", str(tmp_path))
    monkeypatch.delenv("STABILGAN_DATA", raising=False)
    with pytest.raises(
        InputError, match=r"mnist is in none of .*train-images-idx3-ubyte.*--data-dir or STABILGAN_DATA"
    ):
        load("mnist", data_dir=tmp_path / "here")
    with pytest.raises(InputError, match="no data set named 'mnits'; did you mean 'mnist'"):
        load("mnits")
    with pytest.raises(InputError, match="no part 'tset'; expected mnist:train or mnist:test"):
        load("mnist:tset")


def test_a_forged_cifar_is_not_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(InputError, match="cifar10 is in none of"):
        load("cifar10:test", data_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_images_are_brought_to_the_smaller_size_and_the_greater_number_of_channels() -> None:
    real, fake = matched(load(tensor(10, 3, 8, 8)), load(tensor(10, 1, 16, 16)))
    assert real.x.shape == fake.x.shape == (10, 3, 8, 8)
    assert torch.equal(fake.x[:, 0], fake.x[:, 2])
    assert any("16 x 16 resized to 8 x 8" in note for note in fake.notes)
    assert any("tripled" in note for note in fake.notes)
    with pytest.raises(InputError, match="differ in size or channels"):
        matched(load(tensor(10, 3, 8, 8)), load(tensor(10, 1, 16, 16)), strict=True)


def test_colour_that_is_all_grey_becomes_one_channel_on_either_side() -> None:
    grey, colour = load(tensor(10, 1, 8, 8)), load(tensor(10, 1, 8, 8).expand(-1, 3, -1, -1))
    for real, fake in (matched(grey, colour), matched(colour, grey)):
        assert real.x.shape == fake.x.shape == (10, 1, 8, 8)
        assert torch.equal(real.x, fake.x)


def test_what_cannot_be_compared_is_said_with_both_shapes() -> None:
    with pytest.raises(InputError, match=r"\(10, 3, 8, 8\).*\(10, 7\).*both images, or both features"):
        matched(load(tensor(10, 3, 8, 8)), load(tensor(10, 7)))
    with pytest.raises(InputError, match="one kind and width"):
        matched(load(tensor(10, 8)), load(tensor(10, 7)))
    with pytest.raises(InputError, match="read it with like="):
        matched(load(tensor(10, 3, 8, 8)), load(tensor(10, 192)))


def test_tables_are_matched_by_their_columns(tmp_path: Path) -> None:
    real = load(table(tmp_path / "a.csv", [f"{i},{'mf'[i % 2]}" for i in range(20)], "age,sex"))
    fake = load(table(tmp_path / "b.csv", [f"x,{i}" for i in range(20)], "sex,age"))
    a, b = matched(real, fake)
    assert a.columns == b.columns == ("age", "sex=f", "sex=m", "sex=x")
    assert b.x[4].tolist() == [4, 0, 0, 1]
    other = load(table(tmp_path / "c.csv", [f"{i}" for i in range(20)], "age"))
    with pytest.raises(InputError, match="the column 'sex=f'"):
        matched(real, other)


def test_labels_are_numbered_as_the_reals_are(tmp_path: Path) -> None:
    def lettered(name: str, letters: str) -> str:
        return f"{table(tmp_path / name, [f'{i},{letters[i % len(letters)]}' for i in range(30)], 'x,y')}:labels=y"

    real, fake = load(lettered("a.csv", "abc")), load(lettered("b.csv", "c"))
    _, b = matched(real, fake)
    assert b.labels is not None
    assert set(b.labels.tolist()) == {2}
    assert matched(real, load(lettered("c.csv", "q")))[1].labels is None


def test_a_large_table_is_drawn_from(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.csv", tensor(500, 5).numpy(), delimiter=",")
    made = load(tmp_path / "a.csv", limit=40)
    assert made.x.shape == (40, 5)
    assert torch.allclose(made.x[0], tensor(500, 5)[int(made.names[0].split()[1]) - 1])
