"""Mean and covariance of features, gathered in float64 from batches, processes and machines."""

from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
import torch
from torch import Tensor

from stabilgan.metrics.distances import full_precision, mean
from stabilgan.metrics.inputs import features

ROWS = 1024  # rows taken at once into float64


class Gaussian:
    """Mean and covariance of features that come in batches, in float64: `update` with each, `merge` with another's.

    Batches, processes and machines may be merged in any order; the sums are kept about their own means (Chan et al.
    1983), so nothing cancels. `state_dict` is what to send.

    >>> gaussian = Gaussian().update(torch.tensor([[1.0], [2.0]])).update(torch.tensor([[6.0]]))
    >>> gaussian.mean.tolist(), gaussian.covariance.tolist()
    ([3.0], [[7.0]])
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean = self.scatter = torch.zeros(0, dtype=torch.float64)

    def update(self, x: Tensor) -> Self:
        """Add a batch of features, (N, d) of any real dtype."""
        rows = features(x, "x")
        centre = mean(rows)
        return self._add(len(rows), centre, sum_of_products(centred(rows, centre), rows))

    def merge(self, other: "Gaussian") -> Self:
        """Add what another one has seen."""
        return self._add(other.n, other.mean.to(self.mean.device), other.scatter.to(self.mean.device))

    def _add(self, n: int, mean: Tensor, scatter: Tensor) -> Self:
        if not self.n or not n:
            self.mean, self.scatter = (self.mean, self.scatter) if self.n else (mean, scatter)
        elif self.mean.shape != mean.shape:
            raise ValueError(f"features have {len(mean)} columns, those before had {len(self.mean)}; expected one kind")
        else:
            apart = mean - self.mean
            self.scatter = self.scatter + scatter
            self.scatter.addr_(apart, apart, alpha=self.n * n / (self.n + n))
            self.mean = self.mean + apart * (n / (self.n + n))
        self.n += n
        return self

    @property
    def covariance(self) -> Tensor:
        """(d, d), divided by n - 1."""
        if self.n < 2:
            raise ValueError(f"a covariance of {self.n} samples was asked for; expected at least 2; draw more of them")
        return self.scatter / (self.n - 1)

    def state_dict(self) -> dict[str, int | Tensor]:
        """The number of samples, their mean and their scatter."""
        return {"n": self.n, "mean": self.mean, "scatter": self.scatter}

    def load_state_dict(self, state: dict[str, int | Tensor]) -> None:
        """Go on from a `state_dict`."""
        self.n = int(state["n"])
        self.mean, self.scatter = torch.as_tensor(state["mean"]), torch.as_tensor(state["scatter"])


def centred(x: Tensor, centre: Tensor | float = 0.0) -> Iterator[Tensor]:
    """Go through x less the centre in float64, `ROWS` rows at a time, in one buffer that is reused.

    >>> [part.tolist() for part in centred(torch.tensor([[1.0], [3.0]]), 2.0)]
    [[[-1.0], [1.0]]]
    """
    buffer = x.new_empty(min(ROWS, len(x)), x.shape[1], dtype=torch.float64)
    for part in torch.split(x, ROWS):
        out = buffer[: len(part)]
        if x.device.type == "cpu":  # one thread: torch's others would spin on while BLAS takes the block
            np.copyto(out.numpy(), part.numpy())
            np.subtract(out.numpy(), np.asarray(centre), out=out.numpy())
        else:
            out.copy_(part).sub_(centre)
        yield out


def sum_of_products(parts: Iterable[Tensor], like: Tensor) -> Tensor:
    """The sum of part.T @ part over row blocks of float64, on the device of `like`.

    On a CPU BLAS adds each block to one triangle in place (syrk): half the work, and no copy of d x d for each.

    >>> sum_of_products([torch.tensor([[1.0, 2.0]]).double()], torch.zeros(1)).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    total: Tensor | None = None
    if like.device.type != "cpu":
        for part in parts:
            product = torch.mm(part.T, part)
            total = product if total is None else total.add_(product)
    else:
        from scipy.linalg.blas import dsyrk

        triangle = None
        for part in parts:
            block = part.contiguous().numpy().T
            triangle = dsyrk(1.0, block) if triangle is None else dsyrk(1.0, block, 1.0, triangle, overwrite_c=1)
        if triangle is not None:
            total = mirrored(torch.from_numpy(triangle.T))
    if total is None:
        raise ValueError("no blocks were given to add up; expected at least one")
    return total


def mirrored(lower: Tensor, side: int = 256) -> Tensor:
    """Copy what is below a square matrix's diagonal to above it, in place, on a CPU.

    >>> mirrored(torch.tensor([[1.0, 0.0], [2.0, 3.0]])).tolist()
    [[1.0, 2.0], [2.0, 3.0]]
    """
    array = lower.numpy()
    for i in range(0, len(array), side):
        block = array[i : i + side, i : i + side]
        block[:] = np.tril(block) + np.tril(block, -1).T
        array[i : i + side, i + side :] = array[i + side :, i : i + side].T
    return lower


@full_precision()
def gram(a: Tensor) -> Tensor:
    """a @ a.T; on a CPU through NumPy, whose BLAS computes one half and mirrors it.

    >>> gram(torch.tensor([[1.0, 2.0]]))
    tensor([[5.]])
    """
    if a.device.type != "cpu":
        return torch.mm(a, a.T)
    array = a.numpy()
    return torch.from_numpy(array @ array.T)


def sum_of_squares(a: Tensor) -> float:
    """The sum in float64 of all squares in a matrix, without a copy in float64.

    >>> sum_of_squares(torch.tensor([[3.0, 4.0]]))
    25.0
    """
    if a.device.type != "cpu":
        return float(torch.linalg.vector_norm(a, dtype=torch.float64)) ** 2
    return float(np.einsum("ij,ij->", a.numpy(), a.numpy(), dtype=np.float64))


def eigenvalues(symmetric: Tensor) -> Tensor:
    """The eigenvalues of a symmetric matrix in float64, ascending; on a CPU it is overwritten.

    On a CPU by SciPy, whose LAPACK was quicker than torch's, by a third on two threads.

    >>> eigenvalues(torch.tensor([[0.0, 2.0], [2.0, 0.0]]).double()).tolist()
    [-2.0, 2.0]
    """
    if symmetric.device.type != "cpu":
        values: Tensor = torch.linalg.eigvalsh(symmetric)
        return values
    from scipy.linalg import eigvalsh

    return torch.from_numpy(eigvalsh(symmetric.numpy().T, driver="evd", overwrite_a=True, check_finite=False))
