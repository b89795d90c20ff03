"""Writes what the published records say of each arm into the package, for the reports of a diagnosis.

python benchmarks/evidence.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FOLDERS = ("mnist", "ring", "tricks-mnist", "tricks-ring", "tricks-ring-fresh")
TARGET = ROOT / "stabilgan" / "diagnosis" / "evidence.json"


def collected() -> list[dict[str, Any]]:
    """One entry for each arm of each published bench that was judged and is not the plain arm over again.

    What all tricks alone cost was timed by itself (`compare_tricks.py time`).
    """
    times = json.loads((RESULTS / "tricks-time.json").read_text())
    found = []
    for folder in FOLDERS:
        for bench in json.loads((RESULTS / folder / "summary.json").read_text())["benches"]:
            plain = next(arm for arm in bench["arms"] if arm["name"] == "none")
            for arm in bench["arms"]:
                compared = arm["readings"][bench["primary"]]["comparison"] if arm["judged"] else None
                if arm["name"] != "none" and compared and compared["interval"]:
                    name = arm["name"].partition(":")[0]
                    slower = times[bench["workload"]][name] if folder.startswith("tricks-") else arm["slowdown"]
                    found.append(entry(bench, arm, plain, slower, f"benchmarks/results/{folder}"))
    return found


def entry(
    bench: dict[str, Any], arm: dict[str, Any], plain: dict[str, Any], slower: float, path: str
) -> dict[str, Any]:
    """What a report says of an arm."""
    compared = arm["readings"][bench["primary"]]["comparison"]
    return {
        "arm": arm["name"],
        "workload": bench["workload"],
        "steps": bench["steps"],
        "runs": arm["judged"],
        "successes": arm["successes"],
        "plain_runs": plain["judged"],
        "plain_successes": plain["successes"],
        "reading": bench["primary"],
        "difference": round(compared["difference"], 3),
        "interval": [round(x, 3) for x in compared["interval"]],
        "slowdown": round(slower, 2),
        "verdict": arm["verdict"],
        "records": path,
    }


def written() -> str:
    """The file as it should be."""
    return json.dumps(collected(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(written())
