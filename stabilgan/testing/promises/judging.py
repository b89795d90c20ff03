"""That G is judged on samples of the kind that D learns from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stabilgan.game import Critic, Game, Trick
from stabilgan.testing.promise import Broken, Promise, Subject


def judges_what_it_shows(subject: Subject) -> None:
    """What changes fakes on their way to D in its turn changes them in G's turn too, in one way or another.

    A trick that shows other fakes, such as older ones, changes none. One that acts now and then gets fifty steps.
    """
    inner, outer = _Inner(), _Outer()
    t = subject.trainer(tricks=[inner, subject.make(), outer])
    for steps in (5, 45):
        t.fit(subject.world.data, steps)
        in_ds_turn, in_gs_turn = changed(inner.fakes, outer.fakes), changed(outer.judged, inner.judged)
        if in_gs_turn or not in_ds_turn:
            return
    if in_ds_turn >= 5:  # fewer may be by chance
        raise Broken(
            f"`fake` changed what D sees in {in_ds_turn} of {len(outer.fakes)} steps, but G was judged on its samples "
            "as they are in each: D learns to tell the change, and G never hears of it; override `critic` to do the "
            "same: return lambda x, *args, **kwargs: d(changed(x), *args, **kwargs)"
        )


class _Inner(Trick):
    """Notes the fakes that others are given, and what reaches D in G's turn."""

    name = "inner"
    changes = "nothing"
    order = -99

    def __init__(self) -> None:
        self.fakes: list[Tensor] = []
        self.judged: list[Tensor] = []

    def fake(self, x: Tensor, game: Game) -> Tensor:
        self.fakes.append(x.detach().clone())
        return x

    def critic(self, d: Critic, game: Game) -> Critic:
        return _noted(d, self.judged)


class _Outer(_Inner):
    """Notes the fakes that others return, and what the loop has judged."""

    name = "outer"
    order = 99


def _noted(d: Critic, into: list[Tensor]) -> Critic:
    def noted(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        into.append(x.detach().clone())
        return d(x, *args, **kwargs)

    return noted


def changed(given: list[Tensor], shown: list[Tensor]) -> int:
    """How many batches have a sample that is none of those given so far, up to a hundredth of their range.

    That much may be lost where samples are stored in half precision.

    >>> first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> changed([first, second], [first, first]), changed([first, second], [first, 0.9 * second])
    (0, 1)
    """
    count = 0
    for i, batch in enumerate(shown):
        known, rows = torch.cat([x.flatten(1) for x in given[: i + 1]]).double(), batch.flatten(1).double()
        if known.shape[1] != rows.shape[1]:
            count += 1
            continue
        nearest = torch.cdist(rows, known, p=torch.inf).amin(1)
        count += bool((nearest > 0.01 * known.abs().max()).any())
    return count


PROMISES = (Promise("judge", "What changes fakes for D changes them for G's judge too.", judges_what_it_shows),)
