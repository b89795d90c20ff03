"""Plain PyTorch loops in the shapes that people write: nothing changes without tricks, and tricks act with them."""

from __future__ import annotations

import copy
from typing import Any

import play
import pytest
import shapes
import torch
from shapes import SHAPES, Shape, Stage
from torch import Tensor

import stabilgan
from stabilgan.checks import Reminder
from stabilgan.detectors import Detector, Reading, View
from stabilgan.tricks import parse

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
STEPS = 5


@pytest.fixture(autouse=True)
def _soon_reminded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every loop here is judged by the reminder, whose warnings would be errors."""
    monkeypatch.setattr(Reminder, "PATIENCE", 2)


class Spy(Detector):
    """Keeps what a watch shows."""

    name = "spy"
    statistics = ("one",)

    def __init__(self) -> None:
        self.views: list[View] = []

    def update(self, view: View) -> None:
        self.views.append(view)

    def measure(self) -> Tensor:
        return torch.ones(1)

    def judge(self, values: Any, step: int) -> Reading:
        return Reading(self.name, step, 1.0, 2.0, "ok", "")


def state(s: Stage) -> list[Any]:
    players = [s.g.state_dict(), s.d.state_dict(), s.opt_g.state_dict(), s.opt_d.state_dict()]
    gradients = [p.grad for net in (s.g, s.d) for p in net.parameters()]
    return [*players, gradients, s.told, torch.get_rng_state(), s.data.get_state()]


@every_shape
def test_without_tricks_the_loop_is_the_raw_one_bit_for_bit(shape: Shape) -> None:
    ends = []
    for tricks in (None, []):
        s = shapes.stage(shape, tricks)
        shape.run(s, STEPS)
        ends.append(state(s))
    assert play.same(*ends)


@every_shape
def test_beside_a_watch_alone_the_loop_is_the_raw_one_bit_for_bit(shape: Shape) -> None:
    ends = []
    for tricks in (None, [stabilgan.Watch(every=1)]):
        s = shapes.stage(shape, tricks)
        shape.run(s, STEPS)
        ends.append(state(s))
    assert play.same(*ends)


@every_shape
def test_tricks_act_and_the_loop_trains_on(shape: Shape) -> None:
    tricks = parse(shape.tricks)
    s, plain = shapes.stage(shape, tricks), shapes.stage(shape, [])
    shape.run(s, STEPS)
    shape.run(plain, STEPS)
    for net in (s.g, s.d):
        assert all(p.isfinite().all() for p in net.parameters())
    assert not torch.equal(play.params(s.g), play.params(plain.g))
    assert s.game is not None
    by_name = {t.name: t for t in s.game.tricks}
    assert by_name["replay"]._pool.filled == 12
    old = [
        x for (x, *_), fresh in zip(s.shown["fake"], plain.shown["fake"], strict=True) if not torch.equal(x, fresh[0])
    ]
    assert old
    assert not torch.equal(play.params(by_name["ema"].average), play.params(s.g))
    added = [p for p in s.d.parameters() if not any(p.shape == q.shape for q in plain.d.parameters())]
    if "minibatch" in by_name:
        assert added
        assert all(any(p is q for group in s.opt_d.param_groups for q in group["params"]) for p in s.d.parameters())


@pytest.mark.parametrize(
    "shape", [s for s in SHAPES.values() if "r1" in s.tricks], ids=[k for k, s in SHAPES.items() if "r1" in s.tricks]
)
def test_r1_is_computed_on_what_d_saw_as_real_the_way_the_loop_called_d(shape: Shape) -> None:
    """Against ½ E‖∇ₓD‖² written out on the loop's own batches, at the weights of that moment."""
    turn = shape.options.get("accumulate", 1)
    found: list[tuple[Tensor, Tensor]] = []

    class Checked(stabilgan.R1):
        def penalty(self, player: Any, game: stabilgan.Game) -> Tensor | None:
            value = super().penalty(player, game)
            if value is not None:  # the micro-batches of a turn, the first one first
                x, *labels = s.shown["real"][len(found) % turn - turn]
                found.append((value.detach(), by_hand(copy.deepcopy(game.d), x, labels)))
            return value

    def by_hand(d: torch.nn.Module, x: Tensor, labels: list[Tensor]) -> Tensor:
        point = x.detach().clone().requires_grad_()
        out = d(point, *labels)
        out = shape.options["score"](out) if "score" in shape.options else out
        (slope,) = torch.autograd.grad(out.sum(), point)
        return 3.0 / 2 * slope.square().flatten(1).sum(1).mean()

    s = shapes.stage(shape, [Checked(weight=3.0), stabilgan.Replay(size=12)])
    shape.run(s, STEPS)
    assert len(found) >= STEPS - 2  # a scaler skips steps
    for value, expected in found:
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
        assert value > 0


@every_shape
def test_a_watch_sees_samples_scores_and_losses(shape: Shape) -> None:
    spy = Spy()
    s = shapes.stage(shape, [stabilgan.Watch([spy], every=1)])
    shape.run(s, STEPS)
    view = spy.views[-1]
    for seen, verb in ((view.real, "real"), (view.fake, "fake")):
        assert seen is not None
        assert seen.shape[1:] == (1, 16, 16)
        assert not seen.requires_grad
        assert len(seen) == len(s.shown[verb][-1][0])
    assert view.real is not None
    assert torch.equal(view.real, s.shown["real"][-2 if shape.run is shapes.g_first else -1][0])
    read = shape.options.get("score", lambda out: out)
    for scores, verb in ((view.scores_real, "real"), (view.scores_fake, "fake")):
        assert scores is not None
        assert torch.equal(scores, read(s.answers[verb][-2 if shape.run is shapes.g_first else -1]))
    assert view.d_loss is not None
    assert view.g_loss is not None
    assert view.d_grad is not None
    assert view.g_grad is not None
    assert view.probabilities is (shape.run is shapes.separate_backward)


@every_shape
def test_after_detach_the_loop_goes_on_as_one_that_was_never_attached(shape: Shape) -> None:
    tricks = [stabilgan.Replay(size=12), stabilgan.EMA(), stabilgan.Watch(every=1)]
    tricks += [stabilgan.R1()] if "r1" in shape.tricks else []
    attached, raw = shapes.stage(shape, tricks), shapes.stage(shape, None)
    shape.run(attached, 2)
    assert attached.game is not None
    attached.game.detach()
    start = copy.deepcopy(state(attached)[:4])
    ends = []
    for net, saved in zip((raw.g, raw.d, raw.opt_g, raw.opt_d), start, strict=True):
        net.load_state_dict(saved)
    raw.data.set_state(attached.data.get_state())
    raw.told = {}
    attached.told = {}
    if shape.run is shapes.two_schedulers:
        for mine, theirs in zip(raw.schedules, attached.schedules, strict=True):
            mine.load_state_dict(theirs.state_dict())
    for s in (attached, raw):  # the words stay in the one, and say nothing
        torch.manual_seed(5)
        shape.run(s, 3)
        ends.append(state(s))
    assert play.same(*ends)
