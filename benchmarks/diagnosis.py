"""Times the judgement of samples, and counts its false alarms on reals against reals.

python benchmarks/diagnosis.py speed
python benchmarks/diagnosis.py false-alarms --draws 200
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from stabilgan.diagnosis.samples import judge_samples
from stabilgan.workloads.mixtures import draw_mixture

AXIS = torch.arange(5) * 2.0 - 4
GRID = torch.cartesian_prod(AXIS, AXIS)


def normal(n: int, d: int, rng: torch.Generator) -> Tensor:
    """A cloud whose axes have spreads of their own."""
    scales = torch.linspace(0.2, 1, d)
    return scales * torch.randn(n, d, generator=rng)


def false_alarms(draws: int) -> None:
    """Prints, for several numbers of samples and dimensions, how many of the draws were not called healthy."""
    print("data            n    d   findings   cannot tell   of")
    for n in (50, 200, 1000):
        for name, d in (("cloud", 2), ("cloud", 16), ("cloud", 64), ("grid of 25", 2)):
            found = undecided = 0
            for seed in range(draws):
                rng = torch.Generator().manual_seed(seed)
                x = normal(2 * n, d, rng) if name == "cloud" else draw_mixture(GRID, 0.05, 2 * n, rng)
                judgement = judge_samples(x[:n], x[n:], seed=seed)
                found += bool(judgement.findings)
                undecided += bool(judgement.undecided)
            print(f"{name:<12} {n:>4} {d:>4} {found:>10} {undecided:>13} {draws:>4}", flush=True)


def speed() -> None:
    """Prints how long all measures take for 10,000 against 10,000 samples of 64 numbers."""
    rng = torch.Generator().manual_seed(0)
    real, fake = normal(10_000, 64, rng), normal(10_000, 64, rng)
    began, used = time.perf_counter(), time.process_time()
    judge_samples(real, fake)
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    print(f"10,000 x 10,000 x 64: {wall:.1f} s, {cpu:.1f} s of processor time, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "false-alarms"])
    parser.add_argument("--draws", type=int, default=200)
    chosen = parser.parse_args()
    speed() if chosen.what == "speed" else false_alarms(chosen.draws)
