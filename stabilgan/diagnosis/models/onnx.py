"""ONNX files, run by onnxruntime: graphs of known operators, no Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import sniff

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class OnnxModel:
    """A graph to be called with tensors, one for each of its inputs.

    Attributes:
        takes: the shape of each input without the batch; a size that is left open is 1.
        batch: the size of a batch, where the file fixes it.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self.inputs = session.get_inputs()
        self.takes = tuple(tuple(s if isinstance(s, int) else 1 for s in i.shape[1:]) for i in self.inputs)
        batch = self.inputs[0].shape[0] if self.inputs[0].shape else None
        self.batch = batch if isinstance(batch, int) else None

    def __call__(self, *given: Tensor) -> Tensor:
        """Runs it once; no gradients."""
        feed = {
            i.name: np.ascontiguousarray(g.detach().cpu().numpy().astype(_TYPES.get(i.type, np.float32)))
            for i, g in zip(self.inputs, given, strict=True)
        }
        return torch.from_numpy(np.array(self.session.run(None, feed)[0]))


def load(path: Path) -> OnnxModel:
    """The graph in an ONNX file.

    Raises:
        InputError: onnxruntime isn't there, or the file is damaged, or wants more than numbers.
    """
    head = sniff.head_of(path)
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: ONNX needs onnxruntime: pip install 'stabilgan[diagnose]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        if not session.get_inputs():
            raise InputError(f"{path} takes no input; expected a generator of latents")
        return OnnxModel(session)
    except InputError:
        raise
    except Exception as error:  # onnxruntime's own exceptions share no class
        what = sniff.described(head)
        raise InputError(
            f"{path} is no ONNX file that can be run: {f'it is {what}' if what else sniff.one_line(error, 120)}"
        ) from None
