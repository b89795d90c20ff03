"""Where batches come from, in an order that can be saved and taken up again: tensors, loaders, samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]
Sampler = Callable[[int, torch.Generator], Tensor | Sequence[Tensor]]


class Feed(Protocol):
    """An endless stream of batches `(x, *labels)` that knows where it is."""

    def next(self) -> Batch: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def feed(data: Any, batch_size: int, seed: int) -> Feed:
    """The feed for what a user calls data.

    Args:
        data: a tensor or a tuple of tensors (samples, labels, ...), shuffled anew in each epoch, the last batch smaller
            where the sizes don't divide; a function `(n, generator) -> batch` that draws; or an iterable of batches
            such as a DataLoader, begun again at its end (its own batch size holds).
        batch_size: samples in a batch.
        seed: of the order, and of the function's generator.

    Raises:
        TypeError, ValueError: data is none of these, is empty, or its tensors differ in length.
    """
    if isinstance(data, Tensor):
        data = (data,)
    if isinstance(data, (tuple, list)) and data and all(isinstance(t, Tensor) for t in data):
        return TensorFeed(tuple(data), batch_size, seed)
    if callable(data) and not isinstance(data, Iterable):
        return SamplerFeed(data, batch_size, seed)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Iterator)):
        return LoaderFeed(data)
    raise TypeError(
        f"data is a {type(data).__name__}; expected a tensor, a tuple of tensors, a function (n, generator) -> batch, "
        "or an iterable that can be begun again, such as a DataLoader"
    )


class TensorFeed:
    """Tensors that lie in memory, in an order drawn anew for each epoch."""

    def __init__(self, tensors: Batch, batch_size: int, seed: int) -> None:
        lengths = {len(t) for t in tensors}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(f"the data tensors have lengths {sorted(lengths)}; expected one length above 0 for all")
        self.tensors, self.batch_size = tensors, batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.epoch_start = self.generator.get_state()
        order = torch.randperm(len(self.tensors[0]), generator=self.generator)
        self.order = order.to(self.tensors[0].device, non_blocking=True)
        self.position = 0

    def next(self) -> Batch:
        if self.position >= len(self.order):
            self._begin_epoch()
        rows = self.order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return tuple(t.index_select(0, rows) for t in self.tensors)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch_start": self.epoch_start, "position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["epoch_start"])
        self._begin_epoch()
        self.position = state["position"]


class SamplerFeed:
    """A function that draws as many samples as it is asked for, from a generator of the feed's own."""

    def __init__(self, draw: Sampler, batch_size: int, seed: int) -> None:
        self.draw, self.batch_size = draw, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def next(self) -> Batch:
        batch = self.draw(self.batch_size, self.generator)
        return (batch,) if isinstance(batch, Tensor) else tuple(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class LoaderFeed:
    """An iterable of batches, begun again at its end; taken up by replaying the epoch's start and skipping.

    A DataLoader shuffles with its own generator or with torch's global one: the state of both at the epoch's start
    is kept, so that the same order comes back. Random transforms in worker processes are beyond what it can replay.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.iterator: Iterator[Any] | None = None
        self.taken = 0
        self.epoch_start: dict[str, Tensor] = {}

    def _generators(self) -> dict[str, torch.Generator]:
        own = getattr(self.loader, "generator", None)
        return {"global": torch.default_generator} | ({"own": own} if own is not None else {})

    def _begin_epoch(self) -> None:
        self.epoch_start = {name: generator.get_state() for name, generator in self._generators().items()}
        self.iterator, self.taken = iter(self.loader), 0

    def next(self) -> Batch:
        if self.iterator is None:
            self._begin_epoch()
        assert self.iterator is not None
        try:
            batch = next(self.iterator)
        except StopIteration:
            if self.taken == 0:
                raise ValueError(
                    "the data loader gave no batch at all; is its data set smaller than one batch?"
                ) from None
            self._begin_epoch()
            batch = next(self.iterator)
        self.taken += 1
        return (batch,) if isinstance(batch, Tensor) else tuple(batch)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch_start": self.epoch_start, "taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state["epoch_start"]:
            return
        generators = self._generators()
        here = {name: g.get_state() for name, g in generators.items()}
        for name, g in generators.items():
            g.set_state(state["epoch_start"][name])
        self._begin_epoch()
        assert self.iterator is not None
        for _ in range(state["taken"]):
            next(self.iterator)
        self.taken = state["taken"]
        torch.default_generator.set_state(here["global"])
