"""The JSONL file of a live watch, read back."""

from __future__ import annotations

import io
import json

import pytest
import torch

import stabilgan
from stabilgan.detectors import Divergence, Saturation
from stabilgan.diagnosis.log import diagnose_log


def entry(detector, step, state, value=0.5, run="a1", **more):
    text = f"{detector} says {state}"
    return {"run": run, "kind": "reading", "detector": detector, "step": step, "value": value, "threshold": 0.2} | {
        "state": state, "text": text, **more
    }  # fmt: skip


def alarm(detector, step, meaning, reading=0.05, run="a1"):
    return {"run": run, "kind": "alarm", "detector": detector, "step": step, "reading": reading, "threshold": 0.2} | {
        "meaning": meaning
    }


def told(*entries):
    return diagnose_log(io.StringIO("".join(json.dumps(e) + "\n" for e in entries)))


ALIKE = "the fakes are all alike: they differ from each other by 0.05 of what real samples do"
PARTS = "the fakes leave parts of the data out: they reach 60% of it"


@pytest.mark.parametrize(
    ("detector", "meaning", "failure"),
    [
        ("collapse", ALIKE, "mode_collapse"),
        ("collapse", PARTS, "mode_dropping"),
        ("saturation", "D has won", "discriminator_saturated"),
        ("oscillation", "the players go round", "oscillation"),
        ("divergence", "G's loss is not finite", "divergence"),
    ],
)
def test_an_alarm_that_stands_at_the_end_is_a_finding_with_its_step(detector, meaning, failure):
    found = told(entry(detector, 50, "ok"), alarm(detector, 100, meaning), entry(detector, 150, "alarm"))
    assert [(f.failure, f.onset) for f in found.findings] == [(failure, 100)]
    assert meaning in found.findings[0].evidence[0].text


def test_an_alarm_that_was_over_before_the_end_is_a_note():
    found = told(alarm("collapse", 100, ALIKE), entry("collapse", 300, "ok"))
    assert found.verdict == "healthy"
    assert any("all alike" in note and "over at step 300" in note for note in found.notes)


def test_what_the_detectors_could_not_tell_is_no_clean_bill():
    found = told(entry("divergence", 50, "ok"), entry("collapse", 50, "unknown"))
    assert found.verdict == "cannot tell"
    assert "collapse says unknown" in found.undecided


def test_of_several_runs_in_one_file_the_last_is_told():
    found = told(alarm("collapse", 100, ALIKE, run="a1"), entry("collapse", 50, "ok", run="b2"))
    assert found.verdict == "healthy"
    assert any("2 watched runs" in note for note in found.notes)


def test_an_alarm_of_a_detector_of_ones_own_is_a_note():
    found = told(entry("mine", 50, "ok"), alarm("mine", 100, "it is so"))
    assert not found.findings
    assert any("it is so" in note for note in found.notes)


def test_what_a_watch_writes_is_read_back_with_its_losses(tmp_path):
    torch.manual_seed(0)
    g, d = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    opt_g, opt_d = torch.optim.SGD(g.parameters(), 0.0), torch.optim.SGD(d.parameters(), 0.0)
    with torch.no_grad():  # a D that has won: reals are far on one side
        d.weight.copy_(torch.tensor([[50.0, 0.0]]))
        d.bias.zero_()
        g.weight.zero_()
        g.bias.copy_(torch.tensor([-1.0, 0.0]))
    watch = stabilgan.Watch([Saturation(), Divergence()], every=5, family="logistic", log=tmp_path / "watch.jsonl")
    game = stabilgan.attach(g, d, opt_g, opt_d, [watch])
    softplus = torch.nn.functional.softplus
    for _ in range(400):
        real = torch.randn(16, 2) * 0.1 + torch.tensor([1.0, 0.0])
        fake = g(torch.randn(16, 2))
        opt_d.zero_grad()
        d_loss = softplus(-d(game.real(real))).mean() + softplus(d(game.fake(fake.detach()))).mean()
        d_loss.backward()
        opt_d.step()
        opt_g.zero_grad()
        g_loss = softplus(-game.critic(fake)).mean()
        g_loss.backward()
        game.record(d_loss=d_loss, g_loss=g_loss)
        opt_g.step()
    found = diagnose_log(tmp_path / "watch.jsonl", loss="logistic")
    assert [f.failure for f in found.findings][:1] == ["discriminator_saturated"]
    assert "read as JSON lines of stabilgan.Watch" in found.notes
    steps, values = found.figures["curves"]["g_loss"]
    assert list(steps[:3]) == [5, 10, 15]
    assert values[-1] == pytest.approx(50, abs=1)
