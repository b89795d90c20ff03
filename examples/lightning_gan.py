"""A dense GAN on digits in Lightning's usual shape (manual optimization, two optimizers), with stabilgan's hooks.

    pip install 'stabilgan[lightning]'
    python examples/lightning_gan.py --steps 600

What stabilgan takes is marked: a line that ends in "# new" was added, one under "# was:" stood there as that says.
Stopped and run again with --resume it goes on exactly where its last checkpoint was written, in mid-epoch too.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import stabilgan  # new
from stabilgan.integrations.lightning import GameCallback  # new
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
    """Shuffled batches whose order depends on the epoch alone; Lightning saves whatever loader has a `state_dict`."""

    def __init__(self, x: Tensor, batch_size: int, rank: int, ranks: int) -> None:
        self.x, self.batch_size, self.rank, self.ranks = x, batch_size, rank, ranks
        self.epoch = self.taken = 0

    def __len__(self) -> int:
        return len(self.x) // self.batch_size // self.ranks

    def __iter__(self) -> Iterator[Tensor]:
        if self.taken == len(self):
            self.epoch, self.taken = self.epoch + 1, 0
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.epoch))[
            self.rank :: self.ranks
        ]
        while self.taken < len(self):
            self.taken += 1
            yield self.x[order[self.batch_size * (self.taken - 1) : self.batch_size * self.taken]]

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.taken = state["epoch"], state["taken"]


class GAN(L.LightningModule):
    def __init__(
        self, x: Tensor, tricks: Sequence[stabilgan.Trick] = (), batch_size: int = 100, rate: float = 2e-4
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.x, self.tricks, self.batch_size, self.rate = x, tricks, batch_size, rate
        self.generator = nn.Sequential(
            nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 784), nn.Tanh()
        )
        self.discriminator = nn.Sequential(nn.Linear(784, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def adversarial_loss(self, score: Tensor, real: bool) -> Tensor:
        return binary_cross_entropy_with_logits(score, torch.full_like(score, float(real)))

    def latents(self, n: int) -> Tensor:
        """Drawn anew from the step and the rank, so that there is no generator to be saved."""
        draw = torch.Generator().manual_seed(1000 * self.global_step + self.global_rank)
        return torch.randn(n, 64, generator=draw).to(self.device)

    def training_step(self, real: Tensor, batch_idx: int) -> None:
        opt_g, opt_d = self.optimizers()
        z = self.latents(len(real))

        self.toggle_optimizer(opt_g)
        # was: score = self.discriminator(self(z))
        score = self.game.critic(self(z))
        g_loss = self.adversarial_loss(score, True)
        self.manual_backward(g_loss)
        self.game.record(g_loss=g_loss)  # new
        opt_g.step()
        opt_g.zero_grad()
        self.untoggle_optimizer(opt_g)

        self.toggle_optimizer(opt_d)
        # was: real_score = self.discriminator(real)
        real_score = self.discriminator(self.game.real(real))
        # was: fake_score = self.discriminator(self(z).detach())
        fake_score = self.discriminator(self.game.fake(self(z).detach()))
        d_loss = (self.adversarial_loss(real_score, True) + self.adversarial_loss(fake_score, False)) / 2
        self.manual_backward(d_loss)
        self.game.record(d_loss=d_loss)  # new
        opt_d.step()
        opt_d.zero_grad()
        self.untoggle_optimizer(opt_d)
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        opt_g = torch.optim.Adam(self.generator.parameters(), self.rate, (0.5, 0.999))
        opt_d = torch.optim.Adam(self.discriminator.parameters(), self.rate, (0.5, 0.999))
        self.game = stabilgan.attach(self.generator, self.discriminator, opt_g, opt_d, self.tricks)  # new
        return [opt_g, opt_d], []

    def train_dataloader(self) -> Batches:
        return Batches(self.x, self.batch_size, self.global_rank, self.trainer.world_size)


def trainer(out: Path, steps: int, every: int, **options: Any) -> L.Trainer:
    """Makes `steps` steps of each player, which Lightning counts twice; writes a checkpoint at every `every`-th."""
    # Lightning would rather have the weights of before the step in it; a run can't go on exactly from those.
    warnings.filterwarnings("ignore", "Using ModelCheckpoint with manual optimization")
    return L.Trainer(
        max_steps=2 * steps,
        callbacks=[
            ModelCheckpoint(out / "checkpoints", every_n_train_steps=2 * every, save_last=True),
            GameCallback(prog_bar=True),  # new
        ],
        logger=[CSVLogger(out), TensorBoardLogger(out)],
        **{"log_every_n_steps": 10} | options,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=600, help="steps of each player, in all")
    options.add_argument("--tricks", default="replay+r1:weight=1+ema", help="'none', or names with + between them")
    options.add_argument("--out", type=Path, default=Path("lightning_gan"), help="for checkpoints and logs")
    options.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    options.add_argument("--resume", action="store_true", help="go on where the last checkpoint was written")
    options.add_argument("--devices", default="auto")
    options.add_argument("--strategy", default="auto", help="for several devices: ddp_find_unused_parameters_true")
    options.add_argument("--precision", default="32-true", help="bf16-mixed, 16-mixed, ...")
    args = options.parse_args()
    torch.manual_seed(0)
    gan = GAN(digits(), [*parse(args.tricks), stabilgan.Watch(family="logistic")])
    devices = args.devices if args.devices == "auto" else int(args.devices)
    run = trainer(args.out, args.steps, args.every, devices=devices, strategy=args.strategy, precision=args.precision)
    run.fit(gan, ckpt_path="last" if args.resume else None)


if __name__ == "__main__":
    main()
