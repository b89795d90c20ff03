"""Plain loops with D under `torch.compile`."""

from __future__ import annotations

import play
import pytest
import shapes
import torch
from torch import nn

import stabilgan
from stabilgan.checks import Reminder
from stabilgan.tricks import parse

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")  # the compiler's own


def compiled_loop(backend: str, tricks: str | None, *, given: str = "compiled") -> shapes.Stage:
    """Four steps in which the loop calls a compiled D; `attach` is given that, or the bare one."""
    torch.compiler.reset()
    torch.manual_seed(0)
    g, d = shapes.generator(), shapes.critic_net(norm=True)
    called = torch.compile(d, backend=backend)
    s = shapes.Stage(g, d, shapes.sgd(g), shapes.sgd(d))
    if tricks is not None:
        s.game = stabilgan.attach(g, d if given == "bare" else called, s.opt_g, s.opt_d, parse(tricks))
    s.d = called
    shapes.joint_backward(s, 4)
    return s


@pytest.mark.parametrize("given", ["compiled", "bare"])
def test_a_compiled_d_is_heard_and_looked_through(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reminder, "PATIENCE", 2)
    s = compiled_loop("eager", "replay:size=12+r1:weight=2+ema+minibatch:kernels=3", given=given)
    assert s.game is not None
    for verb in ("real", "fake"):
        assert torch.equal(s.game.scores[verb], s.answers[verb][-1])
    assert all(p.isfinite().all() for net in (s.g, s.d) for p in net.parameters())
    raw = compiled_loop("eager", None)
    assert not torch.equal(play.params(s.g), play.params(raw.g))


@pytest.mark.slow
def test_without_tricks_a_compiled_loop_is_the_raw_one_bit_for_bit() -> None:
    ends = []
    for tricks in (None, ""):
        s = compiled_loop("inductor", tricks)
        ends.append([s.g.state_dict(), s.d.state_dict(), s.opt_g.state_dict(), s.opt_d.state_dict()])
    assert play.same(*ends)


@pytest.mark.slow
def test_tricks_do_in_a_compiled_loop_what_they_do_in_an_eager_one() -> None:
    arm = "replay:size=12+r1:weight=2+ema"
    compiled, eager = compiled_loop("inductor", arm), compiled_loop("eager", arm)
    for one, other in ((compiled.g, eager.g), (compiled.d, eager.d)):
        torch.testing.assert_close(play.params(one), play.params(other), rtol=1e-4, atol=1e-5)


def test_a_sigmoid_at_the_end_of_a_compiled_d_is_seen_at_attach() -> None:
    g, d = shapes.generator(), shapes.probability_net()
    with pytest.raises(ValueError, match="ends in a sigmoid"):
        stabilgan.attach(g, torch.compile(d), shapes.sgd(g), shapes.sgd(d), [stabilgan.R1()])
    assert not d._forward_hooks
    assert isinstance(d, nn.Module)
