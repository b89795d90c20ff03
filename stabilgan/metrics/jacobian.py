"""Eigenvalues of the game's Jacobian: whether training near this point is drawn in, pushed out, or turned around."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stabilgan.metrics.field import GameField, Losses

_DENSE = 256  # parameters up to which the whole Jacobian is made


@dataclass(frozen=True)
class JacobianEigenvalues:
    """What `jacobian_eigenvalues` found, of the direction in which gradient descent moves both players.

    values: complex, largest magnitude first. Simultaneous descent with small steps converges to an equilibrium where
        all real parts are negative; imaginary parts turn it, and need smaller steps.
    rotation: |Im λ|/|λ| of each, 0 (straight) to 1 (pure rotation); 0 where λ is 0.
    largest_real: the largest real part among them.
    parameters: how many there are of both players.
    """

    values: tuple[complex, ...]
    rotation: tuple[float, ...]
    largest_real: float
    parameters: int


def jacobian_eigenvalues(
    g: nn.Module, d: nn.Module, losses: Losses, *, k: int = 10, seed: int = 0
) -> JacobianEigenvalues:
    """Find the k largest eigenvalues of the Jacobian of the game's gradient field at the players' place.

    g, d, losses: as in `GameField`; losses must be twice differentiable. k: how many, by magnitude. Up to 256
    parameters the whole matrix is made; beyond that scipy's sparse solver asks for products with it, which are
    products of its transpose with a vector, one double backward pass each (the eigenvalues are the same). seed: starts
    the solver. Nothing of the players changes. Raises ValueError if k is below 1, scipy's ArpackNoConvergence if the
    solver does not get there.

    Mescheder et al. 2017 (arXiv:1705.10461), Sec. 3; Berard et al. 2020 (arXiv:1906.04848), Sec. 4.2.

    >>> x, y = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> found = jacobian_eigenvalues(x, y, lambda: (-(x.weight * y.weight).sum(), (x.weight * y.weight).sum()))
    >>> sorted(value.imag for value in found.values), found.rotation  # xy turns forever
    ([-1.0, 1.0], (1.0, 1.0))
    """
    field = GameField(g, d, losses)
    n = field.point().numel()
    if k < 1:
        raise ValueError(f"k is {k}; expected how many eigenvalues to find, at least 1")
    with field.measuring():
        direction = field.direction(create_graph=True)
        parameters = [p for player in field.players for p in player]

        def product(vector: Tensor) -> Tensor:
            parts = torch.autograd.grad(direction, parameters, vector, retain_graph=True, allow_unused=True)
            return torch.cat(
                [
                    torch.zeros_like(p).flatten() if part is None else part.flatten()
                    for p, part in zip(parameters, parts, strict=True)
                ]
            )

        if not direction.requires_grad:
            raise ValueError(
                "the gradient of the losses does not depend on the parameters; eigenvalues need a second "
                "derivative (no torch.no_grad or detach inside losses)"
            )
        if n <= _DENSE or k >= n - 1:
            rows = [product(unit) for unit in torch.eye(n, dtype=direction.dtype, device=direction.device)]
            values = np.linalg.eigvals(torch.stack(rows).double().cpu().numpy())
        else:
            values = _sparse(product, direction, k, seed)
    values = values[np.argsort(-np.abs(values), kind="stable")][:k]
    size = np.abs(values)
    rotation = np.divide(np.abs(values.imag), size, out=np.zeros_like(size), where=size > 0)
    return JacobianEigenvalues(
        tuple(complex(value) for value in values), tuple(rotation.tolist()), float(values.real.max()), n
    )


def _sparse(product: Callable[[Tensor], Tensor], like: Tensor, k: int, seed: int) -> NDArray[np.complex128]:
    from scipy.sparse.linalg import LinearOperator, eigs

    def matvec(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        result = product(torch.from_numpy(vector.ravel()).to(like.device, like.dtype))
        array: NDArray[np.float64] = result.double().cpu().numpy()
        return array

    n = like.numel()
    operator = LinearOperator((n, n), matvec=matvec, dtype=np.float64)
    start = np.random.default_rng(seed).normal(size=n)
    return eigs(operator, k=k, which="LM", v0=start, return_eigenvectors=False)
