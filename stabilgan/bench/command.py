"""What `stabilgan bench` and `stabilgan report` do, from checked input to table and exit code."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from stabilgan import spec, tricks, workloads
from stabilgan.bench import display, local, plan
from stabilgan.bench import report as reports
from stabilgan.data import feed
from stabilgan.trainer import Trainer
from stabilgan.workloads.base import judge_of


def bench(
    *,
    tricks: str,
    workload: str,
    seeds: str,
    steps: int | None,
    seconds: float | None,
    evaluations: int,
    out: Path,
    jobs: int | None,
    threads: int,
    device: str,
    amp: bool,
    data_dir: Path | None,
    save_every: float,
    as_json: bool,
) -> int:
    """Runs what has no record yet, then reports all that the folder holds.

    Returns:
        The exit code: 0, or 1 where a case failed.

    Raises:
        ValueError, FileNotFoundError: input that can't be meant; the message is one line.
        KeyboardInterrupt: was asked to stop; what was done is kept, and the same command goes on with it.
    """
    if seconds is not None and not math.isfinite(seconds):
        raise spec.SpecError(f"--seconds {seconds}; expected a finite number")
    if steps is not None and seconds is not None:
        raise spec.SpecError("--steps and --seconds are two budgets; give one")
    console = Console(stderr=True)
    where = checked_device(device)
    names = list(dict.fromkeys(w.strip() for w in workload.split(",") if w.strip()))
    if not names:
        raise spec.SpecError("--workload names nothing; expected for example ring or mnist")
    arms = arms_of(tricks)
    which = plan.seeds(seeds)
    with console.status("preparing the workloads (a judge that must be trained is trained once)"):
        own = {name: check_workload(name, data_dir).steps for name in names}
    settings = {"evaluations": evaluations, "device": where.type, "threads": threads, "amp": amp}
    cases = [
        case
        for name in names
        for case in plan.cases(
            [name], arms, which, steps=budget(steps, seconds, own[name]), seconds=seconds, **settings
        )
    ]
    try:
        run(cases, out, jobs=jobs, device=where, data_dir=data_dir, save_every=save_every)
    except KeyboardInterrupt:
        console.print(f"stopped; finished cases are in {out}, and the same command goes on where this one stopped")
        return 130
    report(out, as_json)
    folder = plan.Folder(out)
    failed = [c for c in cases if json.loads(folder.record(c).read_text())["status"] == "failed"]
    if failed:
        console.print(
            f"{len(failed)} of {len(cases)} cases failed; their records in {out / 'records'} hold the tracebacks. "
            "Delete a record to run its case again.",
            highlight=False,
        )
    return 1 if failed else 0


def run(
    cases: Sequence[plan.Case],
    out: Path,
    *,
    jobs: int | None,
    device: torch.device,
    data_dir: Path | None,
    save_every: float,
) -> None:
    """Runs the cases that a folder has no record of yet, with a progress bar.

    Raises:
        SpecError: another bench is running in the folder.
        KeyboardInterrupt: was asked to stop; what was done is kept.
    """
    console = Console(stderr=True)
    folder = plan.Folder(out)
    folder.open()
    try:
        with FileLock(out / ".lock", timeout=0):
            already = sum(folder.record(case).exists() for case in cases)
            if already:
                console.print(f"{already} of {len(cases)} cases are in {out} already", highlight=False)
            with display.shown(console, len(cases), already) as tell:
                local.run_all(
                    list(cases),
                    folder,
                    jobs=jobs or local.jobs_for(device.type, cases[0].threads),
                    device=str(device),
                    data_dir=data_dir,
                    save_every=save_every,
                    tell=tell,
                )
    except Timeout:
        raise spec.SpecError(f"another bench is running in {out}; wait for it, or give another --out") from None


def report(folder: Path, as_json: bool = False) -> None:
    """Writes summary and pictures of a folder of records, and prints the table, or the summary as JSON."""
    summary = reports.write(folder)
    if as_json:
        print((folder / "summary.json").read_text(), end="")
    else:
        Console().print(reports.table(summary))
        Console(stderr=True).print(f"summary.json, summary.csv and pictures are in {folder}", highlight=False)


def budget(steps: int | None, seconds: float | None, own: int) -> int | None:
    """Steps of each case: what was asked for, else the workload's own; None where the budget is in seconds."""
    return steps if steps is not None or seconds is not None else own


def arms_of(text: str) -> list[str]:
    """The arms that `--tricks` names; see `stabilgan.tricks.parse_arms`."""
    arms = tricks.parse_arms(text)
    if len(arms) < 2:
        raise spec.SpecError(f"--tricks {text!r} names no trick to compare; expected for example replay,minibatch")
    return arms


def checked_device(text: str) -> torch.device:
    """The device that `--device` names.

    Raises:
        SpecError: it is not a device, or not there.
    """
    if text == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise spec.SpecError(f"--device {text!r}; expected auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        there = (
            f"the CUDA devices here are 0 to {count - 1}" if count else "there is no CUDA device here; use --device cpu"
        )
        raise spec.SpecError(f"--device {text}: {there}")
    return torch.device("cuda", int(index or 0))


def check_workload(name: str, data_dir: Path | None) -> workloads.Workload:
    """Makes a workload once, in this process, so that what is wrong with it is said before anything runs."""
    made = workloads.make(name, data_dir=data_dir)
    try:
        real = feed(made.data, made.batch_size, 0).next()[0]
        t = Trainer(made.g, made.d, made.opt_g, made.opt_d, latent=made.latent, loss=made.loss, n_critic=made.n_critic)
        fakes = t.sample(made.samples)
        with torch.no_grad():
            shapes = {tuple(made.d(x[:2]).shape) for x in (real, fakes)}
        found = judge_of(made)(fakes)
        numbers = {reading: float(value) for reading, value in found.items()}
    except Exception as error:  # networks, data and judge are the user's, and may raise anything
        raise spec.SpecError(f"workload {name!r} does not work: {type(error).__name__}: {error}") from error
    if len(shapes) > 1:
        raise spec.SpecError(f"workload {name!r}: D gives {shapes} for two reals and two fakes; expected one shape")
    if made.primary not in numbers:
        raise spec.SpecError(
            f"workload {name!r}: its judge gives {sorted(numbers)} without the primary reading {made.primary!r}; name "
            "one of them with Workload(primary=...)"
        )
    return made
