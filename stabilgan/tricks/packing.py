"""Packing: D judges several samples at once."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NoReturn

import torch.distributed
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from stabilgan import host, surgery
from stabilgan.game import SELECT, Critic, Game, Player, Trick
from stabilgan.tricks._beside import CONVOLUTIONS, WRAPPED_ALREADY, refuse_parallel


def pack(x: Tensor, m: int, dim: int = 1) -> Tensor:
    """Joins each m samples that follow one another into one row.

    Packs share no sample, save that the last is filled up with the first samples where m does not divide N.

    Args:
        x: (N, ...); any N from 1.
        m: samples to a pack, at least 1.
        dim: where features or channels are.

    Returns:
        P = ceil(N / m) packs; `dim` is m times as long.

    >>> pack(torch.tensor([[1.0], [2.0], [3.0]]), 2).tolist()
    [[1.0, 2.0], [3.0, 1.0]]
    """
    n = x.shape[0]
    packs = -(-n // m)
    if packs * m != n:
        x = x.index_select(0, torch.arange(packs * m, device=x.device) % n)
    return torch.cat(x.unflatten(0, (packs, m)).unbind(1), dim)


def unpack(packed: Tensor, m: int, n: int) -> Tensor:
    """Gives each of the n samples what its pack has got.

    >>> unpack(torch.tensor([[7.0], [8.0]]), 2, 3).tolist()
    [[7.0], [7.0], [8.0]]
    """
    return torch.stack([packed] * m, 1).flatten(0, 1)[:n]


def widened(weight: Tensor, m: int, generator: torch.Generator) -> Tensor:
    """A layer's weights for m times as many inputs, at the scale of a layer that was made so wide.

    The columns for further samples are the layer's own weights in a random order, so that any initialisation keeps its
    distribution; all are divided by √m, so that what the layer gives for independent samples varies as before. For
    initialisations by fan-in (torch's, Kaiming's) that is the scale of a fresh layer.

    Args:
        weight: (out, in, ...).

    Returns:
        (out, m · in, ...).

    >>> widened(torch.full((1, 2), 3.0), 4, torch.Generator()).tolist()  # 3 / √4
    [[1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5]]
    """
    flat = weight.detach().reshape(-1)
    orders = [torch.randperm(len(flat), generator=generator).to(flat.device) for _ in range(m - 1)]
    return torch.cat([weight.detach(), *(flat[order].view_as(weight) for order in orders)], 1) / math.sqrt(m)


class Packed(nn.Module):
    """D's first layer on packs; each sample goes on with what its pack has got, so that shapes stay as they were."""

    def __init__(self, layer: nn.Module, m: int) -> None:
        super().__init__()
        self.layer, self.m = layer, m
        self.dim = -1 if isinstance(layer, nn.Linear) else 1

    def forward(self, x: Tensor) -> Tensor:
        return unpack(self.layer(pack(x, self.m, self.dim)), self.m, x.shape[0])

    def extra_repr(self) -> str:
        return f"m={self.m}"


class Packing(Trick):
    """Shows D packs of m samples, so that it sees when G's samples are too much alike.

    D's first layer takes the features (or channels) of m samples of one batch side by side, and the score of a pack
    goes to each of its members (PacGAN: Lin et al. 2018, arXiv:1712.04086, Sec. 3). Only that layer grows, to m times
    its inputs; D's output keeps its shape, and the mean loss over samples is the mean over packs. Packs share no
    sample; where m does not divide the batch its last pack is filled up with its first samples.

    The new weights are the layer's own in a random order, all of them over √m, so that D starts at the scale it had;
    its optimizer gets the grown weights in the place of the old and forgets what it knew of them. torch's spectral norm
    on that layer is taken off and put on the grown one. What looks across the batch inside D (BatchNorm, minibatch
    discrimination) sees each pack m times. Attach before wrapping D in DistributedDataParallel.

    Args:
        m: samples to a pack, at least 1; 1 changes nothing. The paper's experiments take 2 to 4.
        layer: the name of D's first layer, where that is not the first linear or convolutional one registered.
    """

    name = "packing"
    order = SELECT  # D grows before other tricks operate on its layers
    changes = "what D is"
    when = "Modes are missing and D does not notice, since each sample alone looks real. Not for a conditional D."
    off: ClassVar = {"m": 1}
    conflicts: ClassVar = dict.fromkeys(
        ("r1", "r2", "wgan_gp", "zero_gp", "dragan", "gradient_normalisation"),
        "each sample's slope is counted once for every member of its pack, so that it is not what that trick means",
    )
    limits: ClassVar = {
        **WRAPPED_ALREADY,
        "labels": "refused at attach where D's forward can't be called without them, else at the first call, since "
        "labels that a forward may do without are known there alone: a pack would need those of all its members",
        "game.cat": "where m does not divide a part, the pack at the seam holds samples of both parts",
        "replay beside it": "packs hold old fakes and new ones, whose variety is not that of one G",
    }
    source = "Lin et al. 2018, arXiv:1712.04086, Sec. 3"

    def __init__(self, m: int = 2, layer: str | None = None) -> None:
        if m < 1:
            raise ValueError(f"{self.name}: m is {m}; expected the number of samples to a pack, 1 or more")
        self.m, self.layer = m, layer

    def setup(self, game: Game) -> None:
        if self.m == 1:
            return
        refuse_parallel(game)
        if (needed := surgery.labels_needed(game.d)) is not None:
            self._refuse(f"D's forward asks for {needed}")
        name = surgery.first_layer(game.d, self.layer)
        layer: Any = game.d.get_submodule(name)
        norm = _spectral_norm(layer, name)
        if isinstance(layer, CONVOLUTIONS) and layer.groups > 1:
            raise ValueError(
                f"{self.name}: D's layer {name!r} has {layer.groups} groups; expected a convolution of one"
            )
        old = layer.weight if norm is None else layer.parametrizations["weight"].original
        new = nn.Parameter(widened(old, self.m, game.generator(self)), requires_grad=old.requires_grad)
        if game.distributed and host.ranks() > 1:  # each rank drew from a generator of its own
            torch.distributed.broadcast(new.detach(), 0)
        surgery.replace(game.d, name, lambda _: Packed(layer, self.m))
        try:
            surgery.exchange(game.opt_d, old, new)
        except ValueError:
            surgery.replace(game.d, name, lambda _: layer)
            raise
        if norm is not None:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.weight = new
        if isinstance(layer, nn.Linear):
            layer.in_features *= self.m
        else:
            layer.in_channels *= self.m
        if norm is not None:
            with host.drawing_from(game.seed, new.device):
                parametrizations.spectral_norm(layer, "weight", norm.n_power_iterations, norm.eps, norm.dim)

    def real(self, x: Tensor, game: Game) -> Tensor:
        self._refuse_any(game.labels)
        return x

    def fake(self, x: Tensor, game: Game) -> Tensor:
        self._refuse_any(game.labels)
        return x

    def critic(self, d: Critic, game: Game) -> Critic:
        def packed(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._refuse_any((*args, *kwargs.values()))
            return d(x, *args, **kwargs)

        return packed

    def before_step(self, player: Player, game: Game) -> None:
        if game.steps[player] == 0:  # D may have been given labels that did not ride along
            for seen in game.seen.values():
                given = (*(seen.args or ()), *(seen.kwargs or {}).values())
                self._refuse_any(tuple(value for value in given if value is not seen.x))

    def _refuse_any(self, beside: tuple[Any, ...]) -> None:
        if self.m > 1 and any(isinstance(value, Tensor) for value in beside):
            self._refuse("D is given labels")

    def _refuse(self, said: str) -> NoReturn:
        raise ValueError(
            f"{self.name}: {said} beside the samples, but a pack of {self.m} has the labels of {self.m} samples; "
            "expected a D of samples alone. Play minibatch or minibatch_stddev instead"
        )


def _spectral_norm(layer: Any, name: str) -> Any:
    """torch's spectral norm of the layer's weight, or None where it has none.

    Raises:
        ValueError: the weight is made by something else that can't be put on a wider layer.
    """
    made_by = list(layer.parametrizations["weight"]) if parametrize.is_parametrized(layer, "weight") else []
    if not made_by and isinstance(getattr(layer, "weight", None), nn.Parameter):
        return None
    if [type(p).__name__ for p in made_by] == ["_SpectralNorm"]:
        return made_by[0]
    raise ValueError(
        f"packing: the weight of D's first layer {name!r} is computed from other parameters; expected a plain weight "
        "or torch.nn.utils.parametrizations.spectral_norm. Take it off, and play spectral_norm as a trick"
    )
