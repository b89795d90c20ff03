"""Adversarial losses: pairs of pure functions of D's raw scores (logits), one for each player.

Each takes scores of any shape and returns a scalar. `d(real, fake)` is what D minimises, `g(fake, real)` what G does;
`real` is None for G where the loss does not look at it (`needs_real` is False).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import relu, softplus

from stabilgan import spec

DLoss = Callable[[Tensor, Tensor], Tensor]
GLoss = Callable[[Tensor, Tensor | None], Tensor]


class Loss(NamedTuple):
    """What each player minimises, what that does, and where it comes from.

    `needs_real` says that G's loss looks at scores of real samples too.
    """

    name: str
    d: DLoss
    g: GLoss
    source: str
    needs_real: bool = False
    does: str = ""


def _logistic_d(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real).mean() + softplus(fake).mean()


def _need(real: Tensor | None) -> Tensor:
    if real is None:
        raise ValueError("a relativistic loss for G needs the scores of real samples; call g(fake, real)")
    return real


def _logistic_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    return softplus(-fake).mean()


def _saturating_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    return -softplus(fake).mean()


def _hinge_d(real: Tensor, fake: Tensor) -> Tensor:
    return relu(1 - real).mean() + relu(1 + fake).mean()


def _linear_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    return -fake.mean()


def _least_squares_d(real: Tensor, fake: Tensor) -> Tensor:
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def _least_squares_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    return (fake - 1).square().mean() / 2


def _wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    return fake.mean() - real.mean()


def _paired(real: Tensor, fake: Tensor) -> Tensor:
    n = min(len(real), len(fake))  # a last batch may be smaller on one side
    return real[:n] - fake[:n]


def _relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-_paired(real, fake)).mean()


def _relativistic_g(fake: Tensor, real: Tensor | None = None) -> Tensor:
    return softplus(_paired(_need(real), fake)).mean()


logistic = Loss(
    "logistic",
    _logistic_d,
    _logistic_g,
    "Goodfellow et al. 2014, arXiv:1406.2661, Sec. 3, non-saturating",
    does="Binary cross-entropy on logits; G maximises log D. At chance D pays 2 ln 2 = 1.386 and G ln 2.",
)
saturating = Loss(
    "saturating",
    _logistic_d,
    _saturating_g,
    "Goodfellow et al. 2014, arXiv:1406.2661, Eq. 1",
    does="The minimax game itself: G minimises log(1 - D), whose gradient vanishes where D wins.",
)
hinge = Loss(
    "hinge",
    _hinge_d,
    _linear_g,
    "Lim & Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957, Eq. 16-17",
    does="D keeps a margin of 1 on each side, beyond which samples no longer teach it. At chance D pays 2.",
)
least_squares = Loss(
    "least_squares",
    _least_squares_d,
    _least_squares_g,
    "Mao et al. 2017, arXiv:1611.04076, Eq. 9",
    does="Targets 1 for real, 0 for fake, 1 for G, each term halved. At chance (scores of ½) D pays 0.25.",
)
wasserstein = Loss(
    "wasserstein",
    _wasserstein_d,
    _linear_g,
    "Arjovsky et al. 2017, arXiv:1701.07875, Eq. 2",
    does="The critic's gap; needs a Lipschitz D (weight clipping, a gradient penalty, spectral norm).",
)
relativistic = Loss(
    "relativistic",
    _relativistic_d,
    _relativistic_g,
    "Jolicoeur-Martineau 2018, arXiv:1807.00734, Eq. 3-4",
    needs_real=True,
    does="Each real against the fake beside it: which is more real? Both pay ln 2 at chance.",
)

LOSSES = {loss.name: loss for loss in (logistic, saturating, hinge, least_squares, wasserstein, relativistic)}
"""Every pair by its name."""


def named(name: str) -> Loss:
    """The pair of that name.

    Raises:
        ValueError: there is none; the message suggests the nearest.
    """
    if name not in LOSSES:
        raise ValueError(spec.unknown("loss", name, LOSSES))
    return LOSSES[name]
