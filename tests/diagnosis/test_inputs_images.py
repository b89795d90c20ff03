"""Folders and archives of images: what is read, converted, left out, and never decoded."""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from input_files import folder_of, noise
from PIL import Image

from stabilgan.diagnosis import InputError
from stabilgan.diagnosis.inputs import Samples, load


def said(samples: Samples) -> str:
    return "; ".join(samples.notes)


def reason(samples: Samples, name: str) -> str:
    return dict(samples.skipped)[name]


def test_a_folder_becomes_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    made = load(folder_of(tmp_path, 12))
    assert made.kind == "images"
    assert made.x.shape == (12, 3, 6, 8)
    assert made.names == tuple(f"{i:03}.png" for i in range(12))
    expected = torch.from_numpy(noise(12, 6, 8, 3)).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(made.x, expected)
    assert not made.skipped


def test_sub_folders_are_classes_if_every_image_lies_in_one(tmp_path: Path) -> None:
    for name in ("cat", "dog", "emu"):
        folder_of(tmp_path / name, 4)
    made = load(tmp_path)
    assert made.classes == ("cat", "dog", "emu")
    assert made.labels is not None
    assert made.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    folder_of(tmp_path, 1)
    assert load(tmp_path).labels is None


def test_one_folder_round_the_classes_is_seen_through(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder_of(tmp_path / "train" / name, 6)
    assert load(tmp_path).classes == ("a", "b")


def test_endings_in_capitals_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    folder_of(tmp_path, 12, ending=".PNG")
    (tmp_path / "._000.PNG").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    folder_of(tmp_path / "__MACOSX", 3)
    made = load(tmp_path)
    assert len(made) == 12
    assert not made.skipped


def test_broken_files_are_left_out_and_named_with_reasons(tmp_path: Path) -> None:
    folder_of(tmp_path, 12)
    whole = (tmp_path / "000.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "zero.png").touch()
    (tmp_path / "page.png").write_text("<!DOCTYPE html><html><p>404</p></html>")
    (tmp_path / "text.jpg").write_text("this is no image\n")
    (tmp_path / "pickle.png").write_bytes(b"\x80\x04\x95\x00")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe.png")
    made = load(tmp_path)
    assert len(made) == 12
    assert "truncated" in reason(made, "cut.png")
    assert "empty" in reason(made, "zero.png")
    assert "HTML" in reason(made, "page.png")
    assert "text" in reason(made, "text.jpg")
    assert "pickle" in reason(made, "pickle.png")
    assert "broken link" in reason(made, "link.png")
    assert "not a regular file" in reason(made, "pipe.png")
    assert "7 files of 19 left out" in said(made)


def test_an_unreadable_file_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, 12)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "000.png")  # root may read everything
    assert "permission" in reason(load(tmp_path), "000.png")


def test_strict_makes_anything_left_out_an_error(tmp_path: Path) -> None:
    folder_of(tmp_path, 12)
    assert len(load(tmp_path, strict=True)) == 12
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(InputError, match=r"1 file can't be used \(strict\): page.png: an HTML page"):
        load(tmp_path, strict=True)


def test_a_link_to_the_folder_itself_ends(tmp_path: Path) -> None:
    folder_of(tmp_path, 12)
    os.symlink(tmp_path, tmp_path / "loop")
    os.symlink(tmp_path / "self", tmp_path / "self")
    made = load(tmp_path)
    assert len(made) == 12
    assert "not followed" in said(made)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than anyone should decode."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (10_000, 9_000)])
def test_a_decompression_bomb_is_left_out_by_name(tmp_path: Path, width: int, height: int) -> None:
    folder_of(tmp_path, 12)
    (tmp_path / "bomb.png").write_bytes(bomb(width, height))
    made = load(tmp_path)
    assert len(made) == 12
    assert "bomb" in reason(made, "bomb.png")


def test_sixteen_bits_become_eight_by_value_not_by_cutting(tmp_path: Path) -> None:
    wide = np.linspace(0, 65535, 48).reshape(6, 8).astype(np.uint16)
    for i in range(10):
        Image.fromarray(wide).save(tmp_path / f"{i}.png")
    made = load(tmp_path)
    assert made.x.shape == (10, 1, 6, 8)
    assert (made.x[0, 0] - torch.from_numpy(wide / 65535).float()).abs().max() <= 0.5 / 255 + 1e-6
    assert "16-bit" in said(made)


def test_32_bit_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, 12)
    Image.fromarray(np.ones((6, 8), np.float32)).save(tmp_path / "float.tif")
    assert "32-bit" in reason(load(tmp_path), "float.tif")


def test_modes_are_converted_and_said(tmp_path: Path) -> None:
    folder_of(tmp_path, 12)
    picture = Image.open(tmp_path / "000.png")
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("P").save(tmp_path / "palette.png")
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg")
    picture.putalpha(128)
    picture.save(tmp_path / "alpha.png")
    made = load(tmp_path)
    assert made.x.shape == (16, 3, 6, 8)
    for words in ("1 grey images", "palette", "CMYK", "alpha, dropped"):
        assert words in said(made)
    place = {name: i for i, name in enumerate(made.names)}
    assert torch.equal(made.x[place["alpha.png"]], made.x[0])
    grey = made.x[place["grey.png"]]
    assert torch.equal(grey[0], grey[2])


def test_a_folder_of_grey_images_has_one_channel(tmp_path: Path) -> None:
    folder_of(tmp_path, 12, colour=False)
    assert load(tmp_path).x.shape == (12, 1, 6, 8)
    first = Image.open(tmp_path / "000.png").convert("P")
    first.save(tmp_path / "palette.png")
    assert load(tmp_path).x.shape == (13, 1, 6, 8)


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((6, 8), v, np.uint8)) for v in (0, 255)]
    for i in range(10):
        frames[0].save(tmp_path / f"{i}.gif", save_all=True, append_images=frames[1:])
    made = load(tmp_path)
    assert made.x.max() == 0
    assert "first frame" in said(made)


def test_exif_orientation_is_left_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(10):
        Image.fromarray(noise(1, 6, 8, 3)[0]).save(tmp_path / f"{i}.jpg", exif=exif)
    assert load(tmp_path).x.shape == (10, 3, 6, 8)


def test_mixed_sizes_take_the_commonest_or_are_refused_when_strict(tmp_path: Path) -> None:
    folder_of(tmp_path, 12)
    Image.fromarray(np.full((12, 16, 3), 77, np.uint8)).save(tmp_path / "big.png")
    made = load(tmp_path)
    assert made.x.shape == (13, 3, 6, 8)
    assert "1 image resized to 8 x 6, the commonest of" in said(made)
    assert (made.x[-1] * 255).round().unique().tolist() == [77]
    with pytest.raises(InputError, match="several sizes"):
        load(tmp_path, strict=True)
    assert load(f"{tmp_path}:size=5").x.shape == (13, 3, 5, 5)


def test_an_empty_folder_and_one_of_text_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images in .*looked in all sub-folders for \.png.*it is empty"):
        load(tmp_path)
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text("x")
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"it holds 3 \.txt, 1 \.npy; to read a \.npy file, name the file"):
        load(tmp_path)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_are_too_few_and_the_reason_is_said(tmp_path: Path, n: int) -> None:
    with pytest.raises(InputError, match=rf"has {n} samples?; expected at least 10: fewer have"):
        load(folder_of(tmp_path, n))


def test_a_folder_in_which_nothing_can_be_used_says_why(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.png").write_text("<html>")
    with pytest.raises(InputError, match=r"none of its 5 image files can be used: 0\.png: an HTML page"):
        load(tmp_path)


def test_limit_draws_the_same_files_for_the_same_seed(tmp_path: Path) -> None:
    folder_of(tmp_path, 30)
    first, again, other = load(tmp_path, limit=12), load(tmp_path, limit=12), load(tmp_path, limit=12, seed=1)
    assert first.names == again.names
    assert first.names != other.names
    assert "12 of 30 images taken, drawn with seed 0" in said(first)


def test_a_zip_archive_is_read_without_being_unpacked(tmp_path: Path) -> None:
    folder_of(tmp_path / "a", 12)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted((tmp_path / "a").iterdir()):
            archive.write(file, f"../../{file.name}")
        archive.writestr("__MACOSX/._000.png", b"x")
        archive.writestr("page.png", "<html>")
    made = load(tmp_path / "a.zip")
    assert torch.equal(made.x, load(tmp_path / "a").x)
    assert "HTML" in reason(made, "page.png")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:300])
    with pytest.raises(InputError, match="not a zip archive that can be read"):
        load(tmp_path / "cut.zip")


def test_progress_counts_headers_and_images(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    load(folder_of(tmp_path, 12), progress=lambda *now: heard.append(now))
    assert heard == [("headers", 12, 12), ("images", 12, 12)]


def test_an_image_alone_is_no_set_of_samples(tmp_path: Path) -> None:
    folder_of(tmp_path, 1)
    with pytest.raises(InputError, match="a single image; expected a folder"):
        load(tmp_path / "000.png")


def test_images_that_are_all_alike_load_well(tmp_path: Path) -> None:
    for i in range(10):
        Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / f"{i}.png")
    assert load(tmp_path).x.unique().numel() == 1


def test_postscript_is_not_handed_to_another_program(tmp_path: Path) -> None:
    folder_of(tmp_path, 12)
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    assert "not an image" in reason(load(tmp_path), "script.png")


def test_images_that_would_not_fit_into_memory_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stabilgan.diagnosis.inputs.memory.machine", lambda: 5000)
    with pytest.raises(InputError, match=r"take fewer with limit, or smaller ones with :size=64"):
        load(folder_of(tmp_path, 12))
