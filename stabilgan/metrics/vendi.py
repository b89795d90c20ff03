"""Vendi score and Rényi kernel entropy: how many different samples a set effectively holds, without a reference set."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stabilgan.metrics.distances import Tile, direct, mean, squared_norms, tiles
from stabilgan.metrics.gaussian import ROWS, centred, eigenvalues, gram, sum_of_products, sum_of_squares
from stabilgan.metrics.inputs import features
from stabilgan.metrics.meter import SetMeter


@dataclass(frozen=True)
class Vendi:
    """What `vendi_score`, `rke` and `fkea` measured.

    score: the effective number of different samples, 1 (all alike) to n (all different).
    q: the order; 1 is Shannon's, 2 counts common samples only, inf the largest group alone.
    kernel: "cosine", or "rbf" with its bandwidth sigma. sigma: nan for cosine.
    random_features: how many random frequencies stand for the kernel; 0 if it is exact.
    """

    score: float
    q: float
    n: int
    kernel: str
    sigma: float = math.nan
    random_features: int = 0
    seed: int = 0


def vendi_score(x: Tensor, *, q: float = 1.0) -> Vendi:
    """Count the effectively different samples by the cosine kernel: m equal clusters at right angles give m.

    x: (N, d); rows of zeros count as alike, and unlike all others. q: order, above 0. The score is exp of the order-q
    Rényi entropy of the eigenvalues of the kernel matrix over N. Those of the d x d matrix are the same, so the
    smaller side is taken; order 2 needs no eigenvalues. In float64, but for the products of float32 samples in order 2,
    which is good to 1e-6. Raises ValueError for nan and infinity.

    Friedman and Dieng 2023 (arXiv:2210.02410); orders: Pasarkar and Dieng 2024 (arXiv:2310.12952).

    >>> round(vendi_score(torch.eye(4).repeat(5, 1)).score, 6)
    4.0
    """
    rows = features(x)
    _order(q)
    norms = squared_norms(rows).sqrt_()[:, None]
    if not (norms > 0).all():  # a direction of their own for rows without one
        rows = torch.cat([rows, (norms == 0).to(rows)], 1)
        norms = torch.where(norms > 0, norms, 1.0)
    n, d = rows.shape
    if q == 2 and rows.dtype == torch.float32:
        score = n**2 / _squared_products(rows, norms)
        return Vendi(min(max(score, 1.0), float(n)), q, n, "cosine")
    if n < d:
        side = gram(next(_units(rows, norms, n, torch.float64)))
    else:
        side = sum_of_products(_units(rows, norms, ROWS, torch.float64), rows)
    return Vendi(_score(side, n, q), q, n, "cosine")


def rke(x: Tensor, *, sigma: float, tile: int | None = None) -> Vendi:
    """Count the modes of a set by order-2 Rényi kernel entropy: 1 / mean of exp(-|x-y|²/σ²) over all pairs.

    x: (N, d). sigma: bandwidth of the Gaussian kernel exp(-|x-y|²/2σ²), > 0. It decides what counts as different: a
    few times the spread within a mode, well under the distance between modes. For features without known modes take
    `median_distance` of the reals, and the same sigma for every set that is compared: one chosen on a collapsed set
    would hide the collapse. The pairs go by in tiles; nothing of size N x N is kept.

    Jalali et al. 2023 (arXiv:2302.03362).

    >>> round(rke(torch.tensor([[0.0], [0.0], [9.0], [9.0]]), sigma=0.5).score, 6)
    2.0
    """
    rows = features(x)
    _bandwidth(sigma)
    sums = RKESum(rows, sigma)
    for part in tiles(rows, dtype=sums.dtype(), size=tile):
        sums.add(part)
    return sums.result()


def fkea(x: Tensor, *, sigma: float, q: float = 1.0, random_features: int = 512, seed: int = 0) -> Vendi:
    """The Vendi score of a Gaussian kernel by random Fourier features: time and memory in N do not grow as N².

    x: (N, d). sigma: as in `rke`. random_features: r frequencies drawn from N(0, 1/σ²), which make a 2r x 2r matrix;
    the kernel they stand for is off by about 1/√r. The score can't exceed 2r. seed: draws the frequencies.

    Ospanov et al. 2024 (arXiv:2407.02961).

    >>> round(fkea(torch.zeros(10, 3), sigma=1.0).score, 6)
    1.0
    """
    rows = features(x)
    _order(q)
    _bandwidth(sigma)
    rng = torch.Generator().manual_seed(seed)
    waves = torch.randn(rows.shape[1], random_features, generator=rng, dtype=torch.float64).to(rows.device) / sigma
    phases = (part @ waves for part in centred(rows, mean(rows)))
    side = sum_of_products((torch.cat([phase.cos(), phase.sin()], 1) for phase in phases), rows)
    return Vendi(_score(side, len(rows) * random_features, q), q, len(rows), "rbf", sigma, random_features, seed)


def median_distance(x: Tensor, *, samples: int = 1000, seed: int = 0) -> float:
    """The median distance between two of the samples, over all pairs of up to `samples` of them: the bandwidth rule.

    >>> median_distance(torch.tensor([[0.0], [1.0], [3.0]]))
    2.0
    """
    rows = features(x, least=2)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:samples].to(rows.device)
    return float(torch.nn.functional.pdist(rows[chosen]).median())


class VendiMeter(SetMeter[Vendi]):
    """`vendi_score` over batches."""

    def __init__(self, *, q: float = 1.0) -> None:
        super().__init__(lambda x: vendi_score(x, q=q))


class RKEMeter(SetMeter[Vendi]):
    """`rke` over batches."""

    def __init__(self, *, sigma: float) -> None:
        super().__init__(lambda x: rke(x, sigma=sigma))


class FKEAMeter(SetMeter[Vendi]):
    """`fkea` over batches."""

    def __init__(self, *, sigma: float, q: float = 1.0, random_features: int = 512, seed: int = 0) -> None:
        super().__init__(lambda x: fkea(x, sigma=sigma, q=q, random_features=random_features, seed=seed))


class RKESum:
    """The sum of exp(-|x-y|²/σ²) over tiles of squared distances within x."""

    def __init__(self, x: Tensor, sigma: float) -> None:
        self.x, self.sigma = x, sigma
        self.total: float | Tensor = 0.0
        self.scratch = torch.empty(0)

    def dtype(self) -> torch.dtype:
        """float64 where rounding in float32 products would move the exponent, x's own otherwise."""
        largest = squared_norms(self.x, mean(self.x)).max().item()
        coarse = torch.finfo(self.x.dtype).eps * largest / self.sigma**2
        return torch.float64 if coarse > 1e-6 else self.x.dtype

    def add(self, tile: Tile) -> None:
        """Add a tile of distances, one off the diagonal twice."""
        squares = tile.squares
        if self.scratch.dtype != squares.dtype or self.scratch.numel() < squares.numel():
            self.scratch = torch.empty_like(squares).flatten()
        powers = self.scratch[: squares.numel()].view_as(squares)
        torch.mul(squares, -1 / self.sigma**2, out=powers)
        powers.clamp_(-80, 0).exp_()  # below exp(-80) come slow denormal numbers
        if squares.dtype == torch.float64 and tile.slack > 1e-5 * self.sigma**2:
            # samples so far out that not even float64 products tell the near ones apart
            i, j = (squares < 40 * self.sigma**2 + tile.slack).nonzero().unbind(1)
            exact = direct(self.x, self.x, i + tile.i.start, j + tile.j.start)
            powers[i, j] = exact.div_(-(self.sigma**2)).clamp_(min=-80).exp_()
        self.total = self.total + powers.sum(dtype=torch.float64) * (1 if tile.i == tile.j else 2)

    def result(self) -> Vendi:
        """The score of all samples."""
        n = len(self.x)
        return Vendi(n**2 / float(self.total), 2.0, n, "rbf", self.sigma)


def _score(side: Tensor, trace: float, q: float) -> float:
    if q == 2:
        return trace**2 / sum_of_squares(side)
    values = eigenvalues(side) / trace
    values = values[values > len(values) * torch.finfo(values.dtype).eps * values[-1]]  # the rest is rounding
    if q == 1:
        return float(torch.special.entr(values).sum().exp())
    if q == math.inf:
        return float(1 / values.max())
    return float(values.pow(q).sum() ** (1 / (1 - q)))


def _squared_products(x: Tensor, norms: Tensor) -> float:
    """The sum of the squared cosines of all pairs of rows, from products in float32.

    Nothing in it cancels, so that they lose no more than their own rounding: about 1e-7 of the sum.
    """
    if len(x) < x.shape[1]:
        return sum_of_squares(gram(next(_units(x, norms, len(x), torch.float32))))
    # few enough rows at once that their sums in float32 do not drift
    sides = (gram(part.T) for part in _units(x, norms, 8 * ROWS, torch.float32))
    total = next(sides)
    for side in sides:
        total = total.double().add_(side)
    return sum_of_squares(total)


def _units(x: Tensor, norms: Tensor, rows: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Go through the rows of x at unit length, so many at a time, in one buffer that is reused; norms: (N, 1)."""
    buffer = x.new_empty(min(rows, len(x)), x.shape[1], dtype=dtype)
    for part, length in zip(torch.split(x, rows), torch.split(norms, rows), strict=True):
        out = buffer[: len(part)]
        if x.device.type != "cpu":
            out.copy_(part.double().div_(length))
        else:  # one thread, as in `centred`, and in float64 only what stays in the cache
            step = max(1, 2**17 // x.shape[1])
            for i in range(0, len(part), step):
                out.numpy()[i : i + step] = part[i : i + step].numpy().astype(np.float64) / length[i : i + step].numpy()
        yield out


def _order(q: float) -> None:
    if not q > 0:
        raise ValueError(f"q is {q}; expected the order of the entropy, above 0: 1, 2 or float('inf')")


def _bandwidth(sigma: float) -> None:
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is {sigma}; expected the kernel's bandwidth, above 0, such as median_distance(real)")
