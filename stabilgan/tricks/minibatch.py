"""Minibatch discrimination: D sees how close each sample lies to the others of its batch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from stabilgan import host, surgery
from stabilgan.game import Game, Trick
from stabilgan.tricks._beside import CONVOLUTIONS, WRAPPED_ALREADY, put_beside
from stabilgan.tricks._minibatch_kernel import kernel_sums, nearest_distances


def minibatch_features(x: Tensor, kernel: Tensor, *, compile: bool | str = "auto") -> Tensor:
    """Lets D see a batch: how close each sample lies to the others, so that a collapsed batch looks unlike the data.

    With M_ib = x_i · kernel_b, the features are o_ib = Σ_{j≠i} exp(-‖M_ib - M_jb‖₁) (Salimans et al. 2016,
    arXiv:1606.03498, Sec. 3.2; the sample itself is left out, as in the authors' code). Memory grows as N·B plus one
    chunk, in the gradients and their gradients too. Half precision is computed in float32.

    Args:
        x: (N, ...), flattened to (N, A); any N from 1.
        kernel: (A, B, C): B kernels of C dimensions.
        compile: True for the compiled form, False for the eager one; "auto" compiles large batches on a CPU
            (N² B C from 256² · 500), where it repays the time it takes, if there is a C++ compiler.

    Returns:
        (N, B), each in 0 to N - 1; the dtype of x.

    >>> x = torch.tensor([[0.0], [1.0]])
    >>> minibatch_features(x, torch.full((1, 1, 2), 0.5)).tolist()  # exp(-(½ + ½)), for both
    [[0.3678794503211975], [0.3678794503211975]]
    """
    return kernel_sums(_project(x, kernel), compile=compile).to(x.dtype)


def _project(x: Tensor, kernel: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        m = x.flatten(1).to(dtype) @ kernel.to(dtype).flatten(1)
    return m.view(len(x), *kernel.shape[1:])


class MinibatchDiscrimination(nn.Module):
    """How close each sample lies to the others of its batch, as a layer: (N, A) to (N, B).

    As in the authors' code (Salimans et al. 2016): kernels from N(0, 0.05) under weight norm with a log scale for each
    kernel and dimension, the sample itself left out, a bias of -1. At first use in training the distances are scaled so
    that half the mean nearest distance is 1 in each kernel, and the bias becomes minus the mean feature; a batch of one
    has no distances and leaves that to the next. Only the features are returned: `torch.cat([h, layer(h)], 1)`.

    Real and fake never share a statistic so long as D sees them in separate calls.

    Args:
        in_features: A; inputs of more dimensions are flattened.
        kernels: B, at least 1. The paper's is 100.
        dims: C, at least 1. The paper's is 5.
        compile: as for `minibatch_features`.
        generator: a CPU generator for the kernels.

    >>> layer = MinibatchDiscrimination(3, kernels=2)
    >>> layer(torch.randn(1, 3)).tolist()  # nobody else there: the bias
    [[-1.0, -1.0]]
    """

    def __init__(
        self,
        in_features: int,
        kernels: int = 100,
        dims: int = 5,
        *,
        compile: bool | str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"in_features": in_features, "kernels": kernels, "dims": dims}.items():
            if value < 1:
                raise ValueError(f"minibatch discrimination: {name} is {value}; expected 1 or more")
        self.compile_form = _compile_option(compile)
        self.kernel = nn.Parameter(0.05 * torch.randn(in_features, kernels, dims, generator=generator))
        self.log_scale = nn.Parameter(torch.zeros(kernels, dims))
        self.bias = nn.Parameter(torch.full((kernels,), -1.0))
        self.initialised = False

    def forward(self, x: Tensor) -> Tensor:
        # Every rank takes part in the first use, even one whose batch has no distances.
        if self.training and not self.initialised and (len(x) > 1 or host.ranks() > 1):
            self._initialise(x.detach())
        return minibatch_features(x, self._weight(), compile=self.compile_form) + self.bias.to(x.dtype)

    def _weight(self) -> Tensor:
        dtype = torch.promote_types(self.kernel.dtype, torch.float32)
        kernel = self.kernel.to(dtype)
        return kernel * (self.log_scale.to(dtype).exp() / kernel.square().sum(0).sqrt())

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        m = _project(x, self._weight())
        half = self._mean(nearest_distances(m)) / 2
        half = torch.where(half > 0, half, 1)  # samples that are all the same have no scale
        self.log_scale.sub_(half.log().unsqueeze(1))
        self.bias.copy_(-self._mean(kernel_sums(m / half.unsqueeze(1), compile=self.compile_form)))
        self.initialised = True

    def _mean(self, values: Tensor) -> Tensor:
        """(B,) from (N, B): the mean over the samples of all ranks that have neighbours."""
        total, count = values.sum(0), values.new_full((1,), len(values))
        if len(values) == 1:
            total, count = torch.zeros_like(total), torch.zeros_like(count)
        both = host.mean_over_ranks(torch.cat([total, count]))
        return both[:-1] / both[-1].clamp(min=1 / host.ranks())

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.initialised)  # safetensors files hold tensors alone

    def set_extra_state(self, state: Any) -> None:
        self.initialised = bool(state)

    def extra_repr(self) -> str:
        inputs, kernels, dims = self.kernel.shape
        return f"{inputs}, kernels={kernels}, dims={dims}, compile={self.compile_form!r}"


def _compile_option(value: bool | str) -> bool | str:
    words: dict[str, bool | str] = {"auto": "auto", "true": True, "false": False}
    try:
        return words[str(value).lower()]
    except KeyError:
        raise ValueError(f"minibatch: compile is {value!r}; expected 'auto', True or False") from None


class _OnePosition(nn.Module):
    """Features of the mean over positions of a layer's input, as a single position that broadcasts to all."""

    def __init__(self, discrimination: MinibatchDiscrimination, *, channels_first: bool) -> None:
        super().__init__()
        self.discrimination = discrimination
        self.channels_first = channels_first

    def forward(self, h: Tensor) -> Tensor:
        positions = range(2, h.dim()) if self.channels_first else range(1, h.dim() - 1)
        out: Tensor = self.discrimination(h.mean(tuple(positions)) if positions else h)
        for at in positions:
            out = out.unsqueeze(at)
        return out


class Minibatch(Trick):
    """Lets D see when G's samples are too much alike: minibatch discrimination beside D's last layer.

    The features of the last linear or convolutional layer's input (of its mean over positions, for a convolution, as
    in the authors' CIFAR code) go to that layer's output through weights that start at zero: D's output does not change
    when the trick is attached. D's optimizer is told of the new parameters, at the layer's rate (Salimans et al. 2016,
    arXiv:1606.03498, Sec. 3.2). Attach before wrapping D in DistributedDataParallel.

    Statistics are of one call of D on one rank: real and fake never share one if D sees them in separate calls.

    Args:
        kernels: B, at least 0; 0 adds nothing. The paper's is 100.
        dims: C, at least 1. The paper's is 5.
        layer: the name of another of D's layers to stand beside.
        compile: "auto", True or False, as for `minibatch_features`.
    """

    name = "minibatch"
    off: ClassVar = {"kernels": 0}
    changes = "what D is"
    when = "G gives few distinct samples (mode collapse). D needs a batch of several samples at a time."
    limits: ClassVar = WRAPPED_ALREADY
    source = "Salimans et al. 2016, arXiv:1606.03498, Sec. 3.2"

    def __init__(
        self, kernels: int = 100, dims: int = 5, layer: str | None = None, compile: bool | str = "auto"
    ) -> None:
        if kernels < 0:
            raise ValueError(f"{self.name}: kernels is {kernels}; expected 0 or more")
        if dims < 1:
            raise ValueError(f"{self.name}: dims is {dims}; expected 1 or more")
        self.kernels, self.dims, self.layer, self.compile = kernels, dims, layer, _compile_option(compile)

    def setup(self, game: Game) -> None:
        if self.kernels == 0:
            return
        name = surgery.last_layer(game.d, self.layer)
        last = game.d.get_submodule(name)
        inputs, outputs, kind, size = _shape(last)
        discrimination = MinibatchDiscrimination(
            inputs, self.kernels, self.dims, compile=self.compile, generator=game.generator(self)
        )
        # Not nn.Linear(...): drawing weights that become zero would move torch's global generator.
        extra = skip_init(kind, self.kernels, outputs, *size, bias=False)
        put_beside(game, name, _OnePosition(discrimination, channels_first=isinstance(last, CONVOLUTIONS)), extra)


def _shape(last: nn.Module) -> tuple[int, int, type[nn.Module], tuple[int, ...]]:
    """Inputs and outputs of a layer, and what would be a pointwise one of its kind."""
    if isinstance(last, nn.Linear):
        return last.in_features, last.out_features, nn.Linear, ()
    assert isinstance(last, CONVOLUTIONS)  # surgery finds no others
    return last.in_channels, last.out_channels, next(c for c in CONVOLUTIONS if isinstance(last, c)), (1,)
