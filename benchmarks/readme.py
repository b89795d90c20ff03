"""Writes the tables of the published records into the READMEs, between their markers.

python benchmarks/readme.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from stabilgan.bench import report

ROOT = Path(__file__).parents[1]


def tables(name: str) -> str:
    """What the README says of one folder of records."""
    return (
        "\n\n" + report.markdown(report.summarise(report.load(ROOT / "benchmarks" / "results" / name))).strip() + "\n\n"
    )


def alarms(name: str) -> str:
    """The alarms of the arm without tricks, first seed, as the detectors put them."""
    records = report.load(ROOT / "benchmarks" / "results" / name)
    first = min((r for r in records if r["case"]["arm"] == "none"), key=lambda r: r["case"]["seed"])
    lines = [f"{a['detector']} at step {a['step']}: {a['meaning']}" for a in first["alarms"]]
    return "\n\n```text\n" + "\n".join(lines) + "\n```\n\n"


MEASURES = {
    "prdc": "PRDC",
    "frechet": "Fréchet distance",
    "kernel": "kernel distance, 100 subsets",
    "vendi": "Vendi score",
    "vendi-2": "Vendi score, order 2",
    "ms-ssim": "MS-SSIM",
    "evaluate": "`evaluate`, all at once",
}


def speed(name: str) -> str:
    """The times of the measures beside the packages' and the bound: `benchmarks/metrics.py --json` made the record."""
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    made = record["environment"]
    settings: dict[tuple[str, int, int, int], dict[str, dict[str, Any]]] = {}
    for row in record["rows"]:
        settings.setdefault((row["measure"], row["n"], row["d"], row["threads"]), {})[row["contender"]] = row
    order = list(MEASURES)
    lines = [
        f"{made['device_name']}, {made['cores']} cores, torch {made['torch']}, NumPy {made['numpy']}, "
        f"SciPy {made['scipy']}; {' and '.join(sorted({row['date'] for row in record['rows']}))}.",
        "",
        "| measure | N | d | threads | ours | memory | times the bound | others: how many times our time, and memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (measure, n, d, threads), rows in sorted(settings.items(), key=lambda s: (order.index(s[0][0]), *s[0][1:])):
        ours = rows["ours"]
        bound = f"{ours['wall'] / rows['matmul']['wall']:.2f}" if "matmul" in rows else "none counted"
        others = [
            f"{other} {row['left_out']}"
            if "left_out" in row
            else f"{other} {row['wall'] / ours['wall']:.1f} ({row['memory']:,.0f} MB)"
            for other, row in rows.items()
            if other not in ("ours", "matmul")
        ]
        lines.append(
            f"| {MEASURES[measure]} | {n:,} | {d:,} | {threads} "
            f"| {ours['wall']:.{2 if ours['wall'] > 0.1 else 3}f} s | {ours['memory']:,.0f} MB "
            f"| {bound} | {'; '.join(others) or 'none run'} |"
        )
    return "\n\n" + "\n".join(lines) + "\n\n"


def filled(text: str) -> str:
    """A README with every marked part made anew."""
    for kind, make in (("table", tables), ("alarms", alarms), ("speed", speed)):
        for name in re.findall(rf"<!-- {kind}:([\w-]+) -->", text):
            begin, end = f"<!-- {kind}:{name} -->", f"<!-- /{kind}:{name} -->"
            head, _, rest = text.partition(begin)
            text = head + begin + make(name) + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md"):
        path.write_text(filled(path.read_text()))
