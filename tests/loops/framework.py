"""What the tests of the frameworks' loops share: the loop before stabilgan came, tricks for it, and small data."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor

import stabilgan

EXAMPLES = Path(__file__).parents[2] / "examples"


def before(name: str) -> types.ModuleType:
    """An example without stabilgan: what "# was:" says stands in the next line's place, and no line ends in "# new"."""
    lines, out = iter((EXAMPLES / f"{name}.py").read_text().splitlines()), []
    for line in lines:
        if line.lstrip().startswith("# was: "):
            out.append(line.replace("# was: ", "", 1))
            next(lines)
        elif not line.endswith("# new"):
            out.append(line)
    module = types.ModuleType(f"{name}_before")
    code = "\n".join(out)
    exec(compile(code.split("\ndef main(")[0], name, "exec"), vars(module))  # main, too, uses what is new
    return module


def changed_lines(name: str) -> list[str]:
    """What stands under each "# was:" of an example."""
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    return [after.strip() for line, after in itertools.pairwise(lines) if line.lstrip().startswith("# was: ")]


def run(example: types.ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """The example's command line, on made-up data."""
    monkeypatch.delenv("STABILGAN_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", [f"{example.__name__}.py", *map(str, arguments)])
    example.main()


def patterns(n: int = 130) -> Tensor:
    """(n, 784) in [-1, 1]."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(n, 784, generator=draw) * 2 - 1


def tricks(*, structure: bool = True) -> list[stabilgan.Trick]:
    """A real set: one that stores samples, a penalty, an average, two that build into D, and all detectors."""
    built = [stabilgan.Minibatch(kernels=4, dims=3), stabilgan.SpectralNorm()] if structure else []
    return [
        stabilgan.Replay(size=30),
        stabilgan.R1(weight=1.0),
        stabilgan.EMA(decay=0.9),
        *built,
        stabilgan.Watch(every=2, family="logistic"),
    ]
