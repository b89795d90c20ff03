"""Time and peak memory of minibatch discrimination: ours, the plain form, torch.cdist, torchgan's layer.

    python benchmarks/minibatch.py                    # all forms at N = 64, 256, 1024, 4096
    python benchmarks/minibatch.py --sizes 64,128 --rounds 5 --json minibatch.json

Each case is x (N, 16) through 100 kernels of 5 dimensions to features (N, 100), forward and backward to x and the
kernels, on one thread, in a fresh process. The forms take turns, round after round; a time is the median over rounds of
each round's median. `first` is the first call in a fresh process, which for the compiled form holds the compiling (with
inductor's cache as it is found; --cold empties it). Memory is what one forward and backward adds to the process's
resident set at its peak: VmHWM, reset beforehand through /proc/self/clear_refs, less VmRSS at that moment; in a process
of its own whose allocator gives freed memory back at once. It needs Linux, and reads "-" elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import rich.box
from rich.console import Console
from rich.table import Table

INPUTS, KERNELS, DIMS = 16, 100, 5
BYTES = 4
FORMS = {
    "eager": "ours, eager",
    "compiled": "ours, compiled",
    "plain": "plain form",
    "cdist": "torch.cdist",
    "torchgan": "torchgan",
}


def needed(form: str, n: int) -> int:
    """About how many bytes a form needs: three of its largest tensors; ours stay under this at any n."""
    each = {"plain": n * n * KERNELS * DIMS, "torchgan": n * n * KERNELS * DIMS, "cdist": n * n * KERNELS}
    return 3 * BYTES * each.get(form, n * KERNELS * DIMS * 10)


def function(form: str) -> Callable[[Any, Any], Any]:
    """(x, kernel) to the features."""
    import torch

    from stabilgan.tricks.minibatch import minibatch_features

    def plain(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        m = (x @ kernel.flatten(1)).view(-1, KERNELS, DIMS)
        return torch.exp(-(m[:, None] - m[None]).abs().sum(3)).sum(1) - 1

    def cdist(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        m = (x @ kernel.flatten(1)).view(-1, KERNELS, DIMS).transpose(0, 1).contiguous()
        return torch.exp(-torch.cdist(m, m, p=1)).sum(2).T - 1

    def torchgan(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        from torchgan.layers import MinibatchDiscrimination1d

        layer = MinibatchDiscrimination1d(INPUTS, KERNELS, DIMS)
        return torch.func.functional_call(layer, {"T": kernel}, x)[:, INPUTS:]

    return {
        "eager": lambda x, kernel: minibatch_features(x, kernel, compile=False),
        "compiled": lambda x, kernel: minibatch_features(x, kernel, compile=True),
        "plain": plain,
        "cdist": cdist,
        "torchgan": torchgan,
    }[form]


def run_case(form: str, n: int, what: str, seconds: float) -> dict[str, Any]:
    """One case in this process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = function(form)
    kernel = (0.05 * torch.randn(INPUTS, KERNELS, DIMS)).requires_grad_()

    def once(n: int) -> float:
        x = torch.randn(n, INPUTS, requires_grad=True)
        upstream = torch.randn(n, KERNELS)
        start = time.perf_counter()
        torch.autograd.grad(features(x, kernel), (x, kernel), upstream)
        return time.perf_counter() - start

    if what == "memory":
        once(8)
        before = _kilobytes("VmRSS", reset=True)
        once(n)
        return {"bytes": None if before is None else 1024 * (_kilobytes("VmHWM") - before)}
    first = once(n)
    times = [once(n)]
    while sum(times) < seconds:
        times.append(once(n))
    return {"first_seconds": first, "seconds": statistics.median(times), "repeats": len(times)}


def _kilobytes(field: str, *, reset: bool = False) -> Any:
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.split(f"{field}:")[1].split()[0])


def available() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_a_process(form: str, n: int, what: str, seconds: float, cache: str | None) -> dict[str, Any]:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    if what == "memory":
        env |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    if cache is not None:
        env["TORCHINDUCTOR_CACHE_DIR"] = cache
    case = json.dumps({"form": form, "n": n, "what": what, "seconds": seconds})
    done = subprocess.run([sys.executable, __file__, "--case", case], env=env, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{FORMS[form]} at N = {n} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@click.command()
@click.option("--sizes", default="64,256,1024,4096", show_default=True, help="Batch sizes.")
@click.option("--forms", default=",".join(FORMS), show_default=True, help="Which forms.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Processes for each time.")
@click.option("--seconds", default=1.0, show_default=True, type=float, help="How long to repeat in each process.")
@click.option("--cold", is_flag=True, help="Give each process an empty compile cache.")
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write the record here.")
@click.option("--case", hidden=True)
def main(sizes: str, forms: str, rounds: int, seconds: float, cold: bool, path: str | None, case: str | None) -> None:
    """Prints time and peak memory of minibatch discrimination in several forms."""
    if case is not None:
        print(json.dumps(run_case(**json.loads(case))))
        return
    console = Console()
    numbers = [int(n) for n in sizes.split(",")]
    chosen = forms.split(",")
    if unknown := set(chosen) - set(FORMS):
        raise click.UsageError(f"no form named {', '.join(sorted(unknown))}; there are {', '.join(FORMS)}")
    if "torchgan" in chosen and find_spec("torchgan") is None:
        console.print("torchgan is not installed: its layer is left out (pip install --no-deps torchgan)")
        chosen.remove("torchgan")
    cases: dict[tuple[str, int], dict[str, Any]] = {}
    for n in numbers:
        runs: dict[str, list[dict[str, Any]]] = {form: [] for form in chosen}
        for form in chosen:
            if needed(form, n) > 0.9 * available():
                cases[form, n] = {"skipped": f"needs about {gigabytes(needed(form, n))}, {gigabytes(available())} free"}
                console.print(f"{FORMS[form]} at N = {n} is left out: it {cases[form, n]['skipped']}")
                del runs[form]
        for _ in range(rounds):
            for form, found in runs.items():
                with tempfile.TemporaryDirectory() as empty:
                    found.append(in_a_process(form, n, "time", seconds, empty if cold else None))
        for form, found in runs.items():
            cases[form, n] = {
                key: statistics.median(r[key] for r in found) for key in ("seconds", "first_seconds", "repeats")
            } | in_a_process(form, n, "memory", seconds, None)
    console.print(table(cases, numbers, chosen))
    if path is not None:
        Path(path).write_text(json.dumps(record(cases, rounds, cold), indent=1) + "\n")


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def table(cases: dict[tuple[str, int], dict[str, Any]], numbers: list[int], forms: list[str]) -> Table:
    out = Table(title=f"forward and backward, B = {KERNELS}, C = {DIMS}, one thread", box=rich.box.SIMPLE)
    for column in ("N", "form", "time", "first call", "peak memory", "to eager"):
        out.add_column(column, justify="left" if column == "form" else "right")
    for n in numbers:
        base = cases.get(("eager", n), {}).get("seconds", math.nan)
        for form in forms:
            case = cases[form, n]
            if "skipped" in case:
                out.add_row(str(n), FORMS[form], "-", "-", case["skipped"], "-")
                continue
            size = "-" if case["bytes"] is None else gigabytes(case["bytes"])
            ratio, first = case["seconds"] / base, f"{case['first_seconds']:.2f} s"
            out.add_row(str(n), FORMS[form], f"{1e3 * case['seconds']:.1f} ms", first, size, f"{ratio:.2f}")
    return out


def record(cases: dict[tuple[str, int], dict[str, Any]], rounds: int, cold: bool) -> dict[str, Any]:
    import platform

    import torch

    return {
        "kernels": KERNELS,
        "dims": DIMS,
        "rounds": rounds,
        "cold": cold,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "cases": [{"form": form, "n": n} | case for (form, n), case in cases.items()],
    }


if __name__ == "__main__":
    main()
