"""A plain PyTorch loop, the DCGAN of a hundred tutorials, with four lines of stabilgan in it (marked <--).

    python examples/dcgan.py --steps 500 --tricks replay+ema

D ends in a sigmoid and its loss is binary cross-entropy; the backward passes of real and fake are separate; one tensor
of labels is filled anew in place. Trains on Fashion-MNIST under $STABILGAN_DATA, or else on drawn bars.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn, optim

import stabilgan
from stabilgan.tricks import parse

nz = 32


def networks(width: int = 32) -> tuple[nn.Module, nn.Module]:
    """G makes (N, 1, 28, 28) in [-1, 1] from (N, nz, 1, 1); D gives each image its probability, (N,)."""
    netG = nn.Sequential(
        nn.ConvTranspose2d(nz, 2 * width, 7, 1, 0, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(True),
        nn.ConvTranspose2d(width, 1, 4, 2, 1),
        nn.Tanh(),
    )
    netD = nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 1, 7),
        nn.Flatten(0),
        nn.Sigmoid(),
    )
    for layer in [*netG.modules(), *netD.modules()]:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
    return netG, netD


def images(batch_size: int) -> Iterator[Tensor]:
    """Batches (N, 1, 28, 28) in [-1, 1] without end: Fashion-MNIST where it is there, else bright bars."""
    if root := os.environ.get("STABILGAN_DATA"):
        from torchvision.datasets import FashionMNIST

        data = FashionMNIST(root, download=False).data
    else:
        data = torch.zeros(2000, 28, 28, dtype=torch.uint8)
        for i, (at, upright) in enumerate(zip(torch.randint(25, (2000,)).tolist(), [True, False] * 1000, strict=True)):
            (data[i, :, at : at + 3] if upright else data[i, at : at + 3]).fill_(255)
    while True:
        for rows in torch.randperm(len(data)).split(batch_size):
            yield data[rows].unsqueeze(1).float().div(127.5).sub(1)


def train(
    netG: nn.Module,
    netD: nn.Module,
    batches: Iterator[Tensor],
    steps: int,
    tricks: list[stabilgan.Trick],
    every: int = 100,
) -> None:
    """The loop, with its four lines."""
    real_label, fake_label = 1.0, 0.0
    criterion = nn.BCELoss()
    optimizerD = optim.Adam(netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
    game = stabilgan.attach(netG, netD, optimizerG, optimizerD, tricks)  # <--

    for step in range(steps):
        # D: first the real images, then the fake ones
        netD.zero_grad()
        real = next(batches)
        label = torch.full((len(real),), real_label)
        output = netD(game.real(real))  # <--
        errD_real = criterion(output, label)
        errD_real.backward()

        fake = netG(torch.randn(len(real), nz, 1, 1))
        label.fill_(fake_label)
        output = netD(game.fake(fake.detach()))  # <--
        errD_fake = criterion(output, label)
        errD_fake.backward()
        optimizerD.step()

        # G: the fakes should pass for real
        netG.zero_grad()
        label.fill_(real_label)
        output = game.critic(fake)  # <--
        errG = criterion(output, label)
        errG.backward()
        optimizerG.step()

        if (step + 1) % every == 0:
            errD = errD_real.item() + errD_fake.item()
            print(f"step {step + 1}: D {errD:.3f}, G {errG.item():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--tricks", default="replay+ema", help="as for `stabilgan bench`; none for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="write a sheet of samples to this picture")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    netG, netD = networks()
    watch = stabilgan.Watch(every=25, family="logistic")
    tricks = [*parse(options.tricks), watch]
    train(netG, netD, images(options.batch_size), options.steps, tricks)
    for reading in watch.readings().values():
        print(f"{reading.detector}: {reading.text}")
    if options.out:
        from torchvision.utils import save_image

        best = next((t.average for t in tricks if isinstance(t, stabilgan.EMA)), netG).eval()
        with torch.no_grad():
            save_image(best(torch.randn(64, nz, 1, 1)), options.out, normalize=True, value_range=(-1, 1))


if __name__ == "__main__":
    main()
