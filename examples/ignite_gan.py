"""A dense GAN on digits with PyTorch-Ignite: an engine with a process function, its handlers, and stabilgan's hooks.

    pip install 'stabilgan[ignite]'
    python examples/ignite_gan.py --steps 600

What stabilgan takes is marked: a line that ends in "# new" was added, one under "# was:" stood there as that says.
Stopped and run again with --resume it goes on exactly where its last checkpoint was written, in mid-epoch too.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver, ProgressBar
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


class Batches:
    """Shuffled batches whose order depends on the epoch alone, and that know where they are."""

    def __init__(self, x: Tensor, batch_size: int) -> None:
        self.x, self.batch_size = x, batch_size
        self.epoch = self.taken = 0

    def __len__(self) -> int:
        return len(self.x) // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        if self.taken == len(self):
            self.epoch, self.taken = self.epoch + 1, 0
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.epoch))
        while self.taken < len(self):
            self.taken += 1
            yield self.x[order[self.batch_size * (self.taken - 1) : self.batch_size * self.taken]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.taken = state["epoch"], state["taken"]


def adversarial_loss(score: Tensor, real: bool) -> Tensor:
    return binary_cross_entropy_with_logits(score, torch.full_like(score, float(real)))


def train(
    x: Tensor,
    steps: int,
    tricks: Sequence[stabilgan.Trick] = (),
    *,
    out: Path,
    every: int = 100,
    batch_size: int = 100,
    resume: Path | None = None,
    device: str = "cpu",
    amp: bool = False,
) -> dict[str, Any]:
    """Makes steps until there are `steps` in all, with a checkpoint at every `every`-th; returns what is in one."""
    torch.manual_seed(0)
    g = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 784), nn.Tanh()).to(device)
    d = nn.Sequential(nn.Linear(784, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1)).to(device)
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (g, d))
    game = stabilgan.attach(g, d, opt_g, opt_d, tricks)  # new

    def process(engine: Engine, real: Tensor) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(engine.state.iteration)  # so there is no generator to be saved
        real = real.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            fake = g(torch.randn(len(real), 64, generator=draw).to(device))
            # was: real_score = d(real)
            real_score = d(game.real(real))
            # was: fake_score = d(fake.detach())
            fake_score = d(game.fake(fake.detach()))
            d_loss = adversarial_loss(real_score, True) + adversarial_loss(fake_score, False)
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            # was: score = d(fake)
            score = game.critic(fake)
            g_loss = adversarial_loss(score, True)
        opt_g.zero_grad()
        g_loss.backward()
        game.record(d_loss=d_loss, g_loss=g_loss)  # new
        opt_g.step()
        return {"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}

    trainer, data = Engine(process), Batches(x, batch_size)
    parts: dict[str, Any] = {"g": g, "d": d, "opt_g": opt_g, "opt_d": opt_d, "trainer": trainer, "data": data}
    parts["game"] = game  # new

    def readings(engine: Engine) -> None:
        engine.state.metrics |= engine.state.output
        engine.state.metrics |= game.readings()  # new

    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=10), readings)
    ProgressBar().attach(trainer, metric_names="all", event_name=Events.ITERATION_COMPLETED(every=10))
    save = Checkpoint(
        parts, DiskSaver(out, require_empty=False), global_step_transform=lambda engine, _: engine.state.iteration
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=every), save)
    if resume is not None:
        Checkpoint.load_objects(parts, torch.load(resume, weights_only=True))
    trainer.run(data, max_iters=steps)
    return parts


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=600, help="steps of each player, in all")
    options.add_argument("--tricks", default="replay+r1:weight=1+ema", help="'none', or names with + between them")
    options.add_argument("--out", type=Path, default=Path("ignite_gan"), help="for checkpoints")
    options.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    options.add_argument("--resume", type=Path, help="a checkpoint to go on from")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--amp", action="store_true", help="run both players under bfloat16 autocast")
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tricks = [*parse(args.tricks), stabilgan.Watch(family="logistic")]
    train(
        digits(),
        args.steps,
        tricks,
        out=args.out,
        every=args.every,
        resume=args.resume,
        device=args.device,
        amp=args.amp,
    )


if __name__ == "__main__":
    main()
