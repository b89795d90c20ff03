"""WGAN-GP with several critic steps and a gradient penalty of its own, and four lines of stabilgan (marked <--).

    python examples/wgan_gp.py --steps 200 --tricks replay:size=2000+ema

The interpolates of the loop's own penalty pass through D like everything else; the game does not take them for real or
fake, since it knows the very tensors that `game.real` and `game.fake` returned. The data are eight Gaussians on a ring.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn, optim

import stabilgan
from stabilgan.tricks import parse


def ring(n: int) -> Tensor:
    """(n, 2) samples of eight narrow Gaussians on the unit circle."""
    angle = torch.randint(8, (n,)) * (math.tau / 8)
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.02 * torch.randn(n, 2)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """E(‖∇D‖ - 1)² between real and fake samples (Gulrajani et al. 2017, arXiv:1704.00028, Eq. 3)."""
    share = torch.rand(len(real), 1)
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean()


def train(
    steps: int, tricks: list[stabilgan.Trick], n_critic: int = 5, batch_size: int = 64
) -> tuple[nn.Module, float]:
    """The loop; returns G and the last Wasserstein estimate."""
    generator = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    critic = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    opt_g = optim.Adam(generator.parameters(), 1e-3, (0.0, 0.9))
    opt_c = optim.Adam(critic.parameters(), 1e-3, (0.0, 0.9))
    game = stabilgan.attach(generator, critic, opt_g, opt_c, tricks)  # <--
    gap = torch.tensor(0.0)

    for _ in range(steps):
        for _ in range(n_critic):
            real = game.real(ring(batch_size))  # <--
            fake = game.fake(generator(torch.randn(batch_size, 16)).detach())  # <--
            gap = critic(real).mean() - critic(fake).mean()
            loss = 10 * gradient_penalty(critic, real, fake) - gap
            opt_c.zero_grad()
            loss.backward()
            opt_c.step()

        loss = -game.critic(generator(torch.randn(batch_size, 16))).mean()  # <--
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
    return generator, gap.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tricks", default="replay:size=2000+ema", help="as for `stabilgan bench`; none for none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    watch = stabilgan.Watch(every=25, family="wasserstein")
    generator, gap = train(options.steps, [*parse(options.tricks), watch])
    with torch.no_grad():
        samples = generator(torch.randn(1000, 16))
    off = (samples.norm(dim=1) - 1).abs().mean()
    print(f"Wasserstein estimate {gap:.3f}; samples are {off:.3f} off the circle on average")
    for reading in watch.readings().values():
        print(f"{reading.detector}: {reading.text}")


if __name__ == "__main__":
    main()
