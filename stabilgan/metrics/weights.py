"""Singular values of layers: how much a layer can stretch its input, and how close to singular it is."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def singular_values(module: nn.Module, k: int = 1) -> dict[str, tuple[float, ...]]:
    """Find the k largest singular values of every layer's weight, exactly, largest first.

    Takes each linear and convolutional layer's weight as the matrix (outputs, everything else), as spectral
    normalisation does (Miyato et al. 2018, arXiv:1802.05957); it bounds a convolution's true gain from below up to a
    factor of the root of its kernel size. Weights under a parametrization are read as the layer uses them, and their
    power iteration does not move. A layer with fewer than k gives all it has; one with nan or infinity gives nan.

    >>> layer = nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    >>> singular_values(nn.Sequential(layer), k=2)
    {'0': (3.0, 2.0)}
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected how many singular values to find, at least 1")
    result = {}
    with torch.no_grad(), _evaluating(module):
        for name, layer in module.named_modules():
            weight = getattr(layer, "weight", None)
            if isinstance(weight, Tensor) and weight.ndim >= 2 and not isinstance(layer, nn.Embedding):
                matrix = (weight.transpose(0, 1) if isinstance(layer, _TRANSPOSED) else weight).flatten(1).float()
                count = min(k, *matrix.shape)
                if matrix.isfinite().all():
                    result[name] = tuple(torch.linalg.svdvals(matrix)[:count].tolist())
                else:
                    result[name] = (float("nan"),) * count
    return result


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
