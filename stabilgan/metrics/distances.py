"""Squared Euclidean distances by matrix products, a tile at a time, and what to do where those are too coarse.

|x|² + |y|² - 2xy loses everything in float32 once the distances are small beside the norms, as they are in a
collapsed set. So points are centred first, every tile knows its `slack`, and whoever decides by a distance within the
slack asks `direct`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Products = Literal["float32", "tf32", "bfloat16"]
_BLOCK = 512  # rows at once of a product that is symmetric, and the features from which that pays
_KEPT = 2**23  # numbers of x that are kept, if that is a slice or more, while slices of y pass by
_CACHED = 2**17  # float64 numbers at once, so that they stay in a core's cache


@dataclass(frozen=True)
class Tile:
    """Squared distances between rows `i` of x and rows `j` of y, each off by less than `slack`; a buffer, reused."""

    i: slice
    j: slice
    squares: Tensor
    slack: float


def tiles(
    x: Tensor,
    y: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    products: Products = "float32",
    size: int | None = None,
) -> Iterator[Tile]:
    """Go through all squared distances between the rows of x and y in tiles of size x size.

    x: (N, d), y: (M, d), finite. Without y: the distances within x, each unordered pair of tiles once (j from i on).
    dtype: of the distances; x's own by default, float64 where float32 would over- or underflow.
    products: "tf32" (on GPUs that have it) and "bfloat16" multiply float32 points with fewer digits. They are not
    exact, so their slack is 0: nothing is worth a second look.
    Memory: one tile and at most five slices of size x d, whatever N is.

    >>> [tile.squares.tolist() for tile in tiles(torch.tensor([[0.0], [3.0]]))]
    [[[0.0, 9.0], [9.0, 0.0]]]
    """
    dtype = x.dtype if dtype is None else dtype
    size = side(x) if size is None else size
    other = x if y is None else y
    centre = mean(x).to(x.dtype).double()  # one that every dtype holds exactly
    own = squared_norms(x, centre)
    norms = own, own if y is None else squared_norms(other, centre)
    widest = max(norms[0].max().item(), norms[1].max().item())
    if not widest < float("inf"):
        raise ValueError("the samples are so far apart that their squared distance overflows float64; scale them down")
    if widest > 1e34 or 0 < widest < 1e-24:
        dtype = torch.float64
    several = max(1, min(4, _KEPT // (size * x.shape[1])))
    left = _Slices(x, centre, norms[0], dtype, several * size, flip=True)
    right = _Slices(other, centre, norms[1], dtype, size)
    longest = [torch.stack([part.max() for part in torch.split(of, size)]).tolist() for of in norms]
    coarse = float(torch.finfo(dtype).eps * (8 + x.shape[1] ** 0.5))
    exact = products == "float32" or dtype == torch.float64
    out = x.new_empty(min(size, len(x)) * min(size, len(other)), dtype=dtype)
    for start in range(0, len(x), left.size):
        kept = left[start]
        for j in range(0 if y is not None else start, len(other), size):
            b = right[j]
            for i in range(start, start + len(kept) if y is not None else min(start + len(kept), j + 1), size):
                a = kept[i - start : i - start + size]
                squares = out[: len(a) * len(b)].view(len(a), len(b))
                slack = coarse * (longest[0][i // size] + longest[1][j // size]) if exact else 0.0
                if not exact:
                    _coarse(a, b, products, squares)
                else:
                    multiply(a, b, squares, symmetric=y is None and i == j)
                yield Tile(slice(i, i + len(a)), slice(j, j + len(b)), squares, slack)


def side(x: Tensor) -> int:
    """Rows and columns of a tile by default: fewer on a CPU for wide samples, so that slices stay in the cache."""
    return 1024 if x.device.type == "cpu" and x.shape[1] >= _BLOCK else 2048


def mean(x: Tensor) -> Tensor:
    """The mean row in float64, without a copy of x in float64.

    >>> mean(torch.tensor([[1.0], [2.0]])).tolist()
    [1.5]
    """
    total = x.new_zeros(x.shape[1], dtype=torch.float64)
    for part in torch.split(x, max(1, _CACHED // x.shape[1])):
        if x.device.type == "cpu":  # one thread: torch's others would spin on, in the way of a BLAS that comes next
            total += torch.from_numpy(part.numpy().astype(np.float64).sum(0))
        else:
            total += part.sum(0, dtype=torch.float64)
    return total / len(x)


def squared_norms(x: Tensor, centre: Tensor | float = 0.0) -> Tensor:
    """The squared length of every row less the centre in float64, without a copy of x in float64.

    >>> squared_norms(torch.tensor([[3.0, 4.0]])).tolist()
    [25.0]
    """
    parts = torch.split(x, max(1, _CACHED // x.shape[1]))
    if x.device.type != "cpu":
        return torch.cat([(part.double() - centre).square_().sum(1) for part in parts])
    middle, squares = np.asarray(centre), np.empty(len(x))
    for part, out in zip(parts, np.split(squares, range(len(parts[0]), len(x), len(parts[0]))), strict=True):
        apart = part.numpy().astype(np.float64)  # one thread, as in `mean`
        apart -= middle
        np.einsum("ij,ij->i", apart, apart, out=out)
    return torch.from_numpy(squares)


def row_products(x: Tensor, vector: Tensor) -> Tensor:
    """The product of every row with a vector in float64, without a copy of x in float64.

    >>> row_products(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]).double()).tolist()
    [11.0]
    """
    parts = torch.split(x, max(1, _CACHED // x.shape[1]))
    if x.device.type != "cpu":
        return torch.cat([part.double() @ vector for part in parts])
    return torch.from_numpy(np.concatenate([part.numpy().astype(np.float64) @ vector.numpy() for part in parts]))


@contextlib.contextmanager
def full_precision(level: str = "highest") -> Iterator[None]:
    """Products of float32 in float32, not in TF32 or bfloat16, whatever the process allows elsewhere."""
    before = torch.get_float32_matmul_precision()
    if before == level:
        yield
        return
    torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@full_precision()
def multiply(a: Tensor, b: Tensor, out: Tensor, *, symmetric: bool = False) -> None:
    """a @ b.T into out; where that is symmetric, half of it from the other half, but for blocks of `_BLOCK` rows.

    >>> out = torch.empty(1, 1)
    >>> multiply(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), out)
    >>> out.tolist()
    [[11.0]]
    """
    step = _BLOCK if symmetric and a.shape[1] >= _BLOCK else len(a)
    for i in range(0, len(a), step):
        torch.mm(a[i : i + step], (b[i:] if symmetric else b).T, out=out[i : i + step, i if symmetric else 0 :])
        if symmetric:
            out[i + step :, i : i + step] = out[i : i + step, i + step :].T


def direct(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of the pairs x[i], y[j] in float64 from their differences: exact where the products are not.

    >>> direct(torch.tensor([[1e4]]), torch.tensor([[1e4], [1e4 + 1]]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    tensor([0., 1.], dtype=torch.float64)
    """
    step = max(1, _CACHED // x.shape[1])
    squares = x.new_empty(len(i), dtype=torch.float64)
    for some in range(0, len(i), step):
        apart = x.index_select(0, i[some : some + step]).double()
        apart -= y.index_select(0, j[some : some + step])
        torch.sum(apart.square_(), 1, out=squares[some : some + step])
    return squares


def _coarse(a: Tensor, b: Tensor, products: Products, out: Tensor) -> None:
    """The distances of two slices with products of fewer digits, and norms of all digits."""
    if products == "bfloat16":
        out.copy_(torch.mm(a[:, :-2].bfloat16(), b[:, :-2].bfloat16().T))
    else:
        with full_precision("high"):
            torch.mm(a[:, :-2], b[:, :-2].T, out=out)
    out.add_(a[:, -1:]).add_(b[:, -2]).clamp_(min=0)


class _Slices:
    """Slices of centred points with two more columns, so that one product gives |x|² + |y|² - 2xy."""

    def __init__(
        self, x: Tensor, centre: Tensor, norms: Tensor, dtype: torch.dtype, size: int, *, flip: bool = False
    ) -> None:
        self.x, self.centre, self.norms, self.size, self.flip = x, centre.to(dtype), norms, size, flip
        self.buffer = x.new_empty(min(size, len(x)), x.shape[1] + 2, dtype=dtype)
        self.buffer[:, -1 if not flip else -2] = 1

    def __getitem__(self, start: int) -> Tensor:
        part = self.x[start : start + self.size]
        filled = self.buffer[: len(part)]
        torch.sub(part.to(filled.dtype), self.centre, out=filled[:, :-2])
        if self.flip:
            filled[:, :-2].mul_(-2)
        filled[:, -1 if self.flip else -2] = self.norms[start : start + self.size]
        return filled
