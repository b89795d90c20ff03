"""Two-dimensional mixtures whose modes are known: the ring and the grid."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from stabilgan.metrics import mixture_modes
from stabilgan.schemes import Scheme
from stabilgan.workloads.base import Workload

Protocol = Literal["quick", "pacgan", "dual"]


def ring(
    modes: int = 8,
    radius: float = 1.0,
    sigma: float | None = None,
    min_count: int | None = None,
    protocol: Protocol = "quick",
    scheme: Scheme = "alternating",
) -> Workload:
    """Gaussians on a circle, all of one weight (not the seven-mode ring of the best-known demo).

    Args:
        modes: how many, at least 2.
        radius: of the circle.
        sigma: standard deviation of each mode on each axis; the protocol's own is 0.01, with "quick" 0.05.
        min_count: samples within 3σ that a mode needs to count as captured; the published protocols take 1, by which
            a cloud that covers everything captures all; "quick" takes 1 % of the samples judged.
        protocol: the networks and optimizers. "quick" is our own, small enough for minutes on a CPU, with no published
            numbers; "pacgan" (Lin et al. 2018, arXiv:1712.04086) and "dual" (the 200-seed ring of the dual-objective
            GAN) are published, at their full budget of 400,000 and 156,000 steps.
        scheme: of steps, as in the Trainer.
    """
    sigma = (0.05 if protocol == "quick" else 0.01) if sigma is None else sigma
    _check(modes, sigma, radius)
    angle = torch.arange(modes) * (2 * torch.pi / modes)
    return _workload(radius * torch.stack([angle.cos(), angle.sin()], 1), sigma, min_count, protocol, scheme)


def grid(
    side: int = 5,
    spacing: float = 2.0,
    sigma: float = 0.05,
    min_count: int | None = None,
    protocol: Protocol = "quick",
    scheme: Scheme = "alternating",
) -> Workload:
    """Gaussians on a square grid around the origin: 5 x 5 on -4, -2, 0, 2, 4 by default.

    Args:
        side: modes along each axis, at least 2.
        spacing: between neighbours.
        sigma: standard deviation of each mode on each axis.
        min_count: as for `ring`.
        protocol, scheme: as for `ring`.
    """
    _check(side, sigma, spacing)
    axis = (torch.arange(side) - (side - 1) / 2) * spacing
    return _workload(torch.cartesian_prod(axis, axis), sigma, min_count, protocol, scheme)


def _check(modes: int, sigma: float, size: float) -> None:
    if modes < 2:
        raise ValueError(f"{modes} modes; expected 2 or more")
    if sigma <= 0:
        raise ValueError(f"sigma is {sigma}; expected above 0")
    if size <= 0:
        raise ValueError(f"the radius or spacing is {size}; expected above 0")


class Nets(NamedTuple):
    """The players of a protocol, and how they are trained."""

    g: Callable[[], nn.Module]
    d: Callable[[], nn.Module]
    latent: int
    rate: float
    betas: tuple[float, float]
    batch: int
    loss: str
    steps: int
    judged: int


class Maxout(nn.Module):
    """A linear layer of `pieces` times the width, of which the largest is taken (Goodfellow et al. 2013)."""

    def __init__(self, n_in: int, n_out: int, pieces: int) -> None:
        super().__init__()
        self.linear, self.pieces = nn.Linear(n_in, n_out * pieces), pieces

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out.view(*out.shape[:-1], -1, self.pieces).amax(-1)


def dense(sizes: list[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers of these sizes with an activation between each two."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


def _pacgan_g() -> nn.Module:
    layers: list[nn.Module] = []
    for n_in in (2, 400, 400, 400):
        layers += [nn.Linear(n_in, 400, bias=False), nn.BatchNorm1d(400), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(400, 2, bias=False))


def _pacgan_d() -> nn.Module:
    net = nn.Sequential(Maxout(2, 200, 5), Maxout(200, 200, 5), Maxout(200, 200, 5), nn.Linear(200, 1))
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return net


PROTOCOLS: dict[str, Nets] = {
    "quick": Nets(
        g=lambda: dense([256, 128, 128, 2], nn.ReLU),
        d=lambda: dense([2, 128, 128, 1], lambda: nn.LeakyReLU(0.2)),
        latent=256,
        rate=1e-3,
        betas=(0.5, 0.999),
        batch=64,
        loss="logistic",
        steps=1500,
        judged=2500,
    ),
    "pacgan": Nets(
        g=_pacgan_g,
        d=_pacgan_d,
        latent=2,
        rate=1e-4,
        betas=(0.8, 0.999),
        batch=100,
        loss="logistic",
        steps=400_000,
        judged=2500,
    ),
    "dual": Nets(
        g=lambda: dense([2, 400, 400, 400, 400, 2], nn.ReLU),
        d=lambda: dense([2, 200, 200, 200, 200, 1], lambda: nn.LeakyReLU(0.2)),
        latent=2,
        rate=1e-4,
        betas=(0.9, 0.999),
        batch=128,
        loss="saturating",
        steps=156_000,
        judged=25_000,
    ),
}


def draw_mixture(centres: Tensor, sigma: float, n: int, generator: torch.Generator) -> Tensor:
    """(n, d) samples of a mixture of round Gaussians of equal weight."""
    which = torch.randint(len(centres), (n,), generator=generator)
    return centres[which] + sigma * torch.randn(n, centres.shape[1], generator=generator)


def _workload(centres: Tensor, sigma: float, min_count: int | None, protocol: str, scheme: Scheme) -> Workload:
    nets = PROTOCOLS[protocol]
    least = min_count if min_count is not None else nets.judged // 100 if protocol == "quick" else 1
    if not 1 <= least <= nets.judged // len(centres):
        raise ValueError(f"min_count is {least}; expected 1 to {nets.judged // len(centres)}, an even share")
    g, d = nets.g(), nets.d()

    def judge(samples: Tensor) -> dict[str, float]:
        found = mixture_modes(samples, centres.to(samples.device), sigma, min_count=least)
        return {"modes": float(found.captured), "high_quality": found.high_quality, "kl": found.kl}

    return Workload(
        g=g,
        d=d,
        opt_g=torch.optim.Adam(g.parameters(), nets.rate, nets.betas),
        opt_d=torch.optim.Adam(d.parameters(), nets.rate, nets.betas),
        data=lambda n, generator: draw_mixture(centres, sigma, n, generator),
        latent=nets.latent,
        judge=judge,
        reference=draw_mixture(centres, sigma, nets.judged, torch.Generator().manual_seed(2**31 - 1)),
        batch_size=nets.batch,
        loss=nets.loss,
        scheme=scheme,
        steps=nets.steps,
        samples=nets.judged,
        primary="modes",
        target=float(len(centres)),
        kind="points",
        notes={
            "quality rule": "within 3 sigma by distance, at most 98.889 %",
            "min_count": least,
            "kl_floor": (len(centres) - 1) / (2 * nets.judged),
        },
    )
