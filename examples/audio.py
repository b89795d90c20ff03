"""WaveGAN's shape (Donahue et al. 2019, arXiv:1802.04208): a GAN for sound, on struck tones of five pitches.

    python examples/audio.py --steps 1500 --out tones.wav

One-dimensional transposed convolutions make 1,024 samples; the discriminator's strided ones judge them, with phase
shuffle between them, so that it can't win on the phase of G's own artefacts. In the place of WGAN-GP there is the
relativistic loss with R1 and R2: the logistic one collapsed onto the lowest pitch. At the end the pitches of what was
made are counted. The sound is written as 16 bits at 8,192 samples a second.
"""

from __future__ import annotations

import argparse
import wave
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import stabilgan
from stabilgan import EMA, tricks
from stabilgan.losses import relativistic

LENGTH, RATE = 1024, 8192
PITCHES = torch.tensor([256.0, 384.0, 576.0, 864.0, 1296.0])  # Hz; fifths, eight or more cycles of each FFT bin apart


def tones(n: int, generator: torch.Generator) -> Tensor:
    """(n, 1, 1024) in [-1, 1]: a pitch, two overtones, a phase, a decay that differs."""
    time = torch.arange(LENGTH) / RATE
    pitch = PITCHES[torch.randint(len(PITCHES), (n, 1), generator=generator)]
    phase = 2 * torch.pi * torch.rand(n, 1, generator=generator)
    decay = 8 + 16 * torch.rand(n, 1, generator=generator)
    angle = 2 * torch.pi * pitch * time + phase
    tone = angle.sin() + 0.3 * (2 * angle).sin() + 0.1 * (3 * angle).sin()
    return (0.7 * tone * (-decay * time).exp())[:, None]


def pitch_counts(x: Tensor) -> list[int]:
    """How many of (n, 1, 1024) have each pitch as the strongest frequency, within 12 Hz; last, how many have none."""
    spectrum = torch.fft.rfft(x[:, 0] * torch.hann_window(LENGTH)).abs()
    spectrum[:, :4] = 0
    strongest = spectrum.argmax(1) * RATE / LENGTH
    gap, nearest = (strongest[:, None] - PITCHES).abs().min(1)
    nearest[gap > 1.5 * RATE / LENGTH] = len(PITCHES)
    return nearest.bincount(minlength=len(PITCHES) + 1).tolist()


class PhaseShuffle(nn.Module):
    """Shifts each sample of (N, C, T) by up to `most` steps, with reflection at the ends."""

    def __init__(self, most: int = 2) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shift = torch.randint(2 * self.most + 1, (len(x), 1, 1), device=x.device)
        at = (shift + torch.arange(x.shape[2], device=x.device)).expand(-1, x.shape[1], -1)
        return pad(x, (self.most, self.most), "reflect").gather(2, at)


def generator(latent: int = 32, width: int = 16) -> nn.Module:
    """(N, latent) to (N, 1, 1024) in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(latent, 4 * width * 16),
        nn.Unflatten(1, (4 * width, 16)),
        nn.ReLU(),
        nn.ConvTranspose1d(4 * width, 2 * width, 24, 4, 10),
        nn.ReLU(),
        nn.ConvTranspose1d(2 * width, width, 24, 4, 10),
        nn.ReLU(),
        nn.ConvTranspose1d(width, 1, 24, 4, 10),
        nn.Tanh(),
    )


def discriminator(width: int = 16) -> nn.Module:
    """(N, 1, 1024) to logits (N, 1)."""
    return nn.Sequential(
        nn.Conv1d(1, width, 24, 4, 10),
        nn.LeakyReLU(0.2),
        PhaseShuffle(),
        nn.Conv1d(width, 2 * width, 24, 4, 10),
        nn.LeakyReLU(0.2),
        PhaseShuffle(),
        nn.Conv1d(2 * width, 4 * width, 24, 4, 10),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(4 * width * 16, 1),
    )


def step(game: stabilgan.Game, netG: nn.Module, netD: nn.Module, real: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """D's turn, then G's; returns the losses."""
    fake = netG(z)

    game.opt_d.zero_grad()
    real_output = netD(game.real(real))
    fake_output = netD(game.fake(fake.detach()))
    d_loss = relativistic.d(real_output, fake_output)
    d_loss.backward()
    game.opt_d.step()

    game.opt_g.zero_grad()
    fake_output = game.critic(fake)
    real_output = game.critic(real, real=True)
    g_loss = relativistic.g(fake_output, real_output)
    g_loss.backward()
    game.record(d_loss=d_loss, g_loss=g_loss)
    game.opt_g.step()
    return d_loss.detach(), g_loss.detach()


def write(path: Path, x: Tensor) -> None:
    """Samples (n, 1, 1024) one after the other as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((x.flatten().clamp(-1, 1) * 32767).to(torch.int16).numpy().tobytes())


def main(arguments: Sequence[str] | None = None) -> list[int]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5e-4, help="Adam's, for both players")
    parser.add_argument("--tricks", default="r1:weight=1+r2:weight=1+ema:decay=0.99")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write twenty sounds, a WAV file")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    draw = torch.Generator().manual_seed(options.seed)
    netG, netD = generator(), discriminator()
    optimizerG = torch.optim.Adam(netG.parameters(), options.rate, (0.5, 0.9))
    optimizerD = torch.optim.Adam(netD.parameters(), options.rate, (0.5, 0.9))
    watch = stabilgan.Watch(family="relativistic")
    played = tricks.parse(options.tricks)
    game = stabilgan.attach(netG, netD, optimizerG, optimizerD, [*played, watch], seed=options.seed)

    for i in range(options.steps):
        z = torch.randn(options.batch, 32, generator=draw)
        d_loss, g_loss = step(game, netG, netD, tones(options.batch, draw), z)
        if i % 250 == 249:
            print(f"step {i + 1}: d_loss {d_loss:.3f}  g_loss {g_loss:.3f}", flush=True)

    average = next((t.average for t in played if isinstance(t, EMA)), netG)
    with torch.no_grad():
        made = average(torch.randn(500, 32, generator=draw))
    counts = pitch_counts(made)
    print("of 500:", ", ".join(f"{hz:.0f} Hz {n}" for hz, n in zip(PITCHES.tolist(), counts, strict=False)), end=", ")
    print(f"none of these {counts[-1]}")
    if options.out:
        write(options.out, made[:20])
    for alarm in watch.alarms:
        print(alarm)
    return counts


if __name__ == "__main__":
    main()
