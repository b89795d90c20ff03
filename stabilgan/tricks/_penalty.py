"""What penalties share: a weight, how often they are asked for, and numbers of their own to draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan.game import Game, Trick


class Penalty(Trick):
    """A term of a player's loss, `weight` strong, asked for on every n-th step and then n-fold."""

    off: ClassVar[Mapping[str, Any] | None] = {"weight": 0.0}

    def __init__(self, weight: float, every: int) -> None:
        if weight < 0:
            raise ValueError(f"{self.name}: weight is {weight}; expected 0 or more")
        if every < 1:
            raise ValueError(f"{self.name}: every is {every}; expected 1 or more")
        self.weight, self.every = weight, every


class Draws(Trick):
    """A trick that draws; its generator is its own, and goes on after a resume where it was."""

    _generator: torch.Generator | None = None

    def setup(self, game: Game) -> None:
        self._generator = game.generator(self)

    def uniform(self, *shape: int, like: Tensor) -> Tensor:
        """Numbers from 0 to 1, of the type and on the device of another tensor."""
        return _beside(torch.rand(shape, generator=self._generator), like)

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """Standard normal numbers, of the type and on the device of another tensor."""
        return _beside(torch.randn(shape, generator=self._generator), like)

    def whole(self, low: int, high: int, n: int, like: Tensor) -> Tensor:
        """(n,) whole numbers from `low` to `high`, both included, on the device of another tensor."""
        return torch.randint(low, high + 1, (n,), generator=self._generator).to(like.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._generator is None else {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._generator is not None:
            self._generator.set_state(state["generator"].cpu())


def _beside(drawn: Tensor, like: Tensor) -> Tensor:
    return drawn.to(like.device, like.dtype, non_blocking=True)
