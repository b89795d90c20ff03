"""Time and peak memory of the measures and of the packages that compute the same, and how far from a plain matmul.

    python benchmarks/metrics.py                                    # all, N = 5,000 and 10,000, d = 64 and 2,048
    python benchmarks/metrics.py --measure prdc --n 50000 --d 64 --threads 2
    python benchmarks/metrics.py --device cuda --n 50000 --d 2048
    python benchmarks/metrics.py --json benchmarks/results/metrics-cpu.json    # go on with a record

Each contender runs in a process of its own, warm (one small run before), and they take turns, so that a busy machine is
equally unfair to all. Printed are medians over the rounds: wall time, processor time over all threads (steadier on a
busy machine), and ratios to ours; memory is the most that a run added to what the process held before. `matmul` makes
plain products of the multiply-adds that no exact form of the measure can do without (`bound` in metrics_contenders.py
counts them), and nothing else: our time over its is the ratio to the bound. What needs more than --memory GB of N x N
matrices is left out, and said to be. With --json every setting is written to the record as soon as it is measured, and
a setting that the record holds is not measured again (--again does).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import multiprocessing as mp
import multiprocessing.connection
import os
import statistics
import sys
import time
import warnings
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import metrics_contenders as runners
from metrics_contenders import Setting

MEASURES = list(runners.MEASURES)
PACKAGES = (
    "numpy",
    "scipy",
    "prdc",
    "vendi-score",
    "torch-fidelity",
    "torchmetrics",
    "pytorch-fid",
    "pytorch-msssim",
)


def peak_kib(name: str) -> int:
    """A line of /proc/self/status in KiB; 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def worker(pipe: multiprocessing.connection.Connection, name: str, of: Setting, threads: int) -> None:
    """One contender: get ready, then run once for every word that comes."""
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = of.precision == "tf32"
    cuda = of.device == "cuda"
    try:
        run = runners.contenders(of)[name]()
    except Exception as error:  # whatever a package raises is what it has to say
        pipe.send({"failed": f"{type(error).__name__}: {error}"})
        return
    pipe.send({"ready": True})
    while pipe.recv():
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        before = peak_kib("VmRSS")
        held = 0
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


def race(of: Setting, threads: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All contenders of one setting, taking turns: a row for each."""
    os.environ.update({name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
    context, racers = mp.get_context("spawn"), {}
    row = asdict(of) | {"threads": threads}
    rows: list[dict[str, Any]] = []
    print(f"\n{of.measure}, N = {of.n:,}, d = {of.d:,}, {threads} thread{'s' * (threads > 1)}, {of.device}", flush=True)
    for name in runners.contenders(of):
        size = runners.matrices(name, of)
        if args.only and name not in args.only:
            print(f"  {name:24s} left out")
        elif size > args.memory:
            print(f"  {name:24s} left out: would need {size:.0f} GB")
            rows.append({**row, "contender": name, "left_out": f"would need {size:.0f} GB"})
        else:
            here, there = context.Pipe()
            process = context.Process(target=worker, args=(there, name, of, threads))
            process.start()
            there.close()
            racers[name] = (process, here, [])
    for name, (process, here, _) in list(racers.items()):
        try:
            said = here.recv()
        except EOFError:
            said = {"failed": "the process ended"}
        if "failed" in said:
            print(f"  {name:24s} did not run: {said['failed']}")
            process.join()
            del racers[name]
            rows.append({**row, "contender": name, "left_out": f"did not run: {said['failed']}"})
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
    found = runners.bound(of)
    for name, took in median.items():
        if name == "matmul":
            took |= {key: took[key] * runners.matmul_scale(of) for key in ("wall", "processor")}
            took["value"] = None
    for name, took in median.items():
        base = median.get("ours", took)
        print(
            f"  {name:24s} {took['wall']:8.3f} s x{took['wall'] / base['wall']:<6.2f} "
            f"processor {took['processor']:8.3f} s x{took['processor'] / base['processor']:<6.2f} "
            f"{took['memory']:8.0f} MB  {'' if took['value'] is None else format(took['value'], '.7g')}",
            flush=True,
        )
        rows.append({**row, "contender": name, "rounds": args.rounds, **took})
    if found and {"ours", "matmul"} <= set(median):
        work, dtype, what = found
        wall, processor = (median["ours"][key] / median["matmul"][key] for key in ("wall", "processor"))
        print(
            f"  bound: {work:.3g} multiply-adds in {str(dtype)[6:]} ({what}); "
            f"ours takes {wall:.2f} times that, {processor:.2f} in processor time"
        )
    return rows


def started(path: Path | None, environment: dict[str, Any]) -> dict[str, Any]:
    """The record to go on with. Raises SystemExit if it was made by other versions, or on another machine."""
    if path is None or not path.exists():
        return {"environment": environment, "rows": []}
    record: dict[str, Any] = json.loads(path.read_text())
    before = record["environment"]
    differ = [key for key in environment if key != "commit" and before.get(key) != environment[key]]
    if differ:
        sys.exit(
            f"{path} was made with {', '.join(f'{key} {before.get(key)}' for key in differ)}; here it is "
            f"{', '.join(f'{key} {environment[key]}' for key in differ)}; write to another file, or remove that one"
        )
    return record


def write(path: Path, record: dict[str, Any]) -> None:
    """A line for each row, atomically."""
    rows = ",\n".join(json.dumps(row) for row in record["rows"])
    part = path.with_suffix(".part")
    part.write_text(f'{{"environment": {json.dumps(record["environment"])},\n"rows": [\n{rows}\n]}}\n')
    os.replace(part, path)


def surroundings(device: str) -> dict[str, Any]:
    """The machine and the versions that the times belong to."""
    import torch

    from stabilgan.bench.run import environment

    known = {name: metadata.version(name) for name in PACKAGES}
    return environment(torch.device(device)) | {"cores": os.cpu_count(), **known}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--n", nargs="+", type=int, default=[5000, 10_000])
    parser.add_argument("--d", nargs="+", type=int, default=[64, 2048])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "tf32"], default="float32", help="of products on a GPU")
    parser.add_argument("--memory", type=float, default=12.0, help="GB that a contender's N x N matrices may take")
    parser.add_argument("--only", nargs="+", help="contenders to run, such as ours and matmul")
    parser.add_argument("--json", type=Path, help="the record to write, or to go on with")
    parser.add_argument("--again", action="store_true", help="measure again what the record holds")
    args = parser.parse_args()
    here = surroundings(args.device)
    record = started(args.json, here)
    for measure in args.measure:
        for n, d in [(16, 256)] if measure == "ms-ssim" else [(n, d) for d in args.d for n in args.n]:
            for threads in args.threads:
                of = Setting(measure, n, d, args.device, args.precision)
                key = asdict(of) | {"threads": threads}
                held = [row for row in record["rows"] if key.items() <= row.items()]
                if held and not args.again:
                    print(f"\n{measure}, N = {n:,}, d = {d:,}, {threads} threads: in the record")
                    continue
                date = datetime.datetime.now(datetime.UTC).date().isoformat()
                new = [row | {"date": date, "commit": here["commit"]} for row in race(of, threads, args)]
                record["rows"] = [row for row in record["rows"] if row not in held] + new
                if args.json:
                    write(args.json, record)


if __name__ == "__main__":
    main()
