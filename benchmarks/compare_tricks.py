"""Every trick alone against the plain arm, on the ring and on the dense MNIST GAN that fails.

    python benchmarks/compare_tricks.py bench     # runs what has no record yet; can be stopped at any time
    python benchmarks/compare_tricks.py bench --fresh --workload ring --only packing,gdpp    # in seeds not seen before
    python benchmarks/compare_tricks.py time      # what a step of each costs, interleaved with the plain arm
    python benchmarks/compare_tricks.py table     # writes docs/compared.md's tables from the records

A trick is played with its defaults, but for what `OPTIONS` say, and with the workload's own loss. What refuses a
workload (an image augmentation on points) is in the table with its words. On a CPU a step's time is the process's own
CPU time, so that other work on the machine does not count; on a GPU the wall clock.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from stabilgan import tricks, workloads
from stabilgan.bench import command, plan, report
from stabilgan.bench.run import environment
from stabilgan.bench.statistics import FAILED
from stabilgan.game import CHANGES
from stabilgan.trainer import Trainer

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "compared.md"
BUDGETS = {"ring": (2000, 10), "mnist": (600, 6)}
"""Steps and evaluations; 600 steps are one epoch."""
SEEDS = 10
"""Six is the least that can decide anything: p is at least 2/4^n, corrected for all tricks and both questions."""
TABLES = {"ring": "ring", "mnist": "mnist", "ring-fresh": "ring"}
"""Table of the page -> workload. What stood out among many is asked again alone, in seeds that had no part in that."""
FLAT = "shape=1x28x28"
OPTIONS = {
    ("mnist", "diffaugment"): FLAT,
    ("mnist", "ada"): FLAT,
    ("ring", "lecam"): "start=1",
    ("mnist", "lecam"): "start=1",
    ("ring", "instance_noise"): "steps=2000",
    ("mnist", "instance_noise"): "steps=600",
    ("ring", "top_k"): "epoch=20",
    ("mnist", "top_k"): "epoch=6",
}
"""What a trick must be told of a workload: MNIST's samples are flat, and what by default is counted in the steps of a
long training is scaled to these. LeCam's anchors count at once, instance noise fades over the run, and top-k comes down
to half a batch after 69 of its 100 "epochs"."""


def arm(workload: str, name: str) -> str:
    options = OPTIONS.get((workload, name))
    return f"{name}:{options}" if options else name


def results(table: str) -> Path:
    return RESULTS / f"tricks-{table}"


@click.group()
def main() -> None:
    """Compares all tricks, each alone with the plain arm."""


@main.command("bench")
@click.option("--only", help="Names of tricks, with commas.  [default: all]")
@click.option("--workload", type=click.Choice(list(BUDGETS)), multiple=True, help="May be repeated.  [default: all]")
@click.option("--fresh", is_flag=True, help="Take the next seeds instead of the first, into a folder of their own.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for all.  [default: benchmarks/results]")
@click.option("--jobs", type=int)
@click.option("--device", default="auto", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="STABILGAN_DATA")
def run(
    only: str | None,
    workload: tuple[str, ...],
    fresh: bool,
    out: Path | None,
    jobs: int | None,
    device: str,
    data_dir: Path | None,
) -> None:
    """Trains and judges."""
    where = command.checked_device(device)
    for name in workload or BUDGETS:
        steps, evaluations = BUDGETS[name]
        folder = (out or RESULTS) / f"tricks-{name}{'-fresh' if fresh else ''}"
        arms = ["none", *(arm(name, trick) for trick in (only.split(",") if only else tricks.TRICKS))]
        seeds = list(range(SEEDS, 2 * SEEDS) if fresh else range(SEEDS))
        budget = {"steps": steps, "evaluations": evaluations, "device": where.type}
        cases = plan.cases([name], arms, seeds, **budget)
        command.run(cases, folder, jobs=jobs, device=where, data_dir=data_dir, save_every=20.0)
        command.report(folder)


# --- what a step costs -----------------------------------------------------------------------------------------------


@main.command("time")
@click.option("--rounds", default=7, show_default=True, help="Turns of the plain arm and of the trick, alternating.")
@click.option("--only", help="Names of tricks, with commas.  [default: all]")
@click.option("--device", default="cpu", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="STABILGAN_DATA")
def timed(rounds: int, only: str | None, device: str, data_dir: Path | None) -> None:
    """Writes results/tricks-time.json: how many times the plain arm's step each trick's takes."""
    torch.set_num_threads(1)
    path = RESULTS / "tricks-time.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in only.split(",") if only else tricks.TRICKS:
        for workload, steps in (("ring", 40), ("mnist", 8)):
            ratio = slowdown(workload, arm(workload, name), steps, rounds, torch.device(device), data_dir)
            found.setdefault(workload, {})[name] = ratio
            click.echo(f"{workload} {name}: {'refused' if ratio is None else f'{ratio:.2f}'}")
            plan.write_json(path, found | {"environment": environment(torch.device(device)), "rounds": rounds})


def slowdown(
    workload: str, spec: str, steps: int, rounds: int, device: torch.device, data_dir: Path | None
) -> float | None:
    """The ratio of median times over rounds that alternate; None where the trick refuses the workload."""
    plain = stepping(workload, "none", device, data_dir)
    try:
        with_trick = stepping(workload, spec, device, data_dir)
    except (ValueError, RuntimeError):
        return None
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for played, step in ((False, plain), (True, with_trick)):
            times[played].append(step(steps))
    return round(statistics.median(times[True]) / statistics.median(times[False]), 3)


def stepping(workload: str, spec: str, device: torch.device, data_dir: Path | None) -> Callable[[int], float]:
    """What makes n steps of each player and returns the seconds; a few are made beforehand."""
    torch.manual_seed(0)
    w = workloads.make(workload, data_dir=data_dir)
    trainer = Trainer(
        w.g.to(device),
        w.d.to(device),
        w.opt_g,
        w.opt_d,
        tricks.parse(spec),
        latent=w.latent,
        loss=w.loss,
        batch_size=w.batch_size,
        n_critic=w.n_critic,
    )
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def step(n: int) -> float:
        began, until = clock(), trainer.steps + n
        while trainer.steps < until:  # a step that only looks ahead is none
            trainer.fit(w.data, 1)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    step(5)
    return step


# --- the table -------------------------------------------------------------------------------------------------------


@main.command()
def table() -> None:
    """Writes the tables of docs/compared.md anew."""
    PAGE.write_text(filled(PAGE.read_text()))


def filled(text: str) -> str:
    """The page with all tables made anew from the committed records."""
    times = json.loads((RESULTS / "tricks-time.json").read_text())
    for table, workload in TABLES.items():
        begin, end = f"<!-- tricks:{table} -->", f"<!-- /tricks:{table} -->"
        head, _, rest = text.partition(begin)
        records = report.load(results(table))
        text = head + begin + rows_of(workload, records, times[workload]) + end + rest.partition(end)[2]
    return text


COLUMNS = ("kl", "high_quality", "forgetting", "held", "dominant_share", "d_loss_rms")
HEADERS = {"kl": "KL", "high_quality": "high quality", "dominant_share": "dominant share", "d_loss_rms": "D loss RMS"}


def rows_of(workload: str, records: list[report.Record], times: Mapping[str, float | None]) -> str:
    """One row for each trick, in the order of what they change."""
    (bench,) = report.summarise(records).benches
    arms = {a.name: a for a in bench.arms}
    reasons = {r["case"]["arm"]: r["reason"] for r in records if r["status"] == "failed"}
    head = ["trick", "changes", "success", "modes", "minus plain", *(HEADERS.get(c, c) for c in COLUMNS)]
    head += ["passes more", "× time", "verdict"]
    lines = [
        f"{bench.title}, {sum(a.name != 'none' for a in bench.arms)} tricks, each alone.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        line("none", "", arms["none"], "", ""),
    ]
    names = [n for n in tricks.TRICKS if arm(workload, n) in arms]
    for name in sorted(names, key=lambda n: (CHANGES.index(tricks.TRICKS[n].changes), n)):
        found, made = arms[arm(workload, name)], tricks.TRICKS[name]
        if found.verdict == FAILED:
            reason = reasons[found.name].split(": ", 1)[-1]
            lines.append(f"| `{name}` | {made.changes} | refuses: {reason} |" + " |" * (len(head) - 3))
            continue
        ratio = times.get(name)
        lines.append(line(found.name, made.changes, found, str(made().cost), f"{ratio:.2f}" if ratio else "–"))
    return "\n\n" + "\n".join(lines) + "\n\n" + report.markdown_rule() + "\n\n"


def line(name: str, changes: str, found: report.Arm, cost: str, ratio: str) -> str:
    primary = found.readings["modes"]
    c = primary.comparison
    success = f"{found.successes}/{found.judged}" + (f", {found.diverged} diverged" if found.diverged else "")
    difference = ""
    if c is not None and c.difference is not None:
        difference = f"{c.difference:+.2f}" + (f" [{c.interval[0]:.1f}, {c.interval[1]:.1f}]" if c.interval else "")
    mean = "–" if primary.mean is None else f"{primary.mean:.1f}"
    cells = [f"`{name}`", changes, success, mean, difference, *(report.short(found.readings.get(k)) for k in COLUMNS)]
    return "| " + " | ".join([*cells, cost, ratio, found.verdict or ""]) + " |"


if __name__ == "__main__":
    main()
