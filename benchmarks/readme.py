"""Writes the tables of the published records into the README, between their markers.

python benchmarks/readme.py
"""

from __future__ import annotations

import re
from pathlib import Path

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


def filled(text: str) -> str:
    """The README with every marked part made anew."""
    for kind, make in (("table", tables), ("alarms", alarms)):
        for name in re.findall(rf"<!-- {kind}:(\w+) -->", text):
            begin, end = f"<!-- {kind}:{name} -->", f"<!-- /{kind}:{name} -->"
            head, _, rest = text.partition(begin)
            text = head + begin + make(name) + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text()))
