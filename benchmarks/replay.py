"""Experience replay against the image pool that everyone copies: time per batch, and memory held.

    python benchmarks/replay.py [--threads 2] [--json] [--quick]

The image pool is a list of tensors, written here from CycleGAN's description: while the pool is not full each image is
stored and returned; then each is, with probability ½, exchanged with a random stored one. Time: both are given the same
batches of 3 x 64 x 64 float32, a new one each time as from a generator, in turns, after the pools are full; printed is
the median over repetitions of our time by the list's, and both medians. Memory: the growth of the process, each pool in
a process of its own, over what it was before the first batch; batches are dropped once the pool has seen them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import stabilgan
from stabilgan.game import Game, attach
from stabilgan.tricks.replay import POLICIES, Replay

SHAPE = (3, 64, 64)
BATCHES = (1, 16, 64, 256)
SIZES = (50, 1000)


class ImagePool:
    """The pool of CycleGAN's description, image by image in a list."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        shown = []
        for image in images:
            image = image.detach().unsqueeze(0)
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif random.random() < 0.5:
                slot = random.randrange(self.size)
                shown.append(self.images[slot].clone())
                self.images[slot] = image
            else:
                shown.append(image)
        return torch.cat(shown)


def our_pool(policy: str, size: int) -> Callable[[Tensor], Tensor]:
    """The trick in a game; the game's own microsecond is another benchmark's."""
    g, d = nn.Linear(1, 1), nn.Linear(1, 1)
    trick = Replay(size=size, policy=policy)
    game: Game = attach(g, d, torch.optim.SGD(g.parameters()), torch.optim.SGD(d.parameters()), [trick])
    return lambda x: trick.fake(x, game)


def times(size: int, batch: int, repetitions: int) -> dict[str, dict[str, float]]:
    """For each policy: medians in ms, and the median of the ratio of neighbours in time."""
    torch.manual_seed(0)
    random.seed(0)
    source = torch.randn(batch, *SHAPE)
    pools: dict[str, Callable[[Tensor], Tensor]] = {"list": ImagePool(size).query}
    pools |= {policy: our_pool(policy, size) for policy in POLICIES}
    for pool in pools.values():
        for _ in range(4 * size // batch + 2):  # `half` stores half a batch at a time, or none, or one
            pool(source.clone())
    spent: dict[str, list[float]] = {name: [] for name in pools}
    calls = max(1, 32 // batch)  # a call of microseconds is timed in a bunch
    for _ in range(repetitions):
        # In a new order each time: a pool feels how the one before it left the allocator and the caches.
        for name in random.sample(list(pools), len(pools)):
            batches = [source.clone() for _ in range(calls)]  # made outside the time
            begin = time.perf_counter()
            for x in batches:
                pools[name](x)
            spent[name].append((time.perf_counter() - begin) / calls)
    lists = spent.pop("list")
    return {
        name: {
            "ours_ms": 1e3 * statistics.median(ours),
            "list_ms": 1e3 * statistics.median(lists),
            "ratio": statistics.median(a / b for a, b in zip(ours, lists, strict=True)),
        }
        for name, ours in spent.items()
    }


def resident() -> int:
    """Bytes of this process in memory, after what is free has been given back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(name: str, size: int, batch: int) -> float:
    """MB (10^6 bytes) that the process grows by, over enough batches that a full pool has turned over."""
    random.seed(0)
    torch.manual_seed(0)
    pool = ImagePool(size).query if name == "list" else our_pool(name, size)
    torch.randn(batch, *SHAPE)
    before = resident()
    for _ in range(10 * size // batch + 10):
        pool(torch.randn(batch, *SHAPE))
    return (resident() - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the tables")
    parser.add_argument("--quick", action="store_true", help="a few repetitions, one memory setting")
    parser.add_argument("--memory-of", nargs=3, metavar=("POOL", "SIZE", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        name, size, batch = options.memory_of
        print(memory(name, int(size), int(batch)))
        return
    repetitions = 9 if options.quick else options.repetitions
    time_rows = [
        {"policy": policy, "size": size, "batch": batch, **row}
        for size in SIZES
        for batch in BATCHES
        for policy, row in times(size, batch, repetitions if batch < 256 else max(9, repetitions // 2)).items()
    ]
    memory_rows = []
    for size, batch in [(1000, 256)] if options.quick else [(50, 16), (50, 256), (1000, 64), (1000, 256)]:
        needed = size * 4 * torch.Size(SHAPE).numel() / 1e6
        row: dict[str, float] = {"size": size, "batch": batch, "needed_mb": needed}
        for name in ("list", *POLICIES):
            command = [sys.executable, __file__, "--threads", str(options.threads), "--memory-of", name]
            done = subprocess.run([*command, str(size), str(batch)], capture_output=True, text=True, check=True)
            row[f"{name}_mb"] = float(done.stdout)
        memory_rows.append(row)
    about = {
        "stabilgan": stabilgan.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": options.threads,
        "repetitions": repetitions,
        "shape": list(SHAPE),
    }
    if options.json:
        print(json.dumps({"about": about, "time": time_rows, "memory": memory_rows}, indent=1))
        return
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print("\ntime per batch, ours by the list's (below 1: ours is quicker)")
    print(f"{'pool':>6} {'batch':>6}  {'policy':<10} {'ratio':>6} {'ours ms':>9} {'list ms':>9}")
    for r in time_rows:
        setting = f"{r['size']:>6} {r['batch']:>6}  {r['policy']:<10}"
        print(f"{setting} {r['ratio']:>6.2f} {r['ours_ms']:>9.4f} {r['list_ms']:>9.4f}")
    print("\nmemory held, MB (10^6 bytes)")
    print(f"{'pool':>6} {'batch':>6} {'needed':>8} {'list':>8} " + " ".join(f"{policy:>10}" for policy in POLICIES))
    for m in memory_rows:
        ours = " ".join(f"{m[f'{policy}_mb']:>10.1f}" for policy in POLICIES)
        print(f"{m['size']:>6} {m['batch']:>6} {m['needed_mb']:>8.1f} {m['list_mb']:>8.1f} {ours}")


if __name__ == "__main__":
    main()
