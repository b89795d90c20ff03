"""The words of a diagnosis: evidence, findings, the failures they name, and the diagnosis that holds them.

Evidence is a number with its origin and what it was compared with. A finding is a failure's name, how bad it is, how
sure that is, and the evidence. A diagnosis is all findings about one subject, or one of two other answers: *healthy*,
and *cannot tell*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Verdict = Literal["problem", "healthy", "cannot tell"]


class InputError(ValueError):
    """What was given can't be read; the message is one line: what it is, what was expected, what to do."""


class Failure(NamedTuple):
    """One way in which a GAN fails.

    Attributes:
        title: its name as people say it.
        means: what it means, in two sentences.
        tricks: arms that address it, in the grammar of `stabilgan bench --tricks`, the best first.
    """

    title: str
    means: str
    tricks: tuple[str, ...]


MENDS = "relativistic+r1:weight=10+r2:weight=10"

FAILURES: dict[str, Failure] = {
    "mode_collapse": Failure(
        "mode collapse",
        "The generator puts out a few samples over and over, whatever the latent is. What is seen of its quality says "
        "nothing about the rest of the data.",
        (MENDS, "zero_gp", "r1", "packing"),
    ),
    "mode_dropping": Failure(
        "mode dropping",
        "The generator varies, but leaves whole parts of the data out. Precision and the eye don't see it, since what "
        "is there looks right.",
        (MENDS, "packing", "minibatch_stddev", "lookahead"),
    ),
    "latent_ignored": Failure(
        "latent ignored",
        "The output hardly depends on the latent: what varies comes from elsewhere (labels, a picture that is given, "
        "noise inside), or nothing varies. Drawing more latents will bring nothing new.",
        (MENDS, "mode_seeking", "minibatch"),
    ),
    "discriminator_saturated": Failure(
        "discriminator saturated",
        "The discriminator tells real from fake surely on nearly every sample, so its own gradient is next to nothing. "
        "What the generator gets from it no longer says where to go.",
        (MENDS, "zero_gp", "r1", "spectral_norm"),
    ),
    "discriminator_dead": Failure(
        "discriminator dead",
        "The discriminator's answer does not depend on its input: it stays at chance or at one constant for "
        "everything. The generator then learns nothing from it.",
        ("spectral_norm", "r1:weight=1"),
    ),
    "vanishing_gradient": Failure(
        "vanishing generator gradient",
        "The gradient that reaches the generator is too small to move it. It stops learning, whatever its samples are "
        "like by then.",
        (MENDS, "spectral_norm"),
    ),
    "oscillation": Failure(
        "oscillation",
        "The players go round each other with a period of their own instead of settling. Each undoes what the other "
        "has learned, and modes come and go.",
        ("r1", MENDS, "lookahead", "ema"),
    ),
    "divergence": Failure(
        "divergence",
        "Losses, weights or samples grow without bound, or are not numbers any more. Nothing after the onset can be "
        "used; go back to a state from before it.",
        ("spectral_norm", "r1"),
    ),
    "memorisation": Failure(
        "memorisation",
        "Samples lie far nearer to single training samples than new data would. The generator repeats its training "
        "set, or the discriminator learned it by heart.",
        ("r1", "lecam", "ada"),
    ),
    "stalled": Failure(
        "training stalled",
        "A player no longer moves, since its learning rate has decayed to nothing. What follows changes nothing any "
        "more; look at the scheduler, which is often stepped per batch where it is meant per epoch.",
        (),
    ),
}
"""Every failure by its key."""


@dataclass(frozen=True)
class Evidence:
    """One number, where it comes from, and what it was compared with.

    Attributes:
        name: of the reading, such as "coverage" or "d_loss".
        value: the reading; NaN where that is the point.
        text: what it says, as one sentence with the number in it.
        reference: what a healthy subject reads, or None where nothing is known.
        interval: where readings of healthy subjects lie, `(low, high)`; None where nothing is known.
        origin: how value and reference were got, such as "real against real, 200 halves of 1,000 samples", or
            "column Loss_D, steps 100 to 600".
    """

    name: str
    value: float
    text: str
    reference: float | None = None
    interval: tuple[float, float] | None = None
    origin: str = ""


@dataclass(frozen=True)
class Finding:
    """A failure that was found.

    Attributes:
        failure: a key of `FAILURES`.
        severity: 0 (a trace) to 1 (total).
        confidence: that it is this failure, 0 to 1; what is below ½ is not a finding.
        evidence: what speaks for it; at least one piece.
        onset: the step at which it began, or None where the subject has no time.
    """

    failure: str
    severity: float
    confidence: float
    evidence: tuple[Evidence, ...]
    onset: int | None = None

    def __post_init__(self) -> None:
        if self.failure not in FAILURES:
            raise ValueError(f"no failure named {self.failure!r}; there are {', '.join(FAILURES)}")
        for name in ("severity", "confidence"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} of {self.failure} is {value}; expected 0 to 1")
        if not self.evidence:
            raise ValueError(f"{self.failure} was found without evidence")

    @property
    def title(self) -> str:
        return FAILURES[self.failure].title

    @property
    def means(self) -> str:
        return FAILURES[self.failure].means

    @property
    def tricks(self) -> tuple[str, ...]:
        return FAILURES[self.failure].tricks


@dataclass(frozen=True)
class Diagnosis:
    """All that was found out about one subject.

    Attributes:
        subject: what was looked at, such as a path.
        source: "samples", "model" or "log".
        findings: the failures, the most severe first.
        evidence: all readings, those of the findings included.
        notes: what was taken for what, what was converted, assumed or skipped; a line each.
        skipped: files or rows that were left out, each with the reason.
        undecided: why no answer could be given, where there is neither a finding nor a clean bill; empty otherwise.
        figures: arrays for the pictures of a report, by name; not part of `to_json`.
    """

    subject: str
    source: Literal["samples", "model", "log"]
    findings: tuple[Finding, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    undecided: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def verdict(self) -> Verdict:
        if self.findings:
            return "problem"
        return "cannot tell" if self.undecided else "healthy"

    def found(self, failure: str) -> Finding | None:
        """The finding of that failure, or None."""
        return next((f for f in self.findings if f.failure == failure), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; what is not finite becomes None."""
        findings = [asdict(f) | {"title": f.title, "means": f.means, "tricks": list(f.tricks)} for f in self.findings]
        plain = {
            "subject": self.subject,
            "source": self.source,
            "verdict": self.verdict,
            "undecided": self.undecided,
            "findings": findings,
            "evidence": [asdict(e) for e in self.evidence],
            "notes": list(self.notes),
            "skipped": [{"what": what, "why": why} for what, why in self.skipped],
        }
        finite = _finite(plain)
        assert isinstance(finite, dict)
        return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
