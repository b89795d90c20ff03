"""How a measure of whole sets meets data that come in batches: keep the features, measure when asked."""

from collections.abc import Callable
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class PairMeter(Generic[Result]):
    """A measure of fakes against reals over batches: `update` with each, `compute` when asked.

    Features stay on their device. `merge` adds what another process or machine has seen, `state_dict` is what to send.

    >>> meter = PairMeter(lambda real, fake: len(real) - len(fake))
    >>> meter.update(real=torch.zeros(3, 2)).update(fake=torch.zeros(1, 2), real=torch.zeros(1, 2)).compute()
    3
    """

    def __init__(self, measure: Callable[[Tensor, Tensor], Result]) -> None:
        self.measure = measure
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        self.real: list[Tensor] = []
        self.fake: list[Tensor] = []

    def update(self, *, real: Tensor | None = None, fake: Tensor | None = None) -> Self:
        """Add a batch of real samples, of fake ones, or of both."""
        self.real += [] if real is None else [real.detach()]
        self.fake += [] if fake is None else [fake.detach()]
        return self

    def merge(self, other: Self) -> Self:
        """Add what another meter has seen."""
        self.real += other.real
        self.fake += other.fake
        return self

    def compute(self) -> Result:
        """Measure everything seen so far. Raises ValueError if one of the sets is still empty."""
        return self.measure(_joined(self.real, "real"), _joined(self.fake, "fake"))

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Everything seen so far, as tensors."""
        return {"real": list(self.real), "fake": list(self.fake)}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from a `state_dict`."""
        self.real, self.fake = list(state["real"]), list(state["fake"])


class SetMeter(Generic[Result]):
    """A measure of one set over batches, such as the diversity of fakes alone.

    >>> SetMeter(len).update(torch.zeros(3, 2)).update(torch.zeros(2, 2)).compute()
    5
    """

    def __init__(self, measure: Callable[[Tensor], Result]) -> None:
        self.measure = measure
        self.reset()

    def reset(self) -> None:
        """Forget every batch."""
        self.x: list[Tensor] = []

    def update(self, x: Tensor) -> Self:
        """Add a batch of samples."""
        self.x.append(x.detach())
        return self

    def merge(self, other: Self) -> Self:
        """Add what another meter has seen."""
        self.x += other.x
        return self

    def compute(self) -> Result:
        """Measure everything seen so far. Raises ValueError if nothing was."""
        return self.measure(_joined(self.x, "x"))

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Everything seen so far, as tensors."""
        return {"x": list(self.x)}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from a `state_dict`."""
        self.x = list(state["x"])


def _joined(parts: list[Tensor], name: str) -> Tensor:
    if not parts:
        raise ValueError(f"no {name} samples were given; call update with {name} before compute")
    return torch.cat(parts)
