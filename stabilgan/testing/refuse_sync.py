"""A guard that shows on a CPU where a step would make the host wait for a GPU."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RefuseSync(TorchDispatchMode):
    """Refuses the operations by which the host asks the device for a value, or for a size that depends on values.

    Raises:
        AssertionError: such an operation, by its name.
    """

    asks: ClassVar = (
        "aten::_local_scalar_dense",
        "aten::nonzero",
        "aten::is_nonzero",
        "aten::equal",
        "aten::masked_select",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::unique_consecutive",
    )
    indexed: ClassVar = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        masks = (
            [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if name in self.indexed
            else []
        )
        if name in self.asks or masks:
            raise AssertionError(f"{name} inside a step makes the host wait for the device")
        return func(*args, **(kwargs or {}))
