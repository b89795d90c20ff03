"""The kernel sums of minibatch discrimination in memory that does not grow with the pairs of a batch.

K_ib = Σ_{j≠i} e_ijb, with e_ijb = exp(-Σ_c |M_ibc - M_jbc|). Pairs are visited once each, by their distance s in the
batch: sample i with sample i + s around the circle, for s up to half of it. A block of such pairs is the difference of
two contiguous views of M, small enough to stay in the processor's cache; each backward pass makes it again.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = {"cpu": 1 << 17}
"""Pairs times kernels in one block, by device: two or three buffers of it stay in a core's second-level cache."""
BLOCK_ELSEWHERE = 1 << 22

TILE = 64
"""Samples by samples in one call of the compiled form."""

COMPILE_FROM = 256 * 256 * 500
"""N² B C from which "auto" compiles: N = 256 at the default 100 kernels of 5 dimensions."""

LOG2_E = math.log2(math.e)


def kernel_sums(m: Tensor, *, compile: bool | str = "auto") -> Tensor:
    """How close each sample of a batch lies to the others, once for each kernel; can be differentiated twice.

    Args:
        m: (N, B, C) in float32 or float64: N samples seen through B kernels of C dimensions. Any N from 1.
        compile: True for the compiled form, False for the eager one, "auto" to choose (`should_compile`).

    Returns:
        (N, B), in 0 to N - 1: K_ib = Σ_{j≠i} exp(-Σ_c |M_ibc - M_jbc|).

    >>> kernel_sums(torch.tensor([[[0.0]], [[math.log(2)]], [[math.log(4)]]])).flatten().tolist()  # ½+¼, ½+½, ¼+½
    [0.75, 1.0, 0.75]
    """
    chosen = should_compile(compile, m.shape, m.device)
    sums: Tensor = _sums(m, chosen)
    if chosen and compile is True and (reason := _failed.get(m.device.type)):
        warnings.warn(f"minibatch discrimination can't be compiled here, and runs eagerly: {reason}", stacklevel=2)
    return sums


def nearest_distances(m: Tensor) -> Tensor:
    """How far each sample's nearest neighbour in the batch is, once for each kernel; without gradients.

    Args:
        m: (N, B, C), as for `kernel_sums`.

    Returns:
        (N, B): min_{j≠i} Σ_c |M_ibc - M_jbc|; infinite where N is 1.

    >>> nearest_distances(torch.tensor([[[0.0]], [[1.0]], [[3.0]]])).flatten().tolist()
    [1.0, 1.0, 2.0]
    """
    distances: Tensor = _nearest(m.detach())
    return distances


class _Block(NamedTuple):
    """Rows `start` to `start + rows`, each with the samples `shift` to `shift + shifts - 1` further on."""

    start: int
    rows: int
    shift: int
    shifts: int


def _blocks(n: int, width: int, size: int) -> Iterator[_Block]:
    """Every unordered pair of n samples once; a block has about `size` numbers, `width` for each pair."""
    pairs = max(1, size // width)
    # A block reads its rows `shifts` times, and its skewed sum runs over `rows + shifts`: longer than wide is cheaper.
    limit = max(1, math.isqrt(4 * pairs))
    parts = 1 if n <= 2 * limit else math.ceil(n / limit)
    rows = math.ceil(n / parts)
    half = (n - 1) // 2
    turns = math.ceil(half / max(1, pairs // rows)) if half else 0
    for turn in range(turns):
        first, last = 1 + half * turn // turns, 1 + half * (turn + 1) // turns
        for start in range(0, n, rows):
            yield _Block(start, min(rows, n - start), first, last - first)
    if n % 2 == 0:  # half way round, the pair of i is the pair of i + n/2
        for start in range(0, n // 2, pairs):
            yield _Block(start, min(pairs, n // 2 - start), n // 2, 1)


class _Circle:
    """A (C, N, B) tensor laid out twice along N, so that sample i + s of a block is a view, whatever i and s."""

    def __init__(self, x: Tensor) -> None:
        self.channels, self.n, self.width = x.shape
        self.twice = torch.cat([x, x], 1).view(self.channels, -1)

    def here(self, block: _Block) -> tuple[Tensor, ...]:
        """For each channel the block's rows, the same for every shift: (shifts, rows · B)."""
        start, length = block.start * self.width, block.rows * self.width
        x = self.twice[:, start : start + length].unsqueeze(1)
        return x.expand(-1, block.shifts, -1).unbind(0)

    def there(self, block: _Block) -> tuple[Tensor, ...]:
        """For each channel what lies `shift` further on: (shifts, rows · B)."""
        size = (self.channels, block.shifts, block.rows * self.width)
        stride = (self.twice.stride(0), self.width, 1)
        return self.twice.as_strided(size, stride, (block.start + block.shift) * self.width).unbind(0)


class _Work:
    """A buffer for one block, with padding that changes no sum, so that it can be reduced by row and by partner."""

    def __init__(self, like: Tensor, size: int, padding: float = 0) -> None:
        self.flat = like.new_empty(size)
        self.padding = padding
        self.block = _Block(0, 0, 0, 0)
        self.body = self.skewed = self.flat

    def at(self, block: _Block, width: int) -> Tensor:
        """(shifts, rows · B) to write to."""
        if block[1::2] != self.block[1::2]:
            length = (block.rows + block.shifts - 1) * width
            self.flat[: block.shifts * length].fill_(self.padding)
            self.body = self.flat.as_strided((block.shifts, block.rows * width), (length, 1))
            # Column k holds pairs whose partner is start + shift + k: one row less far along on each next shift.
            # Where the slant runs over a row's end it meets padding.
            self.skewed = self.flat.as_strided((block.shifts, length), (length - width, 1))
        self.block = block
        return self.body

    def parts(self, total: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Where in a total over a circle the block's rows are, and their partners."""
        here, there = self.block.start * width, (self.block.start + self.block.shift) * width
        return total[here : here + self.body.shape[1]], total[there : there + self.skewed.shape[1]]


class _Total:
    """Sums over pairs, for each sample: (C, N, B) in the end."""

    def __init__(self, like: _Circle, channels: int) -> None:
        self.n, self.width = like.n, like.width
        self.twice = like.twice.new_zeros(channels, 2 * like.n * like.width)

    def add(self, work: _Work, channel: int = 0, *, here: float = 1, there: float = 1) -> None:
        """A block's sums, times `here` for its rows and times `there` for their partners."""
        rows, partners = work.parts(self.twice[channel], self.width)
        rows.add_(work.body.sum(0), alpha=here)
        partners.add_(work.skewed.sum(0), alpha=there)

    def result(self) -> Tensor:
        x = self.twice.view(len(self.twice), 2, self.n, self.width)
        return x[:, 0] + x[:, 1]


class _Pairs:
    """The blocks of a batch, and in each of them e_ijb."""

    def __init__(self, m: Tensor, buffers: int, *, scale: float = LOG2_E, padding: float = 0) -> None:
        # Distances in units of ln 2, because exp2 is the quicker and has no slow path where it underflows.
        self.m = _Circle((m * scale).permute(2, 0, 1).contiguous())
        self.tiny = torch.finfo(m.dtype).tiny
        size = BLOCK.get(m.device.type, BLOCK_ELSEWHERE)
        self.blocks = list(_blocks(len(m), self.m.width, size))
        longest = max((b.shifts * (b.rows + b.shifts - 1) for b in self.blocks), default=0) * self.m.width
        self.work = [_Work(m, longest, padding) for _ in range(buffers)]

    def distances(self) -> Iterator[_Now]:
        """Block by block, with scale · Σ_c |M_ibc - M_jbc| in the first buffer."""
        for block in self.blocks:
            now = _Now(block, [w.at(block, self.m.width) for w in self.work], self.m.here(block), self.m.there(block))
            total, scratch = now.buffers[:2]
            self.distance(now.here[0], now.there[0], out=total)
            for a, b in zip(now.here[1:], now.there[1:], strict=True):
                self.distance(a, b, out=scratch)
                total.add_(scratch)
            yield now

    def exponentials(self) -> Iterator[_Now]:
        """Block by block, with e_ijb in the first buffer."""
        for now in self.distances():
            now.buffers[0].neg_().exp2_()
            yield now

    def distance(self, a: Tensor, b: Tensor, *, out: Tensor) -> None:
        """|a - b| in one pass: the Huber loss whose quadratic part is too narrow to hold a number."""
        torch.ops.aten.smooth_l1_loss.out(a, b, 0, self.tiny, out=out)

    def times_sign(self, w: Tensor, a: Tensor, b: Tensor, *, out: Tensor) -> None:
        """w · sign(a - b) in one pass, 0 where they are equal: that loss's gradient."""
        torch.ops.aten.smooth_l1_loss_backward.grad_input(w, a, b, 0, self.tiny, grad_input=out)


class _Now(NamedTuple):
    block: _Block
    buffers: list[Tensor]
    here: tuple[Tensor, ...]
    there: tuple[Tensor, ...]


def _eager_sums(m: Tensor) -> Tensor:
    pairs = _Pairs(m, 2)
    total = _Total(pairs.m, 1)
    for _ in pairs.exponentials():
        total.add(pairs.work[0])
    return total.result()[0]


def _eager_backward(m: Tensor, g: Tensor) -> Tensor:
    pairs = _Pairs(m, 2)
    upstream, total = _Circle(g.unsqueeze(0)), _Total(pairs.m, m.shape[2])
    for block, (e, scratch), here, there in pairs.exponentials():
        torch.add(upstream.here(block)[0], upstream.there(block)[0], out=scratch)
        e.mul_(scratch)
        for c, (a, b) in enumerate(zip(here, there, strict=True)):
            pairs.times_sign(e, a, b, out=scratch)
            total.add(pairs.work[1], c, here=-1)
    return total.result().permute(1, 2, 0).contiguous()


def _eager_double_backward(m: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    pairs = _Pairs(m, 3)
    upstream, second = _Circle(g.unsqueeze(0)), _Circle(v.permute(2, 0, 1).contiguous())
    for_m, for_g = _Total(pairs.m, m.shape[2]), _Total(pairs.m, 1)
    for block, (e, scratch, t), here, there in pairs.exponentials():
        t.zero_()
        for a, b, va, vb in zip(here, there, second.here(block), second.there(block), strict=True):
            torch.sub(va, vb, out=scratch)
            pairs.times_sign(scratch, a, b, out=scratch)
            t.add_(scratch)
        t.mul_(e)
        for_g.add(pairs.work[2], here=-1, there=-1)
        torch.add(upstream.here(block)[0], upstream.there(block)[0], out=scratch)
        t.mul_(scratch)
        for c, (a, b) in enumerate(zip(here, there, strict=True)):
            pairs.times_sign(t, a, b, out=scratch)
            for_m.add(pairs.work[1], c, there=-1)
    return for_m.result().permute(1, 2, 0).contiguous(), for_g.result()[0]


# --- the compiled form: tiles of fixed shape, so that one kernel serves every N and no earlier call changes a bit ---


def _difference(a: Tensor, b: Tensor) -> list[Tensor]:
    return [x[:, None] - y[None] for x, y in zip(a.unbind(0), b.unbind(0), strict=True)]


def _exponential(differences: list[Tensor], barrier: Tensor | None = None) -> Tensor:
    distance = differences[0].abs()
    for difference in differences[1:]:
        distance = distance + difference.abs()
    if barrier is not None:
        distance = distance + barrier[:, :, None]
    return torch.exp(-distance)


def _tile_sums(a: Tensor, b: Tensor, barrier: Tensor) -> Tensor:
    return _exponential(_difference(a, b), barrier).sum(1)


def _tile_backward(a: Tensor, b: Tensor, ga: Tensor, gb: Tensor) -> Tensor:
    differences = _difference(a, b)
    w = _exponential(differences) * (ga[:, None] + gb[None])
    return torch.stack([-(w * d.sign()).sum(1) for d in differences])


def _tile_double_backward(
    a: Tensor, b: Tensor, ga: Tensor, gb: Tensor, va: Tensor, vb: Tensor
) -> tuple[Tensor, Tensor]:
    differences = _difference(a, b)
    t = torch.zeros_like(differences[0])
    for d, v in zip(differences, _difference(va, vb), strict=True):
        t = t + v * d.sign()
    t = t * _exponential(differences)
    w = t * (ga[:, None] + gb[None])
    return torch.stack([(w * d.sign()).sum(1) for d in differences]), -t.sum(1)


class _Tiles:
    """A (N, B, C) tensor as tiles of (C, TILE, B), each contiguous: their strides must not depend on N either."""

    def __init__(self, x: Tensor, padding: float = 0) -> None:
        self.n, (width, channels) = len(x), x.shape[1:]
        count = math.ceil(self.n / TILE)
        rows = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, count * TILE - self.n), value=padding)
        self.tiles = rows.view(count, TILE, width, channels).permute(0, 3, 1, 2).contiguous()

    def pairs(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(range(len(self.tiles)), repeat=2)

    def zeros(self, channels: int) -> Tensor:
        count, _, rows, width = self.tiles.shape
        return self.tiles.new_zeros(count, channels, rows, width)

    def whole(self, tiles: Tensor) -> Tensor:
        """(N, B, C) again."""
        return tiles.permute(0, 2, 3, 1).flatten(0, 1)[: self.n].contiguous()


@functools.cache
def _compiled(tile: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(tile, dynamic=False, fullgraph=True)
    return compiled


def _run(tile: Callable[..., Any], *args: Tensor) -> Any:
    # A pass that only measures D may forbid compiling; this kernel is one of ours, with gradients of its own.
    with torch.no_grad(), torch.compiler.set_stance("default"):
        return _compiled(tile)(*args)


def _compiled_sums(m: Tensor) -> Tensor:
    # Infinitely far away, padding adds exp(-∞) = 0 to others; what it gets itself is cut off.
    x = _Tiles(m, math.inf)
    apart = m.new_zeros(TILE, TILE)
    itself = apart.clone().fill_diagonal_(math.inf)
    out = x.zeros(1)
    for i, j in x.pairs():
        out[i, 0] += _run(_tile_sums, x.tiles[i], x.tiles[j], itself if i == j else apart)
    return x.whole(out)[:, :, 0]


def _compiled_backward(m: Tensor, g: Tensor) -> Tensor:
    x, upstream = _Tiles(m, math.inf), _Tiles(g.unsqueeze(2)).tiles[:, 0]
    out = x.zeros(m.shape[2])
    for i, j in x.pairs():
        out[i] += _run(_tile_backward, x.tiles[i], x.tiles[j], upstream[i], upstream[j])
    return x.whole(out)


def _compiled_double_backward(m: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    x, upstream, second = _Tiles(m, math.inf), _Tiles(g.unsqueeze(2)).tiles[:, 0], _Tiles(v).tiles
    for_m, for_g = x.zeros(m.shape[2]), x.zeros(1)
    for i, j in x.pairs():
        one, other = _run(_tile_double_backward, x.tiles[i], x.tiles[j], upstream[i], upstream[j], second[i], second[j])
        for_m[i] += one
        for_g[i, 0] += other
    return x.whole(for_m), x.whole(for_g)[:, :, 0]


# --- which of the two ---


def should_compile(compile: bool | str, shape: torch.Size, device: torch.device) -> bool:
    """Whether a batch of shape (N, B, C) goes through the compiled form: by options and shapes alone.

    Never by what happened before, so that a resumed run computes the bits of an uninterrupted one. "auto" compiles
    where N² B C is at least `COMPILE_FROM`, on a CPU with a C++ compiler.
    """
    if not isinstance(compile, str):
        return compile
    large = shape[0] * shape[0] * shape[1] * shape[2] >= COMPILE_FROM
    return large and device.type == "cpu" and _compiler() is not None


@functools.cache
def _compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


_failed: dict[str, str] = {}


def _either(compile: bool, compiled: Callable[..., Any], eager: Callable[..., Any], *args: Tensor) -> Any:
    kind = args[0].device.type
    if compile and kind not in _failed and len(args[0]) > 1:
        try:
            return compiled(*args)
        except RuntimeError as error:  # what dynamo, inductor and a missing compiler raise
            _failed[kind] = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return eager(*args)


# Operators of their own, so that torch.compile of a whole D takes them as they are.


@torch.library.custom_op("stabilgan::kernel_sums", mutates_args=())
def _sums(m: Tensor, compile: bool) -> Tensor:
    out: Tensor = _either(compile, _compiled_sums, _eager_sums, m)
    return out


@torch.library.custom_op("stabilgan::kernel_sums_backward", mutates_args=())
def _backward(m: Tensor, g: Tensor, compile: bool) -> Tensor:
    """dL/dM_ibc = -Σ_j (g_ib + g_jb) e_ijb sign(M_ibc - M_jbc)."""
    out: Tensor = _either(compile, _compiled_backward, _eager_backward, m, g)
    return out


@torch.library.custom_op("stabilgan::kernel_sums_double_backward", mutates_args=())
def _double_backward(m: Tensor, g: Tensor, v: Tensor, compile: bool) -> tuple[Tensor, Tensor]:
    """Σ_j (g_ib + g_jb) t_ijb e_ijb sign_ijbc for M and -Σ_j e_ijb t_ijb for g.

    sign_ijbc is that of M_ibc - M_jbc, and t_ijb = Σ_c (v_ibc - v_jbc) sign_ijbc.
    """
    out: tuple[Tensor, Tensor] = _either(compile, _compiled_double_backward, _eager_double_backward, m, g, v)
    return out


@torch.library.custom_op("stabilgan::nearest_distances", mutates_args=())
def _nearest(m: Tensor) -> Tensor:
    pairs = _Pairs(m, 2, scale=1, padding=math.inf)
    twice = torch.full_like(pairs.m.twice[0], math.inf)
    for _ in pairs.distances():
        work = pairs.work[0]
        rows, partners = work.parts(twice, pairs.m.width)
        torch.minimum(rows, work.body.amin(0), out=rows)
        torch.minimum(partners, work.skewed.amin(0), out=partners)
    return twice.view(2, *m.shape[:2]).amin(0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.compile = inputs
    ctx.save_for_backward(*tensors)


def _sums_backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    return _backward(*ctx.saved_tensors, g.contiguous(), ctx.compile), None


def _backward_backward(ctx: Any, v: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_double_backward(*ctx.saved_tensors, v.contiguous(), ctx.compile), None


_sums.register_fake(lambda m, compile: m.new_empty(m.shape[:2]))
_nearest.register_fake(lambda m: m.new_empty(m.shape[:2]))
_backward.register_fake(lambda m, g, compile: m.new_empty(m.shape))
_double_backward.register_fake(lambda m, g, v, compile: (m.new_empty(m.shape), g.new_empty(g.shape)))
_sums.register_autograd(_sums_backward, setup_context=_keep)
_backward.register_autograd(_backward_backward, setup_context=_keep)
