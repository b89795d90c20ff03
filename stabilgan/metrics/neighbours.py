"""The nearest neighbours of every sample, exactly, in one pass over half of the distances."""

import torch
from torch import Tensor

from stabilgan.metrics.distances import TILE, Tile, direct, tiles

_SPARE = 3  # candidates kept beyond those asked for, so that rounding seldom decides who is among them
_FOLD = 16  # values folded into one minimum before the search


def nearest(x: Tensor, k: int, y: Tensor | None = None, *, size: int = TILE) -> tuple[Tensor, Tensor]:
    """Find the k nearest rows of y for each row of x; without y, the k nearest other rows of x.

    x: (N, d), y: (M, d), finite. Returns squared distances (N, k) in float64, ascending, and row numbers (N, k). The
    distances are exact: candidates come from matrix products, are measured again by their differences, and where
    rounding could have hidden a nearer one the row is searched again in float64. Raises ValueError with fewer than k.

    >>> squares, rows = nearest(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    >>> squares.flatten().tolist(), rows.flatten().tolist()
    ([1.0, 1.0, 4.0], [1, 0, 1])
    """
    among = len(x) - 1 if y is None else len(y)
    if not 1 <= k <= among:
        raise ValueError(
            f"k is {k}, but each sample has {among} others; expected 1 <= k <= {among}; lower k or draw more samples"
        )
    other = x if y is None else y
    keep = min(k + _SPARE, among)
    search = _Search(len(x), keep, x)
    for tile in tiles(x, y, size=size):
        if y is None and tile.i == tile.j:
            tile.squares.fill_diagonal_(torch.inf)
        search.add(tile.i, tile.j, tile, dim=1)
        if y is None and tile.i != tile.j:
            search.add(tile.j, tile.i, tile, dim=0)
    squares, rows = search.measure(x, other)
    lost = squares[:, k - 1] > search.squares.amax(1).double() - search.slack  # one left out may be nearer
    hard = (lost & (keep < among)).nonzero().flatten()
    if len(hard) and x.dtype != torch.float64:
        again = _Search(len(hard), keep, x)
        for tile in tiles(x[hard], other, dtype=torch.float64, size=size):
            if y is None:
                columns = torch.arange(tile.j.start, tile.j.stop, device=x.device)
                tile.squares.masked_fill_(hard[tile.i, None] == columns, torch.inf)
            again.add(tile.i, tile.j, tile, dim=1)
        squares[hard], rows[hard] = again.measure(x[hard], other)
    return squares[:, :k], rows[:, :k]


class _Search:
    """The `keep` smallest squares of each row so far, where they are, and the most that one may be off."""

    def __init__(self, n: int, keep: int, x: Tensor) -> None:
        self.squares = x.new_full((n, keep), torch.inf)
        self.rows = torch.zeros((n, keep), dtype=torch.long, device=x.device)
        self.slack = torch.zeros(n, dtype=torch.float64, device=x.device)

    def add(self, mine: slice, theirs: slice, tile: Tile, dim: int) -> None:
        values, places = smallest(tile.squares, self.squares.shape[1], dim)
        if self.squares.dtype != values.dtype:
            self.squares = self.squares.to(values.dtype)
        both = torch.cat([self.squares[mine], values], 1)
        where = torch.cat([self.rows[mine], places + theirs.start], 1)
        self.squares[mine], order = both.topk(self.squares.shape[1], 1, largest=False, sorted=False)
        self.rows[mine] = where.gather(1, order)
        self.slack[mine] = self.slack[mine].clamp(min=tile.slack)

    def measure(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The candidates' squares by their differences, ascending, and their rows."""
        n, keep = self.rows.shape
        i = torch.arange(n, device=x.device)[:, None].expand(n, keep).reshape(-1)
        squares, order = direct(x, y, i, self.rows.reshape(-1)).view(n, keep).sort(dim=1, stable=True)
        return squares, self.rows.gather(1, order)


def smallest(tile: Tensor, keep: int, dim: int) -> tuple[Tensor, Tensor]:
    """The `keep` smallest values of each row (dim 1) or column (dim 0) of a tile, unsorted, and their places.

    Folds the tile first: the `keep` smallest values lie in the `keep` folds with the smallest minima, so that the
    search goes through a few hundred values instead of all. A tile narrower than `keep` gives all it has.

    >>> values, places = smallest(torch.tensor([[4.0, 1.0, 3.0], [0.0, 7.0, 2.0]]), 1, dim=1)
    >>> values.flatten().tolist(), places.flatten().tolist()
    ([1.0, 0.0], [1, 0])
    """
    length = tile.shape[dim]
    folds = length // _FOLD
    if folds < 2 * keep:
        rows = tile if dim == 1 else tile.T.contiguous()
        values, places = rows.topk(min(keep, length), 1, largest=False, sorted=False)
        return values, places
    if dim == 1:
        head, tail = torch.unflatten(tile[:, : folds * _FOLD], 1, (_FOLD, folds)), tile[:, folds * _FOLD :]
        fold = head.amin(1).topk(keep, 1, largest=False, sorted=False).indices
        chosen = head.gather(2, fold[:, None].expand(-1, _FOLD, -1)).flatten(1)
    else:
        head, tail = torch.unflatten(tile[: folds * _FOLD], 0, (_FOLD, folds)), tile[folds * _FOLD :].T
        fold = head.amin(0).T.contiguous().topk(keep, 1, largest=False, sorted=False).indices
        chosen = head.gather(1, fold.T[None].expand(_FOLD, -1, -1)).flatten(0, 1).T
    values, place = torch.cat([chosen, tail], 1).topk(keep, 1, largest=False, sorted=False)
    inside = (place // keep) * folds + fold.gather(1, place % keep)
    return values, torch.where(place < keep * _FOLD, inside, place - keep * _FOLD + folds * _FOLD)
