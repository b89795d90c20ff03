"""Oscillation: the players go round in circles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from stabilgan.detectors.base import Detector, Reading, Ring, View, at_least


def rhythm(series: Tensor, *, cycles: int = 4) -> Tensor:
    """How much of what a series does is one rhythm.

    The series is taken without its mean and its slope, weighted by a Hann window, and turned into a spectrum. The
    rhythm is the frequency which, with its neighbour on each side (a sine between two bins falls into both), holds
    the most power, among those that go round at least `cycles` times in the series.

    Args:
        series: (N,), finite.
        cycles: whole periods that the series has to hold; what is slower counts as drift.

    Returns:
        (4,), NaN for a series that is exactly constant:

        - the *share* of the power, of all but the mean and the slope, that is at the rhythm, in [0, 1];
        - its *excess*: the power at the strongest of its frequencies in units of what noise with the same lag-1
          correlation (an AR(1) process) has there; under that noise about exponential with mean 1 at each frequency;
        - its *amplitude*, the rhythm's root mean square relative to the series' own, in [0, 1];
        - its *period* in entries.

    >>> t = torch.arange(256)
    >>> share, excess, amplitude, period = rhythm(3 + torch.sin(2 * torch.pi * t / 16)).tolist()
    >>> round(share, 3), round(amplitude, 3), round(period, 3)  # amplitude: sqrt(1/2) of sqrt(9 + 1/2)
    (0.999, 0.229, 16.0)
    """
    n = len(series)
    size = series.square().mean().sqrt()
    t = torch.linspace(-1, 1, n, dtype=series.dtype, device=series.device)
    series = series - series.mean()
    series = series - t * (series * t).sum() / t.square().sum()
    # What rounding leaves of a constant is no rhythm.
    energy = series.square().sum()
    energy = torch.where(energy > n * (1e-6 * size).square(), energy, math.nan)
    window = torch.hann_window(n, dtype=series.dtype, device=series.device)
    power = torch.fft.rfft(series * window).abs().square()[1:]
    padded = torch.nn.functional.pad(power, (1, 1))
    around = padded[:-2] + padded[1:-1] + padded[2:]
    share, peak = (around[cycles - 1 :] / power.sum()).max(0)
    frequency = torch.arange(1, len(power) + 1, dtype=series.dtype, device=series.device)
    phi = (series[1:] * series[:-1]).sum() / energy
    noise = 1 / (1 + phi.square() - 2 * phi * torch.cos(2 * math.pi * frequency / n))
    here = (
        peak + cycles - 2 + torch.arange(3, device=series.device)
    )  # indices into power; its first entry is frequency 1
    here = here.clamp(max=len(power) - 1)
    excess = (power / noise)[here].amax() * noise.sum() / power.sum()
    at = (frequency * power)[here].sum() / power[here].sum()
    amplitude = (share * energy / n).sqrt() / size
    return torch.stack([share + 0 * energy, excess, amplitude, n / at])


class Oscillation(Detector):
    """Says that the players go round each other: one rhythm carries most of what the losses do.

    Reads the `rhythm` of both losses, where the loop records them, else of D's mean scores. An alarm takes a rhythm
    that holds the `share` of the power, is too strong for noise of the same correlation (one false alarm in 10,000
    series, by the exponential law of a spectrum), and moves the series by at least `amplitude` of its size. It sees
    periods from 2 steps to window / cycles; slower ones look like drift. A gradient field that rotates has such a
    rhythm (Mescheder et al. 2018, Sec. 2); so does a loss over batches that come in the same order in every epoch.

    Args:
        share: of the spectral power at the rhythm, in (0, 1].
        amplitude: the least root mean square of the rhythm, relative to that of the series.
        window: steps that have to be seen, and in which it looks.
        cycles: periods that the window has to hold.
    """

    name = "oscillation"
    source = "Mescheder et al. 2018, arXiv:1801.04406, Sec. 2; periodogram against AR(1) noise"
    statistics = tuple(f"{s}_{i}" for i in (0, 1) for s in ("share", "excess", "amplitude", "period"))
    kept = ("_step", "_watched")
    SURPRISE: ClassVar = 1e-4

    def __init__(self, share: float = 0.5, amplitude: float = 0.05, window: int = 512, cycles: int = 4) -> None:
        at_least(self.name, share=(share, 0), amplitude=(amplitude, 0), cycles=(cycles, 2), window=(window, 8 * cycles))
        self.share, self.amplitude, self.window, self.cycles = share, amplitude, window, cycles
        self._ring = Ring(window)
        self._watched: list[str] = []

    def update(self, view: View) -> None:
        self._step = view.step
        losses = {"D's loss": view.d_loss, "G's loss": view.g_loss}
        scores = {"D's score of real samples": view.scores_real, "D's score of fakes": view.scores_fake}
        found = {k: v for k, v in losses.items() if v is not None} or {k: v for k, v in scores.items() if v is not None}
        if not found:
            return
        if list(found) != self._watched:
            if "loss" in " ".join(self._watched) and "loss" not in " ".join(found):
                return  # a step for which no loss was recorded
            self._watched = list(found)
            self._ring.clear()
        self._ring.push(torch.stack([v.detach().float().mean() for v in found.values()])[None])

    def missing(self) -> str | None:
        if not self._watched:
            return "neither losses nor scores were seen; write game.record(d_loss=..., g_loss=...)"
        if not self._ring.full:
            return f"{' and '.join(self._watched)} of {self._ring.seen} steps were seen, and {self.window} are needed"
        return None

    def measure(self) -> Tensor:
        series = self._ring.rows().T
        found = [rhythm(s, cycles=self.cycles) for s in series]
        return torch.cat([*found, *[found[0].new_full((4,), -1.0)] * (2 - len(found))])

    def judge(self, values: Mapping[str, float], step: int) -> Reading:
        bins = self.window // 2 - self.cycles + 1
        surprising = math.log(bins / self.SURPRISE)
        best, text = -1.0, ""
        for i, name in enumerate(self._watched):
            share, excess, amplitude, period = (values[f"{s}_{i}"] for s in ("share", "excess", "amplitude", "period"))
            if not share >= 0:
                continue
            if share > self.share and excess > surprising and amplitude > self.amplitude:
                text = (
                    f"the players go round in circles: {name} swings with a period of {period:.1f} steps, which "
                    f"is {share:.0%} of all it does"
                )
                return Reading(self.name, step, share, self.share, "alarm", text)
            if share > best:
                best = share
                slowest = self.window // self.cycles
                text = f"{name} has no strong rhythm with a period of 2 to {slowest} steps"
                if share > self.share:
                    text = f"{name} swings with a period of {period:.1f} steps, but by only {amplitude:.1%} of its size"
        if best < 0:
            why = f"{' and '.join(self._watched)} are exactly constant or not finite"
            return self.unknown(why, step, None, self.share)
        return Reading(self.name, step, best, self.share, "ok", text)
