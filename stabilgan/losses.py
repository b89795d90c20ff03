"""Adversarial losses: pairs of pure functions of D's raw scores (logits), one for each player.

Each takes scores of any shape and returns a scalar. `d(real, fake)` is what D minimises, `g(fake, real)` what G does;
`real` is None for G where the loss does not look at it (`needs_real` is False).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from stabilgan import spec

DLoss = Callable[[Tensor, Tensor], Tensor]
GLoss = Callable[[Tensor, Tensor | None], Tensor]


class Loss(NamedTuple):
    """What each player minimises, what that does, and where it comes from.

    `needs_real` says that G's loss looks at scores of real samples too. `middle` is the score of a sample of which D
    can't say whether it is real; None where scores mean nothing by themselves, only their differences.
    """

    name: str
    d: DLoss
    g: GLoss
    source: str
    needs_real: bool = False
    does: str = ""
    middle: float | None = 0.0


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
    middle=0.5,
)
wasserstein = Loss(
    "wasserstein",
    _wasserstein_d,
    _linear_g,
    "Arjovsky et al. 2017, arXiv:1701.07875, Eq. 2",
    does="The critic's gap; needs a Lipschitz D (weight clipping, a gradient penalty, spectral norm).",
    middle=None,
)
relativistic = Loss(
    "relativistic",
    _relativistic_d,
    _relativistic_g,
    "Jolicoeur-Martineau 2018, arXiv:1807.00734, Eq. 3-4",
    needs_real=True,
    does="Each real against the fake beside it: which is more real? Both pay ln 2 at chance.",
    middle=None,
)

LOSSES = {loss.name: loss for loss in (logistic, saturating, hinge, least_squares, wasserstein, relativistic)}
"""Every pair by its name."""

WITH_MIDDLE = frozenset(name for name, loss in LOSSES.items() if loss.middle is not None)
"""The names of those under which D's score of one sample says on which side of the middle it is."""


def middle_of(pair: Loss | None) -> float:
    """Where D's scores change sides; 0 for a pair that nobody knows.

    >>> middle_of(least_squares), middle_of(None)
    (0.5, 0.0)
    """
    return (pair.middle if pair is not None else None) or 0.0


def with_middle(name: str, trick: str) -> Loss:
    """The pair of that name, for a trick that has to know on which side of its middle a score is.

    Raises:
        ValueError: no such pair, or its scores have no middle.
    """
    pair = named(name)
    if pair.middle is None:
        raise ValueError(
            f"{trick}: under the {pair.name} loss a score has no middle to be on a side of; expected one of "
            f"{', '.join(sorted(WITH_MIDDLE))}"
        )
    return pair


def named(name: str) -> Loss:
    """The pair of that name.

    Raises:
        ValueError: there is none; the message suggests the nearest.
    """
    if name not in LOSSES:
        raise ValueError(spec.unknown("loss", name, LOSSES))
    return LOSSES[name]


def _smooth_logistic(scores: Tensor, target: float) -> Tensor:
    return (target * softplus(-scores) + (1 - target) * softplus(scores)).mean()


def _smooth_least_squares(scores: Tensor, target: float) -> Tensor:
    return (scores - target).square().mean() / 2


_SMOOTH = {_logistic_d: _smooth_logistic, _least_squares_d: _smooth_least_squares}
"""D's losses that have a target -> the same for one side, with the target told."""


def label_smoothing(pair: Loss, real: float = 0.9, fake: float = 0.0) -> Loss:
    """The pair with softer targets for D, which is then never wholly sure; G's loss stays.

    Args:
        pair: logistic, saturating or least_squares.
        real, fake: D's targets, in [0, 1] with fake < real (Salimans et al. 2016, arXiv:1606.03498, Sec. 3.4: 0.9, 0).

    Raises:
        ValueError: targets out of range; a pair that has none.

    >>> import torch
    >>> scores = torch.tensor([9.0]).log()  # D is 90 % sure of a real sample
    >>> soft = label_smoothing(logistic).d(scores.requires_grad_(), torch.zeros(1))
    >>> torch.autograd.grad(soft, scores)[0].abs().item() < 1e-6  # and wants nothing else
    True
    """
    if not 0 <= fake < real <= 1:
        raise ValueError(f"targets are real={real} and fake={fake}; expected 0 <= fake < real <= 1")
    if pair.d not in _SMOOTH:
        raise ValueError(f"{pair.name} has no targets to make softer; expected logistic, saturating or least_squares")
    one_side = _SMOOTH[pair.d]
    return pair._replace(d=lambda x, y: one_side(x, real) + one_side(y, fake))


def label_flipping(
    pair: Loss, share: float, generator: torch.Generator | Callable[[torch.device], torch.Generator]
) -> Loss:
    """The pair, in which D now and then takes a fake for real and the real beside it for fake; G's loss stays.

    In each call of `d` some of the pairs of scores change sides; where there are more of one side, the rest stay.

    Args:
        pair: any.
        share: how likely each pair is flipped, in [0, ½).
        generator: on the device of the scores, or what gives one for a device.

    Raises:
        ValueError: a share out of range.

    >>> import torch
    >>> noisy = label_flipping(wasserstein, 0.25, torch.Generator().manual_seed(0))
    >>> gap = noisy.d(torch.ones(10_000), torch.zeros(10_000))  # -1 for pairs that stay, 1 for those that are flipped
    >>> round(gap.item(), 1)
    -0.5
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"share is {share}; expected 0 or more and less than ½, where labels say nothing any more")

    def flipped_d(real: Tensor, fake: Tensor) -> Tensor:
        n = min(len(real), len(fake))
        drawn = generator if isinstance(generator, torch.Generator) else generator(real.device)
        flips = torch.rand(n, generator=drawn, device=real.device) < share
        flips = flips.view(n, *(1,) * (real.dim() - 1))
        told_real, told_fake = torch.where(flips, fake[:n], real[:n]), torch.where(flips, real[:n], fake[:n])
        return pair.d(torch.cat([told_real, real[n:]]), torch.cat([told_fake, fake[n:]]))

    return pair._replace(d=flipped_d)
