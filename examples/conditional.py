"""A conditional GAN: labels ride along with the samples; real and fake are judged in one call; two schedulers.

    python examples/conditional.py --steps 300 --tricks replay+r1:weight=0.1+ema

The classes are four Gaussians. Replay shows old fakes with the labels that they were made for, and the penalty calls D
with each sample's own label.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn, optim

import stabilgan
from stabilgan import losses
from stabilgan.tricks import parse

CENTRES = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0]])


class Generator(nn.Module):
    """(N, 8) and labels (N,) to (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 8)
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([z, self.embed(y)], 1))
        return out


class Discriminator(nn.Module):
    """Scores (N, 1) of (N, 2) under their labels, by projection (Miyato & Koyama 2018, arXiv:1802.05637, Eq. 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2))
        self.embed, self.head = nn.Embedding(4, 64), nn.Linear(64, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.body(x)
        out: Tensor = self.head(h) + (self.embed(y) * h).sum(1, keepdim=True)
        return out


def train(steps: int, tricks: list[stabilgan.Trick], batch_size: int = 64) -> Generator:
    """The loop; stabilgan's lines are marked."""
    g, d = Generator(), Discriminator()
    opt_g = optim.Adam(g.parameters(), 1e-3, (0.5, 0.99))
    opt_d = optim.Adam(d.parameters(), 1e-3, (0.5, 0.99))
    schedules = [optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) for optimizer in (opt_g, opt_d)]
    game = stabilgan.attach(g, d, opt_g, opt_d, tricks)  # <--

    for _ in range(steps):
        y = torch.randint(4, (batch_size,))
        real = CENTRES[y] + 0.1 * torch.randn(batch_size, 2)
        wanted = torch.randint(4, (batch_size,))
        fake = g(torch.randn(batch_size, 8), wanted)

        opt_d.zero_grad()
        x, labels = game.cat([game.real(real, y), game.fake(fake.detach(), wanted)])  # <--
        real_score, fake_score = d(x, labels).chunk(2)
        losses.logistic.d(real_score, fake_score).backward()
        opt_d.step()

        opt_g.zero_grad()
        losses.logistic.g(game.critic(fake, wanted), None).backward()  # <--
        opt_g.step()
        for schedule in schedules:
            schedule.step()
    return g


@torch.no_grad()
def in_their_place(g: Generator, n: int = 400) -> float:
    """The share of samples that lie nearest to the centre of the class they were asked for."""
    y = torch.randint(4, (n,))
    return (torch.cdist(g(torch.randn(n, 8), y), CENTRES).argmin(1) == y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--tricks", default="replay+r1:weight=0.1+ema", help="as for `stabilgan bench`; none for none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    print(
        f"{in_their_place(train(options.steps, parse(options.tricks))):.0%} of the samples are of the class asked for"
    )


if __name__ == "__main__":
    main()
