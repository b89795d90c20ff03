"""Experience replay: D keeps seeing what G made before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilgan.game import SELECT, Game, Trick

Index = NDArray[np.int64]
_NONE: Index = np.empty(0, dtype=np.int64)
_FIRST: Index = np.zeros(1, dtype=np.int64)


class Plan(NamedTuple):
    """Who is exchanged for whom, as positions on the host: rows count in the batch, slots in the pool.

    All that is read is read before anything is written.
    """

    shown: Index = _NONE
    """Rows that give way to stored samples,"""
    slots: Index = _NONE
    """and the slots from which those come."""
    later: Index = _NONE
    """Rows that give way to samples of the same batch, stored a moment before,"""
    earlier: Index = _NONE
    """and the rows of those."""
    kept: Index = _NONE
    """Rows that are stored,"""
    places: Index = _NONE
    """and the slots that they take, each at most once."""


def swap_plan(n: int, filled: int, size: int, p: float, generator: torch.Generator) -> Plan:
    """CycleGAN's image pool: each fake is exchanged with a random stored one with probability p.

    One after another: an image whose slot was taken earlier in the batch gets what that one has just stored.

    Args:
        n: how many images the batch has.
        filled: how many of the pool's `size` slots hold an image; the first images of the batch fill the others.
        generator: on the CPU. For each image that finds the pool full two numbers in [0, 1) are drawn, `coin` and
            `place`, in this order and image by image, so that one batch of eight draws as eight batches of one. It is
            exchanged if `coin < p`, with slot `floor(place * size)`.

    >>> plan = swap_plan(3, 2, 4, 1.0, torch.Generator())  # two slots are free; the third image is exchanged
    >>> plan.kept.tolist()[:2], plan.shown.tolist() + plan.later.tolist()
    ([0, 1], [2])
    """
    fresh = min(n, size - filled)
    if n == 1 and not fresh:  # the common case of small batches, worth 10 microseconds
        coin, place = torch.rand(2, dtype=torch.float64, generator=generator).tolist()
        if coin >= p:
            return Plan()
        slot = np.array([int(place * size)])
        return Plan(_FIRST, slot, _NONE, _NONE, _FIRST, slot)
    draws = torch.rand(n - fresh, 2, dtype=torch.float64, generator=generator).numpy()
    rows = np.flatnonzero(draws[:, 0] < p)
    slots = (draws[rows, 1] * size).astype(np.int64)
    # The first `fresh` write and take nothing away; the rest take away what the writer before them left.
    kept = np.concatenate([np.arange(fresh), rows + fresh])
    places = np.concatenate([np.arange(filled, filled + fresh), slots])
    order, last = _last_of_each(places)
    follows = np.flatnonzero(~last[:-1]) + 1
    later, earlier = order[follows], order[follows - 1]
    from_pool = np.ones(len(kept), dtype=bool)
    from_pool[:fresh] = from_pool[later] = False
    return Plan(kept[from_pool], places[from_pool], kept[later], kept[earlier], kept[order[last]], places[order[last]])


def half_plan(n: int, filled: int, size: int, share: float, generator: torch.Generator) -> Plan:
    """SimGAN's history: a share of the batch comes from the pool, and as many fresh fakes overwrite random entries.

    The last `k` of the batch give way to `k` distinct stored ones, and are stored themselves: in free slots as long as
    there are any, then over distinct random ones. `k` is `share * n`, rounded down or up at random so that the share
    holds on average, and no more than the pool holds.

    Args:
        n: how many images the batch has.
        filled: how many of the pool's `size` slots hold an image.
        generator: on the CPU. Draws are made in this order: the rounding, the slots to show, the slots to overwrite.

    >>> plan = half_plan(4, 9, 9, 0.5, torch.Generator())
    >>> plan.shown.tolist(), plan.kept.tolist(), len(set(plan.places.tolist()))
    ([2, 3], [2, 3], 2)
    """
    k = _count(n, share, generator)
    if k == 0:
        return Plan()
    slots = _distinct(min(k, filled), filled, generator)
    new = min(k, size)
    fresh = min(new, size - filled)
    over = _distinct(new - fresh, filled, generator)
    places = np.concatenate([np.arange(filled, filled + fresh), over]) if fresh else over
    return Plan(np.arange(n - len(slots), n), slots, _NONE, _NONE, np.arange(n - new, n), places)


def reservoir_plan(n: int, offered: int, size: int, share: float, generator: torch.Generator) -> Plan:
    """A share of the batch comes from a pool that is a uniform sample of all history (Vitter 1985, algorithm R).

    The last `k` of the batch give way to `k` distinct stored ones, `k` as in `half_plan`. Then every fake of the batch is
    offered: the first `size` of history are stored, number t (from 1) takes slot `floor(u * t)` if there is one.

    Args:
        n: how many images the batch has.
        offered: how many fakes have been offered before.
        generator: on the CPU. Draws are made in this order: the rounding, the slots to show, a `u` in [0, 1) for each
            image.

    >>> reservoir_plan(3, 0, 5, 0.5, torch.Generator()).places.tolist()  # the first fill the slots in order
    [0, 1, 2]
    """
    filled = min(offered, size)
    k = min(_count(n, share, generator), filled)
    slots = _distinct(k, filled, generator)
    shown = np.arange(n - k, n) if k else _NONE
    u = torch.rand(n, dtype=torch.float64, generator=generator)
    if n == 1 and offered >= size:  # as in swap_plan
        place = int(u.tolist()[0] * (offered + 1))
        return Plan(shown, slots, _NONE, _NONE, _FIRST, np.array([place])) if place < size else Plan(shown, slots)
    number = np.arange(offered, offered + n)
    candidates = np.where(number < size, number, (u.numpy() * (number + 1)).astype(np.int64))
    kept = np.flatnonzero(candidates < size)
    places = candidates[kept]
    order, last = _last_of_each(places)
    return Plan(shown, slots, _NONE, _NONE, kept[order[last]], places[order[last]])


def _last_of_each(slots: Index) -> tuple[Index, NDArray[np.bool_]]:
    """Positions sorted by slot, in time within each, and which of them are the last of their slot."""
    order = np.argsort(slots, kind="stable")
    by_slot = slots[order]
    return order, np.append(by_slot[1:] != by_slot[:-1], [True] * bool(len(slots)))


def _count(n: int, share: float, generator: torch.Generator) -> int:
    return int(share * n + torch.rand(1, dtype=torch.float64, generator=generator).tolist()[0])


def _distinct(k: int, n: int, generator: torch.Generator) -> Index:
    """k of the numbers below n, none twice; nothing is drawn where k is 0."""
    if k == 0:
        return _NONE
    if k == 1:
        return np.array([int(torch.rand(1, dtype=torch.float64, generator=generator).tolist()[0] * n)])
    return torch.randperm(n, generator=generator)[:k].numpy()


class Pool:
    """Storage for `size` samples, allocated once, at first use, from the first batch.

    Args:
        size: how many samples.
        dtype: of the floating-point tensors among them; None keeps theirs. A sample is rounded when it is stored.
        device: where they are kept; None keeps theirs.

    Attributes:
        storages: one tensor (size, ...) for each tensor of a sample; empty until first use.
        filled: how many slots hold a sample, the first ones.
    """

    def __init__(self, size: int, *, dtype: torch.dtype | None = None, device: str | None = None) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self.storages: list[Tensor] = []
        self.filled = 0

    def exchange(self, batch: Sequence[Tensor], plan: Plan) -> list[Tensor]:
        """Plays a plan: returns what is shown, and keeps what is to be kept.

        Args:
            batch: tensors (N, ...) that belong together, row by row, without gradients.

        Returns:
            Tensors like those of the batch; none shares memory with the pool. The batch itself is not written to, and a
            tensor of it comes back where no row of it gave way.

        Raises:
            ValueError: the pool holds samples of other shapes.
        """
        self._fit(batch)
        if not len(plan.kept) and not len(plan.shown):
            return list(batch)
        if self.filled < self.size and len(plan.places):
            self.filled = max(self.filled, int(plan.places.max()) + 1)
        if len(batch[0]) == 1:
            return [self._exchange_one(s, x, plan) for s, x in zip(self.storages, batch, strict=True)]
        host = torch.from_numpy(np.concatenate(plan))
        sizes = [len(index) for index in plan]
        moves: dict[torch.device, Sequence[Tensor]] = {}
        for x in [*batch, *self.storages]:
            if x.device not in moves:  # all six in one copy, which the device does in its own time
                moves[x.device] = host.to(x.device, non_blocking=True).split(sizes)
        return [_exchange(s, x, moves[s.device], moves[x.device]) for s, x in zip(self.storages, batch, strict=True)]

    @staticmethod
    def _exchange_one(storage: Tensor, x: Tensor, plan: Plan) -> Tensor:
        """A batch of one: slices need no index on the device, and little time."""
        out = x
        if len(plan.shown):
            slot = int(plan.slots[0])
            out = storage[slot : slot + 1].to(x.device, x.dtype, copy=True)
        if len(plan.kept):
            place = int(plan.places[0])
            storage[place : place + 1].copy_(x)
        return out

    def _fit(self, batch: Sequence[Tensor]) -> None:
        if not self.storages:
            with torch.inference_mode(False):  # what is made inside could never be written to outside
                self.storages = [
                    torch.empty(
                        self.size,
                        *x.shape[1:],
                        dtype=self.dtype if self.dtype and x.is_floating_point() else x.dtype,
                        device=self.device or x.device,
                    )
                    for x in batch
                ]
            return
        if len(batch) != len(self.storages) or any(
            x.shape[1:] != s.shape[1:] for x, s in zip(batch, self.storages, strict=True)
        ):
            raise ValueError(
                f"the replay pool holds samples of shapes {[tuple(s.shape[1:]) for s in self.storages]}, but was given "
                f"{[tuple(x.shape[1:]) for x in batch]} (labels count); expected the same shapes at every step"
            )
        for i, (x, s) in enumerate(zip(batch, self.storages, strict=True)):
            if self.device is None and s.device != x.device:  # loaded from a file, or the model has moved
                self.storages[i] = s.to(x.device)

    def state_dict(self) -> dict[str, Any]:
        return {"filled": self.filled, "samples": [s[: self.filled].clone() for s in self.storages]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.filled, self.storages = state["filled"], []
        if state["samples"]:
            self._fit(state["samples"])
        for storage, samples in zip(self.storages, state["samples"], strict=True):
            storage[: self.filled].copy_(samples)


def _exchange(storage: Tensor, x: Tensor, at_storage: Sequence[Tensor], at_x: Sequence[Tensor]) -> Tensor:
    _, slots, _, _, _, places = at_storage
    shown, _, later, earlier, kept, _ = at_x
    out = x
    if len(shown) or len(later):
        out = x.clone()
        _put(out, shown, storage.index_select(0, slots).to(x.device, x.dtype))
        _put(out, later, x.index_select(0, earlier))
    _put(storage, places, x.index_select(0, kept).to(storage.device, storage.dtype))
    return out


def _put(target: Tensor, rows: Tensor, values: Tensor) -> None:
    """target[rows] = values, the rows distinct."""
    if values.numel() == 0:
        return
    if target.device.type == "cpu" and target.is_contiguous():
        # Here `index_copy_` and indexed assignment take four times as long as copying each row as one lump of bytes.
        _lumps(target)[rows.numpy()] = _lumps(values.contiguous())
    else:
        target.index_copy_(0, rows, values)


def _lumps(x: Tensor) -> NDArray[np.void]:
    """A view of a contiguous CPU tensor whose elements are its rows."""
    flat = x.view(len(x), -1).view(torch.uint8).numpy()
    lumps: NDArray[np.void] = flat.view(f"V{flat.shape[1]}")[:, 0]
    return lumps


def _leaves(tree: Any, n: int) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and dicts, detached; each must have one row for each of n samples."""
    if isinstance(tree, Tensor):
        if tree.ndim == 0 or len(tree) != n:
            raise ValueError(
                f"a label of shape {tuple(tree.shape)} rides along with {n} samples; expected {n} as its first dimension, "
                "so that replay can move it with its sample. Pass what belongs to the whole batch beside the game"
            )
        yield tree.detach()
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _leaves(value, n)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from _leaves(value, n)
    elif tree is not None:
        raise TypeError(
            f"a label is a {type(tree).__name__}, which replay can't move with its sample; expected tensors, or tuples, "
            "lists and dicts of tensors"
        )


def _with_leaves(tree: Any, leaves: Iterator[Tensor]) -> Any:
    """The same nest with other tensors."""
    if isinstance(tree, Tensor):
        return next(leaves)
    if isinstance(tree, Mapping):
        return {key: _with_leaves(value, leaves) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[_with_leaves(value, leaves) for value in tree])
    if isinstance(tree, (tuple, list)):
        return type(tree)(_with_leaves(value, leaves) for value in tree)
    return tree


POLICIES = ("swap", "half", "reservoir")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Replay(Trick):
    """Shows D fakes of the past among those of now, so that it does not forget what G once did.

    Old fakes take the place of fresh ones, with their labels; G's own turn is untouched. Labels are tensors, or nested
    tuples, lists and dicts of tensors, with one row for each sample. Samples are detached. The index plan is made on
    the CPU, so nothing waits for a device, and a batch costs a handful of launches whatever its size. Under DDP each
    rank has a pool of its own.

    Policies:
        swap: while the pool is not full, each fake is stored and shown; then each is exchanged with a random stored one
            with probability `p` (Zhu et al. 2017, arXiv:1703.10593, Sec. 4; 50 images, p = ½).
        half: `share` of the batch comes from the pool, then as many fresh fakes overwrite random entries (Shrivastava et
            al. 2017, arXiv:1612.07828, Sec. 2.3; half of the batch).
        reservoir: `share` of the batch comes from a pool that is a uniform sample of every fake ever made (Vitter 1985,
            "Random sampling with a reservoir", algorithm R).

    Args:
        size: samples in the pool, at least 1. The default, 1000, is of no paper: it remembers some 30 steps of 64 under
            `swap`, in 49 MB of 3 x 64 x 64 float32.
        policy: "swap", "half" or "reservoir".
        p: how likely a fake is exchanged under `swap`, in [0, 1].
        share: how much of the batch is old under `half` and `reservoir`, in [0, 1]. Where share x batch is not whole it
            is rounded at random, so that it holds on average, even for batches of one.
        dtype: "float16", "bfloat16" or "float32" to store floating-point tensors in; None keeps theirs. D sees them in
            the dtype of its input again.
        device: "input" keeps the pool where the samples are; "cpu" in host memory: with samples on a GPU each step then
            waits for the copy.

    Raises:
        ValueError: an option outside its range; samples or labels that change their shape between steps; a label
            without one row for each sample.
        TypeError: a label that is no tensor.
    """

    name = "replay"
    order = SELECT
    off: ClassVar = {"p": 0.0, "share": 0.0}
    source = (
        "Shrivastava et al. 2017, arXiv:1612.07828, Sec. 2.3; Zhu et al. 2017, arXiv:1703.10593, Sec. 4; Vitter 1985, "
        "algorithm R"
    )

    def __init__(
        self,
        size: int = 1000,
        policy: str = "swap",
        p: float = 0.5,
        share: float = 0.5,
        dtype: str | None = None,
        device: str = "input",
    ) -> None:
        if size < 1:
            raise ValueError(f"replay: size is {size}; expected 1 sample or more")
        if policy not in POLICIES:
            raise ValueError(f"replay: policy is {policy!r}; expected one of {', '.join(POLICIES)}")
        if not 0 <= p <= 1:
            raise ValueError(f"replay: p is {p}; expected a probability between 0 and 1")
        if not 0 <= share <= 1:
            raise ValueError(f"replay: share is {share}; expected a share of the batch between 0 and 1")
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"replay: dtype is {dtype!r}; expected one of {', '.join(DTYPES)}, or None")
        if device not in ("input", "cpu"):
            raise ValueError(f"replay: device is {device!r}; expected 'input' or 'cpu'")
        self.size, self.policy, self.p, self.share, self.dtype, self.device = size, policy, p, share, dtype, device
        self._pool = Pool(size, dtype=DTYPES[dtype] if dtype else None, device="cpu" if device == "cpu" else None)
        self._offered = 0
        self._generator = torch.Generator()

    def setup(self, game: Game) -> None:
        self._generator = game.generator(self)

    def fake(self, x: Tensor, game: Game) -> Tensor:
        if (self.p if self.policy == "swap" else self.share) == 0:
            return x
        batch = [x.detach()]
        if game.labels:
            batch += _leaves(game.labels, len(x))
        shown = self._pool.exchange(batch, self._plan(len(x)))
        if game.labels:
            game.labels = _with_leaves(game.labels, iter(shown[1:]))
        return shown[0]

    def _plan(self, n: int) -> Plan:
        if self.policy == "swap":
            return swap_plan(n, self._pool.filled, self.size, self.p, self._generator)
        if self.policy == "half":
            return half_plan(n, self._pool.filled, self.size, self.share, self._generator)
        self._offered += n
        return reservoir_plan(n, self._offered - n, self.size, self.share, self._generator)

    def state_dict(self) -> dict[str, Any]:
        """The filled part of the pool, copied; the counters; the generator."""
        return {
            "size": self.size,
            "policy": self.policy,
            "pool": self._pool.state_dict(),
            "offered": self._offered,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises ValueError if it is of a pool of another size or policy."""
        for option in ("size", "policy"):
            if state[option] != (own := getattr(self, option)):
                raise ValueError(
                    f"replay: this state is of {option}={state[option]!r}, but this trick has {option}={own!r}; expected "
                    "the same, since the run could not go on as it was"
                )
        self._pool.load_state_dict(state["pool"])
        self._offered = state["offered"]
        self._generator.set_state(state["generator"].cpu())
