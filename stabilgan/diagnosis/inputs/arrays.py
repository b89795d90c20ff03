"""Files of numbers - .npy, .npz, .pt, .safetensors - as named blocks that are read in parts; never a pickle."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import memory, sniff
from stabilgan.spec import unknown

ENDINGS = (".npy", ".npz", ".pt", ".pth", ".safetensors")
MAIN = ("images", "samples", "features", "x", "data", "fake", "fakes", "real", "reals", "arr_0", "0")
LABELS = ("labels", "label", "y", "targets", "target", "classes", "arr_1", "1")
PLAIN = "save plain numbers instead, with np.save(file, array) or safetensors"


@dataclass(frozen=True)
class Block:
    """An array that has not been read yet.

    Attributes:
        name: its key in the file; empty where there is one array only.
        shape: of the whole.
        dtype: such as "uint8".
        read: the rows named, as a tensor.
        at_once: reading a part costs as much as reading the whole.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[NDArray[np.int64] | slice], Tensor]
    at_once: bool = False

    @property
    def whole(self) -> bool:
        """Its values are whole numbers."""
        return self.dtype.startswith(("int", "uint", "bool"))


def open_file(path: Path) -> list[Block]:
    """The arrays in a file; its kind is told by what it begins with, not by its name.

    Raises:
        InputError: it can't be read, holds Python objects, or lies about its size; in one line.
    """
    head = sniff.head_of(path)
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path, head)
    if head.startswith(b"\x93NUMPY"):
        return [_npy(path)]
    if head.startswith(b"PK") and path.suffix.lower() in (".npy", ".npz"):
        return _npz(path)
    if path.suffix.lower() in (".pt", ".pth"):
        return _torch(path, head)
    what = sniff.described(head) or "nothing that is known"
    raise InputError(f"{path} is {what}, not an array that NumPy saved; {PLAIN}")


def pick(blocks: list[Block], key: str | None, where: str) -> Block:
    """The block that is meant: the one named, the only one, or the one with a telling name."""
    names = [b.name for b in blocks]
    if key is not None:
        if key not in names:
            raise InputError(f"{where}: {unknown('array', key, names)}")
        return blocks[names.index(key)]
    able = [b for b in blocks if len(b.shape) >= 2] or blocks
    if len(able) == 1:
        return able[0]
    for name in MAIN:
        for block in able:
            if block.name.lower() == name:
                return block
    listed = ", ".join(f"{b.name} {b.shape}" for b in able[:6]) + (" ..." if len(able) > 6 else "")
    raise InputError(f"{where} holds {len(able)} arrays ({listed}); say which: {where}:key={able[0].name}")


def pick_labels(blocks: list[Block], key: str | None, main: Block, where: str) -> Block | None:
    """The block of labels beside `main`: the one named, or one of a telling name and the same length."""
    if key is not None:
        return pick(blocks, key, where)
    for name in LABELS:
        for block in blocks:
            fits = len(block.shape) == 1 and block.shape[:1] == main.shape[:1] and block.whole
            if block.name.lower() == name and fits:
                return block
    return None


def of_tensor(x: Tensor, name: str = "") -> Block:
    """A tensor in memory as a block."""
    if x.is_complex():
        raise InputError(f"{name or 'the tensor'} holds complex numbers; expected real ones (their absolute value?)")
    if x.layout != torch.strided or x.is_quantized or x.device.type == "meta":
        raise InputError(f"{name or 'the tensor'} is sparse, quantized or empty of data; expected a plain tensor")
    still = x.detach()

    def rows(wanted: NDArray[np.int64] | slice) -> Tensor:
        if not still.ndim:
            return still.cpu()
        part = still[wanted] if isinstance(wanted, slice) else still[torch.from_numpy(wanted).to(still.device)]
        return part.cpu()

    return Block(name, tuple(x.shape), str(x.dtype).removeprefix("torch."), rows)


def of_array(x: NDArray[Any], name: str = "") -> Block:
    """A NumPy array, in memory or on disk, as a block."""
    plain(x.dtype, name or "the array")
    wide = np.dtype(np.float64) if x.dtype.kind == "f" and x.dtype.itemsize > 8 else x.dtype.newbyteorder("=")

    def rows(wanted: NDArray[np.int64] | slice) -> Tensor:
        part = np.array(x[wanted], dtype=wide)  # a copy: native, writable, and off the disk
        if wide.kind == "u" and wide.itemsize > 1:
            part = part.astype(np.float64)  # torch can do little with these
        return torch.from_numpy(part)

    return Block(name, tuple(x.shape), wide.name, rows)


def plain(dtype: np.dtype[Any], where: str) -> None:
    """Refuses what is no array of real numbers."""
    if dtype.hasobject:
        raise InputError(f"{where} holds Python objects, which only a pickle can bring back; not loaded; {PLAIN}")
    if dtype.kind == "c":
        raise InputError(f"{where} holds complex numbers; expected real ones (their absolute value?)")
    if dtype.kind not in "biuf":
        raise InputError(f"{where} holds {dtype}, not numbers; {PLAIN}")


def _npy(path: Path) -> Block:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, OverflowError) as error:
        plain(_npy_dtype(path), str(path))
        raise InputError(f"{path} is damaged or cut short: {sniff.one_line(error)}") from None
    return of_array(array)


def _npy_dtype(path: Path) -> np.dtype[Any]:
    try:
        with path.open("rb") as file:
            return _npy_header(file)[1]
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is damaged or cut short: {sniff.one_line(error)}") from None


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    return shape, dtype


def _npz(path: Path) -> list[Block]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [_npz_member(path, archive, entry) for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise InputError(f"{path} is damaged or cut short: {sniff.one_line(error)}") from None


def _npz_member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Block:
    name, where = entry.filename.removesuffix(".npy"), f"{path}: {entry.filename}"
    try:
        with archive.open(entry) as file:
            shape, dtype = _npy_header(file)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{where} is no array: {sniff.one_line(error)}") from None
    plain(dtype, where)
    size = math.prod(shape) * dtype.itemsize
    if not 0 <= entry.file_size - size <= 2**16:
        raise InputError(f"{where} claims {size:,} bytes of numbers and has {entry.file_size:,}: damaged or forged")

    def rows(wanted: NDArray[np.int64] | slice) -> Tensor:
        memory.check(2 * size, where, "save it with np.save as .npy, which is read in parts")
        try:
            with np.load(path, allow_pickle=False) as opened:
                array = opened[name]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{where} is damaged or cut short: {sniff.one_line(error)}") from None
        return of_array(array, name).read(wanted)

    return Block(name, shape, dtype.newbyteorder("=").name, rows, at_once=True)


def _safetensors(path: Path, head: bytes) -> list[Block]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            kinds = {name: str(file.get_slice(name).get_dtype()) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        what = sniff.described(head)
        said = f"it is {what}" if what else sniff.one_line(error)
        raise InputError(f"{path} is no safetensors file, or is damaged: {said}") from None

    def block(name: str) -> Block:
        def rows(wanted: NDArray[np.int64] | slice) -> Tensor:
            with safe_open(path, framework="pt") as file:
                return of_tensor(file.get_tensor(name), name).read(wanted)

        return Block(name, shapes[name], _SAFE.get(kinds[name], kinds[name].lower()), rows, at_once=True)

    return [block(name) for name in names]


_SAFE = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def load_torch(path: Path, head: bytes | None = None) -> Any:
    """What `torch.save` wrote, tensors and plain values only: `weights_only=True`, so that no code in it runs.

    Raises:
        InputError: it holds Python objects, is TorchScript, is no such file, or is damaged; in one line.
    """
    head = sniff.head_of(path) if head is None else head
    zipped, what = head.startswith(b"PK"), sniff.described(head)
    if what and not zipped and "pickle" not in what:
        raise InputError(f"{path} is {what}, not a file that torch.save wrote")
    if zipped and is_torchscript(path):
        raise InputError(f"{path} is a TorchScript program, not numbers; as a model, name it in place of a function")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch has to say of foreign pickles is said below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is not loaded: it is a pickle that names Python objects ({_culprit(error)}), and loading those "
            "runs code; save tensors alone: torch.save(x, file), torch.save(model.state_dict(), file), or safetensors"
        ) from None
    except Exception as error:  # torch's readers raise RuntimeError, EOFError, KeyError, ... on damaged files
        said = sniff.one_line(error, 120)
        said = "its archive has no end" if zipped and not archive_names(path) else said
        raise InputError(f"{path} is no file that torch.save wrote, or is damaged or cut short: {said}") from None


def is_torchscript(path: Path) -> bool:
    """Whether a zip archive holds a TorchScript program."""
    return any(name.endswith("/constants.pkl") for name in archive_names(path))


def archive_names(path: Path) -> list[str]:
    """The names in a zip archive; none where it is damaged or is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def _culprit(error: pickle.UnpicklingError) -> str:
    """What the loader refused, out of its long message."""
    text = sniff.one_line(error, 2000)
    for mark in ("GLOBAL ", "Unsupported global: ", "Unsupported class ", "Unsupported operand "):
        if mark in text:
            name = text.split(mark, 1)[1].split(" was not")[0].split(" whose")[0].split(" which")[0].split(",")[0]
            if all(part.isidentifier() for part in name.strip().split(".")):
                return name.strip()[:80]
    return "Python's own pickle"


def _torch(path: Path, head: bytes) -> list[Block]:
    loaded = load_torch(path, head)
    blocks = list(_tensors(loaded, "", path))
    if not blocks:
        raise InputError(f"{path} holds no tensor but {type(loaded).__name__}; expected a tensor or a dict of tensors")
    return blocks


def _tensors(value: Any, name: str, path: Path) -> Iterable[Block]:
    """Every tensor in a value, nested ones by dotted names."""
    if isinstance(value, Tensor):
        yield of_tensor(value, name)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key), path)
    elif isinstance(value, (list, tuple)):
        shapes = {tuple(v.shape) for v in value if isinstance(v, Tensor)}
        if len(value) > 2 and len(shapes) == 1 and all(isinstance(v, Tensor) for v in value):
            whole = shapes.pop()
            size = len(value) * math.prod(whole) * value[0].element_size()
            memory.check(size, f"{path}: {name or 'a list of tensors'}", "take fewer")
            yield of_tensor(torch.stack(list(value)), name)
        else:
            for i, inner in enumerate(value):
                yield from _tensors(inner, f"{name}.{i}" if name else str(i), path)
