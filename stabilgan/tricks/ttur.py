"""TTUR: two time scales, D's rate apart from G's."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from stabilgan.game import Game, Trick

MARK = "ttur"
"""Where a parameter group keeps the ratio that is in its rate, so that a reloaded optimizer is not sped up twice."""


def scale_rates(optimizer: Optimizer, factor: float) -> None:
    """Multiplies the rate of each parameter group; in place.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    >>> scale_rates(optimizer, 4.0)
    >>> optimizer.param_groups[0]["lr"]
    0.4
    """
    for group in optimizer.param_groups:
        _scale(group, factor)


def two_time_scales(opt_d: Optimizer, ratio: float) -> None:
    """Makes D's rates `ratio` times what they were given as.

    A group remembers the ratio, also in the optimizer's `state_dict`: asked again, or for one loaded from a file, its
    rate is brought from the old ratio to the new one, and 1 takes it back.

    Raises:
        ValueError: a ratio out of range, or a scheduler on the optimizer.
    """
    if not ratio > 0:
        raise ValueError(f"ttur: the ratio of D's rate is {ratio}; expected above 0")
    if ratio != 1 and any("initial_lr" in group and MARK not in group for group in opt_d.param_groups):
        raise ValueError(
            "ttur: D's optimizer has a learning-rate scheduler, which would set the old rates again; expected none "
            "yet. Build it after attach, or multiply D's rates where they are made and leave ttur out"
        )
    for group in opt_d.param_groups:
        _scale(group, ratio / group.pop(MARK, 1.0))
        if ratio != 1:
            group[MARK] = ratio


def _scale(group: dict[str, Any], factor: float) -> None:
    if factor == 1:
        return
    if isinstance(group["lr"], Tensor):
        group["lr"].mul_(factor)
    else:
        group["lr"] *= factor


class TTUR(Trick):
    """Lets D learn faster than G, or slower, so that it stays near its best answer while G moves.

    Multiplies the rates of D's optimizer by `ratio` at attach (the two time-scale update rule, Heusel et al. 2017,
    arXiv:1706.08500, Sec. 2) and puts them back at detach. A learning-rate scheduler that was built before knows the
    old rates and sets them again: attach refuses it; build schedulers afterwards.

    Args:
        ratio: what D's rates are multiplied by, above 0; 1 leaves them. Heusel et al. tune both rates for each set of
            data; 4 is the ratio of SAGAN (Zhang et al. 2019, arXiv:1805.08318: 4e-4 for D, 1e-4 for G).

    Raises:
        ValueError: a ratio out of range, or a scheduler on D's optimizer.
    """

    name = "ttur"
    off: ClassVar = {"ratio": 1.0}
    changes = "how players move"
    when = "One step of D for each of G is too few, and more are too slow. A D that wins already wants a ratio below 1."
    source = "Heusel et al. 2017, arXiv:1706.08500, Sec. 2"

    def __init__(self, ratio: float = 4.0) -> None:
        if not ratio > 0:
            raise ValueError(f"ttur: ratio is {ratio}; expected above 0")
        self.ratio = ratio

    def setup(self, game: Game) -> None:
        two_time_scales(game.opt_d, self.ratio)

    def teardown(self, game: Game) -> None:
        two_time_scales(game.opt_d, 1.0)
