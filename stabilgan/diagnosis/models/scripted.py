"""TorchScript files: programs in TorchScript's own small language, which no Python runs."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import sniff

FORBIDDEN = re.compile(r"\b(save|from_file|load_library)\s*\(")
"""What such a program could do to files; a generator has no use for it. Loading may run a module's `__setstate__`."""


def load(path: Path, device: torch.device) -> nn.Module:
    """The module in a TorchScript file.

    Raises:
        InputError: it is damaged, or its code writes or reads files.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if "/code/" in name and name.endswith(".py"):
                    found = FORBIDDEN.search(archive.read(name).decode("utf-8", "replace"))
                    if found:
                        raise InputError(f"{path} is a TorchScript program that calls {found[1]}, on files; not loaded")
        with warnings.catch_warnings(action="ignore"):  # torch's own on TorchScript's future
            module: nn.Module = torch.jit.load(str(path), map_location=device)
    except InputError:
        raise
    except Exception as error:  # torch's reader raises RuntimeError and others on damaged files
        raise InputError(
            f"{path} is no TorchScript file, or is damaged or cut short: {sniff.one_line(error)}"
        ) from None
    return module
