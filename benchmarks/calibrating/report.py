"""What the calibration came to: false alarms, detection, confusion and delay, with intervals, and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stabilgan.bench.statistics import rate_interval
from stabilgan.diagnosis import FAILURES

Line = Mapping[str, Any]
"""One run: id, family, workload, intended, truth (failure -> state), onset, healthy, visible, and found by way in."""

START, END = "<!-- calibration -->", "<!-- /calibration -->"


def rate(hits: int, n: int) -> dict[str, Any]:
    """A count, its share and Wilson's interval of that."""
    return {"hits": hits, "n": n, "rate": hits / n if n else None, "interval": rate_interval(hits, n)}


def way_in(way: str) -> str:
    """The way in by which visibility goes: "log, family told" is a log."""
    return way.partition(",")[0]


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """All rates, per way in.

    - `false_alarms`: healthy runs in which anything is found; `never_true`: those in which something is found that was
      not even true when it was said: a young G does leave modes out, and a live watch says so.
    - `healthy_seen`: what is said of healthy runs.
    - `detected`: failure -> runs that have it, where this way can see it, and in which it is found.
    - `unfounded`: failure -> runs of which the truth says "no" to it (healthy or not) and in which it is found.
    - `confusion`: truth -> what is found, counts of runs; a run with two failures stands in two rows.
    - `delay`: failure -> steps from its onset to the onset that is named (log) or the alarm (live).
    """
    ways = list(dict.fromkeys(way for line in lines for way in line["found"]))
    return {
        "runs": len(lines),
        "healthy": sum(line["healthy"] == "yes" for line in lines),
        "ambiguous": sum(line["healthy"] == "ambiguous" for line in lines),
        "failed": sum(line["healthy"] == "no" for line in lines),
        "true_failures": {f: sum(line["truth"][f] == "yes" for line in lines) for f in FAILURES},
        "ambiguous_failures": {f: sum(line["truth"][f] == "ambiguous" for line in lines) for f in FAILURES},
        "ways": {way: _way(way, [line for line in lines if way in line["found"]]) for way in ways},
    }


def _way(way: str, lines: Sequence[Line]) -> dict[str, Any]:
    said = [(line, line["found"][way]) for line in lines]
    healthy = [found for line, found in said if line["healthy"] == "yes"]
    detected, unfounded, delay = {}, {}, {}
    for failure in FAILURES:
        having = [
            (line, found)
            for line, found in said
            if line["truth"][failure] == "yes" and way_in(way) in line["visible"][failure]
        ]
        if having:
            detected[failure] = rate(sum(failure in found["failures"] for _, found in having), len(having))
        without = [found for line, found in said if line["truth"][failure] == "no"]
        unfounded[failure] = rate(sum(failure in found["failures"] for found in without), len(without))
        late = [
            found["failures"][failure]["onset"] - line["onset"][failure]
            for line, found in having
            if failure in found["failures"]
            and found["failures"][failure].get("onset") is not None
            and line["onset"][failure] is not None
        ]
        if late:
            low, middle, high = np.percentile(late, [25, 50, 75]).tolist()
            delay[failure] = {"n": len(late), "median": middle, "quartiles": [low, high]}
    return {
        "false_alarms": rate(sum(bool(found["failures"]) for found in healthy), len(healthy)),
        "never_true": rate(sum(any(map(_untrue, found["failures"].values())) for found in healthy), len(healthy)),
        "false_alarms_of": dict(Counter(failure for found in healthy for failure in found["failures"])),
        "healthy_seen": dict(Counter(found["verdict"] for found in healthy)),
        "detected": detected,
        "unfounded": {f: r for f, r in unfounded.items() if r["hits"]},
        "confusion": confusion(way, lines),
        "delay": delay,
    }


def _untrue(named: Mapping[str, Any]) -> bool:
    return not named.get("true_then", False)


def confusion(way: str, lines: Iterable[Line]) -> dict[str, dict[str, int]]:
    """Truth -> what is found -> runs. Of a failing run, a row for each failure that this way can see."""
    found: dict[str, Counter[str]] = {}
    for line in lines:
        says = line["found"][way]
        rows = [f for f in FAILURES if line["truth"][f] == "yes" and way_in(way) in line["visible"][f]]
        if line["healthy"] == "yes":
            rows = ["healthy"]
        for row in rows:
            found.setdefault(row, Counter()).update(list(says["failures"]) or [says["verdict"]])
    return {row: dict(counts) for row, counts in found.items()}


def misses(lines: Iterable[Line]) -> list[tuple[str, str, str, str]]:
    """(way, what went wrong, failure, run) for every error: a false alarm, a miss, an unfounded finding."""
    wrong = []
    for line in lines:
        for way, found in line["found"].items():
            for failure in FAILURES:
                has, says = line["truth"][failure], failure in found["failures"]
                if has == "yes" and not says and way_in(way) in line["visible"][failure]:
                    wrong.append((way, f"missed ({found['verdict']})", failure, line["id"]))
                if has == "no" and says:
                    what = "false alarm on a healthy run" if line["healthy"] == "yes" else "unfounded"
                    wrong.append((way, what, failure, line["id"]))
    return wrong


# --- the table -------------------------------------------------------------------------------------------------------


def percent(found: Mapping[str, Any] | None) -> str:
    """`95 % (19 of 20; 76 to 99)`.

    >>> percent(rate(19, 20))
    '95 % (19 of 20; 76 to 99)'
    """
    if not found or not found["n"]:
        return "-"
    low, high = found["interval"]
    return f"{100 * found['rate']:.0f} % ({found['hits']} of {found['n']}; {100 * low:.0f} to {100 * high:.0f})"


TITLES = {
    "confirm": "The confirming part, used once by the rules as they are",
    "test": "The test half, used once by the rules as they were before",
    "tune": "The tuning half",
}


def table(part: str, found: Mapping[str, Any], *, matrices: bool = True) -> str:
    """The markdown of a summary: rates per failure and way in, delays, and, if asked for, the confusion matrices."""
    ways = list(found["ways"])
    title = TITLES[part]
    rows = [
        f"### {title}",
        "",
        f"{found['runs']} runs: {found['healthy']} healthy, {found['failed']} with one failure or more, "
        f"{found['ambiguous']} of which the rules can't tell (they count in no rate). "
        "Shares with counts and 95 % intervals.",
        "",
        "| | " + " | ".join(ways) + " |",
        "|---|" + "---|" * len(ways),
        "| **false alarms on healthy runs** | "
        + " | ".join(percent(found["ways"][way]["false_alarms"]) for way in ways)
        + " |",
    ]
    if any("live" in way for way in ways):
        cells = [percent(found["ways"][way]["never_true"]) if way == "live" else "" for way in ways]
        rows.append("| ... that were not true even when they were raised | " + " | ".join(cells) + " |")
    for failure, about in FAILURES.items():
        cells = [percent(found["ways"][way]["detected"].get(failure)) for way in ways]
        if any(cell != "-" for cell in cells):
            rows.append(f"| {about.title} is found | " + " | ".join(cells) + " |")
    rows += ["", "Steps from the onset to the one that is named (log) or to the alarm (live): median, quartiles.", ""]
    rows += ["| | " + " | ".join(ways) + " |", "|---|" + "---|" * len(ways)]
    for failure, about in FAILURES.items():
        cells = [_delay(found["ways"][way]["delay"].get(failure)) for way in ways]
        if any(cell != "-" for cell in cells):
            rows.append(f"| {about.title} | " + " | ".join(cells) + " |")
    for way in ways if matrices else ():
        rows += ["", *_matrix(way, found["ways"][way]["confusion"])]
    return "\n".join(rows) + "\n"


def _delay(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "-"
    low, high = found["quartiles"]
    return f"{found['median']:.0f} ({low:.0f} to {high:.0f}; {found['n']} runs)"


def _matrix(way: str, counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    columns = [*FAILURES, "healthy", "cannot tell", "refused", "failed"]
    used = [c for c in columns if any(c in row for row in counts.values())]
    rows = [f"What is found by {way} (columns), by what is there (rows); a run counts once for each pair:", ""]
    rows += ["| | " + " | ".join(used) + " |", "|---|" + "---|" * len(used)]
    for truth in ["healthy", *FAILURES]:
        if truth in counts:
            rows.append(f"| **{truth}** | " + " | ".join(str(counts[truth].get(c, "")) for c in used) + " |")
    return rows


def put(text: str, page: str) -> str:
    """The page with what is between the two markers replaced.

    >>> put("new", "a\\n<!-- calibration -->\\nold\\n<!-- /calibration -->\\nb")
    'a\\n<!-- calibration -->\\nnew\\n<!-- /calibration -->\\nb'
    """
    if START not in page:
        raise ValueError(f"the page has no {START}; write it and {END} where the table is to stand")
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2] if END in rest else rest
    return f"{before}{START}\n{text}\n{END}{after}"
