"""The plan: which runs are trained, with which settings, and which part of the calibration each belongs to."""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

FAMILIES = ("logistic", "saturating", "hinge", "least_squares", "wasserstein", "relativistic")
WORKLOADS = ("ring", "grid", "mnist")
PARTS = ("tune", "test", "confirm")
HALVES = PARTS[:2]
"""The parts that were there before the rules were mended; "confirm" was drawn after that, and used once."""


CONFIRM_FROM, MORE_FROM = 100, 50
"""Where the numbers in the names of confirming runs begin; and those of runs over families in turn, beyond that."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The settings of one run. `intended` is what it is driven into; what it came to is for `truth` to say.

    Attributes:
        penalty: weight of the WGAN-GP penalty that the loop adds; clip: of weight clipping.
        d_steps, g_steps: updates of each player in one step.
        schedule: "" (constant), "linear" (to 0 at the end), "exp:x" (times x at every step).
        keep: modes or classes that G trains on; () for all.
        train_size: samples in the training set; 0 where each batch is drawn anew.
        latent_scale: what the latent is multiplied with; noise: numbers that G draws by itself.
        inject, inject_at: where and when a NaN is put: "batch" or "weights".
        zero_d: D's weights are zero and its hidden units off. shift: added to where G starts.
    """

    id: str
    workload: str
    family: str
    intended: str
    seed: int
    steps: int
    batch: int = 64
    width_g: int = 64
    width_d: int = 64
    depth_g: int = 2
    depth_d: int = 2
    optimizer: str = "adam"
    lr_g: float = 2e-3
    lr_d: float = 3e-3
    beta1: float = 0.0
    beta2: float = 0.99
    d_steps: int = 1
    g_steps: int = 1
    tricks: str = ""
    penalty: float = 0.0
    clip: float = 0.0
    schedule: str = ""
    keep: tuple[int, ...] = ()
    train_size: int = 0
    latent_scale: float = 1.0
    noise: int = 0
    inject: str = ""
    inject_at: int = 0
    zero_d: bool = False
    shift: float = 0.0

    @property
    def number(self) -> int:
        """The last number of its name."""
        return int(self.id.rpartition("-")[2])

    @property
    def variant(self) -> int:
        """Its number in its part; of healthy runs, of which there are more, a third of it."""
        n = self.number % MORE_FROM
        return n // 3 if self.intended == "healthy" else n


Settings = dict[str, Any]


def sound(workload: str, family: str, chance: random.Random) -> Settings:
    """Settings that work for this family on these data, found by trial; rates and weights vary a little."""
    vary = chance.choice([0.8, 1.0, 1.25])
    points = workload != "mnist"
    s: Settings = {"steps": {"ring": 800, "grid": 1000, "mnist": 550}[workload]}
    s["tricks"] = ema = "ema:decay=0.98" if points else "ema:decay=0.95"
    if points:
        s |= {"lr_g": 2e-3 * vary, "lr_d": 3e-3 * vary, "width_d": 128 if workload == "grid" else 64}
        if family == "wasserstein":
            s |= {"penalty": 0.1, "lr_d": 1e-2 * vary}
        elif family == "relativistic":
            weight = chance.choice([0.005, 0.01])
            s |= {"tricks": f"r1:weight={weight}+r2:weight={weight}+{ema}", "lr_d": 4e-3 * vary}
        elif chance.random() < 0.25:
            s["tricks"] = f"r1:weight=0.005+{ema}"
        return s
    vary = max(vary, 1.0)
    s |= {"width_g": 128, "width_d": 128, "lr_g": 1e-3 * vary, "lr_d": 1e-3 * vary, "beta1": 0.5, "beta2": 0.999}
    weight = 3 if family == "least_squares" else 10
    second = f"r2:weight={weight}+" if family == "relativistic" else ""
    return s | {"tricks": f"r1:weight={weight}+{second}{ema}"}


def driven(kind: str, workload: str, family: str, n: int, chance: random.Random) -> Settings:
    """Settings that drive a run into a failure, the n-th variant."""
    points, base = workload != "mnist", sound(workload, family, chance)
    plain = base | {"tricks": "" if family != "relativistic" else base["tricks"]}
    short = {"steps": 650 if points else 250}
    modes = {"ring": 8, "grid": 25, "mnist": 10}[workload]
    match kind:
        case "discriminator_saturated":
            if points:  # a G that cannot keep up
                start = 0.5 if workload == "grid" else 0.0  # between modes
                slow = {"lr_g": [1e-6, 1e-5][n % 2], "lr_d": 4e-3, "width_d": 128, "shift": start}
                return plain | slow | {"tricks": "", "steps": 700}
            return plain | {
                "steps": 350,
                "tricks": "",
                "lr_d": [2e-3, 4e-3, 2e-3][n % 3],
                "lr_g": [2e-3, 2e-3, 2e-4][n % 3],
                "d_steps": [1, 1, 2][n % 3],
                "width_d": [256, 128, 128][n % 3],
            }
        case "mode_collapse":
            if n % 2 and points:  # 1 : 5 updates
                return plain | {"steps": 300, "g_steps": 5, "lr_g": 2e-3, "lr_d": 5e-4, "width_d": 16}
            return plain | short | {"lr_g": 5e-3, "lr_d": 2e-4 if points else 1e-4, "beta1": 0.5, "width_d": 32}
        case "mode_dropping":
            least, most = {"ring": (4, 6), "grid": (12, 20), "mnist": (5, 8)}[workload]
            shorter = {"steps": base["steps"] if points else 450}
            return base | shorter | {"keep": tuple(sorted(chance.sample(range(modes), chance.randint(least, most))))}
        case "memorisation":
            if points:
                return plain | {
                    "train_size": [8, 10, 12][n % 3],
                    "steps": 1000,
                    "width_d": 128,
                    "lr_d": base["lr_d"] / 2,
                }
            weaker = base["tricks"].replace("weight=10", "weight=1").replace("weight=3", "weight=0.5")
            quick = {"lr_g": 2e-3, "lr_d": 1e-3, "width_g": 256}
            return base | quick | {"train_size": [8, 12, 20][n % 3], "steps": 600, "tricks": weaker}
        case "latent_ignored":
            return base | short | {"latent_scale": [0.0, 1e-3][n % 2]}
        case "latent_replaced":
            return base | {"latent_scale": 0.0, "noise": 16}
        case "nan":
            steps = 400 if points else 200
            return base | {
                "steps": steps,
                "inject": ["batch", "weights"][n % 2],
                "inject_at": chance.randint(steps // 5, steps * 4 // 5),
            }
        case "rate_too_high":
            rate = [0.05, 0.3][n % 2]
            if workload != "ring":
                return plain | short | {"optimizer": "sgd", "lr_g": 10.0, "lr_d": 10.0, "tricks": "", "penalty": 0.0}
            return plain | short | {"lr_g": rate, "lr_d": rate, "beta1": 0.9}
        case "discriminator_dead":
            return base | short | {"zero_d": True, "tricks": "", "penalty": 0.0}
        case "frozen_d":
            return base | short | {"lr_d": 0.0, "tricks": "", "penalty": 0.0}
        case "stalled":
            return (
                base
                | {"steps": 600 if points else 350}
                | {"schedule": f"exp:{[0.95, 0.97][n % 2] if points else [0.9, 0.93][n % 2]}"}
            )
        case "oscillation":
            # A linear D against a mean that starts off centre: they go round each other, with little to damp it.
            lively: Settings = {"optimizer": "sgd", "depth_d": 0, "width_g": 16, "depth_g": 1, "shift": 1.0}
            speed = [1.0, 1.4, 0.8][n % 3]
            if family == "wasserstein":
                lively |= {"clip": 1.0, "width_g": 32, "depth_g": 2, "lr_g": 3e-2 * speed, "lr_d": 3e-2 * speed}
            elif family == "hinge":
                lively |= {"width_g": 32, "depth_g": 2, "lr_g": 3e-2 * speed, "lr_d": 1e-1 * speed}
            else:
                lively |= {"lr_g": 1.0 * speed, "lr_d": 6e-3 if family != "least_squares" else 3e-3}
            return base | lively | {"steps": 800, "beta1": 0.0, "penalty": 0.0, "tricks": ""}
        case "small_g":
            return base | {"width_g": 3, "depth_g": 1}
        case "huge_d":
            return plain | {"steps": 500 if points else 250, "width_d": 384, "depth_d": 3, "lr_d": 1e-3, "beta1": 0.5}
    raise ValueError(f"no way is known into {kind!r}")


COUNTS: Mapping[str, Mapping[str, int]] = {
    "healthy": {"ring": 7, "grid": 7, "mnist": 5},
    "discriminator_saturated": {"ring": 2, "grid": 2, "mnist": 3},
    "mode_collapse": {"ring": 2, "grid": 2, "mnist": 2},
    "mode_dropping": {"ring": 2, "grid": 2, "mnist": 2},
    "memorisation": {"ring": 1, "grid": 1, "mnist": 2},
    "latent_ignored": {"ring": 1, "grid": 1, "mnist": 1},
    "nan": {"ring": 2, "grid": 1, "mnist": 1},
    "rate_too_high": {"ring": 1, "grid": 1, "mnist": 1},
    "discriminator_dead": {"ring": 1, "grid": 1, "mnist": 1},
    "stalled": {"ring": 1, "grid": 1, "mnist": 1},
    "oscillation": {"ring": 3, "grid": 2, "mnist": 0},
}
"""Runs for each family and workload."""
MORE: Mapping[str, Mapping[str, int]] = {
    "latent_replaced": {"ring": 4, "grid": 2, "mnist": 2},
    "frozen_d": {"ring": 4, "grid": 0, "mnist": 2},
    "small_g": {"ring": 4, "grid": 4, "mnist": 0},
    "huge_d": {"ring": 2, "grid": 2, "mnist": 2},
}
"""Runs for each workload, over families in turn."""


CONFIRMED: Mapping[str, Mapping[str, int]] = {
    "healthy": {"ring": 15, "grid": 15, "mnist": 9},
    "discriminator_saturated": {"ring": 5, "grid": 0, "mnist": 0},
    "mode_dropping": {"ring": 2, "grid": 1, "mnist": 1},
    "memorisation": {"ring": 1, "grid": 4, "mnist": 0},
    "latent_ignored": {"ring": 1, "grid": 1, "mnist": 1},
    "nan": {"ring": 1, "grid": 1, "mnist": 1},
    "discriminator_dead": {"ring": 1, "grid": 1, "mnist": 1},
    "stalled": {"ring": 1, "grid": 1, "mnist": 1},
    "oscillation": {"ring": 3, "grid": 1, "mnist": 0},
}
"""Runs of the confirming part for each family and workload."""
CONFIRMED_MORE: Mapping[str, Mapping[str, int]] = {
    "discriminator_saturated": {"ring": 0, "grid": 2, "mnist": 0},
    "mode_collapse": {"ring": 2, "grid": 2, "mnist": 2},
    "memorisation": {"ring": 0, "grid": 0, "mnist": 2},
    "latent_replaced": {"ring": 2, "grid": 2, "mnist": 2},
    "rate_too_high": {"ring": 0, "grid": 3, "mnist": 3},
    "discriminator_dead": {"ring": 3, "grid": 0, "mnist": 0},
    "stalled": {"ring": 3, "grid": 0, "mnist": 0},
    "oscillation": {"ring": 3, "grid": 0, "mnist": 0},
}
"""Runs of the confirming part for each workload, over families in turn."""


def runs() -> Iterator[Run]:
    """Every run of the calibration; the same at every call."""
    yield from _halves()
    yield from _confirming()


def _halves() -> Iterator[Run]:
    cells = [
        (kind, workload, family, n)
        for kind, counts in COUNTS.items()
        for workload in WORKLOADS
        for family in FAMILIES
        for n in range(counts[workload])
        if not (kind == "discriminator_saturated" and family == "wasserstein")
    ]
    for kind, counts in MORE.items():
        cells += [(kind, w, FAMILIES[n % len(FAMILIES)], n) for w in WORKLOADS for n in range(counts[w])]
    for kind, workload, family, n in cells:
        name = f"{workload}-{family}-{kind}-{n}"
        chance = random.Random(name)
        settings = (
            sound(workload, family, chance)
            if kind == "healthy"
            else driven(kind, workload, family, n + _turn(family), chance)
        )
        run = Run(
            id=name,
            workload=workload,
            family=family,
            intended=kind,
            seed=chance.randrange(2**31),
            **settings,
        )
        # Many users let both rates fall to 0 at the end, which is no failure.
        if kind == "healthy" and n == 4:
            run = replace(run, schedule="linear")
        # Digits take longer than points until all ten are there.
        yield replace(run, steps=700) if kind == "healthy" and workload == "mnist" else run


def _confirming() -> Iterator[Run]:
    """The confirming part: the same ways into health and failure, with settings that a generator draws for each run."""
    cells = [
        (kind, workload, family, n)
        for kind, counts in CONFIRMED.items()
        for workload in WORKLOADS
        for family in FAMILIES
        for n in range(counts[workload])
        if not (kind == "discriminator_saturated" and family == "wasserstein")
    ]
    for kind, counts in CONFIRMED_MORE.items():
        cells += [(kind, w, FAMILIES[n % len(FAMILIES)], MORE_FROM + n) for w in WORKLOADS for n in range(counts[w])]
    for kind, workload, family, n in cells:
        name = f"{workload}-{family}-{kind}-{CONFIRM_FROM + n}"
        chance = random.Random(f"confirm {name}")
        if kind == "healthy":
            settings = sound(workload, family, chance)
            settings["schedule"] = "linear" if chance.random() < 0.2 else ""
            if workload == "mnist":
                settings["steps"] = chance.randint(900, 1100)
        else:
            settings = driven(kind, workload, family, n + _turn(family), chance)
        run = Run(id=name, workload=workload, family=family, intended=kind, seed=chance.randrange(2**31), **settings)
        yield drawn(run, chance)


def drawn(run: Run, chance: random.Random) -> Run:
    """The run with its numbers drawn anew, within what a user may well choose.

    - Each rate times 0.7 to 1.4 (even in its logarithm), which comes on top of the 0.8 to 1.25 of `sound`.
    - The batch from 32, 48, 64, 96 and 128 samples.
    - Each width times 0.75 to 1.5, where it is 16 or more.
    - With Adam, beta2 from 0.99, 0.995 and 0.999, and, of a healthy run, beta1 from 0 to 0.3 (points) or 0.3 to 0.6
      (digits).
    """
    rates = [math.exp(chance.uniform(math.log(0.7), math.log(1.4))) for _ in range(2)]
    widths = [math.exp(chance.uniform(math.log(0.75), math.log(1.5))) for _ in range(2)]
    width_g, width_d = (round(w * f) if w >= 16 else w for w, f in zip((run.width_g, run.width_d), widths, strict=True))
    changed = replace(
        run,
        lr_g=float(f"{run.lr_g * rates[0]:.4g}"),
        lr_d=float(f"{run.lr_d * rates[1]:.4g}"),
        batch=chance.choice((32, 48, 64, 96, 128)),
        width_g=width_g,
        width_d=width_d,
    )
    beta1, beta2 = chance.uniform(0, 0.3), chance.choice((0.99, 0.995, 0.999))
    if run.optimizer != "adam":
        return changed
    if run.intended != "healthy":
        return replace(changed, beta2=beta2)
    return replace(changed, beta2=beta2, beta1=round(beta1 + (0.3 if run.workload == "mnist" else 0.0), 2))


def _turn(family: str) -> int:
    return FAMILIES.index(family)


def parts() -> dict[str, str]:
    """Run -> its part: "tune" or "test" by turns, in the order of a hash, within each intended failure and workload."""
    strata: dict[tuple[str, str], list[str]] = defaultdict(list)
    found: dict[str, str] = {}
    for run in runs():
        if run.number >= CONFIRM_FROM:
            found[run.id] = "confirm"
        else:
            strata[run.intended, run.workload].append(run.id)
    for turn, key in enumerate(sorted(strata)):
        ordered = sorted(strata[key], key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        found |= {name: HALVES[(i + turn) % 2] for i, name in enumerate(ordered)}
    return found
