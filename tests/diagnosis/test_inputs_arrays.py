"""Arrays: layouts and ranges found and said, hostile files refused in one line, and no payload ever run."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from input_files import Payload, noise, tensor
from safetensors.torch import save_file

from stabilgan.diagnosis import InputError
from stabilgan.diagnosis.inputs import Samples, load


def said(samples: Samples) -> str:
    return "; ".join(samples.notes)


def refused(what: Any, match: str, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as error:
        load(what, **options)
    assert "\n" not in str(error.value)


def test_every_format_gives_the_same_samples(tmp_path: Path) -> None:
    x = noise(12, 3, 8, 8)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    np.savez_compressed(tmp_path / "c.npz", x=x)
    torch.save(torch.from_numpy(x), tmp_path / "x.pt")
    torch.save({"x": torch.from_numpy(x), "epoch": 3}, tmp_path / "d.pth")
    torch.save(torch.from_numpy(x), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file({"x": torch.from_numpy(x)}, tmp_path / "x.safetensors")
    expected = torch.from_numpy(x).float() / 255
    for name in ("x.npy", "x.npz", "c.npz", "x.pt", "d.pth", "old.pt", "x.safetensors"):
        made = load(tmp_path / name)
        assert torch.allclose(made.x, expected), name
        assert made.kind == "images"
    assert torch.equal(load(x).x, load(torch.from_numpy(x)).x)


def test_a_drawn_part_is_the_same_from_every_format(tmp_path: Path) -> None:
    x = tensor(50, 7)
    np.save(tmp_path / "x.npy", x.numpy())
    np.savez(tmp_path / "x.npz", x=x.numpy())
    torch.save(x, tmp_path / "x.pt")
    save_file({"x": x}, tmp_path / "x.safetensors")
    parts = [load(tmp_path / f"x.{e}", limit=20) for e in ("npy", "npz", "pt", "safetensors")]
    rows = [int(name.removeprefix("row ")) for name in parts[0].names]
    assert all(torch.equal(part.x, x[rows]) for part in parts)
    assert "20 of 50 rows taken" in said(parts[0])


def test_an_npy_file_larger_than_the_part_taken_is_mapped_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5000, 100), np.float32))
    monkeypatch.setattr("stabilgan.diagnosis.inputs.memory.machine", lambda: 500_000)
    refused(tmp_path / "x.npy", "take fewer with limit")
    assert len(load(tmp_path / "x.npy", limit=100)) == 100


def test_channels_last_are_found_and_turned() -> None:
    x = noise(10, 8, 6, 3)
    made = load(x)
    assert made.x.shape == (10, 3, 8, 6)
    assert torch.equal(made.x[:, 1] * 255, torch.from_numpy(x[..., 1]).float())
    assert "(N, H, W, C)" in said(made)
    assert load(noise(10, 8, 6, 1)).x.shape == (10, 1, 8, 6)
    assert load(noise(10, 3, 8, 3)).x.shape == (10, 3, 8, 3)


def test_alpha_is_dropped_and_said() -> None:
    made = load(noise(10, 4, 8, 8))
    assert made.x.shape == (10, 3, 8, 8)
    assert "alpha" in said(made)


def test_three_dimensions_are_grey_images_and_two_are_features_or_points() -> None:
    assert load(noise(10, 8, 9)).x.shape == (10, 1, 8, 9)
    assert load(tensor(10, 64)).kind == "features"
    assert load(tensor(10, 2)).kind == "points"


def test_rows_of_784_in_a_range_of_images_are_mnist() -> None:
    made = load(tensor(10, 784) * 2 - 1)
    assert made.x.shape == (10, 1, 28, 28)
    assert "taken as images" in said(made)
    assert load(tensor(10, 784) * 9).kind == "features"


def test_rows_become_images_of_the_reals_size() -> None:
    real = load(tensor(10, 3, 8, 8))
    assert load(tensor(10, 192), like=real).x.shape == (10, 3, 8, 8)


def test_the_kind_may_be_given(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", tensor(10, 784).numpy())
    assert load(f"{tmp_path / 'x.npy'}:kind=features").kind == "features"
    np.save(tmp_path / "y.npy", tensor(10, 64).numpy())
    assert load(f"{tmp_path / 'y.npy'}:kind=images").x.shape == (10, 1, 8, 8)
    refused(f"{tmp_path / 'y.npy'}:kind=imges", "did you mean 'images'")


@pytest.mark.parametrize(
    ("x", "scale"),
    [
        (tensor(10, 3, 8, 8), (0, 1)),
        (tensor(10, 3, 8, 8) * 2 - 1, (-1, 1)),
        (tensor(10, 3, 8, 8) * 2.06 - 1.03, (-1, 1)),
        (tensor(10, 3, 8, 8) * 255, (0, 255)),
        (tensor(10, 3, 8, 8).half(), (0, 1)),
        (tensor(10, 3, 8, 8).bfloat16(), (0, 1)),
        (tensor(10, 3, 8, 8).double(), (0, 1)),
        (torch.from_numpy(noise(10, 3, 8, 8)), (0, 255)),
        (torch.from_numpy(noise(10, 3, 8, 8)).int(), (0, 255)),
        (tensor(10, 3, 8, 8) > 0.5, (0, 1)),
        ((tensor(10, 3, 8, 8) > 0.5).to(torch.uint8), (0, 1)),
        ((tensor(10, 3, 8, 8) * 65535).int(), (0, 65535)),
    ],
)
def test_the_range_is_found_and_stated(x: torch.Tensor, scale: tuple[float, float]) -> None:
    made = load(x)
    assert made.scale == scale
    low, high = scale
    assert torch.allclose(made.x, ((x.float() - low) / (high - low)).clamp(0, 1), atol=1e-3)
    assert f"[{low}, {high}]" in said(made) or "0 or 1" in said(made)


def test_a_range_may_be_given_and_what_lies_outside_is_counted(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((10, 1, 4, 4), 3.0, np.float32))
    made = load(f"{tmp_path / 'x.npy'}:range=-2,2")
    assert made.scale == (-2, 2)
    assert made.outside == 1.0
    assert "100.00% of the values lie outside" in said(made)
    refused(f"{tmp_path / 'x.npy'}:range=2", "expected two numbers")


def test_a_collapsed_generator_of_few_values_is_in_the_range_of_the_reals() -> None:
    real = load(tensor(10, 1, 8, 8) * 2 - 1)
    constant = torch.full((10, 1, 8, 8), 0.5)
    assert load(constant, like=real).x.unique().tolist() == [0.75]
    assert load(tensor(10, 1, 8, 8), like=real).scale == (0, 1)


def test_images_normalised_in_a_way_of_their_own_are_scaled_and_said() -> None:
    x = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2
    real = load(x)
    assert "no known range" in said(real)
    assert real.x.min() == 0
    assert real.x.max() == 1
    assert load(x * 1.01, like=real).scale == real.scale


def test_nan_and_infinity_are_refused_with_their_rows_or_kept_and_named() -> None:
    x = tensor(12, 3, 8, 8)
    x[3, 0, 0, 0], x[7, 1, 1, 1] = torch.nan, torch.inf
    refused(x, r"nan or infinity in 2 of 12 rows, the first at \[3, 7\]")
    made = load(x, allow_nonfinite=True)
    assert made.nonfinite == (3, 7)
    assert (~made.x.flatten(1).isfinite().all(1)).nonzero().flatten().tolist() == [3, 7]
    assert made.scale == (0, 1)
    assert "2 of 12 rows" in said(made)
    assert load(torch.full((10, 1, 8, 8), torch.nan), allow_nonfinite=True).nonfinite == tuple(range(10))
    assert load(torch.full((10, 3), torch.inf), allow_nonfinite=True).nonfinite == tuple(range(10))


def test_numbers_too_large_for_float32_count_as_infinite() -> None:
    x = np.full((10, 3), 1e300)
    refused(x, "infinity in 10 of 10 rows")


def test_wrong_shapes_say_what_is_expected() -> None:
    refused(torch.tensor(3.0), "a single number")
    refused(tensor(10), r"has shape \(10,\), a list of numbers; expected \(N, d\)")
    refused(tensor(2, 3, 4, 8, 8), "5 dimensions, as videos have")
    refused(tensor(10, 7, 8, 8), r"with 1, 3 or 4 channels")
    refused(tensor(10, 0), "at least one value")
    refused(tensor(0, 3, 8, 8), "has 0 samples")
    refused(tensor(10, 61), "no square images", kind="images")


def test_complex_numbers_texts_and_sparse_tensors_are_refused() -> None:
    refused(np.zeros((10, 3), complex), "complex")
    refused(torch.zeros(10, 3, dtype=torch.complex64), "complex")
    refused(np.full((10, 3), "a"), "not numbers")
    refused(torch.zeros(10, 3).to_sparse(), "sparse")
    refused(torch.zeros(10, 3, device="meta"), "empty of data")
    refused([[1, 2]], "a list; expected a path")


def test_other_byte_orders_and_fortran_order_are_read(tmp_path: Path) -> None:
    x = np.asfortranarray(tensor(10, 5).numpy().astype(">f4"))
    np.save(tmp_path / "x.npy", x)
    assert torch.equal(load(tmp_path / "x.npy").x, torch.from_numpy(x.astype(np.float32)))


def test_a_file_of_several_arrays_wants_a_key_or_a_telling_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", alpha=tensor(10, 3).numpy(), beta=tensor(11, 4).numpy())
    refused(tmp_path / "a.npz", r"holds 2 arrays \(alpha \(10, 3\), beta \(11, 4\)\); say which: .*a\.npz:key=alpha")
    assert load(f"{tmp_path / 'a.npz'}:key=beta").x.shape == (11, 4)
    refused(f"{tmp_path / 'a.npz'}:key=betta", "did you mean 'beta'")
    refused(f"{tmp_path / 'a.npz'}:kye=beta", "did you mean 'key'")
    np.savez(tmp_path / "b.npz", samples=tensor(10, 3).numpy(), other=tensor(10, 4).numpy())
    assert load(tmp_path / "b.npz").x.shape == (10, 3)


def test_labels_beside_an_array_are_found_or_named(tmp_path: Path) -> None:
    y = torch.arange(20) % 4
    torch.save({"images": tensor(20, 3, 8, 8), "labels": y}, tmp_path / "a.pt")
    made = load(tmp_path / "a.pt")
    assert made.labels is not None
    assert torch.equal(made.labels, y)
    some = load(tmp_path / "a.pt", limit=10)
    assert some.labels is not None
    assert some.labels.tolist() == [int(name.split()[1]) % 4 for name in some.names]
    torch.save({"images": tensor(20, 3, 8, 8), "mine": y}, tmp_path / "b.pt")
    assert load(tmp_path / "b.pt").labels is None
    assert load(f"{tmp_path / 'b.pt'}:key=images:labels=mine").labels is not None
    refused(tensor(20, 3), "5 labels for 20 samples", labels=[0] * 5)
    refused(tensor(20, 3), "expected 0, 1, 2", labels=[-1] * 20)


def test_a_list_of_images_is_stacked(tmp_path: Path) -> None:
    torch.save([tensor(3, 8, 8) for _ in range(12)], tmp_path / "a.pt")
    assert load(tmp_path / "a.pt").x.shape == (12, 3, 8, 8)


# what runs code where it is loaded without care


def test_the_payload_would_run_if_it_were_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_no_pickle_in_any_array_file_is_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    evil = Payload(ran)
    objects = np.empty(12, dtype=object)
    objects[:] = [evil] * 12
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=objects)
    torch.save(evil, tmp_path / "c.pt")
    torch.save({"x": tensor(12, 3), "y": evil}, tmp_path / "d.pth")
    torch.save(evil, tmp_path / "e.pt", _use_new_zipfile_serialization=False)
    for name in ("f.pt", "g.npy", "h.npz", "i.safetensors", "j.pkl", "k.csv", "l.parquet", "m.zip"):
        (tmp_path / name).write_bytes(pickle.dumps(evil))
    with zipfile.ZipFile(tmp_path / "n.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(evil))
    with zipfile.ZipFile(tmp_path / "o.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(evil))
        archive.writestr("archive/version", "3\n")
    files = sorted(path for path in tmp_path.iterdir() if path.is_file())
    assert len(files) == 15
    for path in files:
        refused(
            path, r"Python objects|pickle|damaged|not a zip archive|no array|binary|not a file that torch.save wrote"
        )
    assert not ran.exists()


def test_object_arrays_and_pickles_say_how_to_save_instead(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}] * 12, dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy", "holds Python objects.*save plain numbers")
    torch.save(Payload(tmp_path / "ran"), tmp_path / "b.pt")
    refused(tmp_path / "b.pt", r"names Python objects \(\w+\.mkdir\).*save tensors alone")
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(3))
    refused(tmp_path / "c.pkl", "a pickle, and loading one runs the code in it")


@pytest.mark.parametrize("protocol", range(1, 6))
def test_a_pickle_of_any_protocol_is_refused_by_what_it_names_and_torch_says_nothing_beside(
    protocol: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=protocol))
    refused(tmp_path / "a.pt", r"names Python objects \((\w+\.mkdir|Python's own pickle)\).*save tensors alone")
    assert not recwarn.list
    assert not (tmp_path / "ran").exists()


def test_a_structured_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(12, dtype=[("a", "f4"), ("b", "i4")]))
    refused(tmp_path / "a.npy", "not numbers")


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def test_headers_that_promise_more_than_there_is_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(npy_header((10**9, 10**6)) + bytes(100))
    refused(tmp_path / "a.npy", "damaged or cut short")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", npy_header((10**9, 10**6)) + bytes(100))
    refused(tmp_path / "b.npz", "damaged or forged")
    (tmp_path / "c.npy").write_bytes(npy_header((12, 3))[:20])
    refused(tmp_path / "c.npy", "damaged or cut short")
    for claimed in ([12, 3], [10**9, 10**6]):
        header = json.dumps({"x": {"dtype": "F32", "shape": claimed, "data_offsets": [0, 10**15]}}).encode()
        (tmp_path / "d.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(144))
        refused(tmp_path / "d.safetensors", "no safetensors file, or is damaged")
    (tmp_path / "e.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    refused(tmp_path / "e.safetensors", "no safetensors file, or is damaged")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000), np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 5000
    monkeypatch.setattr("stabilgan.diagnosis.inputs.memory.machine", lambda: 3_000_000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("unpacked"))
    refused(tmp_path / "a.npz", r"would take .* GiB of memory", limit=10)


def test_a_tensor_that_repeats_one_value_many_times_is_measured_before_it_is_made(tmp_path: Path) -> None:
    torch.save(torch.zeros(1).expand(10**9, 10**4), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "take fewer with limit")
    assert load(tmp_path / "a.pt", limit=20).x.shape == (20, 10**4)


def test_truncated_empty_and_mistaken_files_say_what_they_are(tmp_path: Path) -> None:
    torch.save(tensor(100, 50), tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:2000])
    refused(tmp_path / "a.pt", "damaged or cut short")
    np.savez(tmp_path / "b.npz", x=tensor(100, 50).numpy())
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:2000])
    refused(tmp_path / "b.npz", "damaged or cut short")
    for name in ("c.npy", "c.npz", "c.pt", "c.safetensors", "c.csv", "c.parquet"):
        (tmp_path / name).write_text("<!DOCTYPE html><html>Not found</html>")
        refused(tmp_path / name, "an HTML page")
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, "empty")
    (tmp_path / "d.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    refused(tmp_path / "d.pt", "git-lfs pointer")
    (tmp_path / "e.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    refused(tmp_path / "e.h5", r"an HDF5 file, can't be read; expected a folder")


def test_a_dict_without_tensors_says_so(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "holds no tensor but dict")


def test_a_missing_path_is_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    np.save(tmp_path / "fakes.npy", tensor(10, 3).numpy())
    refused(tmp_path / "fake.npy", r"there is no file or folder .*fake\.npy; did you mean .*fakes\.npy")
    refused("", "a path is missing")
    refused("a" * 5000, "no file or folder")
    refused("a\0b", "no file or folder")


def test_a_path_with_colons_in_it_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "a:key=x.npy"
    np.save(path, tensor(10, 3).numpy())
    assert len(load(path)) == 10


def test_rows_are_counted_as_they_are_read() -> None:
    heard: list[tuple[str, int, int]] = []
    load(tensor(20, 3), progress=lambda *now: heard.append(now))
    assert heard == [("rows", 20, 20)]


def test_the_tensor_given_is_not_written_to() -> None:
    x = tensor(10, 3, 8, 8) * 2 - 1
    before = x.clone()
    load(x)
    assert torch.equal(x, before)
