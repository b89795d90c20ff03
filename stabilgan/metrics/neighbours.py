"""The nearest neighbours of every sample, exactly, in one pass over half of the distances."""

import torch
from torch import Tensor

from stabilgan.metrics.distances import Products, Tile, direct, tiles
from stabilgan.metrics.inputs import features, pair

_SPARE = 3  # candidates kept beyond those asked for, so that rounding seldom decides who is among them
_FOLD = 16  # values folded into one minimum before the search
_LINE = 64  # the same along a row, where they lie side by side


def nearest(
    x: Tensor, k: int, y: Tensor | None = None, *, products: Products = "float32", size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Find the k nearest rows of y for each row of x; without y, the k nearest other rows of x.

    x: (N, d), y: (M, d), any real dtype. Returns squared distances (N, k) in float64, ascending, and row numbers. The
    distances are exact: candidates come from matrix products, are measured again by their differences, and where
    rounding could have hidden a nearer one the row is searched again in float64. With other `products` (see `tiles`)
    it is not, so that a neighbour may be missed. Raises ValueError with fewer than k, nan or infinity.

    >>> squares, rows = nearest(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    >>> squares.flatten().tolist(), rows.flatten().tolist()
    ([1.0, 1.0, 4.0], [1, 0, 1])
    """
    if y is None:
        x = features(x)
    else:
        x, y = pair(x, y, names=("x", "y"))
    among = len(x) - 1 if y is None else len(y)
    if not 1 <= k <= among:
        raise ValueError(
            f"k is {k}, but each sample has {among} others; expected 1 <= k <= {among}; lower k or draw more samples"
        )
    search = Nearest(x, k, y, exact=products == "float32")
    for tile in tiles(x, y, products=products, size=size):
        search.add(tile)
    return search.result()


class Nearest:
    """`nearest` from tiles that another measure may use as well: `add` each of them, then ask for the `result`."""

    def __init__(self, x: Tensor, k: int, y: Tensor | None = None, *, exact: bool = True) -> None:
        self.x, self.y, self.k, self.own = x, x if y is None else y, k, y is None
        self.exact = exact  # False: don't search again what rounding left in doubt
        self.keep = min(k + _SPARE, len(self.y) - self.own)
        self.squares = x.new_full((len(x), self.keep), torch.inf)
        self.rows = torch.zeros((len(x), self.keep), dtype=torch.long, device=x.device)
        self.slack = torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def add(self, tile: Tile, *, flipped: bool = False) -> None:
        """Search a tile of distances between x and y, or between y and x if `flipped`; leaves all but its diagonal."""
        if self.own and tile.i == tile.j:
            tile.squares.fill_diagonal_(torch.inf)
        if not flipped:
            self._merge(tile.i, tile.j, tile, dim=1)
        if flipped or (self.own and tile.i != tile.j):
            self._merge(tile.j, tile.i, tile, dim=0)

    def result(self) -> tuple[Tensor, Tensor]:
        """Squared distances and row numbers, as `nearest` gives them."""
        squares, rows = self._measure(torch.arange(len(self.x), device=self.x.device))
        hard = self._doubtful(squares)
        if len(hard) and self.squares.dtype != torch.float64:
            finer = self._again(hard)
            found, where = finer._measure(torch.arange(len(hard), device=self.x.device))
            squares[hard], rows[hard] = found[:, : self.keep], where[:, : self.keep]
            hard = hard[finer._doubtful(found)]
        if len(hard):
            wide = self.y.double()
            for some in torch.split(hard, max(1, 2**23 // len(wide))):
                squares[some], rows[some] = self._plain(some, wide)
        return squares[:, : self.k], rows[:, : self.k]

    def _doubtful(self, squares: Tensor) -> Tensor:
        """The rows that may have lost a neighbour nearer than the k-th found, by rounding in the tiles."""
        lost = squares[:, self.k - 1] > (self.squares.amax(1).double() - self.slack).clamp(min=0)
        return (lost & self.exact & (self.keep < len(self.y) - self.own)).nonzero().flatten()

    def _again(self, hard: Tensor) -> "Nearest":
        """Search for the hard rows of x once more, in float64."""
        search = Nearest(self.x[hard], self.k, self.y)
        for tile in tiles(self.x[hard], self.y, dtype=torch.float64):
            if self.own:
                columns = torch.arange(tile.j.start, tile.j.stop, device=self.x.device)
                tile.squares.masked_fill_(hard[tile.i, None] == columns, torch.inf)
            search.add(tile)
        return search

    def _plain(self, hard: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """The last resort for what float64 products can't tell apart either: every difference by itself."""
        apart = torch.cdist(self.x[hard].double(), wide, compute_mode="donot_use_mm_for_euclid_dist")
        if self.own:
            apart.scatter_(1, hard[:, None], torch.inf)
        rows = apart.topk(self.keep, 1, largest=False, sorted=False).indices
        squares, order = self._direct(hard, rows).sort(dim=1, stable=True)
        return squares, rows.gather(1, order)

    def _merge(self, mine: slice, theirs: slice, tile: Tile, dim: int) -> None:
        known, places = self.squares[mine].to(tile.squares.dtype), self.rows[mine]
        found = _nearer(tile.squares, known.amax(1), dim, self.keep)
        values, at = smallest(tile.squares, self.keep, dim) if found is None else found
        if self.squares.dtype != values.dtype:
            self.squares = self.squares.to(values.dtype)
        self.squares[mine], order = _least(torch.cat([known, values], 1), self.keep)
        self.rows[mine] = torch.cat([places, at + theirs.start], 1).gather(1, order)
        self.slack[mine] = self.slack[mine].clamp(min=tile.slack)

    def _measure(self, i: Tensor) -> tuple[Tensor, Tensor]:
        """Distances of the candidates by their differences, ascending, and their rows; i: the rows of x they are for.

        Spare candidates count only where rounding could have put one of them behind the k-th.
        """
        coarse, order = self.squares.sort(dim=1)
        rows = self.rows.gather(1, order)
        squares = torch.full_like(coarse, torch.inf, dtype=torch.float64)
        squares[:, : self.k] = self._direct(i, rows[:, : self.k])
        near = coarse[:, self.k :] <= (coarse[:, self.k - 1].double() + 2 * self.slack)[:, None]
        who, place = (near if self.exact else near.fill_(True)).nonzero().unbind(1)
        place += self.k
        squares[who, place] = direct(self.x, self.y, i[who], rows[who, place])
        rows, order = rows.sort(dim=1)  # so that of neighbours equally near the first row comes first
        squares, order = squares.masked_fill_(coarse.isinf(), torch.inf).gather(1, order).sort(dim=1, stable=True)
        return squares, rows.gather(1, order)

    def _direct(self, i: Tensor, rows: Tensor) -> Tensor:
        return direct(self.x, self.y, i[:, None].expand_as(rows).reshape(-1), rows.reshape(-1)).view(rows.shape)


def below(tile: Tensor, limits: Tensor, dim: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Which values of each row (dim 1) or column (dim 0) of a tile are below its limit: whose, where, and the values.

    Looks closely only at the folds whose minimum is below, so that it costs one pass where few values are. Ordered by
    row, or by column.

    >>> found = below(torch.tensor([[4.0, 1.0, 3.0], [0.0, 7.0, 2.0]]), torch.tensor([2.0, 1.0]))
    >>> [part.tolist() for part in found]
    [[0, 1], [1, 0], [1.0, 0.0]]
    """
    fold = _LINE if dim == 1 else _FOLD
    whole = tile.shape[dim] // fold * fold
    if dim == 1:
        head, tail = tile[:, :whole].unflatten(1, (whole // fold, fold)), tile[:, whole:]
        who, at = (head.amin(2) < limits[:, None]).nonzero().unbind(1)
        chosen = head[who, at]
    else:
        head, tail = tile[:whole].unflatten(0, (whole // fold, fold)), tile[whole:].T
        who, at = (head.amin(1) < limits).T.contiguous().nonzero().unbind(1)
        chosen = head[at, :, who]
    hit, step = (chosen < limits[who, None]).nonzero().unbind(1)
    last, end = (tail < limits[:, None]).nonzero().unbind(1)
    who, place = torch.cat([who[hit], last]), torch.cat([at[hit] * fold + step, end + whole])
    values = torch.cat([chosen[hit, step], tail[last, end]])
    if len(last):
        who, order = who.sort(stable=True)
        place, values = place[order], values[order]
    return who, place, values


def smallest(tile: Tensor, keep: int, dim: int) -> tuple[Tensor, Tensor]:
    """The `keep` smallest values of each row (dim 1) or column (dim 0) of a tile, unsorted, and their places.

    Folds the tile first: the `keep` smallest values lie in the `keep` folds with the smallest minima, so that the
    search goes through a few hundred values instead of all. A tile narrower than `keep` gives all it has. Values below
    0, which only rounding makes of squares, count as 0.

    >>> values, places = smallest(torch.tensor([[4.0, 1.0, 3.0], [0.0, 7.0, 2.0]]), 1, dim=1)
    >>> values.flatten().tolist(), places.flatten().tolist()
    ([1.0, 0.0], [1, 0])
    """
    length = tile.shape[dim]
    folds = length // _FOLD
    if folds < 2 * keep:
        return _least(tile if dim == 1 else tile.T.contiguous(), min(keep, length))
    if dim == 1:
        head, tail = torch.unflatten(tile[:, : folds * _FOLD], 1, (_FOLD, folds)), tile[:, folds * _FOLD :]
        fold = _least(head.amin(1), keep)[1]
        chosen = head.gather(2, fold[:, None].expand(-1, _FOLD, -1)).flatten(1)
    else:
        head, tail = torch.unflatten(tile[: folds * _FOLD], 0, (_FOLD, folds)), tile[folds * _FOLD :].T
        fold = _least(head.amin(0).T.contiguous(), keep)[1]
        chosen = head.gather(1, fold.T[None].expand(_FOLD, -1, -1)).flatten(0, 1).T
    values, place = _least(torch.cat([chosen, tail], 1), keep)
    inside = (place // keep) * folds + fold.gather(1, place % keep)
    return values, torch.where(place < keep * _FOLD, inside, place - keep * _FOLD + folds * _FOLD)


def _nearer(tile: Tensor, limits: Tensor, dim: int, keep: int) -> tuple[Tensor, Tensor] | None:
    """What `below` finds as a table with a line for each limit, filled with infinity; None where it would be too long.

    Once a few tiles have been searched, another one holds few nearer neighbours, if any. Only on a CPU: a GPU would
    have to wait for every answer.
    """
    if tile.device.type != "cpu" or not limits.isfinite().all():
        return None
    who, place, values = below(tile, limits, dim)
    count = torch.bincount(who, minlength=len(limits))
    width = int(count.max())
    if width > 8 * keep:
        return None
    column = torch.arange(len(who)) - (count.cumsum(0) - count)[who]
    table = values.new_full((len(limits), width), torch.inf)
    table[who, column] = values
    places = torch.zeros((len(limits), width), dtype=torch.long)
    places[who, column] = place
    return table, places


def _least(values: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The `keep` smallest values of each row, unsorted, and their places.

    On a CPU as whole numbers, the value's bits above its place's, by NumPy's partition: five times quicker than topk.
    """
    if values.device.type != "cpu" or values.dtype != torch.float32 or values.shape[1] <= keep:
        return values.topk(keep, 1, largest=False, sorted=False)
    keys = values.clamp(min=0).view(torch.int32).long().bitwise_left_shift_(32)  # so that -0 and rounding sort as 0
    keys |= torch.arange(values.shape[1])
    array = keys.numpy()
    array.partition(keep - 1, axis=1)
    best = keys[:, :keep]
    return (best >> 32).int().view(torch.float32), best & 0xFFFFFFFF
