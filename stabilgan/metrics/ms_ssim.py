"""MS-SSIM: how alike two images look at several scales, and how alike the images of a generator are to each other."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from stabilgan.metrics.distances import full_precision
from stabilgan.metrics.meter import SetMeter

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@dataclass(frozen=True)
class MSSSIMDiversity:
    """What `ms_ssim_diversity` measured.

    similarity: mean MS-SSIM of random pairs, 0..1; high means little diversity. Compare with that of the reals.
    standard_error: std/√pairs, from the spread between the pairs.
    """

    similarity: float
    standard_error: float
    n: int
    pairs: int
    scales: int
    seed: int


@full_precision()
def ms_ssim(a: Tensor, b: Tensor, *, data_range: float, scales: int = 5) -> Tensor:
    """Compare images pair by pair at several scales: 1 for equal ones, near 0 for unrelated ones. Returns (N,).

    a, b: (N, C, H, W), any real dtype; computed in float32 or wider. data_range: largest minus smallest possible value:
    255, 1, or 2 for [-1, 1]. A Gaussian window of 11 x 11, σ 1.5, without padding; between scales, means of 2 x 2.
    scales: the authors' 5 need H and W of at least 176; with fewer, the first weights are used, scaled to sum 1.
    Negative contrast counts as 0; channels are averaged. Raises ValueError for smaller images.

    Wang, Simoncelli and Bovik 2003, doi:10.1109/ACSSC.2003.1292216.

    >>> ms_ssim(torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16), data_range=1.0, scales=1).item() < 1e-3
    True
    """
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; expected (N, C, H, W), both the same")
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; expected the largest minus the smallest possible value")
    if not 1 <= scales <= 5 or min(a.shape[2:]) < 11 * 2 ** (scales - 1):
        fit = sum(min(a.shape[2:]) >= 11 * 2**s for s in range(5))
        raise ValueError(
            f"scales is {scales} for images of {a.shape[2]} x {a.shape[3]}; expected 1 to {fit}"
            if fit
            else f"images of {a.shape[2]} x {a.shape[3]} are smaller than the 11 x 11 window"
        )
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.detach().to(dtype), b.detach().to(dtype)
    weights = [weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales]]
    result = a.new_ones(a.shape[:2])
    for scale, weight in enumerate(weights):
        # four blurred maps are enough: the two variances are only needed as a sum
        middle = torch.stack([a, b])
        mean = _blur(middle)
        both, cross = _blur(torch.stack([middle.square().sum(0), a * b]))
        product, squares = mean.prod(0), mean.square().sum(0)
        score = (2 * (cross - product) + c2) / (both - squares + c2)
        if scale == scales - 1:
            score = score * (2 * product + c1) / (squares + c1)
        result = result * score.mean((2, 3)).clamp(min=0) ** weight
        if scale < scales - 1:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return result.mean(1)


def ms_ssim_diversity(
    x: Tensor, *, data_range: float, pairs: int = 100, scales: int = 5, seed: int = 0
) -> MSSSIMDiversity:
    """Measure how alike a generator's images are: the mean MS-SSIM of random pairs of different images.

    x: (N, C, H, W), N at least 2; of one class, since classes differ anyway. Other arguments as in `ms_ssim`. seed:
    draws the pairs. Raises ValueError for nan or infinity.

    Odena, Olah and Shlens 2017 (arXiv:1610.09585), Sec. 4.2.

    >>> ms_ssim_diversity(torch.zeros(3, 1, 16, 16), data_range=1.0, scales=1).similarity
    1.0
    """
    if x.ndim != 4 or len(x) < 2 or pairs < 1:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and pairs is {pairs}; "
            "expected (N, C, H, W) with N and pairs at least 2 and 1"
        )
    if not x.isfinite().all():
        bad = (~x.isfinite().flatten(1).all(1)).nonzero().flatten()
        raise ValueError(f"x has nan or infinity in {len(bad)} of {len(x)} rows, the first at {bad[:5].tolist()}")
    rng = torch.Generator().manual_seed(seed)
    i = torch.randint(len(x), (pairs,), generator=rng)
    j = (i + torch.randint(1, len(x), (pairs,), generator=rng)) % len(x)
    step = max(1, 2**22 // x[0].numel())
    scores = torch.cat(
        [
            ms_ssim(
                x[i[s : s + step].to(x.device)], x[j[s : s + step].to(x.device)], data_range=data_range, scales=scales
            )
            for s in range(0, pairs, step)
        ]
    ).double()
    error = scores.std().item() / math.sqrt(pairs) if pairs > 1 else math.nan
    return MSSSIMDiversity(scores.mean().item(), error, len(x), pairs, scales, seed)


class MSSSIMDiversityMeter(SetMeter[MSSSIMDiversity]):
    """`ms_ssim_diversity` over batches."""

    def __init__(self, *, data_range: float, pairs: int = 100, scales: int = 5, seed: int = 0) -> None:
        super().__init__(lambda x: ms_ssim_diversity(x, data_range=data_range, pairs=pairs, scales=scales, seed=seed))


def _blur(x: Tensor) -> Tensor:
    """The valid part of an 11 x 11 Gaussian blur, as one banded matrix product along each axis."""
    return _band(x, x.shape[-2]) @ x @ _band(x, x.shape[-1]).T


def _band(x: Tensor, length: int) -> Tensor:
    offsets = torch.arange(length, device=x.device) - torch.arange(length - 10, device=x.device)[:, None]
    taps = torch.exp(-(((offsets - 5).double() / 1.5) ** 2) / 2) * ((offsets >= 0) & (offsets <= 10))
    return (taps / taps.sum(1, keepdim=True)).to(x.dtype)
