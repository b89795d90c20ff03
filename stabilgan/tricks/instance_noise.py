"""Instance noise: Gaussian noise on all that D sees, which fades as training goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from stabilgan.game import Critic, Game, Trick
from stabilgan.tricks._draws import Draws

Decay = Literal["linear", "exponential", "constant"]


def faded(std: float, step: int, steps: int, decay: Decay = "linear") -> float:
    """How strong the noise is at a step of D.

    Args:
        std: at step 0.
        step: steps that D has made.
        steps: linear noise is gone then; exponential noise is down to a thousandth.

    >>> faded(0.2, 50, 100), faded(0.2, 100, 100), faded(0.2, 999, 100)
    (0.1, 0.0, 0.0)
    >>> round(faded(0.2, 100, 100, "exponential"), 7)
    0.0002
    """
    if decay == "constant":
        return std
    if decay == "exponential":
        return std * math.pow(1e-3, step / steps)
    return std * max(0.0, 1 - step / steps)


class InstanceNoise(Trick):
    """Blurs real and fake alike, so that they overlap and D can't win outright; the blur fades.

    Adds ε ~ N(0, σ² I) to what D sees as real, as fake, and in G's turn, drawn anew each time (Arjovsky & Bottou 2017,
    arXiv:1701.04862, Sec. 3; Sønderby et al. 2016, arXiv:1610.04490, Appendix). σ falls in a line to nothing over
    `steps` steps of D. Penalties look at the noisy samples.

    Args:
        std: σ at the start, at least 0, in the units of the samples: 0.1 for data in [-1, 1]. It should be of the
            order of the distance between real and fake.
        steps: at least 1; where σ is 0 (linear) or std/1000 (exponential). Choose the length of your run: this default
            and that of `std` are of no paper.
        decay: "linear", "exponential" or "constant".

    Raises:
        ValueError: an option out of range.
        TypeError: samples of an integer dtype, which can't take noise.
    """

    name = "instance_noise"
    changes = "what D sees"
    when = "D wins outright because real and fake do not overlap. It blurs detail for as long as it lasts."
    off: ClassVar = {"std": 0.0}
    source = "Arjovsky & Bottou 2017, arXiv:1701.04862, Sec. 3; Sønderby et al. 2016, arXiv:1610.04490, Appendix"

    def __init__(self, std: float = 0.1, steps: int = 10_000, decay: Decay = "linear") -> None:
        if std < 0:
            raise ValueError(f"{self.name}: std is {std}; expected 0 or more")
        if steps < 1:
            raise ValueError(f"{self.name}: steps is {steps}; expected the number of D's steps, 1 or more")
        if decay not in get_args(Decay):
            raise ValueError(f"{self.name}: decay is {decay!r}; expected one of {', '.join(get_args(Decay))}")
        self.std, self.steps, self.decay = std, steps, decay
        self._draws = Draws()

    def setup(self, game: Game) -> None:
        self._draws.start(game.generator(self))

    def real(self, x: Tensor, game: Game) -> Tensor:
        return self._blurred(x, game)

    def fake(self, x: Tensor, game: Game) -> Tensor:
        return self._blurred(x, game)

    def critic(self, d: Critic, game: Game) -> Critic:
        return lambda x, *args, **kwargs: d(self._blurred(x, game), *args, **kwargs)

    def _blurred(self, x: Tensor, game: Game) -> Tensor:
        std = faded(self.std, game.steps["d"], self.steps, self.decay)
        if std == 0:
            return x
        if not x.is_floating_point():
            raise TypeError(f"{self.name}: samples are {x.dtype}; expected floating-point ones, which can take noise")
        noise = torch.empty_like(x, requires_grad=False).normal_(0, std, generator=self._draws.on(x.device))
        return x + noise

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self._draws.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._draws.load_state_dict(state["draws"])
