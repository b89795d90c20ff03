"""Experience replay: D keeps seeing what G made before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stabilgan.game import SELECT, Game, Trick

Index = NDArray[np.int64]
Draw = Callable[[int], NDArray[np.float64]]
"""Gives the next so many numbers in [0, 1)."""
_NONE: Index = np.empty(0, dtype=np.int64)


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


class One(NamedTuple):
    """The plan for a batch of one: the slot that is shown, then the slot that the fresh one takes; either may be None.

    It says no more than a Plan would, in a tenth of the time, which batches of one feel.
    """

    slot: int | None = None
    place: int | None = None


def swap_plan(n: int, filled: int, size: int, p: float, draw: Draw) -> Plan | One:
    """CycleGAN's image pool: each fake is exchanged with a random stored one with probability p.

    One after another: an image whose slot was taken earlier in the batch gets what that one has just stored.

    Args:
        n: how many images the batch has.
        filled: how many of the pool's `size` slots hold an image; the first images of the batch fill the others.
        draw: for each image that finds the pool full two numbers are drawn, `coin` and `place`, image by image, so that
            one batch of eight draws as eight batches of one. It is exchanged if `coin < p`, with slot
            `floor(place * size)`.

    >>> plan = swap_plan(3, 1, 1, 1.0, np.zeros)  # a full pool of one slot, and every image is exchanged:
    >>> plan.shown.tolist(), plan.later.tolist(), plan.earlier.tolist()  # each shows the one before it,
    ([0], [1, 2], [0, 1])
    >>> plan.kept.tolist()  # and the last stays
    [2]
    """
    fresh = min(n, size - filled)
    if n == 1:
        if fresh:
            return One(None, filled)
        coin, place = draw(2).tolist()
        return One(slot := int(place * size), slot) if coin < p else One()
    draws = draw(2 * (n - fresh)).reshape(-1, 2)
    rows = np.flatnonzero(draws[:, 0] < p)
    slots = (draws[rows, 1] * size).astype(np.int64)
    if fresh:
        rows = np.concatenate([np.arange(fresh), rows + fresh])
        slots = np.concatenate([np.arange(filled, filled + fresh), slots])
    # The first `fresh` write and take nothing away; each other one takes what the writer before it left.
    if _all_differ(slots):
        return Plan(rows[fresh:], slots[fresh:], _NONE, _NONE, rows, slots)
    order, last = _by_slot(slots)
    follows = np.flatnonzero(~last[:-1]) + 1
    later, earlier = order[follows], order[follows - 1]
    from_pool = np.ones(len(rows), dtype=bool)
    from_pool[:fresh] = from_pool[later] = False
    kept = order[last]
    return Plan(rows[from_pool], slots[from_pool], rows[later], rows[earlier], rows[kept], slots[kept])


def half_plan(n: int, filled: int, size: int, share: float, draw: Draw) -> Plan | One:
    """SimGAN's history: a share of the batch comes from the pool, and as many fresh fakes overwrite random entries.

    The last `k` of the batch give way to `k` distinct stored ones, and are stored themselves: in free slots as long as
    there are any, then over distinct random ones. `k` is `share * n`, rounded down or up at random so that the share
    holds on average, and no more than the pool holds.

    Args:
        n: how many images the batch has.
        filled: how many of the pool's `size` slots hold an image.
        draw: one number for the rounding; then those for the slots to show; then those for the slots to overwrite.
            Slots are drawn in rounds of as many as are needed, until that many different ones have come up.

    >>> plan = half_plan(4, 9, 9, 0.5, np.random.default_rng(0).random)
    >>> plan.shown.tolist(), plan.kept.tolist(), len(set(plan.places.tolist()))
    ([2, 3], [2, 3], 2)
    """
    k = int(share * n + draw(1).item())
    if n == 1:
        if k == 0:
            return One()
        if filled < size:
            return One(int(draw(1).item() * filled) if filled else None, filled)
        slot, place = draw(2).tolist()
        return One(int(slot * size), int(place * size))
    slots = distinct(min(k, filled), filled, draw)
    new = min(k, size)
    fresh = min(new, size - filled)
    places = np.concatenate([np.arange(filled, filled + fresh), distinct(new - fresh, filled, draw)])
    return Plan(np.arange(n - len(slots), n), slots, _NONE, _NONE, np.arange(n - new, n), places)


def reservoir_plan(n: int, offered: int, size: int, share: float, draw: Draw) -> Plan | One:
    """A share of the batch comes from a pool that is a uniform sample of all history (Vitter 1985, algorithm R).

    The last `k` of the batch give way to `k` distinct stored ones, `k` as in `half_plan`. Then every fake of the batch
    is offered: the first `size` of history are stored, number t (from 1) takes slot `floor(u * t)` if there is one.

    Args:
        n: how many images the batch has.
        offered: how many fakes have been offered before.
        draw: one number for the rounding; then those for the slots to show, as in `half_plan`; then a `u` for each
            image that finds the pool full.

    >>> reservoir_plan(3, 0, 5, 0.5, np.zeros).places.tolist()  # the first fill the slots in order
    [0, 1, 2]
    """
    filled = min(offered, size)
    k = min(int(share * n + draw(1).item()), filled)
    if n == 1:
        slot = int(draw(1).item() * filled) if k else None
        place = int(draw(1).item() * (offered + 1)) if filled == size else offered
        return One(slot, place if place < size else None)
    slots = distinct(k, filled, draw)
    fresh = min(n, size - filled)
    number = np.arange(offered + fresh + 1, offered + n + 1)
    places = np.concatenate([np.arange(filled, filled + fresh), (draw(n - fresh) * number).astype(np.int64)])
    kept = np.flatnonzero(places < size)
    places = places[kept]
    if not _all_differ(places):
        order, last = _by_slot(places)
        kept, places = kept[order[last]], places[order[last]]
    return Plan(np.arange(n - k, n), slots, _NONE, _NONE, kept, places)


def _all_differ(slots: Index) -> bool:
    return len(set(slots.tolist())) == len(slots)


def _by_slot(slots: Index) -> tuple[Index, NDArray[np.bool_]]:
    """Positions sorted by slot, in time within each, and which of them are the last of their slot."""
    order = np.argsort(slots, kind="stable")
    by_slot = slots[order]
    last = np.ones(len(slots), dtype=bool)
    last[:-1] = by_slot[1:] != by_slot[:-1]
    return order, last


def distinct(k: int, n: int, draw: Draw) -> Index:
    """k of the numbers below n, none twice, every choice as likely."""
    found = _NONE
    while len(found) < k:
        found = np.concatenate([found, (draw(k) * n).astype(np.int64)])
        if not _all_differ(found):
            _, first = np.unique(found, return_index=True)
            found = found[np.sort(first)]
    return found[:k]


class Stream:
    """A generator's numbers in [0, 1), drawn ahead: one at a time, a call of torch costs more than an exchange."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._ahead: NDArray[np.float64] = np.empty(0)
        self._at = 0

    def __call__(self, k: int) -> NDArray[np.float64]:
        """The next k; the same sequence however it is cut."""
        end = self._at + k
        if end > len(self._ahead):
            more = torch.rand(max(k, 512), dtype=torch.float64, generator=self.generator).numpy()
            self._ahead, self._at, end = np.concatenate([self._ahead[self._at :], more]), 0, k
        numbers = self._ahead[self._at : end]
        self._at = end
        return numbers

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "ahead": torch.from_numpy(self._ahead[self._at :].copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self._ahead, self._at = state["ahead"].cpu().numpy().copy(), 0


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
        self._like: list[tuple[torch.Size, torch.device]] = []  # the last batch that was seen to fit
        self._lumps: list[NDArray[np.void]] = []

    def exchange(self, batch: Sequence[Tensor], plan: Plan | One) -> list[Tensor]:
        """Plays a plan: returns what is shown, and keeps what is to be kept.

        Args:
            batch: tensors (N, ...) that belong together, row by row, without gradients.

        Returns:
            Tensors like those of the batch; none shares memory with the pool. The batch itself is not written to, and a
            tensor of it comes back where no row of it gave way.

        Raises:
            ValueError: the pool holds samples of other shapes.
        """
        if self._like != [(x.shape, x.device) for x in batch]:
            self._fit(batch)
        if isinstance(plan, One):
            return self._exchange_one(batch, *plan)
        if self.filled < self.size and len(plan.places):
            self.filled = max(self.filled, int(plan.places.max()) + 1)
        if not len(plan.shown) and not len(plan.kept):
            return list(batch)
        if self._lumps and all(x.is_contiguous() for x in batch):
            return [
                _exchange_on_cpu(storage, lumps, x, plan)
                for storage, lumps, x in zip(self.storages, self._lumps, batch, strict=True)
            ]
        host = torch.from_numpy(np.concatenate(plan))
        sizes = [len(index) for index in plan]
        moves: dict[torch.device, Sequence[Tensor]] = {}
        for x in [*batch, *self.storages]:
            if x.device not in moves:  # all six in one copy, which the device does in its own time
                moves[x.device] = host.to(x.device, non_blocking=True).split(sizes)
        return [
            _exchange(storage, x, moves[storage.device], moves[x.device])
            for storage, x in zip(self.storages, batch, strict=True)
        ]

    def _exchange_one(self, batch: Sequence[Tensor], slot: int | None, place: int | None) -> list[Tensor]:
        """Slices need no index on the device."""
        out = list(batch)
        if slot is None and place is None:
            return out
        for i, storage in enumerate(self.storages):
            x = batch[i]
            if slot is not None:
                row = storage[slot : slot + 1]
                same = row.dtype is x.dtype and row.device == x.device
                out[i] = row.clone() if same else row.to(x.device, x.dtype, copy=True)  # half a microsecond apart
            if place is not None:
                (row if place == slot else storage[place : place + 1]).copy_(x)
        if place is not None and place >= self.filled:
            self.filled = place + 1
        return out

    def _fit(self, batch: Sequence[Tensor]) -> None:
        """Allocates at first use; later on says what does not fit."""
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
        given, held = [x.shape[1:] for x in batch], [s.shape[1:] for s in self.storages]
        if given != held:
            raise ValueError(
                f"the replay pool holds samples of shapes {[tuple(s) for s in held]}, but was given "
                f"{[tuple(s) for s in given]} (labels count); expected the same shapes at every step"
            )
        if self.device is None:  # after loading from a file, or when the model has moved
            self.storages = [s.to(x.device) for s, x in zip(self.storages, batch, strict=True)]
        on_cpu = all(x.device.type == "cpu" and x[:1].numel() for x in [*batch, *self.storages])
        self._lumps = [_lumps(s) for s in self.storages] if on_cpu else []
        self._like = [(x.shape, x.device) for x in batch]

    def state_dict(self) -> dict[str, Any]:
        return {"filled": self.filled, "samples": [s[: self.filled].clone() for s in self.storages]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.filled, self.storages, self._like = state["filled"], [], []
        if state["samples"]:
            self._fit(state["samples"])
        for storage, samples in zip(self.storages, state["samples"], strict=True):
            storage[: self.filled].copy_(samples)


def _exchange(storage: Tensor, x: Tensor, at_storage: Sequence[Tensor], at_x: Sequence[Tensor]) -> Tensor:
    """Two gathers and two scatters, whatever the batch size."""
    _, slots, _, _, _, places = at_storage
    shown, _, later, earlier, kept, _ = at_x
    out = x
    if len(shown) or len(later):
        out = x.clone()
        out.index_copy_(0, shown, storage.index_select(0, slots).to(x.device, x.dtype))
    if len(later):
        out.index_copy_(0, later, x.index_select(0, earlier))
    storage.index_copy_(0, places, x.index_select(0, kept).to(storage.device, storage.dtype))
    return out


def _exchange_on_cpu(storage: Tensor, stored: NDArray[np.void], x: Tensor, plan: Plan) -> Tensor:
    """The same, each row copied as one lump of bytes: `index_copy_` and indexed assignment take four times as long."""
    shown, slots, later, earlier, kept, places = plan
    fresh = _lumps(x)
    same = storage.dtype == x.dtype
    out = x
    if len(shown) or len(later):
        out = torch.empty_like(x)
        to = _lumps(out)
        stays = np.ones(len(x), dtype=bool)
        stays[shown] = False
        np.copyto(to, fresh, where=stays)
        if len(shown):
            to[shown] = stored[slots] if same else _lumps(storage.index_select(0, torch.from_numpy(slots)).to(x.dtype))
        if len(later):
            to[later] = fresh[earlier]
    if len(kept):
        stored[places] = fresh[kept] if same else _lumps(x.index_select(0, torch.from_numpy(kept)).to(storage.dtype))
    return out


def _lumps(x: Tensor) -> NDArray[np.void]:
    """A view of a contiguous CPU tensor whose elements are its rows."""
    flat = x.view(len(x), -1).view(torch.uint8).numpy()
    lumps: NDArray[np.void] = flat.view(f"V{flat.shape[1]}")[:, 0]
    return lumps


def leaves_of(tree: Any, n: int) -> Iterator[Tensor]:
    """The tensors of nested tuples, lists and dicts, detached; each must have one row for each of n samples."""
    if isinstance(tree, Tensor):
        if tree.ndim == 0 or len(tree) != n:
            raise ValueError(
                f"a label of shape {tuple(tree.shape)} rides along with {n} samples; expected {n} as its first "
                "dimension, so that replay can move it with its sample. Pass what belongs to the whole batch to D "
                "directly"
            )
        yield tree.detach()
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves_of(value, n)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from leaves_of(value, n)
    elif tree is not None:
        raise TypeError(
            f"a label is a {type(tree).__name__}, which replay can't move with its sample; expected tensors, or "
            "tuples, lists and dicts of tensors"
        )


def with_leaves(tree: Any, leaves: Iterator[Tensor]) -> Any:
    """The same nest with other tensors."""
    if isinstance(tree, Tensor):
        return next(leaves)
    if isinstance(tree, Mapping):
        return {key: with_leaves(value, leaves) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[with_leaves(value, leaves) for value in tree])
    if isinstance(tree, (tuple, list)):
        return type(tree)(with_leaves(value, leaves) for value in tree)
    return tree


POLICIES = ("swap", "half", "reservoir")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class Replay(Trick):
    """Experience replay: shows D fakes of the past among those of now, so that it does not forget what G once did.

    Old fakes take the place of fresh ones, with their labels; G's own turn is untouched. Labels are tensors, or nested
    tuples, lists and dicts of tensors, with one row for each sample. Samples are detached. The index plan is made on
    the CPU, so nothing waits for a device, and a batch costs a handful of launches whatever its size. Under DDP each
    rank has a pool of its own.

    Policies:
        swap: while the pool is not full, each fake is stored and shown; then each is exchanged with a random stored
            one with probability `p` (Zhu et al. 2017, arXiv:1703.10593, Sec. 4; 50 images, p = ½).
        half: `share` of the batch comes from the pool, then as many fresh fakes overwrite random entries (Shrivastava
            et al. 2017, arXiv:1612.07828, Sec. 2.3; half of the batch).
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
    changes = "what D sees"
    when = "D forgets what G did before and both go in circles. Alone it did not mend a dense GAN that collapses."
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
        self._draw = Stream(torch.Generator())

    def setup(self, game: Game) -> None:
        self._draw = Stream(game.generator(self))

    def fake(self, x: Tensor, game: Game) -> Tensor:
        if (self.p if self.policy == "swap" else self.share) == 0:
            return x
        batch = [x.detach() if x.requires_grad else x]
        if game.labels:
            batch += leaves_of(game.labels, len(x))
        shown = self._pool.exchange(batch, self._plan(x.shape[0]))
        if game.labels:
            game.labels = with_leaves(game.labels, iter(shown[1:]))
        return shown[0]

    def _plan(self, n: int) -> Plan | One:
        if self.policy == "swap":
            return swap_plan(n, self._pool.filled, self.size, self.p, self._draw)
        if self.policy == "half":
            return half_plan(n, self._pool.filled, self.size, self.share, self._draw)
        self._offered += n
        return reservoir_plan(n, self._offered - n, self.size, self.share, self._draw)

    def state_dict(self) -> dict[str, Any]:
        """The filled part of the pool, copied; the counters; the generator."""
        return {
            "size": self.size,
            "policy": self.policy,
            "pool": self._pool.state_dict(),
            "offered": self._offered,
            "draw": self._draw.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises ValueError if it is of a pool of another size or policy."""
        for option in ("size", "policy"):
            if state[option] != (own := getattr(self, option)):
                raise ValueError(
                    f"replay: this state is of {option}={state[option]!r}, but this trick has {option}={own!r}; "
                    "expected the same, since the run could not go on as it was"
                )
        self._pool.load_state_dict(state["pool"])
        self._offered = state["offered"]
        self._draw.load_state_dict(state["draw"])
