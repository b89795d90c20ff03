"""A dense GAN on digits with Accelerate: gradient accumulation, mixed precision, checkpoints, and stabilgan's hooks.

    pip install 'stabilgan[accelerate,tensorboard]'
    python examples/accelerate_gan.py --steps 600 --accumulate 2 --mixed-precision bf16

What stabilgan takes is marked: a line that ends in "# new" was added, one under "# was:" stood there as that says.
Stopped and run again with --resume it goes on exactly where its last checkpoint was written, in mid-epoch too.

Accelerate reads the states of registered objects with pickle, whatever is in them (`weights_only=False`): load only
checkpoints that you trust. What a game writes there is plain, so `torch.load(..., weights_only=True)` reads it too.
Only the main process writes registered objects: with several processes, all go on from its replay pool.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

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


class Progress:
    """How many batches were taken; Accelerate saves it since it is registered."""

    def __init__(self) -> None:
        self.batches = 0

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches = state["batches"]


def train(
    accelerator: Accelerator,
    x: Tensor,
    batches: int,
    tricks: Sequence[stabilgan.Trick] = (),
    *,
    batch_size: int = 100,
    save: Path | None = None,
    resume: Path | None = None,
) -> dict[str, Any]:
    """Takes batches until there are `batches` in all, one step to every `gradient_accumulation_steps` of them."""
    torch.manual_seed(0)
    g = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 784), nn.Tanh())
    d = nn.Sequential(nn.Linear(784, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (g, d))
    loader = DataLoader(x, batch_size, shuffle=True, drop_last=True)
    g, d, opt_g, opt_d, loader = accelerator.prepare(g, d, opt_g, opt_d, loader)
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    parts: dict[str, Any] = {"g": g, "d": d, "opt_g": opt_g, "opt_d": opt_d}
    n = accelerator.gradient_accumulation_steps
    game = parts["game"] = stabilgan.attach(g, d, opt_g, opt_d, tricks, accumulate=n)  # new
    accelerator.register_for_checkpointing(game)  # new
    if resume is not None:
        accelerator.load_state(str(resume))

    while progress.batches < batches:
        epoch, taken = divmod(progress.batches, len(loader))
        loader.set_epoch(epoch)
        for real in skip_first_batches(loader, taken) if taken else loader:
            with accelerator.accumulate(g, d):
                seed = 1000 * progress.batches + accelerator.process_index  # so there is no generator to be saved
                z = torch.randn(len(real), 64, generator=torch.Generator().manual_seed(seed)).to(accelerator.device)
                fake = g(z)

                # was: real_score = d(real)
                real_score = d(game.real(real))
                # was: fake_score = d(fake.detach())
                fake_score = d(game.fake(fake.detach()))
                d_loss = adversarial_loss(real_score, True) + adversarial_loss(fake_score, False)
                accelerator.backward(d_loss)
                opt_d.step()
                opt_d.zero_grad()

                # was: score = d(fake)
                score = game.critic(fake)
                g_loss = adversarial_loss(score, True)
                # G's turn leaves nothing in the gradients that D accumulates.
                accelerator.backward(g_loss, inputs=list(g.parameters()))
                game.record(d_loss=d_loss, g_loss=g_loss)  # new
                opt_g.step()
                opt_g.zero_grad()
            progress.batches += 1
            if progress.batches % 10 == 0:
                accelerator.log({"d_loss": d_loss.item(), "g_loss": g_loss.item()}, progress.batches)
                accelerator.log(game.readings(), progress.batches)  # new
            if progress.batches == batches:
                break
    if save is not None:
        accelerator.save_state(str(save))
    return parts


def accelerated(out: Path, accumulate: int = 1, mixed_precision: str = "no") -> Accelerator:
    accelerator = Accelerator(
        gradient_accumulation_steps=accumulate,
        mixed_precision=mixed_precision,
        log_with="tensorboard",
        project_dir=out,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=0),
    )
    accelerator.init_trackers("gan")
    return accelerator


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=600, help="steps of each player, in all")
    options.add_argument("--tricks", default="replay+r1:weight=1+ema", help="'none', or names with + between them")
    options.add_argument("--out", type=Path, default=Path("accelerate_gan"), help="for the checkpoint and logs")
    options.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    options.add_argument("--accumulate", type=int, default=1, help="batches to each step")
    options.add_argument("--mixed-precision", default="no", help="bf16, fp16")
    args = options.parse_args()
    accelerator = accelerated(args.out, args.accumulate, args.mixed_precision)
    tricks = [*parse(args.tricks), stabilgan.Watch(family="logistic")]
    saved = args.out / "last"
    batches = args.steps * args.accumulate
    train(accelerator, digits(), batches, tricks, save=saved, resume=saved if args.resume else None)
    accelerator.end_training()


if __name__ == "__main__":
    main()
