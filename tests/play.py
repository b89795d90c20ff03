"""A small GAN and a loop written by hand, for tests to hold the library against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import stabilgan
from stabilgan import losses
from stabilgan.tricks import TRICKS, parse

SMALL = {
    "replay": "replay:size=12",
    "gradient_clipping": "gradient_clipping:norm=0.1",
    "lookahead": "lookahead:k=2",
    "minibatch": "minibatch:kernels=4:dims=3",
    "minibatch_stddev": "minibatch_stddev",
}
"""Options that make a trick act within a few steps of a small game; the others act by default."""


def spec_of(name: str) -> str:
    return SMALL.get(name, name)


def trick(name: str) -> stabilgan.Trick:
    (made,) = parse(spec_of(name))
    return made


def off(name: str) -> stabilgan.Trick | None:
    """The trick at the options at which it is to do nothing, or None where it has none."""
    options = TRICKS[name].off
    return None if options is None else TRICKS[name](**options)


Kind = Literal["points", "images"]
IMAGES: set[str] = set()
"""Tricks that act on images alone, or on what only the image discriminator has (BatchNorm)."""


def kind_of(*names: str) -> Kind:
    """What the players of a test with these tricks play with."""
    return "images" if IMAGES & set(names) else "points"


def generator_net(kind: Kind = "points") -> nn.Module:
    if kind == "images":
        end = nn.Sequential(nn.Linear(16, 128), nn.Unflatten(1, (2, 8, 8)), nn.Conv2d(2, 1, 3, padding=1), nn.Tanh())
        return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), *end)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def discriminator_net(kind: Kind = "points") -> nn.Module:
    if kind == "images":
        first = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(64, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    return nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))


def players(seed: int = 0, dtype: torch.dtype = torch.float32, kind: Kind = "points") -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(seed)
    return generator_net(kind).to(dtype), discriminator_net(kind).to(dtype)


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=1e-2, betas=(0.5, 0.99))


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1e-2, momentum=0.9)


def ring(n: int, generator: torch.Generator) -> Tensor:
    angle = torch.randint(8, (n,), generator=generator) * (torch.pi / 4)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(n, 2, generator=generator)


def pictures(n: int, generator: torch.Generator) -> Tensor:
    """(n, 1, 8, 8) in [-1, 1]: a bright spot at one of eight places on a ring."""
    at, places = ring(n, generator), torch.linspace(-1.5, 1.5, 8)
    across, down = (torch.exp(-4 * (places - at[:, i : i + 1]).square()) for i in (0, 1))
    return 2 * (down.unsqueeze(2) * across.unsqueeze(1)).unsqueeze(1) - 1


def data(kind: Kind) -> Callable[[int, torch.Generator], Tensor]:
    return pictures if kind == "images" else ring


def by_hand(
    tricks: list[stabilgan.Trick] | None,
    steps: int,
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam,
    batch: int = 8,
    g_first: bool = False,
    dtype: torch.dtype = torch.float32,
    wrap: Callable[[torch.optim.Optimizer], Any] = lambda o: o,
    freeze: bool = False,
    sizes: Mapping[int, int] | None = None,
    autocast: bool = False,
    kind: Kind = "points",
) -> tuple[nn.Module, nn.Module]:
    """A plain training loop with the three words in it; `tricks=None` is the loop without stabilgan."""
    g, d = players(dtype=dtype, kind=kind)
    opt_g, opt_d = optimizer(g), optimizer(d)
    if tricks is None:
        pair, real_word, fake_word, critic_word = losses.logistic, nn.Identity(), nn.Identity(), d
    else:
        game = stabilgan.attach(g, d, wrap(opt_g), wrap(opt_d), tricks, loss=losses.logistic)
        pair, real_word, fake_word, critic_word = game.loss, game.real, game.fake, game.critic
    order, latents = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)

    def discriminator_turn(x: Tensor) -> None:
        z = torch.randn(len(x), 4, generator=latents).to(dtype)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            fake = g(z)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = pair.d(d(real_word(x)), d(fake_word(fake)))
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()

    def generator_turn(x: Tensor) -> None:
        if freeze:
            d.requires_grad_(False)
        z = torch.randn(len(x), 4, generator=latents).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            scores = critic_word(g(z))
            real = (critic_word(x, real=True) if tricks is not None else d(x)) if pair.needs_real else None
            loss = pair.g(scores, real)
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        if freeze:
            d.requires_grad_(True)

    for step in range(steps):
        x = data(kind)((sizes or {}).get(step, batch), order).to(dtype)
        turns = [generator_turn, discriminator_turn] if g_first else [discriminator_turn, generator_turn]
        for turn in turns:
            turn(x)
    return g, d


def same(a: Any, b: Any) -> bool:
    """Whether two states hold the same, bit for bit; NaN is NaN."""
    if isinstance(a, nn.Module):
        return same(a.state_dict(), b.state_dict())
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b) or (a != a and b != b)


def params(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


class RefuseSync(TorchDispatchMode):
    """Refuses the operations by which the host asks the device for a value, or for a size that depends on values."""

    asks = (
        "aten::_local_scalar_dense",
        "aten::nonzero",
        "aten::is_nonzero",
        "aten::equal",
        "aten::masked_select",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::unique_consecutive",
    )
    indexed = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        masks = (
            [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if name in self.indexed
            else []
        )
        if name in self.asks or masks:
            raise AssertionError(f"{name} inside a step makes the host wait for the device")
        return func(*args, **(kwargs or {}))
