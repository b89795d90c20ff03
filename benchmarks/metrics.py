"""Time and peak memory of the measures and of the packages that compute the same, and how far from a plain matmul.

    python benchmarks/metrics.py                                    # all, N = 5,000 and 10,000, d = 64 and 2,048
    python benchmarks/metrics.py --measure prdc --n 50000 --d 64 --threads 2
    python benchmarks/metrics.py --device cuda --n 50000 --d 2048

Each contender runs in a process of its own, warm (one small run before), and they take turns, so that a busy machine is
equally unfair to all. Printed are medians over the rounds: wall time, processor time over all threads (steadier on a
busy machine), and ratios to ours; memory is the most that a run added to what the process held before. `matmul`
multiplies tiles of 2,048 rows as often as our measure does (PRDC needs N²/2 + M²/2 + NM products of length d, since
distances within a set are symmetric), and nothing else: it is the bound that our time is compared with. What needs
more than --memory GB of N x N matrices is left out, and said to be.
"""

import argparse
import contextlib
import io
import json
import multiprocessing as mp
import multiprocessing.connection
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[], float]


def contenders(measure: str, n: int, d: int, device: str, precision: str) -> dict[str, Callable[[], Run]]:
    """For each contender what makes it ready; that returns what to time, which returns the value it found."""
    import numpy as np
    import torch

    from stabilgan import metrics

    def pair(size: int = n) -> tuple[torch.Tensor, torch.Tensor]:
        rng = torch.Generator().manual_seed(0)
        x, y = (torch.randn(size, d, generator=rng) for _ in range(2))
        return x.abs().to(device), (1.1 * y).abs().to(device)  # not centred, like a network's activations

    def ours(call: Callable[[torch.Tensor, torch.Tensor], float]) -> Callable[[], Run]:
        def ready() -> Run:
            small = pair(600)
            call(*small)
            x, y = pair()
            return lambda: call(x, y)

        return ready

    def theirs(call: Callable[[torch.Tensor, torch.Tensor], float]) -> Callable[[], Run]:
        def ready() -> Run:
            quiet = contextlib.redirect_stdout(io.StringIO())
            with quiet:
                call(*(part.cpu() for part in pair(600)))
            x, y = (part.cpu() for part in pair())

            def run() -> float:
                with contextlib.redirect_stdout(io.StringIO()):
                    return call(x, y)

            return run

        return ready

    def matmul(products: float) -> Callable[[], Run]:
        def ready() -> Run:
            side = min(2048, n)
            a, b = (torch.randn(side, d, device=device) for _ in range(2))
            out = torch.empty(side, side, device=device)
            torch.mm(a, b.T, out=out)
            times = max(1, round(products / side**2))

            def run() -> float:
                for _ in range(times):
                    torch.mm(a, b.T, out=out)
                return out[0, 0].item()

            return run

        return ready

    if measure == "prdc":

        def prdc_package(x: torch.Tensor, y: torch.Tensor) -> float:
            from prdc import compute_prdc

            return float(compute_prdc(x.numpy(), y.numpy(), nearest_k=5)["precision"])

        def fidelity(x: torch.Tensor, y: torch.Tensor) -> float:
            from torch_fidelity.metric_prc import prc_features_to_metric

            return float(
                prc_features_to_metric(
                    y, x, prc_neighborhood=5, prc_batch_size=10_000, save_cpu_ram=True, verbose=False
                )["precision"]
            )

        return {
            "ours": ours(lambda x, y: metrics.prdc(x, y).precision),
            "matmul": matmul(2 * n * n),
            "prdc": theirs(prdc_package),
            "torch-fidelity": theirs(fidelity),
        }
    if measure == "frechet":

        def moments(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
            array = x.double().numpy()
            return array.mean(0), np.cov(array, rowvar=False)

        def pytorch_fid(x: torch.Tensor, y: torch.Tensor) -> float:
            from pytorch_fid.fid_score import calculate_frechet_distance

            return float(calculate_frechet_distance(*moments(x), *moments(y)))

        def fidelity(x: torch.Tensor, y: torch.Tensor) -> float:
            from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

            a, b = (fid_features_to_statistics(part.double()) for part in (x, y))
            return float(fid_statistics_to_metric(a, b, verbose=False)["frechet_inception_distance"])

        def torchmetrics(x: torch.Tensor, y: torch.Tensor) -> float:
            from torchmetrics.image.fid import _compute_fid

            a, b = x.double(), y.double()
            return float(_compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()))

        return {
            "ours": ours(lambda x, y: metrics.frechet_distance(x, y).distance),
            "pytorch-fid": theirs(pytorch_fid),
            "torch-fidelity": theirs(fidelity),
            "torchmetrics": theirs(torchmetrics),
        }
    if measure == "kernel":

        def fidelity(x: torch.Tensor, y: torch.Tensor) -> float:
            from torch_fidelity.metric_kid import kid_features_to_metric

            size = min(1000, len(x))
            found = kid_features_to_metric(x, y, kid_subsets=100, kid_subset_size=size, verbose=False)
            return float(found["kernel_inception_distance_mean"])

        def torchmetrics(x: torch.Tensor, y: torch.Tensor) -> float:
            from torchmetrics.image.kid import poly_mmd

            size = min(1000, len(x))
            rng = torch.Generator().manual_seed(0)
            found = [
                poly_mmd(
                    x[torch.randperm(len(x), generator=rng)[:size]], y[torch.randperm(len(y), generator=rng)[:size]]
                )
                for _ in range(100)
            ]
            return float(torch.stack(found).mean())

        return {
            "ours": ours(lambda x, y: metrics.kernel_distance(x, y).distance),
            "torch-fidelity": theirs(fidelity),
            "torchmetrics": theirs(torchmetrics),
        }
    if measure in ("vendi", "vendi-2"):
        q = 1 if measure == "vendi" else 2

        def vendi(name: str) -> Callable[[torch.Tensor, torch.Tensor], float]:
            def call(x: torch.Tensor, _: torch.Tensor) -> float:
                from vendi_score import vendi

                return float(getattr(vendi, name)(x.numpy(), q=q))

            return call

        return {
            "ours": ours(lambda x, _: metrics.vendi_score(x, q=q).score),
            "vendi-score score_X": theirs(vendi("score_X")),
            "vendi-score score_dual": theirs(vendi("score_dual")),
        }

    def images(size: int) -> tuple[torch.Tensor, torch.Tensor]:  # ms-ssim: N pairs of d x d
        rng = torch.Generator().manual_seed(0)
        a = torch.rand(size, 3, d, d, generator=rng)
        return a.to(device), (a + 0.2 * torch.rand(size, 3, d, d, generator=rng)).clamp(0, 1).to(device)

    def compared(call: Callable[[torch.Tensor, torch.Tensor], float], where: str) -> Callable[[], Run]:
        def ready() -> Run:
            call(*(part.to(where) for part in images(1)))
            a, b = (part.to(where) for part in images(n))
            return lambda: call(a, b)

        return ready

    def torchmetrics_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as score

        return float(score(a, b, data_range=1.0))

    def pytorch_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
        from pytorch_msssim import ms_ssim

        return float(ms_ssim(a, b, data_range=1.0))

    return {
        "ours": compared(lambda a, b: metrics.ms_ssim(a, b, data_range=1.0).mean().item(), device),
        "torchmetrics": compared(torchmetrics_ssim, "cpu"),
        "pytorch-msssim": compared(pytorch_ssim, "cpu"),
    }


def peak_kib(name: str) -> int:
    """A line of /proc/self/status in KiB; 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def worker(pipe: multiprocessing.connection.Connection, name: str, options: dict[str, Any], threads: int) -> None:
    """One contender: get ready, then run once for every word that comes."""
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = options["precision"] == "tf32"
    cuda = options["device"] == "cuda"
    try:
        run = contenders(**options)[name]()
    except Exception as error:
        pipe.send({"failed": f"{type(error).__name__}: {error}"})
        return
    pipe.send({"ready": True})
    while pipe.recv():
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        before = peak_kib("VmRSS")
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        wall, processor = time.perf_counter(), time.process_time()
        value = run()
        if cuda:
            torch.cuda.synchronize()
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        memory = (torch.cuda.max_memory_allocated() - held) / 2**20 if cuda else (peak_kib("VmHWM") - before) / 2**10
        pipe.send({"wall": wall, "processor": processor, "memory": memory, "value": value})


def too_big(name: str, measure: str, n: int, limit: float) -> float:
    """GB of N x N matrices that a contender holds, if more than the limit; else 0."""
    matrices = {"prdc": 3 * 4, "torch-fidelity": 2 * 4} if measure == "prdc" else {"vendi-score score_X": 3 * 4}
    size = matrices.get(name, 0) * n * n / 2**30
    return size if size > limit else 0.0


def race(measure: str, n: int, d: int, threads: int, args: argparse.Namespace) -> list[dict[str, object]]:
    """All contenders of one setting, taking turns."""
    options: dict[str, Any] = {"measure": measure, "n": n, "d": d, "device": args.device, "precision": args.precision}
    os.environ.update({name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
    context, racers, rows = mp.get_context("spawn"), {}, []
    print(f"\n{measure}, N = {n:,}, d = {d:,}, {threads} thread{'s' * (threads > 1)}, {args.device}", flush=True)
    for name in contenders(**options):
        size = too_big(name, measure, n, args.memory)
        if size or (args.only_ours and name not in ("ours", "matmul")):
            print(f"  {name:24s} left out" + (f": would need {size:.0f} GB" if size else ""))
            continue
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(there, name, options, threads))
        process.start()
        there.close()
        try:
            said = here.recv()
        except EOFError:
            said = {"failed": "the process ended"}
        if "failed" in said:
            print(f"  {name:24s} did not run: {said['failed']}")
            process.join()
        else:
            racers[name] = (process, here, [])
    for _ in range(args.rounds):
        for _, here, runs in racers.values():
            here.send(True)
            runs.append(here.recv())
    for process, here, _ in racers.values():
        here.send(False)
        process.join()
    median = {
        name: {key: (max if key == "memory" else statistics.median)(run[key] for run in runs) for key in runs[0]}
        for name, (_, _, runs) in racers.items()
    }
    for name, found in median.items():
        base = median.get("ours", found)
        print(
            f"  {name:24s} {found['wall']:8.2f} s x{found['wall'] / base['wall']:<6.2f} "
            f"processor {found['processor']:8.2f} s x{found['processor'] / base['processor']:<6.2f} "
            f"{found['memory']:8.0f} MB  {found['value']:.7g}",
            flush=True,
        )
        rows.append({**options, "threads": threads, "contender": name, "rounds": args.rounds, **found})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = ["prdc", "frechet", "kernel", "vendi", "vendi-2", "ms-ssim"]
    parser.add_argument("--measure", nargs="+", choices=measures, default=measures)
    parser.add_argument("--n", nargs="+", type=int, default=[5000, 10_000])
    parser.add_argument("--d", nargs="+", type=int, default=[64, 2048])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "tf32"], default="float32", help="of products on a GPU")
    parser.add_argument("--memory", type=float, default=12.0, help="GB that a contender's N x N matrices may take")
    parser.add_argument("--only-ours", action="store_true", help="leave the packages out")
    parser.add_argument("--json", type=Path, help="write every median to this file")
    args = parser.parse_args()
    rows = []
    for measure in args.measure:
        for n, d in [(16, 256)] if measure == "ms-ssim" else [(n, d) for d in args.d for n in args.n]:
            for threads in args.threads:
                rows += race(measure, n, d, threads, args)
                if args.json:
                    args.json.write_text(json.dumps({"python": sys.version.split()[0], "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
