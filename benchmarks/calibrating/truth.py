"""What a run came to, by exact quantities along it: not by what was intended, and not by our own detectors.

Every limit is stated here. Between "yes" and "no" lies "ambiguous"; such a verdict counts in no rate. A run can have
several failures at once. Onsets are those of checkpoints, which lie 5 % of the run apart, but for NaN, which is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

State = Literal["yes", "no", "ambiguous"]
Checkpoint = Mapping[str, Any]

LAST = 0.8
"""The last fifth of a run decides."""
ENOUGH_MISSING = {"ring": 1, "grid": 2, "mnist": 1}
"""So many modes have to be missing for certain."""


@dataclass(frozen=True)
class Verdict:
    """Whether a failure is there, the reading that says so, and the step from which it stays."""

    state: State
    reading: float | None = None
    onset: int | None = None


# --- readings that checkpoints take ----------------------------------------------------------------------------------


def accuracy(real: Tensor, fake: Tensor, family: str) -> float:
    """The share that D judges rightly; for families without an absolute score, of all pairs of a real and a fake.

    >>> accuracy(torch.tensor([1.0, 3.0]), torch.tensor([2.0, -1.0]), "wasserstein")
    0.75
    """
    if family in ("wasserstein", "relativistic"):
        return (real[:, None] > fake).double().mean().item()
    at = 0.5 if family == "least_squares" else 0.0
    return ((real > at).double().mean().item() + (fake <= at).double().mean().item()) / 2


def nearness(train: Tensor, held_out: Tensor, fake: Tensor) -> dict[str, float]:
    """How near fakes lie to the training set, in units of how near new data lie: medians of nearest distances."""
    rows = train.flatten(1).double()
    new, made = (
        torch.cdist(x.flatten(1).double(), rows).amin(1).median().item() for x in (held_out[:1000], fake[:1000])
    )
    return {"nearness": made / new if new else math.nan}


# --- rules -----------------------------------------------------------------------------------------------------------


def judge(record: Mapping[str, Any], path: np.ndarray) -> dict[str, Any]:
    """All verdicts of a run: failure -> verdict as a dict, `healthy`, and `visible`, failure -> ways that can see it.

    Args:
        record: `run` (the settings), `checkpoints`, the first of them at step 0, and `non_finite_at`.
        path: (n, 3): a step, and where G's mean is then, in two directions in units of the data's spread.
    """
    run, points = record["run"], record["checkpoints"]
    end = [c for c in points if c["step"] > LAST * run["steps"]]
    verdicts = {"divergence": divergence(points, end, record["non_finite_at"])}
    if record["non_finite_at"] is not None:
        nothing = Verdict("ambiguous")
        verdicts |= dict.fromkeys(RULES, nothing)
    else:
        verdicts |= {name: rule(run, points, end) for name, rule in RULES.items()}
        verdicts["oscillation"] = oscillation(path)
    verdicts.setdefault("oscillation", Verdict("ambiguous"))
    if verdicts["divergence"].state == "yes":  # where the samples have gone, their modes mean nothing
        for name in ("mode_dropping", "mode_collapse"):
            verdicts[name] = Verdict("ambiguous", verdicts[name].reading)
    return {
        "failures": {name: asdict(v) for name, v in verdicts.items()},
        "healthy": asdict(healthy(run, points, end, verdicts)),
        "visible": {name: visible(run, name, record) for name in verdicts}
        | ({"oscillation": ["series", "live"]} if _between_lines(path) else {}),
    }


def divergence(points: Sequence[Checkpoint], end: Sequence[Checkpoint], non_finite_at: int | None) -> Verdict:
    """NaN or infinity; or samples ten times as large as the data, or weights thirty times as large as at the start."""
    if non_finite_at is not None:
        return Verdict("yes", math.nan, non_finite_at)

    def growth(c: Checkpoint) -> float:
        weights = max(c[f"size_{p}"] / max(points[0][f"size_{p}"], 1.0) for p in ("g", "d"))
        return max(c["size_samples"] / 10, weights / 30)

    return _verdict(points, end, growth, lambda r: r >= 1, lambda r: r >= 1 / 3)


def mode_collapse(run: Mapping[str, Any], points: Sequence[Checkpoint], end: Sequence[Checkpoint]) -> Verdict:
    """The samples fill no more than a quarter of the modes, as exp(entropy) of where they are nearest; or one point.

    Of digits nobody is sure of, the class says nothing: then only the spread (0.1 of the data's) decides.
    """

    def filled(c: Checkpoint) -> float:
        shares = np.array(c["nearest"]) / c["n"]
        if shares.sum() < 0.5:
            return 1.0 if c["spread"] > 0.1 else 0.0
        shares = shares[shares > 0] / shares.sum()
        return float(np.exp(-(shares * np.log(shares)).sum())) / len(c["nearest"])

    def collapsed(c: Checkpoint) -> float:
        return 0.0 if c["spread"] <= 0.1 else filled(c)

    found = _verdict(points, end, collapsed, lambda r: r <= 0.25, lambda r: r <= 0.4)
    if found.state == "no" and _median(end, lambda c: c["spread"]) < 0.3:
        return Verdict("ambiguous", found.reading)
    return found


def mode_dropping(run: Mapping[str, Any], points: Sequence[Checkpoint], end: Sequence[Checkpoint]) -> Verdict:
    """Some but not all modes are missing throughout the last fifth: a tenth of their even share is nearest to them.

    "No" takes that each mode has a fifth of its even share within it. What collapsed is ambiguous here, and so is a
    generator of which less than 0.3 are in any mode.
    """
    k = len(end[-1]["nearest"])

    def missing(c: Checkpoint) -> float:
        return float(sum(x < 0.1 * c["n"] / k for x in c["nearest"]))

    def weak(c: Checkpoint) -> int:
        return sum(x < 0.2 * c["n"] / k for x in c["counts"][:k])

    n = sum(c["n"] for c in end)
    nearest, counts = (np.sum([c[name][:k] for c in end], 0) for name in ("nearest", "counts"))
    gone = int((nearest < 0.1 * n / k).sum())
    if mode_collapse(run, points, end).state != "no" or _median(end, lambda c: c["high_quality"]) < 0.3:
        return Verdict("ambiguous", gone / k)
    if gone >= ENOUGH_MISSING[run["workload"]]:
        stays = _onset(points, lambda c: missing(c) >= gone)
        return Verdict("yes", gone / k, stays)
    some = gone or (counts < 0.2 * n / k).any() or sum(weak(c) > 0 for c in end) > len(end) / 2
    return Verdict("ambiguous" if some else "no", gone / k)


def discriminator_saturated(run: Mapping[str, Any], points: Sequence[Checkpoint], end: Sequence[Checkpoint]) -> Verdict:
    """On data that no run trains on, less than 0.005 of D's judgement is wrong (chance: 0.5).

    Half of what our own rules take, so that no run sits on the edge: up to 0.03 is ambiguous, and so is what passes. A
    critic of the Wasserstein family has no such scale: "no".
    """
    if run["family"] == "wasserstein":
        return Verdict("no")
    found = _verdict(points, end, lambda c: c["wrong"], lambda r: r < 0.005, lambda r: r < 0.03)
    passing = any(c["wrong"] < 0.02 for c in points if c["step"] > 0.1 * run["steps"])
    return Verdict("ambiguous", found.reading) if found.state == "no" and passing else found


def discriminator_dead(run: Mapping[str, Any], points: Sequence[Checkpoint], end: Sequence[Checkpoint]) -> Verdict:
    """D's scores of reals, fakes and noise are all the same, to 0.001 (standard deviation)."""
    return _verdict(points, end, lambda c: c["score_spread"], lambda r: r < 1e-3, lambda r: r < 2e-2)


def vanishing_gradient(run: Mapping[str, Any], points: Sequence[Checkpoint], end: Sequence[Checkpoint]) -> Verdict:
    """G's gradient (over 256 latents) is under 1 % of what it was at the start (the median of three readings)."""
    first = float(np.median([c["g_gradient"] for c in points[:3]]))
    if first == 0:
        return Verdict("yes", 0.0, 0) if _median(end, lambda c: c["g_gradient"]) == 0 else Verdict("ambiguous")
    return _verdict(points, end, lambda c: c["g_gradient"] / first, lambda r: r < 0.01, lambda r: r < 0.05)


def latent_ignored(run: Mapping[str, Any], points: Sequence[Checkpoint], end: Sequence[Checkpoint]) -> Verdict:
    """With G's own noise held still, its samples spread over latents by less than 0.01 of the data's spread."""
    return _verdict(points, end, lambda c: c["over_latents"], lambda r: r < 0.01, lambda r: r < 0.1)


def memorisation(run: Mapping[str, Any], points: Sequence[Checkpoint], end: Sequence[Checkpoint]) -> Verdict:
    """Fakes lie less than half as far from the training set as new data do."""
    if not run["train_size"]:
        return Verdict("no")
    return _verdict(points, end, lambda c: c["nearness"], lambda r: r < 0.5, lambda r: r < 0.8)


def stalled(run: Mapping[str, Any], points: Sequence[Checkpoint], end: Sequence[Checkpoint]) -> Verdict:
    """A player's weights move by less than a millionth of their size in 5 % of the run: its rate is nothing."""

    def moved(c: Checkpoint) -> float:
        return min(float(c.get("moved_g", 1.0)), float(c.get("moved_d", 1.0)))

    if not (run["schedule"].startswith("exp") or run["lr_d"] <= 1e-8 or run["lr_g"] <= 1e-8):
        return Verdict("no")
    return _verdict(points, end, moved, lambda r: r < 1e-6, lambda r: r < 1e-4)


RULES: dict[str, Callable[[Mapping[str, Any], Sequence[Checkpoint], Sequence[Checkpoint]], Verdict]] = {
    "mode_collapse": mode_collapse,
    "mode_dropping": mode_dropping,
    "latent_ignored": latent_ignored,
    "discriminator_saturated": discriminator_saturated,
    "discriminator_dead": discriminator_dead,
    "vanishing_gradient": vanishing_gradient,
    "memorisation": memorisation,
    "stalled": stalled,
}


def oscillation(path: np.ndarray) -> Verdict:
    """Over the last half, G's mean goes round with one period: half the power is at one frequency.

    The rounds move it by at least 0.2 of the data's spread (root mean square), and there are at least 4. What moves as
    far without a period, or half as far with a weaker one, is ambiguous.
    """
    if len(path) < 64:
        return Verdict("ambiguous")
    share, amplitude, _ = _round(path)
    around = amplitude * math.sqrt(share)
    if share >= 0.5 and around >= 0.2:
        return Verdict("yes", around)
    vague = around >= 0.1 or amplitude >= 0.25
    return Verdict("ambiguous" if vague else "no", around)


def _round(path: np.ndarray) -> tuple[float, float, float]:
    """Of the last half of a path: the share of power at its strongest frequency, its amplitude, its period in steps."""
    late = path[len(path) // 2 :]
    t = late[:, 0] - late[:, 0].mean()
    moves = late[:, 1:] - late[:, 1:].mean(0)
    moves = moves - np.outer(t, (moves * t[:, None]).sum(0) / (t**2).sum())
    power = (np.abs(np.fft.rfft(moves * np.hanning(len(late))[:, None], axis=0)) ** 2).sum(1)[1:]
    line = np.convolve(power, np.ones(3), "same")
    peak = int(line[3:].argmax()) + 3
    share = float(line[peak] / power.sum()) if power.sum() > 0 else 0.0
    amplitude = float(np.sqrt((moves**2).sum(1).mean()))
    return share, amplitude, float(late[-1, 0] - late[0, 0]) / (peak + 1)


def _between_lines(path: np.ndarray) -> bool:
    """Whether the rounds are quicker than four lines of a log: losses go round twice as fast as G's mean."""
    return len(path) >= 64 and _round(path)[2] < 4 * 5


def healthy(
    run: Mapping[str, Any],
    points: Sequence[Checkpoint],
    end: Sequence[Checkpoint],
    verdicts: Mapping[str, Verdict],
) -> Verdict:
    """All failures are "no", and over the last fifth all modes are held with 0.45 of the samples in them and KL ≤ 0.3.

    "No" takes a failure that is there; all else is ambiguous.
    """
    if any(v.state == "yes" for v in verdicts.values()):
        return Verdict("no")
    if any(v.state == "ambiguous" for v in verdicts.values()):
        return Verdict("ambiguous")
    k = len(end[-1]["nearest"])
    held = all(min(c["counts"][:k]) >= 0.1 * c["n"] / k for c in end)
    nearest = np.sum([c["nearest"] for c in end], 0)
    shares = nearest / nearest.sum()
    kl = float((shares * np.log(np.maximum(shares, 1e-12) * k)).sum())
    clean = _median(end, lambda c: c["high_quality"]) >= 0.45
    awake = run["family"] == "wasserstein" or all(c["wrong"] >= 0.05 for c in end)
    return Verdict("yes" if held and clean and awake and kl <= 0.3 else "ambiguous", kl)


def at_the_time(record: Mapping[str, Any], step: int) -> bool:
    """Whether modes were missing at a checkpoint beside the step of an alarm, whatever came of it later."""
    points, least = record["checkpoints"], ENOUGH_MISSING[record["run"]["workload"]]
    before = [c for c in points if c["step"] <= step][-1:]
    after = [c for c in points if c["step"] >= step][:1]

    def missing(c: Checkpoint) -> int:
        nearest = c.get("nearest_of_g", c["nearest"])
        return sum(x < 0.1 * c["n"] / len(nearest) for x in nearest)

    return any(missing(c) >= least for c in before + after)


def visible(run: Mapping[str, Any], failure: str, record: Mapping[str, Any]) -> list[str]:
    """The ways in that can see a failure of this run at all.

    A log shows losses and D's answers, and a rate only where the run has a schedule and so prints it; of a vanishing
    gradient only what the minimax loss shows. The series of every step have rates and gradients beside them. Samples
    show where they are, beside the training set where it is small. A live watch
    compares with what G trains on, so it can't miss what was left out of that.
    """
    grew = record["non_finite_at"] is not None
    sees = {
        "mode_collapse": ["samples", "model", "live"],
        "mode_dropping": ["samples", "model", "live"],
        "latent_ignored": ["model"],
        "discriminator_saturated": ["log", "series", "model", "live"],
        "discriminator_dead": ["log", "series", "model"],
        "vanishing_gradient": ["log", "series", "model"] if run["family"] == "saturating" else ["series", "model"],
        "memorisation": ["samples"] if run["train_size"] else [],
        "stalled": ["log", "series"] if run["schedule"] else ["series"],
        "oscillation": ["log", "series", "live"],
        "divergence": ["log", "series", "samples", "model", "live"] if grew else ["model"],
    }[failure]
    if run["keep"] or run["train_size"]:
        sees = [way for way in sees if not (way == "live" and failure in ("mode_dropping", "mode_collapse"))]
    return sees


# --- how they decide ---------------------------------------------------------------------------------------------


def _median(points: Sequence[Checkpoint], reading: Callable[[Checkpoint], float]) -> float:
    return float(np.median([reading(c) for c in points]))


def _verdict(
    points: Sequence[Checkpoint],
    end: Sequence[Checkpoint],
    reading: Callable[[Checkpoint], float],
    yes: Callable[[float], bool],
    maybe: Callable[[float], bool],
) -> Verdict:
    """By the median over the last fifth; the onset is the first checkpoint from which the reading stays."""
    value = _median(end, reading)
    if yes(value):
        return Verdict("yes", value, _onset(points, lambda c: yes(reading(c))))
    return Verdict("ambiguous" if maybe(value) else "no", value)


def _onset(points: Sequence[Checkpoint], holds: Callable[[Checkpoint], bool]) -> int | None:
    """The first step from which it holds at nine of ten of the checkpoints that follow."""
    flags = [holds(c) for c in points]
    for i, flag in enumerate(flags):
        if flag and sum(flags[i:]) >= 0.9 * len(flags[i:]):
            return int(points[i]["step"])
    return None
