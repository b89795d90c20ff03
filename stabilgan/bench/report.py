"""From a folder of records to what they say: a table, summary.json, summary.csv and pictures.

`DIR/records/*.json` are all that is needed; `DIR/samples/*.npz` only for one picture.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from stabilgan._version import __version__
from stabilgan.bench import statistics
from stabilgan.bench.statistics import Better, Comparison, Interval

RECORD_SCHEMA = 1
SUMMARY_SCHEMA = 1
PLAIN = "none"
OSCILLATION = ("d_loss_rms", "g_loss_rms", "dominant_share", "forgetting", "held")
RATES = ("success", "reached")
"""Readings of 0 or 1, whose mean is a rate."""

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """One number over the seeds of an arm.

    Attributes:
        values: how many runs have it; `missing` how many ended without it (failed runs among them).
        mean, median, least, most: over those runs; None without any.
        interval: 95 % for the mean: Student's, or Wilson's for a rate; None where all values are alike.
        comparison: with the plain arm, paired by seed; None for the plain arm, for costs and without a plain arm.
        direction: +1 detectably better than the plain arm, -1 worse, 0 neither.
    """

    values: int
    missing: int
    mean: float | None
    median: float | None
    least: float | None
    most: float | None
    interval: Interval | None
    comparison: Comparison | None = None
    direction: int = 0


@dataclass(frozen=True, slots=True)
class Alarms:
    """How many runs of an arm a detector stopped at, and the median of the steps at which it first spoke."""

    detector: str
    runs: int
    first_step: float


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm over its seeds.

    `ok`, `diverged` and `failed` add up to `runs`; `successes` counts among `judged` runs, those that ended (a diverged
    one is a failure) in a workload that knows success. `slowdown` is the median ratio of step times within a seed.
    """

    name: str
    runs: int
    ok: int
    diverged: int
    failed: int
    successes: int
    judged: int
    readings: dict[str, Reading]
    cost: dict[str, Reading]
    slowdown: float | None
    alarms: list[Alarms]
    verdict: str | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """All arms of one workload and budget.

    `settings` is what its cases share, as JSON. `primary` is the reading that the verdict rests on, beside success, and
    `target` the value at which it counts as reached. `notes` are lines that a reader of the numbers must know.
    """

    workload: str
    settings: str
    steps: int | None
    seconds: float | None
    kind: str | None
    primary: str | None
    target: float | None
    better: dict[str, Better]
    facts: dict[str, Any]
    environments: list[dict[str, Any]]
    seeds: list[int]
    arms: list[Arm]
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        budget = f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} s"
        devices = sorted({str(e.get("device_name") or e.get("device") or "unknown device") for e in self.environments})
        return f"{self.workload}: {budget}, {_count(len(self.seeds), 'seed')}, {', '.join(devices)}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a folder of records says; `write` puts it into summary.json as it is."""

    benches: list[Bench]
    rule: str
    notes: list[str]
    schema: int = SUMMARY_SCHEMA
    version: str = __version__


RULE = (
    "The verdict rests on the primary reading and on success, compared with the plain arm within each seed (paired "
    "t-test, p at least 2/4ⁿ for n pairs) and corrected for all arms and both questions (Holm, 5 %); where the two "
    "disagree success decides. Every other reading is corrected for the number of arms alone. Intervals are 95 %, each "
    "by itself: Student's for means and differences (it knows no bounds of a reading), Wilson's for rates."
)


# --- reading records ------------------------------------------------------------------------------------------------


def load(folder: str | os.PathLike[str]) -> list[Record]:
    """The records of a results folder, in the order of their file names.

    Raises:
        ValueError: there are none, or a file is no record of this schema; one line names it and says what to do.
    """
    paths = sorted(p for p in Path(folder, "records").glob("*.json") if not p.name.startswith("."))
    if not paths:
        raise ValueError(
            f"{folder}: no records; expected {Path(folder, 'records', '*.json')}, as `stabilgan bench` makes"
        )
    records, seen = [], dict[str, Path]()
    for path in paths:
        record = _record(path)
        case = json.dumps(record["case"], sort_keys=True)
        if case in seen:
            raise ValueError(f"{path}: the same case as {seen[case].name}; move one of the two away")
        seen[case] = path
        records.append(record)
    return records


_NUMBER = (int, float, type(None))
_EXPECTED: dict[str, tuple[type, ...]] = {
    "hash": (str,),
    "status": (str,),
    "case": (dict,),
    "case.workload": (str,),
    "case.arm": (str,),
    "case.seed": (int,),
    "case.steps": (int, type(None)),
    "case.seconds": _NUMBER,
    "environment": (dict,),
    "workload": (dict,),
    "cost": (dict,),
    "readings": (dict,),
    "series": (dict,),
    "final": (dict,),
    "alarms": (list,),
}


def _record(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, OSError) as error:  # a UnicodeDecodeError and a JSONDecodeError are ValueErrors
        raise ValueError(f"{path}: not readable as strict JSON ({error}); delete it and run the bench again") from None
    if not isinstance(record, dict) or "schema" not in record:
        raise ValueError(f"{path}: not a record of `stabilgan bench` (it states no schema); move it out of this folder")
    if record["schema"] != RECORD_SCHEMA:
        raise ValueError(
            f"{path}: schema {record['schema']!r}, written by stabilgan {record.get('version', 'unknown')}; this "
            f"is {__version__}, which reads schema {RECORD_SCHEMA}: report it with that version, or use a new folder"
        )
    for name, types in _EXPECTED.items():
        part: Any = record
        for key in name.split("."):
            part = part.get(key, _MISSING)
            if part is _MISSING:
                break
        if not isinstance(part, types):
            what = "nothing" if part is _MISSING else f"a {type(part).__name__}"
            raise ValueError(f"{path}: has {what} for {name!r}; not a whole record: delete it and run the bench again")
    if record["status"] not in ("ok", "diverged", "failed"):
        raise ValueError(
            f"{path}: status {record['status']!r}; expected ok, diverged or failed: delete it and run again"
        )
    if record["case"]["steps"] is None and record["case"]["seconds"] is None:
        raise ValueError(f"{path}: neither steps nor seconds; expected one budget: delete it and run again")
    for name in ("final", "cost"):
        for key, value in record[name].items():
            if key != "passes" and not isinstance(value, _NUMBER):
                raise ValueError(f"{path}: {name}.{key} is {value!r}; expected a number: delete it and run again")
    for alarm in record["alarms"]:
        if not isinstance(alarm, dict) or not isinstance(alarm.get("step"), int) or not alarm.get("detector"):
            raise ValueError(f"{path}: an alarm without its detector and step; delete it and run the bench again")
    return record


_MISSING = object()


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is too large a number")
    return value


# --- summing up -----------------------------------------------------------------------------------------------------


def summarise(records: Iterable[Record]) -> Summary:
    """Sums records up by workload, budget and arm; all numbers of the report come from here."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_settings(record), []).append(record)
    cases = {key: group[0]["case"] for key, group in groups.items()}
    order = sorted(cases, key=lambda k: (cases[k]["workload"], cases[k]["steps"] or 0, cases[k]["seconds"] or 0, k))
    return Summary([_bench(groups[key]) for key in order], RULE, [])


def _settings(record: Record) -> str:
    """All that the runs of one bench have in common: everything of their cases but arm and seed."""
    return json.dumps({k: v for k, v in record["case"].items() if k not in ("arm", "seed")}, sort_keys=True)


def grouped(records: Iterable[Record], bench: Bench) -> dict[str, dict[int, Record]]:
    """The records of one bench, by arm (in the bench's order) and seed."""
    runs: dict[str, dict[int, Record]] = {arm.name: {} for arm in bench.arms}
    for record in records:
        if _settings(record) == bench.settings:
            runs[record["case"]["arm"]][record["case"]["seed"]] = record
    return {name: dict(sorted(by_seed.items())) for name, by_seed in runs.items()}


def _bench(records: list[Record]) -> Bench:
    runs: dict[str, dict[int, Record]] = {}
    for record in records:
        runs.setdefault(record["case"]["arm"], {})[record["case"]["seed"]] = record
    names = sorted(runs, key=lambda name: (name != PLAIN, name.count("+"), name))
    judged = next((r["workload"] for r in records if r["status"] != "failed"), records[0]["workload"])
    better: dict[str, Better] = {"success": "higher", "reached": "higher", **judged.get("better", {})}
    readings = _in_order({k for r in records for k in r["final"]} | {"success"}, judged.get("primary"))
    arms = [_arm(name, runs[name], runs.get(PLAIN, {}), readings, better) for name in names]
    environments = [dict(r["environment"]) for r in records]
    bench = Bench(
        workload=records[0]["case"]["workload"],
        settings=_settings(records[0]),
        steps=records[0]["case"]["steps"],
        seconds=records[0]["case"]["seconds"],
        kind=judged.get("kind"),
        primary=judged.get("primary"),
        target=judged.get("target"),
        better=better,
        facts=dict(judged.get("notes") or {}),
        environments=[e for i, e in enumerate(environments) if e not in environments[:i]],
        seeds=sorted({r["case"]["seed"] for r in records}),
        arms=arms,
    )
    bench, questions = _decide(bench)
    return replace(bench, notes=list(_notes(bench, runs, questions)))


def _in_order(names: set[str], primary: str | None) -> list[str]:
    known = ("modes", "kl", "high_quality", "coverage", "recall")

    def place(name: str) -> tuple[int, int, str]:
        if name == primary:
            return 0, 0, name
        for rank, group in ((1, known), (3, OSCILLATION), (4, RATES)):
            if name in group:
                return rank, group.index(name), name
        return 2, 0, name

    return sorted(names, key=place)


def _value(record: Record, name: str) -> float | None:
    if record["status"] == "failed":
        return None
    value = record["final"].get(name)
    if value is None and name == "success" and record["status"] == "diverged" and _knows_success(record):
        return 0.0
    return None if value is None else float(value)


def _knows_success(record: Record) -> bool:
    return record["workload"].get("target") is not None


def _reading(values: Sequence[float | None], rate: bool = False) -> Reading:
    have = [v for v in values if v is not None]
    interval = statistics.rate_interval(sum(have), len(have)) if rate else statistics.mean_interval(have)
    some = bool(have)
    return Reading(
        values=len(have),
        missing=len(values) - len(have),
        mean=mean(have) if some else None,
        median=median(have) if some else None,
        least=min(have, default=None),
        most=max(have, default=None),
        interval=interval,
    )


def _arm(
    name: str,
    runs: Mapping[int, Record],
    plain: Mapping[int, Record],
    readings: Sequence[str],
    better: Mapping[str, Better],
) -> Arm:
    status = [r["status"] for r in runs.values()]
    found = {}
    for key in readings:
        values = {seed: _value(r, key) for seed, r in runs.items()}
        found[key] = _reading(list(values.values()), rate=key in RATES)
        if name != PLAIN and plain:
            beside = {seed: _value(r, key) for seed, r in plain.items()}
            found[key] = replace(found[key], comparison=statistics.compare(values, beside, better.get(key)))
    costs = {key: [r["cost"].get(key) for r in runs.values()] for key in ("step_ms", "peak_mb", "wall_s")}
    for key in ("g_forward", "g_backward", "d_forward", "d_backward"):
        costs[f"passes_{key}"] = [(r["cost"].get("passes") or {}).get(key) for r in runs.values()]
    times = [(r["cost"].get("step_ms"), plain[s]["cost"].get("step_ms")) for s, r in runs.items() if s in plain]
    ratios = [own / base for own, base in times if own and base]
    return Arm(
        name=name,
        runs=len(runs),
        ok=status.count("ok"),
        diverged=status.count("diverged"),
        failed=status.count("failed"),
        successes=round(sum(_value(r, "success") or 0 for r in runs.values())),
        judged=found["success"].values,
        readings=found,
        cost={key: _reading(values) for key, values in costs.items()},
        slowdown=median(ratios) if ratios and name != PLAIN else None,
        alarms=_alarms(runs.values()),
    )


def _alarms(runs: Iterable[Record]) -> list[Alarms]:
    first: dict[str, list[int]] = {}
    for record in runs:
        steps: dict[str, int] = {}
        for alarm in record["alarms"]:
            steps[alarm["detector"]] = min(alarm["step"], steps.get(alarm["detector"], alarm["step"]))
        for detector, step in steps.items():
            first.setdefault(detector, []).append(step)
    return [Alarms(detector, len(steps), median(steps)) for detector, steps in sorted(first.items())]


def _decide(bench: Bench) -> tuple[Bench, int]:
    """Corrects the comparisons and gives each arm its verdict; returns how many questions were asked, too."""
    deciding = [k for k in (bench.primary, "success") if k is not None]
    arms = {arm.name: arm for arm in bench.arms}
    found: dict[str, dict[str, Reading]] = {name: dict(arm.readings) for name, arm in arms.items()}
    names = next(iter(found.values()))
    questions = 0
    for family in [deciding, *([k] for k in names if k not in deciding)]:
        places = [(a, k) for a in arms for k in family if (r := found[a].get(k)) and r.comparison is not None]
        compared = [c for a, k in places if (c := found[a][k].comparison) is not None]
        if family is deciding:
            questions = sum(c.pairs >= statistics.FEWEST_PAIRS for c in compared)
        for (a, k), c in zip(places, statistics.corrected(compared), strict=True):
            found[a][k] = replace(found[a][k], comparison=c, direction=c.direction)
    plain = arms.get(PLAIN)
    decided = []
    for name, arm in arms.items():
        verdict = None
        if arm.ok + arm.diverged == 0:
            verdict = statistics.FAILED
        elif name != PLAIN and (plain is None or plain.ok + plain.diverged == 0):
            verdict = statistics.NO_PLAIN
        elif name != PLAIN:
            asked = [found[name][k].comparison if k in found[name] else None for k in (bench.primary or "", "success")]
            verdict = statistics.verdict(asked[0], asked[1], questions)
        decided.append(replace(arm, readings=found[name], verdict=verdict))
    return replace(bench, arms=decided), questions


def _notes(bench: Bench, runs: Mapping[str, Mapping[int, Record]], questions: int) -> Iterator[str]:
    for arm in bench.arms:
        failed = {seed: r for seed, r in runs[arm.name].items() if r["status"] == "failed"}
        if failed:
            reason = next(iter(failed.values())).get("reason") or "no reason recorded"
            yield (
                f"{arm.name} failed on {_seeds(failed)} ({' '.join(str(reason).split())}); "
                "left out of its readings and of the pairs"
            )
        shown = [bench.primary] if bench.primary else []
        for name in [*shown, "success"]:
            reading = arm.readings.get(name)
            if (
                reading
                and (lost := reading.missing - arm.failed) > 0
                and (name != "success" or bench.target is not None)
            ):
                yield f"{arm.name}: {name} could not be computed in {_count(lost, 'run')} that ended; left out"
        c = next((r.comparison for k in (bench.primary, "success") if k and (r := arm.readings.get(k))), None)
        if c is not None and c.unpaired:
            yield f"{arm.name}: {_count(c.unpaired, 'seed')} without a pair dropped; {c.pairs} compared"
        if arm.verdict == statistics.TOO_FEW:
            yield (
                f"{arm.name}: too few seeds; {statistics.pairs_needed(max(questions, 1))} pairs are the fewest that "
                f"can decide one of {_count(max(questions, 1), 'question')}"
            )
    if all(arm.name != PLAIN for arm in bench.arms):
        yield f"no record of the plain arm ({PLAIN!r}): nothing to compare with"
    for key in ("device_name", "dtype", "tf32", "torch", "commit", "stabilgan", "threads"):
        values = sorted({str(e.get(key)) for e in bench.environments})
        if len(values) > 1:
            yield f"the runs differ in {key}: {', '.join(values)}"
    judges = {(r["workload"].get("primary"), r["workload"].get("target")) for a in runs.values() for r in a.values()}
    if len(judges - {(None, None)}) > 1:
        yield "the records disagree on how this workload is judged; run it again into a new folder"


def _seeds(seeds: Iterable[int]) -> str:
    listed = [str(s) for s in seeds]
    return f"seed{'s' if len(listed) > 1 else ''} {', '.join(listed)}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


# --- writing --------------------------------------------------------------------------------------------------------


def write(folder: str | os.PathLike[str], *, draw: bool = True) -> Summary:
    """Makes summary.json, summary.csv and the pictures in a results folder, from its records alone.

    Args:
        folder: holds `records/`, and `samples/` where samples were kept.
        draw: make the pictures too.

    Raises:
        ValueError: as `load`.
    """
    records = load(folder)
    summary = summarise(records)
    if draw:
        from stabilgan.bench import pictures  # matplotlib takes longer to import than the rest to run

        summary = replace(summary, notes=[*summary.notes, *pictures.write(Path(folder), summary, records)])
    _put(
        Path(folder, "summary.json"), json.dumps(asdict(summary), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    )
    _put(Path(folder, "summary.csv"), _csv(summary))
    return summary


def _put(path: Path, text: str) -> None:
    """Whole or not at all, so that a reader never meets half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)


def _csv(summary: Summary) -> str:
    """One row for each workload, arm and reading; costs are readings without a comparison."""
    out = io.StringIO()
    rows = list(_rows(summary))
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _rows(summary: Summary) -> Iterator[dict[str, Any]]:
    for bench in summary.benches:
        for arm in bench.arms:
            for name, reading in {**arm.readings, **arm.cost}.items():
                c = reading.comparison
                yield {
                    "workload": bench.workload,
                    "steps": bench.steps,
                    "seconds": bench.seconds,
                    "arm": arm.name,
                    "reading": name,
                    "better": bench.better.get(name),
                    "primary": int(name == bench.primary),
                    "runs": arm.runs,
                    "values": reading.values,
                    "missing": reading.missing,
                    "mean": reading.mean,
                    **_ends("mean", reading.interval),
                    "median": reading.median,
                    "least": reading.least,
                    "most": reading.most,
                    "pairs": c and c.pairs,
                    "unpaired": c and c.unpaired,
                    "difference": c and c.difference,
                    **_ends("difference", c.interval if c else None),
                    "improvement": c and c.improvement,
                    **_ends("improvement", c.improvement_interval if c else None),
                    "p": c and c.p,
                    "p_corrected": c and c.p_corrected,
                    "p_sign_flip": c and c.p_sign_flip,
                    "direction": reading.direction if c else None,
                    "verdict": arm.verdict,
                }


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


# --- tables ---------------------------------------------------------------------------------------------------------

_HEADERS = {
    "kl": "KL",
    "d_loss_rms": "D loss RMS",
    "g_loss_rms": "G loss RMS",
    "dominant_share": "dominant share",
}
_LEGEND = (
    "▲ detectably better than the plain arm, ▼ worse. D and G loss RMS are in each arm's own loss: not comparable "
    "where an arm changes the loss, and a dead game is steady too."
)


@dataclass(frozen=True, slots=True)
class _Column:
    """`keep` ranks columns where not all fit: those of the lowest rank go first, and those without one never."""

    header: str
    cells: list[str]
    keep: int | None = None
    justify: Literal["left", "right"] = "right"


def table(summary: Summary) -> RenderableType:
    """What the terminal shows: for each workload what came of the arms, and how they ran and what they cost.

    Where the terminal is too narrow whole columns go, and a line says which: recall, coverage, chance of improvement,
    high quality, KL; passes, memory, dominant share, forgetting, slowdown, RMS of the losses.
    """
    parts: list[RenderableType] = []
    for bench in summary.benches:
        parts.append(Text(bench.title, style="bold"))
        parts.append(Text(_resting_on(bench), style="dim"))
        parts.append(_Fitting([_names(bench), *_outcomes(bench, "\n")]))
        parts.append(_Fitting([_names(bench), *_running(bench, "\n")]))
        parts.extend(_Line(f"- {note}") for note in bench.notes)
        parts.append(Text(""))
    parts.extend(_Line(f"- {note}") for note in summary.notes)
    parts.append(_Line(_LEGEND, style="dim"))
    parts.append(_Line(summary.rule, style="dim"))
    return Group(*parts)


def _resting_on(bench: Bench) -> str:
    primary = bench.primary or "success"
    hints = [f"{bench.better[primary]} is better"] if primary in bench.better else []
    hints += [f"reached at {bench.target:g}"] if bench.target is not None else []
    line = f"verdict by {_spoken(primary)}" + (f" ({', '.join(hints)})" if hints else "")
    line += " and success" if primary != "success" else ""
    facts = (
        f"; {k.replace('_', ' ')} {v:.4g}" if isinstance(v, float) else f"; {k} {v}" for k, v in bench.facts.items()
    )
    return line + "".join(facts)


def _spoken(name: str) -> str:
    return _HEADERS.get(name, name.replace("_", " "))


def _outcomes(bench: Bench, gap: str) -> list[_Column]:
    """What came of the arms. `gap` parts the lines of a cell."""
    arms, primary = bench.arms, bench.primary
    columns = [_Column("success", [_success(a, gap) for a in arms])]
    if primary:
        columns.append(_Column(_spoken(primary), [_mean_cell(a.readings.get(primary), gap) for a in arms]))
        columns.append(_Column("minus plain", [_difference(a.readings.get(primary), gap) for a in arms]))
        columns.append(_Column("better in", [_improvement(a.readings.get(primary)) for a in arms], keep=20))
    rest = [k for k in arms[0].readings if k not in (primary, *OSCILLATION, *RATES)]
    for rank, name in enumerate(rest):
        keep = 30 - rank if name in ("kl", "high_quality") else 10 - rank
        columns.append(_Column(_spoken(name), [short(a.readings.get(name)) for a in arms], keep=keep))
    return [*columns, _Column("verdict", [_verdict(a, gap) for a in arms], justify="left")]


def _running(bench: Bench, gap: str) -> list[_Column]:
    """How the arms ran and what they cost."""
    arms, columns = bench.arms, list[_Column]()
    keep = {"dominant_share": 3, "forgetting": 4, "g_loss_rms": 6, "d_loss_rms": 7}
    for name in OSCILLATION:
        if any(name in a.readings for a in arms):
            columns.append(_Column(_spoken(name), [short(a.readings.get(name)) for a in arms], keep=keep.get(name)))
    return [
        *columns,
        _Column("alarms", [_alarm_text(a, gap) for a in arms], justify="left"),
        _Column("ms/ step", [_number(a.cost["step_ms"].median) for a in arms]),
        _Column("× plain", [_number(a.slowdown) for a in arms], keep=5),
        _Column("peak MB", [_number(a.cost["peak_mb"].median) for a in arms], keep=2),
        _Column("passes G,D", [_passes(a) for a in arms], keep=1),
    ]


def markdown(summary: Summary) -> str:
    """The same tables as GitHub markdown, two for each workload, for a README."""
    lines = []
    for bench in summary.benches:
        lines += [f"**{bench.title}**; {_resting_on(bench)}.", ""]
        for columns in (_outcomes(bench, "<br>"), _running(bench, "<br>")):
            names = _Column("arm", [f"`{arm.name}`" for arm in bench.arms], justify="left")
            all_columns = [names, *columns]
            rows = [[c.header.replace("/ ", "/") for c in all_columns]]
            rows.append(["---:" if c.justify == "right" else "---" for c in all_columns])
            rows += [list(cells) for cells in zip(*(c.cells for c in all_columns), strict=True)]
            lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows] + [""]
        lines += [f"- {note}" for note in bench.notes]
    return "\n".join([*lines, markdown_rule(), ""])


def markdown_rule() -> str:
    """What the marks in a table mean, and how verdicts are reached."""
    return f"{_LEGEND} {RULE}"


# --- cells ----------------------------------------------------------------------------------------------------------


def _number(x: float | None) -> str:
    """Three digits that mean something: 8 -> 8.00, 123.4 -> 123, 0.00123 -> 0.0012.

    >>> [_number(x) for x in (8.0, 12.34, 1234.5, 0.00123, 0, -0.5, 3e9, None)]
    ['8.00', '12.3', '1234', '0.0012', '0', '-0.50', '3.0e+09', '–']
    """
    if x is None:
        return "–"
    if x == 0:
        return "0"
    size = abs(x)
    if size >= 1e5 or size < 1e-3:
        return f"{x:.1e}"
    return f"{x:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3 if size >= 0.01 else 4}f}"


def _span(interval: Interval, form: Callable[[float], str] = _number) -> str:
    return f"[{form(interval[0])}, {form(interval[1])}]"


def _names(bench: Bench) -> _Column:
    """The arms' names, long ones broken before the + that joins their tricks."""
    names = [a.name.replace("+", "\n+") if len(a.name) > 18 else a.name for a in bench.arms]
    return _Column("arm", names, justify="left")


def _success(arm: Arm, gap: str) -> str:
    interval = arm.readings["success"].interval
    lines = [f"{arm.successes}/{arm.judged}" if arm.judged else "–"]
    if arm.judged and interval:
        lines.append(f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f} %")
    lines += [f"{n} {what}" for n, what in ((arm.diverged, "diverged"), (arm.failed, "failed")) if n]
    return gap.join(lines)


def _mean_cell(reading: Reading | None, gap: str) -> str:
    if reading is None or reading.mean is None:
        return "–"
    if reading.interval is None:
        return _number(reading.mean) + (f"{gap}(all alike)" if reading.values > 1 else "")
    return gap.join([_number(reading.mean), _span(reading.interval), f"({reading.least:.4g} to {reading.most:.4g})"])


def _difference(reading: Reading | None, gap: str) -> str:
    c = reading.comparison if reading else None
    if c is None or c.difference is None:
        return ""
    text = ("+" if c.difference > 0 else "") + _number(c.difference)
    if c.interval is not None:
        return f"{text}{gap}{_span(c.interval)}"
    return f"{text}{gap}(in each pair)" if c.pairs > 1 else text


def _improvement(reading: Reading | None) -> str:
    c = reading.comparison if reading else None
    return "" if c is None or c.improvement is None else f"{100 * c.improvement:.0f} %"


def short(reading: Reading | None) -> str:
    """The mean of a reading, with ▲ or ▼ where it is detectably better or worse than the plain arm's."""
    if reading is None:
        return "–"
    return _number(reading.mean) + {1: " ▲", -1: " ▼", 0: ""}[reading.direction]


def _verdict(arm: Arm, gap: str) -> str:
    return {statistics.NO_DIFFERENCE: f"no detectable{gap}difference", None: ""}.get(arm.verdict, arm.verdict or "")


def _alarm_text(arm: Arm, gap: str) -> str:
    return gap.join(f"{a.detector} {a.runs}/{arm.runs} at {a.first_step:.0f}" for a in arm.alarms) or "–"


def _passes(arm: Arm) -> str:
    """Forward + backward passes a step of each player."""

    def of(player: str) -> str:
        counts = [arm.cost[f"passes_{player}_{way}"].median for way in ("forward", "backward")]
        return "–" if None in counts else "+".join(f"{n:.3g}" for n in counts)

    return f"{of('g')}, {of('d')}"


_ASCII = str.maketrans({"▲": "(+)", "▼": "(-)", "×": "x", "–": "-", "≥": ">=", "ⁿ": "^n"})
_STYLES = {statistics.HELPS: "bold green", statistics.HURTS: "bold red", statistics.FAILED: "red"}


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.text.translate(_ASCII) if options.ascii_only else self.text, style=self.style)


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A table that gives up whole columns, the least important first, rather than cut words."""

    columns: list[_Column]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns, dropped = list(self.columns), list[str]()
        while (made := self._table(columns, options.ascii_only)) and self._width(
            made, console, options
        ) > options.max_width:
            spare = [c for c in columns if c.keep is not None]
            if not spare:
                break
            least = min(spare, key=lambda c: c.keep or 0)
            columns.remove(least)
            dropped.append(least.header)
        yield made
        if dropped:
            yield _Line(f"left out to fit this width: {', '.join(dropped)} (summary.csv has all)", style="dim")

    @staticmethod
    def _width(made: Table, console: Console, options: ConsoleOptions) -> int:
        return Measurement.get(console, options.update(max_width=10_000), made).maximum

    @staticmethod
    def _table(columns: Sequence[_Column], ascii_only: bool) -> Table:
        def spoken(text: str) -> str:
            return text.translate(_ASCII) if ascii_only else text

        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in columns:
            made.add_column(Text(spoken(column.header).replace(" ", "\n")), justify=column.justify, vertical="top")
        for cells in zip(*(c.cells for c in columns), strict=True):
            made.add_row(*(Text(spoken(cell), style=_STYLES.get(cell, "")) for cell in cells))
        return made
