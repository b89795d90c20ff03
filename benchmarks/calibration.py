"""How often the diagnosis is right: trains runs whose outcome is known exactly, and counts what is found in them.

    python benchmarks/calibration.py plan
    python benchmarks/calibration.py train --out calibration --jobs 2
    python benchmarks/calibration.py watch calibration --part tune
    python benchmarks/calibration.py diagnose calibration --part tune
    python benchmarks/calibration.py constructed
    python benchmarks/calibration.py few
    python benchmarks/calibration.py once calibration
    python benchmarks/calibration.py report

Needs MNIST under $STABILGAN_DATA. Training takes about an hour of a CPU core; a finished run is not run again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))

from calibrating import plan

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "calibration"
DOCS = HERE.parent / "docs" / "diagnosis.md"
KEPT = os.environ.get("STABILGAN_CALIBRATION", str(HERE.parent / "calibration"))
"""Where runs lie that are not in the plan."""


def _ready() -> None:
    import torch

    torch.set_num_threads(1)
    logging.getLogger("stabilgan").setLevel(logging.ERROR)


def _train(job: tuple[plan.Run, Path]) -> str:
    from calibrating import play

    run, folder = job
    play.keep(run, play.train(run), folder)
    return run.id


def generator(run: str, root: str = KEPT) -> Any:
    """The generator of a run as it was before training, for `benchmarks/calibration.py:generator:run=ID`."""
    from calibrating import nets

    return nets.players(_settings(run, root))[0]


def discriminator(run: str, root: str = KEPT) -> Any:
    """The discriminator of a run as it was before training."""
    from calibrating import nets

    return nets.players(_settings(run, root))[1]


def _settings(run: str, root: str) -> plan.Run:
    """A run's settings: of the plan, or, for a run that is not in it, of its folder under root."""
    planned = {r.id: r for r in plan.runs()}
    if run in planned:
        return planned[run]
    kept = next((p for p in Path(root).glob(f"*/{run}/run.json")), None)
    if kept is None:
        raise ValueError(f"no run {run!r} in the plan, and none under {root}; see `calibration.py plan`")
    settings = json.loads(kept.read_text())["run"]
    return plan.Run(**settings | {"keep": tuple(settings["keep"])})


@click.group(help=__doc__)
def main() -> None:
    _ready()


@main.command("plan")
@click.option("--json", "as_json", is_flag=True, help="All settings, one run a line.")
def show_plan(as_json: bool) -> None:
    """Lists the runs."""
    import dataclasses

    parts = plan.parts()
    if as_json:
        for run in plan.runs():
            click.echo(json.dumps({"part": parts[run.id]} | dataclasses.asdict(run)))
        return
    found = Counter((run.intended, parts[run.id]) for run in plan.runs())
    for kind in dict.fromkeys(run.intended for run in plan.runs()):
        click.echo(f"{kind:26s}" + "  ".join(f" {part} {found[kind, part]:4d}" for part in plan.PARTS))
    click.echo(f"{'all':26s}" + "  ".join(f" {part} {_of(part, found):4d}" for part in plan.PARTS))


def _of(part: str, found: Counter[tuple[str, str]]) -> int:
    return sum(n for (_, p), n in found.items() if p == part)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder; runs go to OUT/PART.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--only", multiple=True, help="Train only runs whose id holds this regular expression; may be repeated.")
@click.option("--part", type=click.Choice(["all", *plan.PARTS]), default="all", show_default=True)
def train(out: Path, jobs: int, only: tuple[str, ...], part: str) -> None:
    """Trains every run that is not there yet. Ctrl-C loses at most the runs under way."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parts = plan.parts()
    wanted = [
        run
        for run in plan.runs()
        if part in ("all", parts[run.id]) and (not only or any(re.search(text, run.id) for text in only))
    ]
    todo = [(run, out / parts[run.id]) for run in wanted if not (out / parts[run.id] / run.id / "run.json").exists()]
    todo.sort(key=lambda job: _turn(job[0]))
    for name in plan.PARTS:
        (out / name).mkdir(parents=True, exist_ok=True)
    share(out, {run.workload for run in wanted})
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress, _workers(jobs) as each:
        task = progress.add_task("training", total=len(wanted), completed=len(wanted) - len(todo))
        for name in each(_train, todo):
            progress.advance(task)
            progress.console.print(name)


def _turn(run: plan.Run) -> tuple[int, str]:
    """First variants first, else in the order of a hash, so that what is done at any time is a fair share of all."""
    return run.variant, hashlib.sha256(run.id.encode()).hexdigest()


@contextlib.contextmanager
def _workers(jobs: int) -> Iterator[Callable[[Callable[[Any], Any], list[Any]], Iterator[Any]]]:
    """A map over processes, in order; with one job over this process."""
    if jobs == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _ready) as pool:
        yield pool.imap


def share(out: Path, workloads: Iterable[str] = plan.WORKLOADS) -> None:
    """Writes what runs share: 2,000 held-out reals of each workload."""
    import numpy as np
    from calibrating import nets, play

    (out / "shared").mkdir(parents=True, exist_ok=True)
    for workload in sorted(workloads):
        path = out / "shared" / f"{workload}.npz"
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}.npz")
            np.savez_compressed(part, x=play.as_saved(nets.held_out(workload)))
            os.replace(part, path)


def known(folder: Path) -> dict[str, dict[str, Any]]:
    """Run -> its record, its verdicts and its folder, of all finished runs of a part."""
    import numpy as np
    from calibrating import truth

    found = {}
    for path in sorted(folder.glob("*/run.json")):
        record = json.loads(path.read_text())
        curve = np.load(path.with_name("path.npz"))["path"]
        found[record["id"]] = record | {"truth": truth.judge(record, curve), "folder": path.parent}
    return found


def _watch(job: tuple[plan.Run, Path]) -> str:
    from calibrating import play

    run, folder = job
    play.watch_again(run, folder)
    return run.id


@main.command("watch")
@click.argument("root", type=click.Path(path_type=Path, exists=True))
@click.option("--part", type=click.Choice(plan.PARTS), default="tune", show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--only", default="", help="Only runs whose id holds this regular expression.")
def watch(root: Path, part: str, jobs: int, only: str) -> None:
    """Plays finished runs again under the live detectors as they are now, and keeps their alarms."""
    _watched(root, part, jobs, only)


def _watched(root: Path, part: str, jobs: int, only: str = "") -> None:
    from rich.progress import track

    folders = [p.parent for p in sorted((root / part).glob("*/run.json")) if re.search(only, p.parent.name)]
    work = [(_settings(folder.name, str(root)), folder) for folder in folders]
    with _workers(jobs) as each:
        for _ in track(each(_watch, work), f"watching {part}", total=len(work)):
            pass


@main.command("truth")
@click.argument("root", type=click.Path(path_type=Path, exists=True))
@click.option("--part", type=click.Choice(plan.PARTS), default="tune", show_default=True)
def show_truth(root: Path, part: str) -> None:
    """Says what each finished run came to, and writes ROOT/PART/truth.jsonl."""
    found = known(root / part)
    lines = [json.dumps({"id": name} | run["truth"]) for name, run in found.items()]
    path = root / part / "truth.jsonl"
    path.with_suffix(".new").write_text("".join(line + "\n" for line in lines))
    os.replace(path.with_suffix(".new"), path)
    counted: Counter[tuple[str, str]] = Counter()
    for run in found.values():
        healthy = run["truth"]["healthy"]["state"]
        counted[run["run"]["intended"], f"healthy: {healthy}"] += 1
        for failure, verdict in run["truth"]["failures"].items():
            if verdict["state"] == "yes":
                counted[run["run"]["intended"], failure] += 1
    for kind in dict.fromkeys(kind for kind, _ in sorted(counted)):
        click.echo(f"{kind}: " + ", ".join(f"{what} {n}" for (k, what), n in sorted(counted.items()) if k == kind))


def _diagnose(job: tuple[dict[str, Any], Path, tuple[str, ...], bool]) -> dict[str, Any]:
    from calibrating import found, truth

    run, shared, ways, resume = job
    verdicts, kept = run["truth"]["failures"], run["folder"].parent / "found" / f"{run['id']}.json"
    said = json.loads(kept.read_text()) if kept.exists() else {}
    todo = tuple(way for way in ways if not (resume and way in said))
    said |= found.everything(run["folder"], run["run"], shared, todo)
    kept.parent.mkdir(exist_ok=True)
    kept.with_suffix(".new").write_text(json.dumps(said))
    os.replace(kept.with_suffix(".new"), kept)
    said = {way: said[way] for way in ways}
    for failure, named in said.get("live", {"failures": {}})["failures"].items():
        if failure in ("mode_collapse", "mode_dropping"):
            named["true_then"] = truth.at_the_time(run, named["onset"])
    return {
        "id": run["id"],
        **{name: run["run"][name] for name in ("workload", "family", "intended")},
        "healthy": run["truth"]["healthy"]["state"],
        "truth": {failure: verdict["state"] for failure, verdict in verdicts.items()},
        "onset": {failure: verdict["onset"] for failure, verdict in verdicts.items()},
        "visible": run["truth"]["visible"],
        "found": said,
    }


@main.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True))
@click.option("--part", type=click.Choice(plan.PARTS), default="tune", show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--way", "ways", multiple=True, help="Only this way in; may be repeated.")
@click.option("--only", default="", help="Only runs whose id holds this regular expression; nothing is kept.")
@click.option("--resume", is_flag=True, help="Take answers that are there already, of whatever version of the code.")
@click.option("--errors/--no-errors", default=True, show_default=True, help="List what went wrong.")
def diagnose(root: Path, part: str, jobs: int, ways: tuple[str, ...], only: str, resume: bool, errors: bool) -> None:
    """Diagnoses every run of a part by every way in, keeps the answers, and prints the rates."""
    from calibrating import found, report

    lines = _lines(root, part, jobs, ways or found.WAYS, only, resume)
    if not ways and not only:
        _keep(part, lines)
    click.echo(report.table(part, report.summary(lines)))
    for way, what, failure, run in report.misses(lines) if errors else []:
        click.echo(f"{way:18s} {what:30s} {failure:24s} {run}")


def _lines(
    root: Path,
    part: str,
    jobs: int,
    ways: tuple[str, ...],
    only: str = "",
    resume: bool = False,
    most: int | None = None,
) -> list[dict[str, Any]]:
    from rich.progress import track

    runs = [run for run in known(root / part).values() if re.search(only, run["id"])]
    runs = sorted(runs, key=lambda run: _turn(plan.Run(**run["run"])))[:most]
    work = [(run, root / "shared", ways, resume) for run in runs]
    with _workers(jobs) as each:
        return list(track(each(_diagnose, work), f"diagnosing {part}", total=len(work)))


def _keep(part: str, lines: list[dict[str, Any]]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{part}.jsonl"
    path.with_suffix(".new").write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(path.with_suffix(".new"), path)


@main.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True))
def records(root: Path) -> None:
    """Writes runs.jsonl: settings, truth and short curves of every finished run."""
    from calibrating import keep

    lines = [keep.record(part, run) for part in plan.PARTS for run in known(root / part).values()]
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "runs.jsonl").write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    click.echo(f"{len(lines)} runs, {(RESULTS / 'runs.jsonl').stat().st_size / 1e6:.1f} MB")


@main.command("report")
def write_report() -> None:
    """Makes report.json and the tables of docs/diagnosis.md from the committed records."""
    from calibrating import constructed, few, report

    parts = {}
    for part in plan.PARTS:
        if (RESULTS / f"{part}.jsonl").exists():
            lines = [json.loads(line) for line in (RESULTS / f"{part}.jsonl").read_text().splitlines()]
            parts[part] = report.summary(lines)
    found: dict[str, Any] = dict(parts)
    # The confirming part in full; of what the rules were mended after, the rates alone.
    text = "\n".join(report.table(part, parts[part], matrices=part == "confirm") for part in reversed(parts))
    if (RESULTS / "constructed.json").exists():
        found["constructed"] = json.loads((RESULTS / "constructed.json").read_text())
        text += "\n" + constructed.table(found["constructed"])
    if (RESULTS / "few.json").exists():
        found["few"] = json.loads((RESULTS / "few.json").read_text())
        text += "\n" + few.table(found["few"])
    (RESULTS / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    if DOCS.exists():
        DOCS.write_text(report.put(text, DOCS.read_text()))
    click.echo(text)


@main.command()
@click.argument("root", type=click.Path(path_type=Path, exists=True))
@click.option("--part", type=click.Choice(plan.PARTS), default=plan.PARTS[-1], show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--again", is_flag=True, help="Although the part was used before.")
@click.option("--resume", is_flag=True, help="Go on where it was stopped.")
@click.option("--most", type=int, help="Only so many runs, in the order of training.")
@click.pass_context
def once(context: click.Context, root: Path, part: str, jobs: int, again: bool, resume: bool, most: int | None) -> None:
    """Everything at the very end: watches and diagnoses a part for the first time, keeps its records, and reports."""
    from calibrating import found

    if (RESULTS / f"{part}.jsonl").exists() and not again:
        raise click.ClickException(f"{RESULTS / part}.jsonl is there: the part was used; --again uses it again")
    context.invoke(records, root=root)
    _watched(root, part, jobs)
    _keep(part, _lines(root, part, jobs, found.WAYS, resume=resume, most=most))
    context.invoke(write_report)


@main.command("constructed")
@click.option("--quick", is_flag=True, help="Few draws; nothing is kept.")
def show_constructed(quick: bool) -> None:
    """Failures with exact answers: modes dropped, samples repeated, spread shrunk; and reals against reals."""
    from calibrating import constructed

    found = constructed.study(repeats=2 if quick else 5, nulls=10 if quick else 100)
    if not quick:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "constructed.json").write_text(json.dumps(found, indent=1) + "\n")
    click.echo(constructed.table(found))


@main.command("few")
@click.option("--draws", default=200, show_default=True, help="Of each kind of data at each size.")
def show_few(draws: int) -> None:
    """Reals against reals with 20 to 150 samples of each side: how often an alarm is raised."""
    from calibrating import few

    found = few.study(draws)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "few.json").write_text(json.dumps(found, indent=1) + "\n")
    click.echo(few.table(found))


if __name__ == "__main__":
    main()
