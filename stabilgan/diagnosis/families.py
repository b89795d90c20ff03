"""Which loss a game is played with, as far as its numbers tell: what a loss can't put out rules it out, what it starts
at and what it is clamped at speak for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stabilgan import spec

Floats = NDArray[np.float64]

LN2 = math.log(2)
PRIOR = {
    "logistic": 0.42,
    "saturating": 0.05,
    "hinge": 0.13,
    "least_squares": 0.16,
    "wasserstein": 0.14,
    "relativistic": 0.06,
    "relativistic_hinge": 0.04,
}
"""How common each family is among the logs that people post, by a rough count of the repositories behind them."""

ALIASES = {
    "bce": "logistic",
    "vanilla": "logistic",
    "gan": "logistic",
    "ns": "logistic",
    "ns-logistic": "logistic",
    "nonsaturating": "logistic",
    "softplus": "logistic",
    "minimax": "saturating",
    "lsgan": "least_squares",
    "mse": "least_squares",
    "ls": "least_squares",
    "wgan": "wasserstein",
    "wgan-gp": "wasserstein",
    "wgangp": "wasserstein",
    "ragan": "relativistic",
    "rsgan": "relativistic",
    "rahinge": "relativistic_hinge",
    "relativistic-hinge": "relativistic_hinge",
}

CHANCE: dict[str, tuple[float, ...]] = {
    "logistic": (2 * LN2, LN2),
    "saturating": (2 * LN2, LN2),
    "hinge": (2.0, 1.0),
    "least_squares": (0.5, 0.25),
    "wasserstein": (0.0,),
    "relativistic": (LN2, 2 * LN2),
    "relativistic_hinge": (2.0, 1.0),
}
"""What D pays where it can't tell: its terms summed, and halved (the relativistic pair: one term, and two)."""

CLAMPS = (16.118, 15.942, 13.816, 27.631, 18.421, 20.723, 23.026, 11.513, 100.0)
"""-ln of 1e-7, float32's epsilon, 1e-6, 1e-12, 1e-8, 1e-9, 1e-10, 1e-5, and torch's own limit: where logs are cut
off."""


@dataclass(frozen=True)
class Series:
    """One column over a run.

    Attributes:
        step: (n,) int64, not falling.
        value: (n,) float64; NaN and infinity are what was printed, not what is missing.
        label: its name where it came from.
        seen: how many values there were before they were thinned out; 0 where none were.
        first_bad: the step of the first NaN or infinity, exact even where the series was thinned; None without one.
        held: somebody said in words that it stays as it is ("always", "remains at").
        digits: decimals that were printed; None where nothing was printed.
    """

    step: NDArray[np.int64]
    value: Floats
    label: str = ""
    seen: int = 0
    first_bad: int | None = None
    held: bool = False
    digits: int | None = None

    @classmethod
    def of(cls, value: object, step: object = None, label: str = "") -> Series:
        """From anything numpy reads; steps are counted where none are given.

        >>> Series.of([1.0, 2.0]).step.tolist()
        [0, 1]
        """
        values = np.asarray(value, dtype=np.float64)
        steps = np.arange(len(values)) if step is None else np.asarray(step)
        if values.ndim != 1 or steps.shape != values.shape:
            raise ValueError(f"values are {values.shape} and steps {steps.shape}; expected two of one length")
        bad = np.flatnonzero(~np.isfinite(values))
        return cls(steps.astype(np.int64), values, label, len(values), int(steps[bad[0]]) if len(bad) else None)

    @property
    def finite(self) -> Floats:
        """Its finite values."""
        kept: Floats = self.value[np.isfinite(self.value)]
        return kept

    def __len__(self) -> int:
        return len(self.value)


Columns = Mapping[str, Series]


@dataclass(frozen=True)
class Beliefs:
    """How likely each loss family is, and why.

    Attributes:
        share: family -> probability; they add up to 1.
        reasons: what spoke for it, a phrase each.
        declared: somebody said it.
    """

    share: Mapping[str, float]
    reasons: tuple[str, ...]
    declared: bool = False

    @property
    def best(self) -> str:
        return max(self.share, key=lambda family: self.share[family])

    @property
    def known(self) -> bool:
        """One family is at least 0.8 likely."""
        return self.share[self.best] >= 0.8

    def __str__(self) -> str:
        if self.declared:
            return f"loss family: {self.best}, as given"
        others = sorted(self.share.items(), key=lambda item: -item[1])
        named = ", ".join(f"{family} {share:.0%}" for family, share in others if share >= 0.05)
        why = f" ({'; '.join(self.reasons)})" if self.reasons else " (nothing in the numbers tells)"
        return f"loss family, inferred: {named}{why}"


def named(name: str) -> str:
    """The family of that name or alias.

    Raises:
        ValueError: there is none; the message suggests the nearest.

    >>> named("wgan-gp")
    'wasserstein'
    """
    plain = name.strip().lower()
    for candidate in (plain, plain.replace("-", "_"), plain.replace("_", "-")):
        if candidate in PRIOR:
            return candidate
        if candidate in ALIASES:
            return ALIASES[candidate]
    raise ValueError(spec.unknown("loss", plain, [*PRIOR, *ALIASES]))


def believe(columns: Columns, family: str | None = None) -> Beliefs:
    """How likely each family is: what is usual, times how well each clue fits under it.

    A clue gives a family a factor; a hard limit (a least-squares loss is never negative) a factor of almost nothing.
    The factors are judgements, not measured; what they lead to is measured in the calibration.

    >>> believe({"d_loss": Series.of([-3.0, -5.0]), "gp": Series.of([0.2, 0.1])}).best
    'wasserstein'
    """
    if family is not None:
        name = named(family)
        return Beliefs({f: float(f == name) for f in PRIOR}, ("given",), declared=True)
    share, reasons = dict(PRIOR), []
    for clue in CLUES:
        for reason, factors, otherwise in clue(columns):
            reasons.append(reason)
            for f in share:
                share[f] *= factors.get(f, otherwise)
    total = sum(share.values())
    return Beliefs({f: s / total for f, s in share.items()}, tuple(reasons))


Clue = tuple[str, dict[str, float], float]
"""A reason, the factor of each family, and that of all others."""

IMPOSSIBLE = 1e-6
GAMES = ("wasserstein", "hinge", "relativistic_hinge")


def _penalty(columns: Columns) -> Iterator[Clue]:
    gp = columns.get("gp")
    if gp is None or len(gp.finite) == 0:
        return
    yield "a gradient penalty is logged", {"wasserstein": 8.0, "hinge": 1.5}, 0.7


def _signs(columns: Columns) -> Iterator[Clue]:
    d, g = _finite(columns, "d_loss"), _finite(columns, "g_loss")
    gap = _finite(columns, "d_loss_real")
    slack = 1e-6
    if len(d) and d.min() < -slack:
        bounded = dict.fromkeys(set(PRIOR) - {"wasserstein"}, 1e-3)
        yield "D's loss is negative", {"wasserstein": 1.0} | bounded, 1.0
    elif len(d) >= 5 and "gp" not in columns:
        yield "D's loss is never negative", {"wasserstein": 0.02}, 1.0
    if len(g) and g.min() < -slack:
        never = dict.fromkeys(("logistic", "least_squares", "relativistic", "relativistic_hinge"), 1e-3)
        yield "G's loss is negative", never, 1.0
        if g.max() > slack:
            yield "and positive, too", {"saturating": 1e-3}, 1.0
    elif len(g) >= 5:
        lowest = {"saturating": 1e-3, "wasserstein": 0.3, "hinge": 0.25}
        yield "G's loss is never negative", lowest, 1.0
    if len(gap) and gap.min() < -slack:
        yield "D's loss on reals is negative", {"wasserstein": 5.0}, 0.05


def _printed(columns: Columns) -> Iterator[Clue]:
    real, fake = _finite(columns, "d_real"), _finite(columns, "d_fake")
    if not len(real) or not len(fake):
        return
    low, high = min(real.min(), fake.min()), max(real.max(), fake.max())
    if low < 0 or high > 1:
        yield "D's printed answers leave 0 to 1", {"logistic": 0.15, "saturating": 0.15}, 1.0
        if high > 3 or low < -2:
            yield "and lie far from the targets 0 and 1", {"least_squares": 0.02}, 1.0
    elif len(real) >= 3 or high - low > 0.5:
        likely = {"logistic": 6.0, "saturating": 6.0, "least_squares": 1.5}
        yield "D's printed answers lie in 0 to 1", likely, 0.3


def _bounds(columns: Columns) -> Iterator[Clue]:
    """Jensen: each loss is at least what it would be if every score were the mean."""
    if not {"d_loss", "d_real", "d_fake"} <= set(columns):
        return
    rows = aligned(columns, ("d_loss", "d_real", "d_fake"))
    d, real, fake = rows
    ok = np.isfinite(rows).all(0)
    if ok.sum() < 2:
        return
    d, real, fake = d[ok], real[ok], fake[ok]
    gap = real - fake
    scale = 0.02 + 0.02 * np.abs(d)
    below: dict[str, Floats] = {
        "hinge": np.maximum(0, 1 - real) + np.maximum(0, 1 + fake),
        "least_squares": ((real - 1) ** 2 + fake**2) / 2,
        "relativistic": np.logaddexp(0, -gap),
        "relativistic_hinge": np.maximum(0, 1 - gap),
    }
    if real.min() >= 0 and fake.min() >= 0 and max(real.max(), fake.max()) <= 1:
        cut = 1e-3
        below["logistic"] = -np.log(np.maximum(real, cut)) - np.log(np.maximum(1 - fake, cut))
    else:
        below["logistic"] = np.logaddexp(0, -real) + np.logaddexp(0, fake)
    below["saturating"] = below["logistic"]
    factors: dict[str, float] = {}
    for family, least in below.items():
        least = least / 2 if family in ("logistic", "saturating", "hinge") else least
        if (d < least - scale).mean() > 0.1:
            factors[family] = 0.02
    exact = np.abs(d + gap)
    if np.median(exact) < 1e-3 * (1 + np.median(np.abs(d))):
        yield "D's loss is minus the gap of its scores", {"wasserstein": 50.0}, 1.0
    elif "gp" not in columns and (np.abs(d + gap) > 0.05 * (1 + np.abs(gap))).mean() > 0.9 and (d >= 0).all():
        factors["wasserstein"] = 0.3
    if factors:
        yield f"D's loss is lower than {' or '.join(factors)} allows beside D's answers", factors, 1.0


def _costs(columns: Columns) -> Iterator[Clue]:
    """D's loss is about what its mean answers, printed as probabilities, cost under one family, and not under others.

    A batch's mean loss is a little more than the loss of its mean answer (Jensen): up to half more counts as about.
    """
    if not {"d_loss", "d_real", "d_fake"} <= set(columns):
        return
    rows = aligned(columns, ("d_loss", "d_real", "d_fake"))
    d, real, fake = rows[:, np.isfinite(rows).all(0)]
    if len(d) < 10 or min(real.min(), fake.min()) < 0 or max(real.max(), fake.max()) > 1:
        return
    cost = {
        "logistic": -np.log(np.maximum(real, 1e-3)) - np.log(np.maximum(1 - fake, 1e-3)),
        "least_squares": ((real - 1) ** 2 + fake**2) / 2,
        "relativistic": np.logaddexp(0, fake - real),
    }
    scales = {"logistic": (1.0, 0.5), "least_squares": (1.0, 2.0), "relativistic": (1.0,)}  # terms added, or averaged
    ratios = {f: [float(np.median(d / np.maximum(k * c, 1e-6))) for k in scales[f]] for f, c in cost.items()}
    about = [f for f, found in ratios.items() if any(0.9 <= ratio <= 1.5 for ratio in found)]
    if about:
        fits = dict.fromkeys(about, 4.0) | ({"saturating": 4.0} if "logistic" in about else {})
        yield f"D's loss is about what its printed answers cost under {' or '.join(fits)}", fits, 0.4


def _links(columns: Columns) -> Iterator[Clue]:
    """How G's loss follows from D's printed answer to fakes after its step."""
    name = "d_fake_after" if "d_fake_after" in columns else "d_fake"
    if not {"g_loss", name} <= set(columns):
        return
    g, fake = aligned(columns, ("g_loss", name))
    ok = np.isfinite(g) & np.isfinite(fake)
    if ok.sum() < 5:
        return
    g, fake = g[ok], fake[ok]
    # When D(G(z)) is printed before D's own step, only the drift of both is shared.
    exact = 0.02 if name == "d_fake_after" else 0.2
    if fake.min() >= 0 and fake.max() <= 1:
        inside = np.clip(fake, 1e-4, 1 - 1e-4)
        guesses = {"logistic": -np.log(inside), "saturating": np.log(1 - inside)}
    else:
        guesses = {"hinge": -fake, "least_squares": (fake - 1) ** 2 / 2}
    for family, guess in guesses.items():
        close = np.median(np.abs(g - guess)) <= exact * (0.5 + np.median(np.abs(g)))
        if not close:
            continue
        if family == "hinge":
            yield "G's loss is minus D's answer to fakes", {"hinge": 5.0, "wasserstein": 5.0}, 0.3
        else:
            yield f"G's loss follows D's answer to fakes as in the {family} loss", {family: 8.0}, 0.5


def _tails(columns: Columns) -> Iterator[Clue]:
    """D's loss on fakes and G's loss are two ends of one score: under logistic losses, D pays at least about exp(-g).

    Taken with a factor of ten to spare, for D's own step lies between the two; terms that were added to G's loss only
    lower the bound.
    """
    if not {"d_loss", "g_loss"} <= set(columns) or columns["d_loss"].digits is None:
        return
    d, g = aligned(columns, ("d_loss", "g_loss"))
    ok = np.isfinite(d) & np.isfinite(g) & (d >= 0)
    if not ok.any():
        return
    rounding = 0.5 * 10.0 ** -columns["d_loss"].digits
    if (d[ok] + rounding < 0.1 * np.exp(-np.maximum(g[ok], 0))).mean() > 0.5:
        yield "D pays less than G's loss allows under logistic losses", {"logistic": 0.01, "relativistic": 0.01}, 1.0


def _starts(columns: Columns) -> Iterator[Clue]:
    d, g = _finite(columns, "d_loss"), _finite(columns, "g_loss")
    if len(d) < 3 or "gp" in columns:
        return
    first, g_first = float(d[0]), float(g[0]) if len(g) else math.nan
    fits = {}
    for family, constants in CHANCE.items():
        if family == "wasserstein":
            continue
        starts = {0.5, 1.0, 0.25} if family == "least_squares" else set(constants)  # LS: scores of 0, and of ½
        if any(abs(first - c) < 0.08 * c for c in starts):
            # Each has its own value for G, where D knows nothing.
            at = {
                "logistic": (LN2,),
                "saturating": (-LN2,),
                "hinge": (0.0,),
                "least_squares": (0.5, 1.0, 0.125, 0.25),
                "relativistic": (LN2, 2 * LN2),
                "relativistic_hinge": (2.0, 1.0),
            }[family]
            near = math.isnan(g_first) or any(abs(g_first - c) < 0.2 for c in at)
            fits[family] = 4.0 if near else 1.0
    if any(f > 1 for f in fits.values()):
        close = " and ".join(f for f, x in fits.items() if x > 1)
        yield f"it starts at what chance costs under {close}", {f: x for f, x in fits.items() if x > 1}, 0.5


def _clamped(columns: Columns) -> Iterator[Clue]:
    g = _finite(columns, "g_loss")
    if len(g) and (constant := clamp_of(g[-min(len(g), 20) :])):
        yield f"G's loss stands at a clamped log, {constant:g}", {"logistic": 20.0}, 0.5


def _sizes(columns: Columns) -> Iterator[Clue]:
    d, g = _finite(columns, "d_loss"), _finite(columns, "g_loss")
    if len(d) and np.abs(d).max() > 1e3:
        yield "D's loss is in the thousands", {"wasserstein": 3.0}, 0.5
    elif len(d) >= 3 and np.median(d) > 20:
        yield "D's loss is far above what bounded scores cost", {"wasserstein": 3.0, "hinge": 1.0}, 0.4
    if len(g) and np.median(g) > 3:
        yield "G's loss is far above a half", {"least_squares": 0.15, "relativistic_hinge": 0.8}, 1.0
    if len(d) >= 10 and np.median(d) == 0:
        yield "D's loss is exactly 0 in most rows", {"wasserstein": 0.1}, 1.0


def _accuracy(columns: Columns) -> Iterator[Clue]:
    if "accuracy_d" in columns:
        fits = {"logistic": 1.0, "least_squares": 0.5, "hinge": 0.2, "saturating": 0.2}
        yield "D's accuracy is logged, so that its answer is a probability", fits, 0.05


def _raw(columns: Columns) -> Iterator[Clue]:
    """Raw scores beside the loss of one side: softplus(-E r) is the least that the logistic loss can be."""
    if not {"d_loss_real", "score_real"} <= set(columns):
        return
    loss, score = aligned(columns, ("d_loss_real", "score_real"))
    least = np.logaddexp(0, -score)
    if np.isfinite(loss).any() and np.nanmedian(least - 2 * loss) > 0.5:
        wrong = {"logistic": 0.02, "saturating": 0.02, "hinge": 0.02, "least_squares": 0.02}
        yield "D pays little for reals that it scores far below 0: only the difference counts", wrong, 1.0


def _style(columns: Columns) -> Iterator[Clue]:
    if "sign_real" in columns:
        yield "signs of D's scores are logged, as StyleGAN does", {"logistic": 10.0}, 0.3


CLUES: tuple[Callable[[Columns], Iterator[Clue]], ...] = (
    _penalty,
    _signs,
    _printed,
    _bounds,
    _costs,
    _links,
    _tails,
    _starts,
    _clamped,
    _sizes,
    _accuracy,
    _raw,
    _style,
)


def clamp_of(values: Floats) -> float | None:
    """The clamp constant at which all these values of G's loss stand, or None.

    >>> clamp_of(np.array([16.118, 16.1181, 16.118]))
    16.118
    """
    if not len(values):
        return None
    middle = float(np.median(values))
    constant = min(CLAMPS, key=lambda c: abs(c - middle))
    return constant if (np.abs(values - constant) < 2e-4 * constant).mean() > 0.8 else None


def aligned(columns: Columns, names: tuple[str, ...]) -> Floats:
    """(len(names), n): each column at the steps of the first, as its latest value then; NaN before there is one."""
    steps = columns[names[0]].step
    rows = np.full((len(names), len(steps)), np.nan)
    for row, name in zip(rows, names, strict=True):
        series = columns[name]
        at = np.searchsorted(series.step, steps, side="right") - 1
        row[at >= 0] = series.value[at[at >= 0]]
    if all(len(columns[name]) == len(steps) for name in names):  # as they are, row by row
        rows = np.stack([columns[name].value for name in names])
    return rows


def _finite(columns: Columns, name: str) -> Floats:
    return columns[name].finite if name in columns else np.empty(0)
