"""Replay by score: D keeps seeing the fakes that it got wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan.game import SELECT, Game, Player, Trick
from stabilgan.tricks.replay import Stream, distinct, leaves_of, with_leaves


def keep_highest(stored: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which fresh samples take whose place, so that a pool holds the highest-scored of both.

    The best of the fresh is held against the worst of the stored, the second best against the second worst, and so on;
    a stored one gives way only to a higher score. Nothing waits for the device: sizes do not depend on the scores.

    Args:
        stored: (size,), the scores in the pool; -inf where a slot is free. Free slots are filled in order.
        fresh: (n,).

    Returns:
        slots, rows: (min(size, n),), the pairs; better: whether the row takes the slot.

    >>> slots, rows, better = keep_highest(torch.tensor([0.9, 0.1, 0.5]), torch.tensor([0.3, 0.7]))
    >>> slots.tolist(), rows.tolist(), better.tolist()
    ([1, 2], [1, 0], [True, False])
    """
    n = min(len(stored), len(fresh))
    slots = stored.sort(stable=True).indices[:n]
    rows = fresh.sort(stable=True, descending=True).indices[:n]
    return slots, rows, fresh.index_select(0, rows) > stored.index_select(0, slots)


class ReplayHard(Trick):
    """Shows D, among the fakes of now, those of the past that it took for the most real.

    A share of D's fakes gives way to samples drawn at random, none twice, from a pool. After each step of D the pool
    keeps the highest-scored of itself and the batch. A score is D's own of the batch in which it saw the sample last:
    those that were shown are scored anew, and leave once D has learned that they are fakes. It is online hard example
    mining (Shrivastava et al. 2016, arXiv:1604.03540) over the history of Shrivastava et al. 2017 (arXiv:1612.07828,
    Sec. 2.3) instead of over one batch, in the spirit of prioritised replay (Schaul et al. 2016, arXiv:1511.05952); no
    paper is known to us that does exactly this in a GAN.

    Labels move with their samples, as with `replay`. Patches of one sample count with their mean. G's own turn is
    untouched. Pool and scores stay where the samples are, and nothing waits for them. Under DDP each rank has its own.

    Args:
        size: samples in the pool, at least 1. The default, 1000, is that of `replay`.
        share: how much of the batch is old, at least 0 and below 1; rounded at random where share x batch is not whole,
            and no more than the pool holds. The default, a quarter, is of no paper.

    Raises:
        ValueError: an option outside its range; samples or labels that change their shape between steps; a label
            without one row for each sample.
        TypeError: a label that is no tensor.
        RuntimeError: D was not called with the tensor that `game.fake` returned, or returned no score for each row.
    """

    name = "replay_hard"
    order = SELECT
    changes = "what D sees"
    when = (
        "D forgets single modes or artefacts that G comes back to. It shows D the fakes nearest to the data: where D "
        "is weak, that can make it weaker still."
    )
    conflicts: ClassVar = {
        "replay": "both put old fakes in the place of fresh ones, so that the pool of one fills with what the other "
        "showed; choose one"
    }
    off: ClassVar = {"share": 0.0}
    limits: ClassVar = {
        "D unheard": "RuntimeError at D's first step, where it does not score what game.fake returned row by row; what "
        "a loop will call D with, and what D returns, is not known at attach"
    }
    source = "Shrivastava et al. 2016, arXiv:1604.03540; Shrivastava et al. 2017, arXiv:1612.07828, Sec. 2.3"

    def __init__(self, size: int = 1000, share: float = 0.25) -> None:
        if size < 1:
            raise ValueError(f"replay_hard: size is {size}; expected 1 sample or more")
        if not 0 <= share < 1:
            raise ValueError(f"replay_hard: share is {share}; expected 0 or more and less than 1")
        self.size, self.share = size, share
        self._storages: list[Tensor] = []
        self._scores: Tensor | None = None
        self._filled = 0
        self._shown: tuple[list[Tensor], Tensor] | None = None
        self._draw = Stream(torch.Generator())

    def setup(self, game: Game) -> None:
        self._draw = Stream(game.generator(self))

    def fake(self, x: Tensor, game: Game) -> Tensor:
        if self.share == 0:
            return x
        self._settle(game)  # a micro-batch before this one
        batch = [x.detach() if x.requires_grad else x, *leaves_of(game.labels, len(x))]
        self._fit(batch)
        k = min(int(self.share * len(x) + self._draw(1).item()), self._filled)
        slots = torch.from_numpy(distinct(k, self._filled, self._draw)).to(x.device, non_blocking=True)
        fresh = [t[: len(x) - k] for t in batch]
        self._shown = fresh, slots
        if k == 0:
            return batch[0]
        mixed = [
            torch.cat([t, s.index_select(0, slots).to(t.dtype)]) for t, s in zip(fresh, self._storages, strict=True)
        ]
        if game.labels:
            game.labels = with_leaves(game.labels, iter(mixed[1:]))
        return mixed[0]

    def after_step(self, player: Player, game: Game) -> None:
        if player == "d" and self._shown is not None and not self._settle(game):
            raise RuntimeError(
                "replay_hard keeps fakes by D's scores, but D was not called with what game.fake returned, or gave no "
                "score for each sample; write `output = netD(game.fake(fake.detach()))`, with attach(..., score=...) "
                "where D returns more than its scores"
            )

    @torch.no_grad()
    def _settle(self, game: Game) -> bool:
        """Scores what was shown, and lets the best of the batch into the pool; False where D has not scored it."""
        if self._shown is None:
            return True
        (fresh, slots), self._shown = self._shown, None
        n, given = len(fresh[0]) + len(slots), game.scores.get("fake")
        if game.seen["fake"].args is None or given is None or given.dim() == 0 or len(given) != n or not self._storages:
            return False
        assert self._scores is not None
        scores = given.reshape(n, -1).mean(1).to(self._scores.dtype).nan_to_num(nan=torch.finfo(self._scores.dtype).min)
        self._scores.index_copy_(0, slots, scores[n - len(slots) :])
        taken, rows, better = keep_highest(self._scores, scores[: n - len(slots)])
        for pool, new in zip([self._scores, *self._storages], [scores, *fresh], strict=True):
            mask = better.view(-1, *[1] * (pool.dim() - 1))
            pool.index_copy_(
                0, taken, torch.where(mask, new.index_select(0, rows).to(pool.dtype), pool.index_select(0, taken))
            )
        self._filled = min(self.size, self._filled + len(fresh[0]))
        return True

    def _fit(self, batch: Sequence[Tensor]) -> None:
        """Allocates at first use; later on says what does not fit."""
        if not self._storages:
            with torch.inference_mode(False):  # what is made inside could never be written to outside
                self._storages = [torch.zeros(self.size, *t.shape[1:], dtype=t.dtype, device=t.device) for t in batch]
                self._scores = torch.full((self.size,), -torch.inf, device=batch[0].device)
        given, held = ([tuple(t.shape[1:]) for t in tensors] for tensors in (batch, self._storages))
        if given != held:
            raise ValueError(
                f"the pool of replay_hard holds samples of shapes {held}, but was given {given} (labels count); "
                "expected the same shapes at every step"
            )
        self._storages = [s.to(t.device) for s, t in zip(self._storages, batch, strict=True)]  # after loading
        assert self._scores is not None
        self._scores = self._scores.to(batch[0].device)

    def state_dict(self) -> dict[str, Any]:
        """The filled part of the pool and its scores, copied; the generator."""
        scores = [] if self._scores is None else [self._scores]
        return {
            "size": self.size,
            "filled": self._filled,
            "pool": [t[: self._filled].clone() for t in [*scores, *self._storages]],
            "draw": self._draw.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises ValueError if it is of a pool of another size."""
        if state["size"] != self.size:
            raise ValueError(
                f"replay_hard: this state is of size={state['size']}, but this trick has size={self.size}; expected "
                "the same, since the run could not go on as it was"
            )
        self._filled, self._shown, self._storages, self._scores = state["filled"], None, [], None
        if state["pool"]:
            scores, *samples = state["pool"]
            self._fit(samples)
            assert self._scores is not None
            self._scores = self._scores.to(scores.device)
            for pool, saved in zip([self._scores, *self._storages], [scores, *samples], strict=True):
                pool[: self._filled].copy_(saved)
        self._draw.load_state_dict(state["draw"])
