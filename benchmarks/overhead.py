"""What a game costs a training loop: the raw loop against the same loop with hooks, interleaved, as a ratio of medians.

    python benchmarks/overhead.py

Two GANs: the dense ring GAN (PacGAN's sizes, batch 100) and a DCGAN at 32 x 32 (64 channels at its widest, batch 64).
Three loops: a plain one, Lightning's (manual optimization) and Accelerate's, each against itself without a game.
Each round times a few steps of every variant in an order drawn anew; the ratio is of medians over rounds, and its
interval the 2.5 and 97.5 percentiles of ratios of bootstrapped medians. "raw again" is the raw loop once more: how far
its ratio is from 1 is the noise of the machine. On a CPU the process's own CPU time is taken, so that other work on the
machine does not count; on a GPU the wall clock.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence

import click
import numpy as np
import torch
from overhead_frameworks import Make, Tricks, accelerate_loop, lightning_loop, optimizers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import stabilgan
from stabilgan import losses, workloads

VARIANTS: dict[str, Tricks] = {
    "raw": None,
    "raw again": None,
    "no tricks": list,
    "R1": lambda: [stabilgan.R1(1.0)],
    "watch": lambda: [stabilgan.Watch()],
}


def ring() -> tuple[nn.Module, nn.Module, Callable[[], Tensor], Callable[[], Tensor]]:
    torch.manual_seed(0)
    w = workloads.make("ring:protocol=pacgan")
    x = w.data(100, torch.Generator().manual_seed(0))
    return w.g, w.d, lambda: x, lambda: torch.randn(100, 2)


def dcgan() -> tuple[nn.Module, nn.Module, Callable[[], Tensor], Callable[[], Tensor]]:
    torch.manual_seed(0)
    g = nn.Sequential(
        nn.ConvTranspose2d(64, 64, 4, 1, 0, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
        nn.Tanh(),
    )
    d = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 4),
    )
    x = torch.rand(64, 3, 32, 32) * 2 - 1
    return g, d, lambda: x, lambda: torch.randn(64, 64, 1, 1)


GANS = {"ring": ("ring, PacGAN's sizes", ring), "dcgan": ("DCGAN 32 x 32", dcgan)}


def plain_loop(make: Make, tricks: Tricks, device: torch.device) -> Callable[[int], None]:
    """A plain training loop, raw or with the three words; returns what runs n steps of it."""
    g, d, real, latent = make()
    g, d = g.to(device), d.to(device)
    x = real().to(device)
    opt_g, opt_d = optimizers(g, d)
    if tricks is None:

        def raw(n: int) -> None:
            for _ in range(n):
                fake = g(latent().to(device))
                opt_d.zero_grad()
                losses.logistic.d(d(x), d(fake.detach())).backward()
                opt_d.step()
                opt_g.zero_grad()
                losses.logistic.g(d(fake), None).backward()
                opt_g.step()

        return raw
    game = stabilgan.attach(g, d, opt_g, opt_d, tricks())

    def hooked(n: int) -> None:
        for _ in range(n):
            fake = g(latent().to(device))
            opt_d.zero_grad()
            losses.logistic.d(d(game.real(x)), d(game.fake(fake.detach()))).backward()
            opt_d.step()
            opt_g.zero_grad()
            losses.logistic.g(game.critic(fake), None).backward()
            opt_g.step()

    return hooked


LOOPS = {"plain": plain_loop, "lightning": lightning_loop, "accelerate": accelerate_loop}


@click.command()
@click.option("--rounds", default=150, show_default=True, help="Rounds of every variant.")
@click.option("--steps", default=4, show_default=True, help="Steps in a round.")
@click.option("--threads", default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--loop", "kinds", multiple=True, type=click.Choice([*LOOPS]), default=[*LOOPS], show_default=True)
@click.option("--gan", "gans", multiple=True, type=click.Choice([*GANS]), default=[*GANS], show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    rounds: int, steps: int, threads: int, device: str, kinds: Sequence[str], gans: Sequence[str], as_json: bool
) -> None:
    """Times a game's own cost per step."""
    torch.set_num_threads(threads)
    where, found, order = torch.device(device), [], random.Random(0)

    def timed(run: Callable[[int], None]) -> float:
        clock = time.perf_counter if where.type == "cuda" else time.process_time
        began = clock()
        run(steps)
        if where.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * (clock() - began) / steps

    for kind, name in itertools.product(kinds, gans):
        loops = {variant: LOOPS[kind](GANS[name][1], tricks, where) for variant, tricks in VARIANTS.items()}
        times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for variant in VARIANTS:
            loops[variant](10)
        for _ in range(rounds):
            for variant in order.sample(list(VARIANTS), len(VARIANTS)):
                times[variant].append(timed(loops[variant]))
        raw, draw = np.array(times["raw"]), np.random.default_rng(0)
        for variant, values in times.items():
            mine = np.array(values)
            rows = draw.integers(rounds, size=(2000, rounds))
            ratios = np.median(mine[rows], 1) / np.median(raw[draw.integers(rounds, size=(2000, rounds))], 1)
            low, high = np.percentile(ratios, [2.5, 97.5])
            found.append(
                {
                    "loop": kind,
                    "gan": GANS[name][0],
                    "variant": variant,
                    "ms": statistics.median(values),
                    "ratio": statistics.median(values) / statistics.median(times["raw"]),
                    "low": low,
                    "high": high,
                }
            )
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table("loop", "GAN", "variant", "ms per step", "ratio to raw", "95 %")
    for row in found:
        table.add_row(
            row["loop"],
            row["gan"],
            row["variant"],
            f"{row['ms']:.3f}",
            f"{row['ratio']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
