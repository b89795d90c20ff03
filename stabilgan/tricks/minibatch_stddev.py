"""Minibatch standard deviation: D sees how much the samples of a group differ."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import skip_init

from stabilgan import surgery
from stabilgan.game import Game, Trick
from stabilgan.tricks._beside import CONVOLUTIONS, WRAPPED_ALREADY, put_beside


def minibatch_stddev(x: Tensor, group: int = 4, channels: int = 1) -> Tensor:
    """Lets D see the spread of a batch: the standard deviation over groups of samples, averaged over features.

    In each group √(variance + 1e-8) of every feature at every position (the biased variance), then its mean over
    positions and over each of `channels` equal parts of the features (Karras et al. 2018, arXiv:1710.10196, Sec. 3,
    as in the authors' code). Half precision is computed in float32.

    N samples make M = N // group groups, at least one; sample i is in group i mod M. Where `group` divides N that is
    the authors' code; elsewhere groups have up to 2 · group - 1 members. A batch of one has no spread.

    Args:
        x: (N, F, ...); any N from 1.
        group: at least 1. The paper's is 4.
        channels: at least 1, divides F. The paper's is 1.

    Returns:
        (N, channels), the same for all of a group; the dtype of x.

    Raises:
        ValueError: `channels` does not divide F.

    >>> minibatch_stddev(torch.tensor([[1.0, 0.0], [3.0, 6.0]])).tolist()  # (1 + 3) / 2, for both
    [[2.0], [2.0]]
    """
    n, features = x.shape[:2]
    if features % channels:
        raise ValueError(f"minibatch stddev: {channels} channels from {features} features; expected a divisor of it")
    groups = max(1, n // group)
    members = -(-n // groups)
    short = members * groups - n  # the last groups lack one member
    values = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1)
    values = pad(values, (0, 0, 0, short)).view(members, groups, -1)
    if short:
        there = (torch.arange(members * groups, device=x.device) < n).view(members, groups, 1).to(values.dtype)
        count = there.sum(0)
        centred = (values - values.sum(0) / count) * there
        variance = centred.square().sum(0) / count
    else:
        variance = (values - values.mean(0)).square().mean(0)
    spread = (variance + 1e-8).sqrt().view(groups, channels, -1).mean(2)
    return spread.repeat(members, 1)[:n].to(x.dtype)


class MinibatchStddevLayer(nn.Module):
    """The spread of a batch as extra channels: (N, F, ...) to (N, channels, ...), constant over positions.

    Only the new channels are returned: `torch.cat([h, layer(h)], 1)`. Nothing is learned. Real and fake never share a
    statistic so long as D sees them in separate calls.

    Args:
        group, channels: as for `minibatch_stddev`.

    >>> MinibatchStddevLayer()(torch.tensor([[[0.0, 0.0]], [[2.0, 6.0]]])).tolist()  # (N, F, positions): (1 + 3) / 2
    [[[2.0, 2.0]], [[2.0, 2.0]]]
    """

    def __init__(self, group: int = 4, channels: int = 1) -> None:
        super().__init__()
        for name, value in {"group": group, "channels": channels}.items():
            if value < 1:
                raise ValueError(f"minibatch stddev: {name} is {value}; expected 1 or more")
        self.group, self.channels = group, channels

    def forward(self, x: Tensor) -> Tensor:
        spread = minibatch_stddev(x, self.group, self.channels)
        return spread.view(*spread.shape, *(1,) * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])

    def extra_repr(self) -> str:
        return f"group={self.group}, channels={self.channels}"


class _OfTheLastDimension(nn.Module):
    """The same for (N, ..., F), what a linear layer takes."""

    def __init__(self, stddev: nn.Module) -> None:
        super().__init__()
        self.stddev = stddev

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.stddev(h.movedim(-1, 1)).movedim(1, -1)
        return out


class MinibatchStddev(Trick):
    """Lets D see when G's samples are too much alike: the spread of its batch, beside its last convolution.

    The input of D's last convolution, or of its last linear layer where it has none, gets the spread over groups as
    further channels, through weights that start at zero: D's output does not change when the trick is attached. D's
    optimizer is told of the new weights, at the layer's rate (Karras et al. 2018, arXiv:1710.10196, Sec. 3). Attach
    before wrapping D in DistributedDataParallel.

    Statistics are of one call of D on one rank: real and fake never share one if D sees them in separate calls.

    Args:
        group: samples that are compared, at least 1. The paper's is 4; StyleGAN2-ADA takes 32 for CIFAR.
        channels: at least 0, divides the layer's inputs; 0 adds nothing. The paper's is 1.
        layer: the name of another of D's layers to stand beside.
    """

    name = "minibatch_stddev"
    changes = "what D is"
    when = "G's samples vary less than the data, in a convolutional D. Nearly free, and weaker than `minibatch`."
    off: ClassVar = {"channels": 0}
    limits: ClassVar = WRAPPED_ALREADY
    source = "Karras et al. 2018, arXiv:1710.10196, Sec. 3"

    def __init__(self, group: int = 4, channels: int = 1, layer: str | None = None) -> None:
        if group < 1:
            raise ValueError(f"{self.name}: group is {group}; expected 1 or more")
        if channels < 0:
            raise ValueError(f"{self.name}: channels is {channels}; expected 0 or more")
        self.group, self.channels, self.layer = group, channels, layer

    def setup(self, game: Game) -> None:
        if self.channels == 0:
            return
        convolutions = [n for n, m in surgery.leaves(game.d) if isinstance(m, CONVOLUTIONS)]
        name = surgery.last_layer(game.d, self.layer or next(reversed(convolutions), None))
        last = game.d.get_submodule(name)
        stddev: nn.Module = MinibatchStddevLayer(self.group, self.channels)
        # skip_init: drawing weights that become zero would move torch's global generator.
        if isinstance(last, nn.Linear):
            inputs = last.in_features
            stddev = _OfTheLastDimension(stddev)
            extra: nn.Module = skip_init(nn.Linear, self.channels, last.out_features, bias=False)
        else:
            assert isinstance(last, CONVOLUTIONS)  # surgery finds no others
            inputs = last.in_channels
            extra = skip_init(
                next(c for c in CONVOLUTIONS if isinstance(last, c)),
                self.channels,
                last.out_channels,
                kernel_size=last.kernel_size,
                stride=last.stride,
                padding=last.padding,
                dilation=last.dilation,
                padding_mode=last.padding_mode,
                bias=False,
            )
        if inputs % self.channels:
            raise ValueError(
                f"{self.name}: channels is {self.channels}; expected a divisor of the {inputs} inputs of D's {name!r}"
            )
        put_beside(game, name, stddev, extra)
