"""Virtual batch normalisation: D's statistics come from a batch that never changes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stabilgan import host, surgery
from stabilgan.game import Cost, Game, Player, Trick


def virtual_statistics(x: Tensor, mean: Tensor, var: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Each sample's mean and variance, taken over the reference batch and itself, as one sample more.

    Args:
        x: (N, C, ...).
        mean, var: (1, C, 1, ...), of the reference batch over samples and positions; the variance is the biased one.
        n: samples in the reference batch.

    Returns:
        Mean and variance, (N, C, 1, ...).

    >>> m, v = virtual_statistics(torch.tensor([[3.0]]), torch.zeros(1, 1), torch.ones(1, 1), n=1)
    >>> m.item(), v.item()  # (0 + 3) / 2, and (1 + 9) / 2 less its square
    (1.5, 2.75)
    """
    positions = tuple(range(2, x.dim()))
    own = x.mean(positions, keepdim=True) if positions else x
    own_var = (x - own).square().mean(positions, keepdim=True) if positions else torch.zeros_like(x)
    share = 1 / (n + 1)
    joint = share * own + (1 - share) * mean
    spread = share * (own_var + (own - joint).square()) + (1 - share) * (var + (mean - joint).square())
    return joint, spread


class Reference:
    """How D was called with the reference batch, and whether that is passing now; all layers of one D share it."""

    def __init__(self, game: Game) -> None:
        self.call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.passing = False
        self.seed = game.seed
        self._game = weakref.ref(game)

    def catch(self, d: nn.Module) -> None:
        """Keeps D's latest call with real samples, if there is none yet; on all ranks that of the first."""
        game = self._game()
        seen = game.seen.get("real") if game is not None else None
        if game is None or seen is None or seen.args is None:
            return
        dtype = next((p.dtype for p in d.parameters() if p.is_floating_point()), torch.float32)

        def kept(x: Tensor) -> Tensor:
            x = x.detach().to(dtype, copy=True) if x.is_floating_point() else x.detach().clone()
            if game.distributed and host.ranks() > 1:
                torch.distributed.broadcast(x, 0)
            return x

        self.call = _mapped(kept, seen.args), _mapped(kept, dict(seen.kwargs or {}))


class VirtualNorm(nn.Module):
    """BatchNorm with its weight and bias, but with statistics of the reference batch and of each sample itself.

    The same in training and evaluation. The reference batch itself, and what comes before there is one, is normalised
    by its own statistics.
    """

    def __init__(self, norm: Any, reference: Reference) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.reference = reference
        self.statistics: tuple[Tensor, Tensor, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        values = host.full_precision(x)
        if self.reference.passing or self.statistics is None:
            var, mean = torch.var_mean(values, (0, *range(2, x.dim())), correction=0, keepdim=True)
            if self.reference.passing:
                self.statistics = mean, var, x.shape[0]
        else:
            mean, var = virtual_statistics(values, *self.statistics)
        out = (values - mean) * (var + self.eps).rsqrt()
        if self.weight is not None:
            shape = (-1, *(1,) * (x.dim() - 2))
            out = out * self.weight.view(shape) + self.bias.view(shape)
        normalised: Tensor = out.to(x.dtype)
        return normalised


@host.uncompiled
def _pass_reference(d: nn.Module, args: Any, kwargs: Any) -> None:
    """Before D is called: the reference batch goes through it first, so that each layer has its statistics.

    A pass that D's buffers and torch's generators do not notice, but with gradients: D also learns through it.
    """
    reference = next(m.reference for m in d.modules() if isinstance(m, VirtualNorm))
    if reference.passing:
        return
    if reference.call is None:
        reference.catch(d)
    if reference.call is None:
        return
    device = next(d.parameters()).device
    args, kwargs = (_mapped(lambda x: x.to(device, non_blocking=True), part) for part in reference.call)
    reference.passing = True
    try:
        with host.drawing_from(reference.seed, device):
            buffers = {name: b.clone() for name, b in d.named_buffers()}
            torch.func.functional_call(d, buffers, args, kwargs)
    finally:
        reference.passing = False


@host.uncompiled
def _let_go(d: nn.Module, args: Any, out: Any) -> None:
    """After D was called: its layers let go of the graph of the reference batch."""
    norms = [m for m in d.modules() if isinstance(m, VirtualNorm)]
    for norm in norms if not norms[0].reference.passing else ():
        norm.statistics = None


def _mapped(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """The same nest of tuples, lists and dicts with its tensors changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: _mapped(change, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [_mapped(change, value) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


class VirtualBatchNorm(Trick):
    """Keeps D from judging a sample by the company it is in: D's BatchNorm is measured on a batch that never changes.

    Each of D's BatchNorm layers keeps its weight and bias, but takes its mean and variance over a reference batch, the
    first real batch that D sees, and the sample itself as one more (Salimans et al. 2016, arXiv:1606.03498, Sec. 3.5;
    the weights of the two, N/(N + 1) and 1/(N + 1), as in the authors' code). Scores then no longer depend on the rest
    of the batch, and are the same in training and evaluation.

    The paper puts it into G alone, for its cost; here it is for D, whose scores otherwise lean on the batch. The
    reference batch goes through D with each call, under D's weights of the moment, and gradients flow back through
    it: D costs about twice as much. Labels of the first real batch are kept with it. Ranks share that of the first. The
    layers, and the reference with them, stay in D when the game is detached.

    Raises:
        ValueError: D has no BatchNorm.
    """

    name = "virtual_batch_norm"
    changes = "what D is"
    when = "D has BatchNorm, and its scores of real and fake batches lean on their statistics. Doubles D's cost."
    cost = Cost(d_forward=3)
    limits: ClassVar = {
        "points": "refused at attach where D has no BatchNorm, as is usual for points",
        "G": "its BatchNorm stays as it is, which is where the paper has this",
        "g first": "until D has seen a first real batch, each batch is normalised by its own statistics",
    }
    source = "Salimans et al. 2016, arXiv:1606.03498, Sec. 3.5"

    def __init__(self) -> None:
        self._reference: Reference | None = None

    def setup(self, game: Game) -> None:
        norms = [name for name, m in game.d.named_modules() if isinstance(m, _BatchNorm)]
        if not norms:
            raise ValueError(
                f"{self.name}: no BatchNorm layer was found in {type(game.d).__name__}; expected torch's, to put "
                "virtual batch normalisation in its place. Leave the trick out where D has none"
            )
        self._reference = reference = Reference(game)
        for name in norms:
            surgery.replace(game.d, name, lambda norm: VirtualNorm(norm, reference))
        game.d.register_forward_pre_hook(_pass_reference, with_kwargs=True)
        game.d.register_forward_hook(_let_go)

    def before_step(self, player: Player, game: Game) -> None:
        if player == "d" and self._reference is not None and self._reference.call is None:
            self._reference.catch(game.d)  # in a loop that has shown D nothing after its first real batch

    def state_dict(self) -> dict[str, Any]:
        """The call of D with the reference batch, or None where there was none yet."""
        call = self._reference.call if self._reference is not None else None
        return {"args": None, "kwargs": None} if call is None else {"args": call[0], "kwargs": call[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._reference is not None:
            self._reference.call = None if state["args"] is None else (tuple(state["args"]), dict(state["kwargs"]))
