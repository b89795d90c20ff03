"""Holding a trick against every promise, and the report of it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from stabilgan import losses, spec, tricks
from stabilgan.game import Trick
from stabilgan.testing.promise import Broken, NotAsked, Promise, Refused, Subject
from stabilgan.testing.promises import PROMISES
from stabilgan.testing.worlds import IMAGES, POINTS

Verdict = Literal["holds", "fails", "refuses", "limited", "not asked"]


@dataclass(frozen=True)
class Result:
    """How one promise fared.

    Attributes:
        promise: its name.
        says: its sentence.
        verdict: "holds"; "fails"; "refuses" (at attach); "limited" (it fails, and the trick's `limits` say so); "not
            asked" (it says nothing about this trick).
        why: what was seen, in the words of who found it; empty where it holds.
    """

    promise: str
    says: str
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Report:
    """What `check_trick` found.

    Attributes:
        trick: what was asked for.
        name: the trick's name.
        world: where it played.
        results: one for each promise.
    """

    trick: str
    name: str
    world: str
    results: tuple[Result, ...]

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(r for r in self.results if r.verdict == "fails")

    @property
    def ok(self) -> bool:
        return not self.failures

    def as_json(self) -> dict[str, Any]:
        """Plain values, for programs."""
        return {
            "trick": self.trick,
            "name": self.name,
            "ok": self.ok,
            "world": self.world,
            "promises": [asdict(r) for r in self.results],
        }

    def __str__(self) -> str:
        return "\n".join(f"{r.verdict:<9} {r.promise}: {r.why or r.says}" for r in self.results)


def check_trick(trick: type[Trick] | str, /, *, slow: bool = False, **options: Any) -> Report:
    """Holds a trick against every promise of the library; for the tests of whoever wrote one.

    It plays in small games on the CPU, with a fresh object for each promise. Torch's global generators are afterwards
    what they were.

    Args:
        trick: the class, or what `--tricks` would be given: `package.module:Class:option=value`, a registered name.
        slow: also what takes seconds: compiled players.
        options: of its constructor. Choose such that it acts within a few steps.

    Returns:
        The report, where no promise fails.

    Raises:
        AssertionError: promises fail; the message lists them.
        ValueError: there is no such trick, it has no such options, or it fits no loss that there is.

    >>> check_trick("r1", weight=2.0).ok
    True
    """
    report = examine(trick, slow=slow, **options)
    if not report.ok:
        lines = [f"{r.promise}: {r.says} {r.why}" for r in report.failures]
        count = f"{len(lines)} promise{'s' * (len(lines) > 1)}"
        raise AssertionError("\n  ".join([f"{report.name} fails {count}", *lines]))
    return report


def examine(
    trick: type[Trick] | str, /, *, slow: bool = False, tell: Callable[[str], None] = lambda name: None, **options: Any
) -> Report:
    """The report of `check_trick`, whatever is in it; `tell` hears the name of each promise before it is checked."""
    make, off, asked = _makers(trick, options)
    first = make()
    with _aside():
        subject, refusals = subject_of(make, off)
        results = []
        for promise in PROMISES:
            if not promise.slow or slow:
                tell(promise.name)
                results.append(result_of(promise, subject, refusals))
        results = _told_once(results)
    world = "" if subject is None else subject.world.name
    return Report(asked, first.name, world, tuple(results))


def subject_of(make: Callable[[], Trick], off: Callable[[], Trick] | None) -> tuple[Subject | None, Mapping[str, str]]:
    """The trick on trial in the first world that it does not refuse, at attach or in its first step, or None.

    Also what it said to the others. Raises SpecError where it fits no loss that there is.
    """
    loss = _loss_for(make())
    refusals: dict[str, str] = {}
    for world in (POINTS, IMAGES):
        subject = Subject(make, off, world, loss)
        try:
            subject.trainer().fit(world.data, 1)  # samples it can only refuse when it sees them
        except (Refused, ValueError) as error:
            refusals[world.name] = str(error)
        except Exception:  # anything else is for the promises to name
            return subject, refusals
        else:
            return subject, refusals
    return None, refusals


def _loss_for(trick: Trick) -> losses.Loss:
    if trick.fits is None or "logistic" in trick.fits:
        return losses.logistic
    if known := [name for name in losses.LOSSES if name in trick.fits]:
        return losses.named(min(known))
    raise spec.SpecError(
        f"{trick.name}: fits has {', '.join(map(repr, sorted(trick.fits))) or 'nothing'}, which is no loss; expected "
        f"one or more of {', '.join(losses.LOSSES)}"
    )


def result_of(promise: Promise, subject: Subject | None, refusals: Mapping[str, str] = {}) -> Result:
    """Checks one promise."""
    if subject is None:
        said = "; ".join(f"{world}: {words}" for world, words in refusals.items())
        return Result(promise.name, promise.says, "fails", f"it refuses every world at attach: {said}")
    try:
        promise.check(subject)
    except NotAsked as error:
        return Result(promise.name, promise.says, "not asked", str(error))
    except Refused as error:
        return Result(promise.name, promise.says, "refuses", str(error))
    except Exception as error:  # a trick is anyone's code, and may raise anything
        why = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
        limits = subject.make().limits
        if promise.condition is not None and promise.condition in limits:
            return Result(promise.name, promise.says, "limited", limits[promise.condition])
        return Result(promise.name, promise.says, "fails", why)
    return Result(promise.name, promise.says, "holds")


def _told_once(results: list[Result]) -> list[Result]:
    """Where the trick can't play at all, the promises that fail of that alone say so."""
    crash = next((r.why for r in results if r.promise == "plays" and r.verdict == "fails"), None)
    return [
        replace(r, verdict="not asked", why="it does not play") if r.why == crash and r.promise != "plays" else r
        for r in results
    ]


def _makers(
    trick: type[Trick] | str, options: Mapping[str, Any]
) -> tuple[Callable[[], Trick], Callable[[], Trick] | None, str]:
    """How to make the trick, how to make it at zero strength, and what it was asked for as."""
    texts: dict[str, str] = {}
    if isinstance(trick, str):
        name, texts = spec.split(trick)
        made, asked = tricks.class_of(name), trick
    elif isinstance(trick, type) and issubclass(trick, Trick):
        made, asked = trick, f"{trick.__module__}:{trick.__qualname__}"
        name = asked
    else:
        raise TypeError(f"{trick!r} is no trick; expected a subclass of stabilgan.Trick, or text that names one")
    if not getattr(made, "name", ""):
        raise spec.SpecError(f"{made.__name__} has no name; give the class one: name = 'my_trick'")

    def make(**more: Any) -> Trick:
        given = {**options, **more}
        return spec.build(made, {k: v for k, v in texts.items() if k not in given}, name, **given)

    zero = made.off
    return make, None if zero is None else lambda: make(**zero), asked


@contextmanager
def _aside() -> Iterator[None]:
    """One thread and no warnings inside; global generators are put back."""
    threads, python_state = torch.get_num_threads(), random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - a careless trick may move it
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng([]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
