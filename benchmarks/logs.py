"""Logs that people posted, with the verdict they were given, against ours.

    python benchmarks/logs.py shared/cases/logs.jsonl [--infer] [--json]

A line of the file holds `excerpt` (the numbers as posted), `loss_family` and `label`. What a label asks for stands in
`ASKED`, which was written before the first result was seen: the answers that are right, of the failures, "healthy" and
"cannot tell". "Cannot tell" is right where the verdict itself is that nothing is wrong, or that it can't be told
yet; it is counted apart, as neither right nor wrong, where a failure was there. An excerpt without any number is one
of these.

Printed: right, wrong (a failure that isn't there, or another one), and undecided; with the loss family given, as its
owner would, and inferred from the numbers alone (--infer).
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

from stabilgan.diagnosis.families import named
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.log import diagnose_log

CALM = {"healthy", "cannot tell"}
ASKED: dict[str, set[str]] = {
    "d_dominates": {"discriminator_saturated", "vanishing_gradient"},
    "d_dominates_saturated": {"discriminator_saturated", "vanishing_gradient"},
    "d_dominates_monotone": {"discriminator_saturated", "vanishing_gradient"},
    # Chance is an equilibrium as well: a log alone can leave it open.
    "d_chance_ln2": {"discriminator_dead", "cannot tell"},
    "d_chance_2ln2": CALM,
    "d_chance_lsgan": {"discriminator_dead", "cannot tell"},
    "d_chance_hinge2": {"discriminator_dead", "cannot tell"},
    "d_constant_real": {"discriminator_dead"},
    "d_not_started": CALM,
    "g_dominates": {"discriminator_dead"},
    "late_divergence_fid": {"divergence"},
    "critic_explosion": {"divergence"},
    "wgan_gp_oscillation": {"oscillation", "divergence"},
    "nan_amp": {"divergence"},
    "gp_pinned_at_lambda_nan": {"discriminator_dead", "divergence"},
    "nan_iter0_environment": {"divergence"},
    "lr_decayed_to_zero": {"stalled"},
}
"""What is right for each label; every `healthy_...` asks for no finding."""
BY_WORD: tuple[tuple[str, set[str]], ...] = (
    ("healthy", CALM),
    ("not_started", CALM),
    ("dominates", {"discriminator_saturated", "vanishing_gradient"}),
    ("saturat", {"discriminator_saturated", "vanishing_gradient"}),
    ("vanish", {"vanishing_gradient", "discriminator_saturated"}),
    ("chance", {"discriminator_dead", "cannot tell"}),
    ("constant", {"discriminator_dead"}),
    ("dead", {"discriminator_dead"}),
    ("nan", {"divergence"}),
    ("explo", {"divergence"}),
    ("diverg", {"divergence"}),
    ("oscill", {"oscillation", "divergence"}),
    ("lr_", {"stalled"}),
    ("collapse", {"cannot tell"}),
)
"""For labels that are not listed: the first word that is in them."""


def asked(label: str) -> set[str] | None:
    """The answers that are right for a label, or None where nothing is known of it."""
    if label in ASKED:
        return ASKED[label]
    return next((answers for word, answers in BY_WORD if word in label), None)


def family_of(case: dict[str, Any]) -> str | None:
    """The loss of a case as ours are named; None where it is none of them, or two."""
    try:
        return named(str(case.get("loss_family") or ""))
    except ValueError:
        return None


def judge(case: dict[str, Any], *, infer: bool) -> dict[str, Any]:
    """Our answer beside the right one."""
    right = asked(case["label"])
    loss = None if infer else family_of(case)
    try:
        diagnosis = diagnose_log(io.StringIO(case["excerpt"]), loss=loss)
        answers = [f.failure for f in diagnosis.findings] or [diagnosis.verdict]
        text = diagnosis.findings[0].evidence[0].text if diagnosis.findings else diagnosis.undecided
    except InputError as error:
        answers, text = ["cannot tell"], str(error)
    if right is None:
        outcome = "no mapping"
    elif set(answers) & right:
        outcome = "right"
    else:
        outcome = "undecided" if answers == ["cannot tell"] else "wrong"
    row = {"source": case["source"], "label": case["label"], "loss": loss, "confidence": case.get("confidence")}
    return row | {"answers": answers, "outcome": outcome, "text": text}


def accuracy(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of outcomes, the share that is right of all, and of those that were decided."""
    counts = Counter(row["outcome"] for row in rows)
    judged = sum(counts[k] for k in ("right", "wrong", "undecided"))
    decided = counts["right"] + counts["wrong"]
    return {
        "cases": len(rows),
        **{k: counts[k] for k in ("right", "wrong", "undecided", "no mapping")},
        "right_of_all": counts["right"] / judged if judged else None,
        "right_of_decided": counts["right"] / decided if decided else None,
    }


def load(path: Path) -> list[dict[str, Any]]:
    """The cases of a file, one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--infer", action="store_true", help="don't tell the loss family")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    rows = [judge(case, infer=options.infer) for case in load(options.cases)]
    result = accuracy(rows)
    if options.json:
        print(json.dumps({"accuracy": result, "rows": rows}, indent=1))
        return
    for row in rows:
        print(f"{row['outcome']:>10}  {row['label']:<28} {', '.join(row['answers']):<42} {row['source']}")
        print(f"{'':>12}{row['text'][:150]}")
    told = [f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in result.items()]
    print(f"\n{', '.join(told)}")


if __name__ == "__main__":
    main()
