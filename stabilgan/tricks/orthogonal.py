"""Orthogonal regularisation: the filters of a layer are pushed apart."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from stabilgan import host, surgery
from stabilgan.game import Cost, Game, Player
from stabilgan.tricks._penalty import Penalty

Form = Literal["off_diagonal", "plain"]
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # their output channels come second


def orthogonal_penalty(filters: Tensor, form: Form = "off_diagonal") -> Tensor:
    """‖(W Wᵀ) ⊙ (1 - I)‖²: the squared products of different filters; in the plain form ‖W Wᵀ - I‖².

    Args:
        filters: (n, m), a filter in each row.
        form: "plain" pulls the filters' lengths to 1 as well.

    >>> filters = torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    >>> orthogonal_penalty(filters).item()  # 2 · 3²
    18.0
    >>> orthogonal_penalty(filters, "plain").item()  # and (9 - 1)² + (2 - 1)²
    83.0
    """
    products = filters @ filters.t()
    if form == "off_diagonal":
        return (products - torch.diag(products.diagonal())).square().sum()
    return (products - torch.eye(len(filters), dtype=products.dtype, device=products.device)).square().sum()


def filters_of(layer: nn.Module) -> Tensor:
    """(outputs, rest): the layer's weight, as a matrix with a filter in each row.

    Under spectral norm it is the weight before it is divided by its norm, which is what is trained; under weight norm
    and other parametrizations of several tensors the weight that they give.
    """
    tensors = dict(layer.named_parameters())
    trained = [tensors[name] for name in ("weight_orig", "parametrizations.weight.original") if name in tensors]
    weight = trained[0] if trained else layer.weight
    assert isinstance(weight, Tensor)
    return (weight.movedim(1, 0) if isinstance(layer, TRANSPOSED) else weight).flatten(1)


class Orthogonal(Penalty):
    """Keeps the filters of each layer different from one another, so that no direction is amplified many times over.

    Adds weight · Σ ‖(W Wᵀ) ⊙ (1 - I)‖² over the linear and convolutional layers, with a layer's output filters as the
    rows of W (Brock et al. 2019, arXiv:1809.11096, Eq. 3). The filters' lengths are left free; the plain form
    ‖W Wᵀ - I‖² pulls them to 1 (Eq. 2 there; with absolute values Brock et al. 2017, arXiv:1609.07093). Embeddings are
    left out, and layers that are not trained. Under spectral norm it is the weight before the division that counts. The
    authors' code adds half of this gradient. A layer with more outputs than inputs can't come to 0.

    Args:
        weight: β, at least 0. The paper's is 1e-4.
        form: "off_diagonal" or "plain".
        players: whose layers: "d", "g", which is where the paper uses it, or "both".
        every: ask on every n-th step, then n-fold.
    """

    name = "orthogonal"
    changes = "a penalty on D"
    when = "D's or G's layers degenerate in long training at large batches. A weak help: it costs no pass of D."
    cost = Cost()
    source = "Brock et al. 2019, arXiv:1809.11096, Eq. 3"
    conflicts: ClassVar = {}

    def __init__(
        self,
        weight: float = 1e-4,
        form: Form = "off_diagonal",
        players: Literal["d", "g", "both"] = "d",
        every: int = 1,
    ) -> None:
        super().__init__(weight, every)
        if form not in ("off_diagonal", "plain"):
            raise ValueError(f"{self.name}: form is {form!r}; expected 'off_diagonal' or 'plain'")
        if players not in ("d", "g", "both"):
            raise ValueError(f"{self.name}: players is {players!r}; expected 'd', 'g' or 'both'")
        self.form: Form = form
        self.players: Literal["d", "g", "both"] = players

    def setup(self, game: Game) -> None:
        for player in ("d", "g"):
            if self.players in (player, "both") and not _layers(game.player(player)):
                raise ValueError(
                    f"{self.name}: no layer was found in {type(game.player(player)).__name__}; expected torch's "
                    "linear or convolutional layers (Keras has keras.regularizers.OrthogonalRegularizer for its own)"
                )

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        if self.weight == 0 or self.players not in (player, "both"):
            return None
        layers = _layers(game.player(player))
        device = next(layers[0].parameters()).device
        with torch.autocast(device.type, enabled=False):
            once = {id(w): w for w in map(filters_of, layers) if w.requires_grad}
            terms = [orthogonal_penalty(host.full_precision(w), self.form) for w in once.values()]
        return self.weight * torch.stack(terms).sum() if terms else None


def _layers(player: nn.Module) -> list[nn.Module]:
    return [layer for layer in player.modules() if isinstance(layer, (*surgery.LAYERS, *TRANSPOSED))]
