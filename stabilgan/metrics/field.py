"""The game as a vector field: where one simultaneous gradient step would move both players' parameters."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Losses = Callable[[], tuple[Tensor, Tensor]]


class GameField:
    """The direction -(∇d_loss, ∇g_loss) in which simultaneous gradient descent moves (d, g), as one flat vector.

    g, d: the two networks. losses: a function without arguments that runs them and returns (d_loss, g_loss), each a
    scalar; the same numbers at every call, so draw the batch and the latents before, and use eval mode or fixed
    batches with BatchNorm. Inside `measuring` parameters may be moved; afterwards parameters, buffers, gradients and
    random generators are as before. For models of up to some ten thousand parameters.

    >>> x, y = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(x.weight, 3.0), nn.init.constant_(y.weight, 2.0)
    >>> field = GameField(x, y, lambda: (-(x.weight * y.weight).sum(), (x.weight * y.weight).sum()))
    >>> field.direction().tolist()  # y goes up by x, x goes down by y
    [3.0, -2.0]
    """

    def __init__(self, g: nn.Module, d: nn.Module, losses: Losses) -> None:
        self.modules = (d, g)
        self.losses = losses
        self.players = [[p for p in player.parameters() if p.requires_grad] for player in self.modules]
        for name, player in zip(("d", "g"), self.players, strict=True):
            if not player:
                raise ValueError(f"{name} has no parameters that require a gradient; a game needs both players")

    def point(self) -> Tensor:
        """Where the players are: all parameters, d's first, as one flat copy."""
        return torch.cat([p.detach().flatten() for player in self.players for p in player])

    def move(self, point: Tensor) -> None:
        """Put the players at a point; inside `measuring`, so that they come back."""
        parameters = [p for player in self.players for p in player]
        if point.numel() != sum(p.numel() for p in parameters):
            raise ValueError(
                f"the point has {point.numel()} numbers; expected one for each of the players' "
                f"{sum(p.numel() for p in parameters)} parameters"
            )
        with torch.no_grad():
            for p, values in zip(parameters, torch.split(point, [p.numel() for p in parameters]), strict=True):
                p.copy_(values.view_as(p))

    def direction(self, *, create_graph: bool = False) -> Tensor:
        """The field at the players' place. Raises ValueError if a loss is not a scalar, FloatingPointError for nan."""
        parts = []
        for name, loss, player in zip(("d_loss", "g_loss"), self.losses(), self.players, strict=True):
            if loss.numel() != 1:
                raise ValueError(f"{name} has shape {tuple(loss.shape)}; expected one number, such as its mean")
            gradients = torch.autograd.grad(
                loss.sum(), player, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
            parts += [
                torch.zeros_like(p).flatten() if gradient is None else -gradient.flatten()
                for p, gradient in zip(player, gradients, strict=True)
            ]
        field = torch.cat(parts)
        if not field.isfinite().all():
            raise FloatingPointError("the game's gradient is nan or infinite here; the training has diverged")
        return field

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Give back every parameter, buffer, gradient and random generator at the end."""
        point = self.point()
        buffers = [(b, b.clone()) for module in self.modules for b in module.buffers()]
        devices = {p.device for player in self.players for p in player if p.device.type == "cuda"}
        with torch.random.fork_rng(list(devices)):
            try:
                yield
            finally:
                self.move(point)
                for buffer, value in buffers:
                    buffer.copy_(value)
