"""Each promise catches the trick that breaks it, and says how."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import Cost, Trick
from stabilgan.testing import PROMISES, Report, check_trick
from stabilgan.testing.check import examine, result_of, subject_of

NAMED = {promise.name: promise for promise in PROMISES}


class Nothing(Trick):
    """Does nothing."""

    name = "nothing"
    changes = "nothing"


class Undescribed(Trick):
    name = "undescribed"


class MadeUp(Nothing):
    """Changes something that no list knows."""

    changes = "the weather"


class Mistyped(Nothing):
    """Names a condition that no promise knows."""

    limits: ClassVar = {"label": "refused"}


class Listed(Nothing):
    """Lists what it conflicts with, and says nothing of why."""

    conflicts: ClassVar = ["r1"]


class Unexplained(Nothing):
    """Lists what it can't honour, and says nothing of why."""

    limits: ClassVar = {"labels": None}


class Joined(Nothing):
    """Has a name that reads as two tricks."""

    name = "this+that"


class Optioned(Nothing):
    """Has a name that reads as one with an option."""

    name = "this:that"


class Apart(Nothing):
    """Has a name that reads as two arms."""

    name = "this,that"


class Blank(Nothing):
    """Has a name that a shell takes apart."""

    name = "this that"


class Absent(Nothing):
    """Has the name of the arm without tricks."""

    name = "none"


class FitsText(Nothing):
    """Names one loss where a set of them is expected."""

    fits: Any = "logistic"


class MadeForNobody(Nothing):
    """Is made for a loss that there is none of."""

    made_for: ClassVar = frozenset(("logistics",))


class MadeForWhatItDoesNotFit(Nothing):
    """Is made for a loss that it refuses."""

    fits = frozenset(("hinge",))
    made_for: ClassVar = frozenset(("hinge", "logistic"))


class AlwaysOn(Nothing):
    """Scales real samples, and a little at zero strength, too."""

    off: ClassVar = {"strength": 0.0}

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x * (1.0001 + self.strength)


class Penalty(Nothing):
    """Flattens D where the data are."""

    cost = Cost(d_forward=1, d_backward=1, second_order=1)

    def penalty(self, player: Any, game: stabilgan.Game) -> Tensor | None:
        if player == "g":
            return None
        seen = game.saw("real", self)
        x = seen.x.detach().requires_grad_()
        return self.of(self.scores(x, seen, game), x)

    def scores(self, x: Tensor, seen: Any, game: stabilgan.Game) -> Tensor:
        return game.score(x, seen)

    def of(self, scores: Tensor, x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        return slope.square().flatten(1).sum(1).mean()


class Detached(Penalty):
    """Its penalty is a number."""

    def of(self, scores: Tensor, x: Tensor) -> Tensor:
        return scores.square().mean().detach()


class FirstOrderAlone(Penalty):
    """Its slope was asked for without its graph."""

    def of(self, scores: Tensor, x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(scores.sum(), x, retain_graph=True)
        return slope.square().sum() + 0 * scores.sum()


class Elsewhere(Penalty):
    """Its penalty is about something else."""

    def of(self, scores: Tensor, x: Tensor) -> Tensor:
        return x.square().sum()


class DeafG(Nothing):
    """Judges G, and tells it nothing."""

    def critic(self, d: Any, game: stabilgan.Game) -> Any:
        return lambda x, *labels: d(x.detach(), *labels)


class BlursForDAlone(Nothing):
    """Shows D noisy samples, and has G judged on clean ones."""

    def setup(self, game: stabilgan.Game) -> None:
        self._generator = game.generator(self)

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x + 0.1 * torch.randn(x.shape, generator=self._generator).to(x)

    fake = real


class ShrinksForDAlone(Nothing):
    """Shows D smaller fakes, by ways that leave the same tensor."""

    def fake(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x.mul_(0.9)


class Free(Penalty):
    """States no cost."""

    cost = Cost()


class Careless(Penalty):
    """Calls D as if it were its own."""

    def scores(self, x: Tensor, seen: Any, game: stabilgan.Game) -> Tensor:
        return game.d(*seen.call(x)[0])


class Raising(Nothing):
    """Fails in a step."""

    def after_step(self, player: Any, game: stabilgan.Game) -> None:
        raise KeyError("score")


class Exploding(Nothing):
    """Shows D what is not finite."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x * torch.inf


class ReadsOldGradients(Nothing):
    """Looks at gradients while samples pass, which a loop may have cleared or not."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x + sum(p.grad.abs().sum() for p in game.d.parameters() if p.grad is not None)


class CountsCompany(Nothing):
    """Acts by how many tricks there are."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x * len(game.tricks)


class NeedsRealFirst(Nothing):
    """Takes for granted that D has moved."""

    def before_step(self, player: Any, game: stabilgan.Game) -> None:
        game.saw("real", self)


class LooksAtFrozenD(Nothing):
    """Uses D's gradients in G's turn."""

    def before_step(self, player: Any, game: stabilgan.Game) -> None:
        if player == "g":
            there = sum(p.grad.abs().sum() for p in game.d.parameters() if p.grad is not None)
            for p in game.g.parameters():
                if p.grad is not None:
                    p.grad.mul_(1 + there)


class FreezesSizes(Nothing):
    """Mixes each batch with the one before."""

    before: Tensor | None = None

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        before, self.before = self.before, x
        return x if before is None else (x + before) / 2


class HooksTheOptimizer(Nothing):
    """Halves gradients by a hook of its own, which a closure comes after."""

    def setup(self, game: stabilgan.Game) -> None:
        def halve(*_: Any) -> None:
            for p in game.d.parameters():
                if p.grad is not None:
                    p.grad.mul_(0.5)

        game.opt_d.register_step_pre_hook(halve)


class GloballyNoisy(Nothing):
    """Draws from torch's generator."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x + torch.randn_like(x)


class GloballyBorn(Nothing):
    """Draws from torch's generator at attach."""

    def setup(self, game: stabilgan.Game) -> None:
        self._weight = torch.randn(2)


class NumpyNoisy(Nothing):
    """Draws from numpy's generator."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x + float(np.random.rand())  # noqa: NPY002 - the mistake


class PythonNoisy(Nothing):
    """Draws from Python's generator."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x + random.random()


class BornAnew(Nothing):
    """Takes its generator in each step, and so draws the same each time."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x + 0.1 * torch.randn(x.shape, generator=game.generator(self)).to(x)


class MovesG(Nothing):
    """Changes G at attach."""

    def setup(self, game: stabilgan.Game) -> None:
        with torch.no_grad():
            for p in game.g.parameters():
                p.mul_(2)


class Forgetful(Nothing):
    """Grows with each step, and does not save how far it is."""

    def __init__(self) -> None:
        self._count = 0

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        self._count += 1
        return x * (1 + self._count / 100)


class SavesObjects(Nothing):
    """Keeps itself in its state."""

    def state_dict(self) -> dict[str, Any]:
        return {"me": self}


class TakesNothingBack(Nothing):
    """Saves what it does not load."""

    count = 0

    def after_step(self, player: Any, game: stabilgan.Game) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}


class Images(Nothing):
    """Fails where samples are images."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        if x.dim() == 4:
            raise IndexError("too many indices")
        return x


class Points(Nothing):
    """Fails where samples are points."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        if x.dim() == 2:
            raise IndexError("too few indices")
        return x


class Shuffles(Nothing):
    """Shows fakes in another order."""

    def fake(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x.flip(0)


class Doubles(Nothing):
    """Shows every fake twice."""

    def fake(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return torch.cat([x, x])


class Asks(Nothing):
    """Waits for the device."""

    def before_step(self, player: Any, game: stabilgan.Game) -> None:
        for p in game.player(player).parameters():
            if p.grad is not None and p.grad.norm().item() > 0.1:
                p.grad.mul_(0.5)


class Hoards(Penalty):
    """Sums its penalties up, graphs and all."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0

    def of(self, scores: Tensor, x: Tensor) -> Tensor:
        value = super().of(scores, x)
        self._sum = self._sum + value
        return value


class HoardsFakes(Nothing):
    """Keeps what G was judged by."""

    def critic(self, d: Any, game: stabilgan.Game) -> Any:
        self._kept: list[Tensor] = getattr(self, "_kept", [])

        def kept(x: Tensor, *labels: Any) -> Tensor:
            self._kept.append(x)
            out: Tensor = d(x, *labels)
            return out

        return kept


class SinglePrecision(Nothing):
    """Shows D float32."""

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x.float()


class RefusesAutocast(Nothing):
    """Fails under autocast."""

    def fake(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise TypeError("no autocast, please")
        return x


class HalfPenalty(Penalty):
    """Has D run under autocast."""

    def of(self, scores: Tensor, x: Tensor) -> Tensor:
        return scores.to(torch.bfloat16).square().mean()


class ClampsGradients(Nothing):
    """Caps gradients on their way, where a scaler has made them large."""

    def critic(self, d: Any, game: stabilgan.Game) -> Any:
        def capped(x: Tensor, *labels: Any) -> Tensor:
            out: Tensor = d(x, *labels)
            if out.requires_grad:
                out.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
            return out

        return capped


class Shrinks(Nothing):
    """Makes weights smaller after each step, and after one that was none."""

    @torch.no_grad()
    def after_step(self, player: Any, game: stabilgan.Game) -> None:
        for p in game.player(player).parameters():
            p.mul_(0.99)


BREAKERS: list[tuple[str, type[Trick], str]] = [
    ("described", Undescribed, "has no docstring"),
    ("described", MadeUp, "changes is 'the weather'"),
    ("described", Mistyped, "did you mean 'labels'?"),
    (
        "described",
        Listed,
        "conflicts is ['r1']; expected each name with what goes wrong: conflicts = {'r1': 'why not'}",
    ),
    ("described", Unexplained, "limits is {'labels': None}; expected each name with what goes wrong"),
    ("described", Joined, "name is 'this+that', which --tricks can't ask for; expected a text without blanks"),
    ("described", Optioned, "name is 'this:that'"),
    ("described", Apart, "name is 'this,that'"),
    ("described", Blank, "name is 'this that'"),
    ("described", Absent, "not 'none', which is the arm without tricks"),
    ("described", FitsText, "fits is 'logistic'; expected a set of names of losses"),
    ("described", MadeForNobody, "made_for has 'logistics'; expected names of losses"),
    ("described", MadeForWhatItDoesNotFit, "it is made for logistic, which it does not fit"),
    (
        "judge",
        BlursForDAlone,
        "`fake` changed what D sees in 50 of 50 steps, but G was judged on its samples as they are",
    ),
    ("judge", ShrinksForDAlone, "`fake` changed what D sees in"),
    ("off", AlwaysOn, "after 5 steps at zero strength G is not what it is without the trick: 0.weight differs by"),
    ("acts", Nothing, "after 50 steps both players are what they are without it"),
    ("gradient", Detached, "penalty('d') gave a value without a gradient"),
    ("gradient", FirstOrderAlone, "whose gradient is zero at each of 8 steps"),
    ("gradient", Elsewhere, "depends on none of D's weights"),
    ("gradient", DeafG, "hands no gradient on to the fakes"),
    ("cost", Free, "d_forward is 0, counted 1; d_backward is 0, counted 1; second_order is 0, counted 1"),
    ("plays", Raising, "KeyError: 'score'"),
    ("plays", Exploding, "weights of G are not finite"),
    ("trainer", ReadsOldGradients, "after 5 steps the trainer and the loop by hand differ: G's 0.weight differs by"),
    ("watched", CountsCompany, "with a Watch beside it training ends otherwise"),
    ("g first", NeedsRealFirst, "RuntimeError: nothing needs what D sees as real"),
    ("frozen d", LooksAtFrozenD, "with D frozen in G's turn training ends otherwise"),
    ("batch size", FreezesSizes, "The size of tensor a (3) must match"),
    ("closure", HooksTheOptimizer, "with closures training ends otherwise"),
    ("accumulate", Forgetful, "taken up after 3 accumulated steps, the run ends otherwise"),
    (
        "unnoticed",
        Careless,
        "D's BatchNorm learned from 12 batches where the loop gave it 9",
    ),
    ("own generator", GloballyNoisy, "a step draws from torch's global generator"),
    ("own generator", GloballyBorn, "attaching it draws from torch's global generator"),
    ("own generator", NumpyNoisy, "numpy's global generator"),
    ("own generator", PythonNoisy, "Python's global generator"),
    ("own generator", BornAnew, "it took game.generator(self) anew 6 times in 6 steps"),
    ("same data", MovesG, "sees something else: G at the start.0.weight differs by"),
    ("resume", Forgetful, "taken up after step 1, the run ends otherwise: g.0.weight differs by"),
    ("plain state", SavesObjects, "can't be loaded without running code"),
    ("plain state", TakesNothingBack, "load_state_dict does not take back what state_dict gave"),
    ("images", Images, "IndexError: too many indices"),
    ("points", Points, "IndexError: too few indices"),
    ("labels", Shuffles, "a sample with the label of another one"),
    ("labels", Doubles, "16 samples with 8 labels"),
    ("no waiting", Asks, "aten::_local_scalar_dense inside a step makes the host wait"),
    ("lets go", Hoards, "after 8 steps the graphs of 5 of the first 5 are still in memory"),
    ("lets go", HoardsFakes, "after 8 steps the graphs of 5 of the first 5 are still in memory"),
    ("float64", SinglePrecision, "RuntimeError"),
    ("autocast", RefusesAutocast, "TypeError: no autocast, please"),
    ("float32 penalty", HalfPenalty, "penalty('d') is torch.bfloat16 under autocast"),
    ("scaler", ClampsGradients, "with losses scaled by 1024, G's weights differ by"),
    ("overflow", Shrinks, "one that a GradScaler leaves out for its overflow, G's weights differ by"),
]


def fares(trick: type[Trick], promise: str) -> tuple[str, str]:
    off = None if trick.off is None else (lambda: trick(**trick.off))  # type: ignore[arg-type]
    result = result_of(NAMED[promise], *subject_of(trick, off))
    return result.verdict, result.why


@pytest.mark.parametrize(("promise", "trick", "why"), BREAKERS, ids=lambda v: getattr(v, "__name__", None))
def test_a_promise_catches_the_trick_that_breaks_it(promise: str, trick: type[Trick], why: str) -> None:
    verdict, said = fares(trick, promise)
    assert verdict == "fails"
    assert why in said
    assert "\n" not in said.strip()


def test_every_promise_has_a_trick_that_breaks_it() -> None:
    """But for the wrapped optimizer, of which a trick never hears; compiled players are too slow for here."""
    assert set(NAMED) - {promise for promise, _, _ in BREAKERS} == {"wrapped", "compile"}


@pytest.mark.parametrize("promise", sorted({p for p, _, _ in BREAKERS} - {"acts", "off", "float32 penalty"}))
def test_what_does_nothing_breaks_no_promise_but_that_it_acts(promise: str) -> None:
    assert fares(Nothing, promise)[0] == "holds"


def test_a_good_penalty_keeps_every_promise() -> None:
    report = check_trick(Penalty)
    assert isinstance(report, Report)
    assert {r.promise: r.why for r in report.results if r.verdict != "holds"} == {
        "off": "it states no options at which it does nothing (`off`)"
    }


def test_failures_are_listed_in_the_error() -> None:
    with pytest.raises(
        AssertionError, match=r"nothing fails 3 promises\n.*\n  resume: Stopped .* ends otherwise: g\.0"
    ):
        check_trick(Forgetful)


def test_a_trick_that_can_not_play_is_told_once() -> None:
    report = examine(Raising)
    assert [r.promise for r in report.failures] == ["plays"]
    assert {r.why for r in report.results if r.verdict == "not asked"} >= {"it does not play"}


class Refuses(Nothing):
    """Is for D with convolutions."""

    limits: ClassVar = {"points": "refused"}

    def setup(self, game: stabilgan.Game) -> None:
        if not any(isinstance(m, nn.Conv2d) for m in game.d.modules()):
            raise ValueError("no convolution in D; expected one")

    def real(self, x: Tensor, game: stabilgan.Game) -> Tensor:
        return x * 1.1


def test_a_world_that_is_refused_at_attach_is_told_in_the_tricks_own_words() -> None:
    report = check_trick(Refuses)
    assert report.world == "images"
    refused = {r.promise: r.why for r in report.results if r.verdict == "refuses"}
    assert refused == {"points": "no convolution in D; expected one"}


class RefusesAll(Nothing):
    """Is for nobody."""

    def setup(self, game: stabilgan.Game) -> None:
        raise ValueError("expected another D")


def test_a_trick_that_refuses_every_world_fails() -> None:
    with pytest.raises(AssertionError, match="it refuses every world at attach: points: expected another D; images: "):
        check_trick(RefusesAll)


class FitsNothing(Nothing):
    """Fits a loss that is misspelt."""

    name = "fits_nothing"
    fits = frozenset(("logisitc",))


def test_a_trick_that_fits_no_loss_is_told_so_by_its_name() -> None:
    with pytest.raises(
        ValueError, match="fits_nothing: fits has 'logisitc', which is no loss; expected one or more of"
    ):
        examine(FitsNothing)


class Vector(Penalty):
    """Gives a value for each sample."""

    def of(self, scores: Tensor, x: Tensor) -> Tensor:
        return scores.square()


def test_a_penalty_of_another_kind_is_told_once_in_the_games_own_words() -> None:
    report = examine(Vector)
    assert [r.promise for r in report.failures] == ["plays"]
    assert "nothing.penalty('d') returned a tensor of shape (8, 1); expected" in report.failures[0].why


class Limited(Forgetful):
    """Says what it can't."""

    limits: ClassVar = {"resume": "its count begins anew", "accumulate": "the same", "labels": "the same"}


def test_what_a_trick_says_that_it_can_not_is_no_failure() -> None:
    report = check_trick(Limited)
    assert {r.promise: r.why for r in report.results if r.verdict == "limited"} == Limited.limits


def test_options_are_given_by_name_or_in_the_text() -> None:
    assert check_trick("ema", decay=0.5).name == check_trick("ema:decay=0.5").name == "ema"


@pytest.mark.parametrize(
    ("trick", "message"),
    [
        ("emma", "no trick named 'emma'; did you mean 'ema'?"),
        ("ema:rate=1", "ema: no option named 'rate'"),
        ("stabilgan.tricks.ema:EMA:decay=2", "decay is 2.0; expected 0 or more and less than 1"),
        ("stabilgan.game:Game", "expected a subclass of stabilgan.Trick"),
        ("stabilgan.game:Trick", "Trick has no name"),
    ],
)
def test_what_is_no_trick_is_refused_in_one_line(trick: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as caught:
        check_trick(trick)
    assert "\n" not in str(caught.value)


def test_global_generators_are_afterwards_what_they_were() -> None:
    before: Mapping[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    examine(GloballyNoisy)
    assert torch.equal(torch.get_rng_state(), before["torch"])
    assert random.getstate() == before["python"]
