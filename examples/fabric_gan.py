"""A dense GAN on digits with Lightning Fabric, with stabilgan's hooks.

    pip install 'stabilgan[lightning]'
    python examples/fabric_gan.py --steps 600 --precision bf16-mixed

What stabilgan takes is marked: a line that ends in "# new" was added, one under "# was:" stood there as that says.
Stopped and run again with --resume it goes on exactly where its last checkpoint was written.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import stabilgan  # new
from stabilgan.tricks import parse  # new


def digits() -> Tensor:
    """(n, 784) in [-1, 1]: MNIST under $STABILGAN_DATA; without it ten made-up patterns with noise."""
    if root := os.environ.get("STABILGAN_DATA"):
        from torchvision.datasets import MNIST

        return MNIST(root).data.flatten(1) / 127.5 - 1
    print("STABILGAN_DATA is not set, so these are ten made-up patterns and no digits")
    draw = torch.Generator().manual_seed(0)
    patterns = torch.randint(2, (10, 784), generator=draw) * 1.6 - 0.8
    return patterns.repeat(200, 1) + 0.1 * torch.randn(2000, 784, generator=draw)


def adversarial_loss(score: Tensor, real: bool) -> Tensor:
    return binary_cross_entropy_with_logits(score, torch.full_like(score, float(real)))


def train(
    fabric: Fabric,
    x: Tensor,
    steps: int,
    tricks: Sequence[stabilgan.Trick] = (),
    *,
    batch_size: int = 100,
    save: Path | None = None,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Makes steps until there are `steps` in all, and returns what was saved."""
    torch.manual_seed(0)
    g = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 784), nn.Tanh())
    d = nn.Sequential(nn.Linear(784, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (g, d))
    g, opt_g = fabric.setup(g, opt_g)
    d, opt_d = fabric.setup(d, opt_d)
    game = stabilgan.attach(g, d, opt_g, opt_d, tricks)  # new
    state: dict[str, Any] = {"g": g, "d": d, "opt_g": opt_g, "opt_d": opt_d, "step": 0}
    state["game"] = game  # new
    if resume is not None:
        fabric.load(resume, state)

    for step in range(state["step"], steps):
        draw = torch.Generator().manual_seed(1000 * step + fabric.global_rank)  # so there is no generator to be saved
        real = x[torch.randint(len(x), (batch_size,), generator=draw)].to(fabric.device)
        fake = g(torch.randn(batch_size, 64, generator=draw).to(fabric.device))

        # was: real_score = d(real)
        real_score = d(game.real(real))
        # was: fake_score = d(fake.detach())
        fake_score = d(game.fake(fake.detach()))
        d_loss = adversarial_loss(real_score, True) + adversarial_loss(fake_score, False)
        opt_d.zero_grad()
        fabric.backward(d_loss)
        opt_d.step()

        # was: score = d(fake)
        score = game.critic(fake)
        g_loss = adversarial_loss(score, True)
        opt_g.zero_grad()
        fabric.backward(g_loss)
        game.record(d_loss=d_loss, g_loss=g_loss)  # new
        opt_g.step()

        if step % 10 == 0:
            fabric.log_dict({"d_loss": d_loss.item(), "g_loss": g_loss.item()}, step)
            fabric.log_dict({k: v for k, v in game.readings().items() if not isinstance(v, str)}, step)  # new
    state["step"] = max(state["step"], steps)
    if save is not None:
        fabric.save(save, state)
    return state


def main() -> None:
    from lightning.fabric.loggers import CSVLogger

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=600, help="steps of each player, in all")
    options.add_argument("--tricks", default="replay+r1:weight=1+ema", help="'none', or names with + between them")
    options.add_argument("--out", type=Path, default=Path("fabric_gan"), help="for the checkpoint and logs")
    options.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    options.add_argument("--precision", default="32-true", help="bf16-mixed, 16-mixed, ...")
    args = options.parse_args()
    fabric = Fabric(precision=args.precision, loggers=CSVLogger(args.out))
    fabric.launch()
    tricks = [*parse(args.tricks), stabilgan.Watch(family="logistic")]
    saved = args.out / "last.ckpt"
    train(fabric, digits(), args.steps, tricks, save=saved, resume=saved if args.resume else None)


if __name__ == "__main__":
    main()
