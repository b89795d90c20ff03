"""Responses: a run that diverges is taken back and ends finite; what is changed, saved, counted and taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import R1, Respond, Watch
from stabilgan.bench.plan import Case, Folder
from stabilgan.bench.run import run
from stabilgan.tricks import parse
from stabilgan.tricks._snapshot import put_back, take


class Wild:
    """A WGAN without any bound, whose steps explode at its rate until they are NaN; a lower one keeps it finite."""

    def __init__(self, tricks: list[stabilgan.Trick], rate: float = 0.5) -> None:
        torch.manual_seed(0)
        g, d = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=rate, momentum=0.5) for net in (g, d))
        self.t = stabilgan.Trainer(g, d, opt_g, opt_d, tricks, latent=4, batch_size=16, loss="wasserstein")

    def fit(self, steps: int) -> Wild:
        self.t.fit(self.t._data or play.ring, steps)
        return self

    @property
    def finite(self) -> bool:
        return all(bool(play.params(net).isfinite().all()) for net in (self.t.game.g, self.t.game.d))


def answer(**options: Any) -> Respond:
    return Respond(**({"factor": 0.01, "every": 10, "cooldown": 0} | options))


def test_a_run_that_diverges_is_taken_back_and_ends_finite() -> None:
    assert not Wild([]).fit(120).finite
    respond = answer()
    wild = Wild([respond, Watch(every=10)]).fit(120)
    assert wild.finite
    assert wild.t.steps == 120  # numbers go on
    assert [r.action for r in respond.responses] == ["rollback"]
    first = respond.responses[0]
    assert first.detector == "divergence"
    assert "went back to the weights of step" in first.text
    assert [group["lr"] for group in wild.t.game.opt_d.param_groups] == [pytest.approx(0.005)]
    assert wild.t.game.readings()["responses"] == 1


def test_detectors_of_its_own_do_where_nobody_watches() -> None:
    respond = answer()
    assert Wild([respond]).fit(120).finite
    assert len(respond.responses) == 1


def test_the_budget_holds_and_none_is_absence() -> None:
    respond = answer(factor=1.0, budget=2)  # the rate stays: it diverges again and again
    assert not Wild([respond, Watch(every=10)]).fit(150).finite
    assert len(respond.responses) == 2
    assert respond.left == 0
    without, idle = Wild([], 1e-3).fit(20), Wild([answer(budget=0)], 1e-3).fit(20)
    assert play.same(without.t.game.d, idle.t.game.d)
    assert idle.t.game.tricks[0].state_dict()["healthy"] is None


def test_it_goes_back_to_a_snapshot_after_which_the_detectors_were_quiet() -> None:
    """NaN is put into G after step 25: the snapshot of step 20 was followed by a sound reading at step 25."""
    respond, every = answer(every=10), 5
    wild = Wild([respond, Watch(every=every)], rate=1e-4).fit(20)
    at_20 = play.params(wild.t.game.g)
    wild.fit(5)
    assert not torch.equal(play.params(wild.t.game.g), at_20)
    with torch.no_grad():
        wild.t.game.g.weight.fill_(float("nan"))
    wild.fit(5)
    assert respond.responses[0].step == 30
    assert "step 20;" in respond.responses[0].text
    assert torch.equal(play.params(wild.t.game.g), at_20)


def test_a_snapshot_that_was_bad_already_is_not_trusted() -> None:
    respond = answer(every=25)
    wild = Wild([respond, Watch(every=20)], rate=1e-4).fit(49)
    with torch.no_grad():
        wild.t.game.d[0].weight.fill_(float("nan"))  # which no reading tells before the snapshot of step 50 is taken
    wild.fit(11)
    assert wild.finite
    assert "step 25;" in respond.responses[0].text


def test_optimizers_and_other_tricks_go_back_too_and_a_snapshot_stays_as_it_is() -> None:
    def game() -> stabilgan.Trainer:
        g, d = play.players()
        tricks = parse("ema+replay:size=12+lookahead:k=2+optimistic")
        return stabilgan.Trainer(g, d, play.adam(g), play.adam(d), tricks, latent=4, batch_size=8)

    t = game().fit(play.ring, 3)
    snapshot = take(t.game, t.game.tricks)
    t.game.opt_g.param_groups[0]["lr"] = 0.123

    def state() -> Any:
        whole = t.state_dict()
        return [whole["g"], whole["d"], whole["opt_g"]["state"], whole["opt_d"]["state"], whole["game"]["tricks"]]

    before = torch.load(_written(state()), weights_only=True)
    for _ in range(2):  # twice, so that what was put back has moved in between
        t.fit(play.ring, 3)
        assert not play.same(state(), before)
        put_back(snapshot, t.game, t.game.tricks)
        assert play.same(state(), before)
    assert t.game.opt_g.param_groups[0]["lr"] == 0.123


def _written(state: Any) -> Any:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_an_optimizer_that_had_no_state_yet_has_none_again() -> None:
    t = Wild([]).t
    snapshot = take(t.game, ())
    t.fit(play.ring, 2)
    put_back(snapshot, t.game, ())
    assert not t.game.opt_d.state


def told(
    respond: Respond, *steps: int, others: list[stabilgan.Trick] | None = None, **options: Any
) -> stabilgan.Trainer:
    g, d = play.players()
    tricks = [respond, *(others or []), Watch([play.Says(*steps)], every=1, **options)]
    return stabilgan.Trainer(g, d, play.adam(g), play.adam(d), tricks, latent=4, batch_size=8)


def test_the_weight_of_a_penalty_is_raised_and_stays_raised_after_a_resume(tmp_path: Path) -> None:
    def make() -> tuple[stabilgan.Trainer, R1]:
        r1 = R1(3.0)
        return told(Respond(on="says", do="raise", trick="r1", factor=4.0, cooldown=2), 2, 6, others=[r1]), r1

    t, r1 = make()
    t.fit(play.ring, 3).save(tmp_path / "run.pt")
    assert r1.weight == 12.0
    t.fit(play.ring, 4)
    assert r1.weight == 48.0
    again, r1 = make()
    again.load(tmp_path / "run.pt")
    assert r1.weight == 12.0
    assert play.same(again.fit(play.ring, 4).state_dict(), t.state_dict())


def test_a_trick_at_zero_strength_is_switched_on() -> None:
    r1 = R1(0.0)
    respond = Respond(on="says", do="set", set="r1.weight=10")
    switched = told(respond, 3, others=[r1]).fit(play.ring, 3)
    plain = told(Respond(on="says", do="warn"), others=[]).fit(play.ring, 3)
    assert r1.weight == 10.0
    assert respond.responses[0].text == "r1's weight is 10.0 now, instead of 0.0"
    assert play.same(switched.game.d, plain.game.d)
    assert not play.same(switched.fit(switched._data, 1).game.d, plain.fit(plain._data, 1).game.d)


def test_a_game_is_saved_whole_and_loads_without_running_code(tmp_path: Path) -> None:
    respond = Respond(on="says", do="save", folder=str(tmp_path / "kept"))
    t = told(respond, 2).fit(play.ring, 2)
    (file,) = (tmp_path / "kept").iterdir()
    assert file.name == "says-2.pt"
    assert str(file) in respond.responses[0].text
    saved = torch.load(file, weights_only=True)
    assert saved["alarm"]["detector"] == "says"
    assert play.same(saved["g"], t.game.g.state_dict())
    assert play.same(saved["opt_d"], t.game.opt_d.state_dict())
    assert saved["game"]["steps"] == {"d": 2, "g": 2}


def test_a_save_that_fails_is_told_and_does_not_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    respond = Respond(on="says", do="save", folder=str(tmp_path / "file"))
    told(respond, 2).fit(play.ring, 3)
    assert "could not save to" in respond.responses[0].text


def test_a_warning_is_a_python_warning() -> None:
    with pytest.warns(stabilgan.AlarmWarning, match="says at step 2: as told"):
        told(Respond(on="says", do="warn"), 2).fit(play.ring, 3)


def test_an_alarm_within_the_cooldown_is_answered_afterwards_if_it_is_not_over() -> None:
    respond = Respond(on="says", do="raise", trick="r1", cooldown=4, budget=9)
    told(respond, 2, 4, 8, 9, 10, 11, 12, others=[R1()]).fit(play.ring, 12)
    assert [r.step for r in respond.responses] == [2, 8]  # that of step 4 was over; that of 8 is one long alarm
    respond = Respond(on="says", do="raise", trick="r1", cooldown=4, budget=9)
    told(respond, 2, 5, 6, 7, others=[R1()]).fit(play.ring, 9)
    assert [r.step for r in respond.responses] == [2, 6]


@pytest.mark.filterwarnings("ignore::stabilgan.AlarmWarning")
def test_a_response_is_in_the_log_file_and_in_the_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "watch.jsonl"
    told(Respond(on="says", do="warn"), 2, log=path).fit(play.ring, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (response,) = [line for line in lines if line["kind"] == "response"]
    assert (response["step"], response["detector"], response["action"]) == (2, "says", "warn")
    assert "warn at step 2, for says: as told" in caplog.text


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("stop", [15, 50, 90])
def test_it_resumes_bit_for_bit_before_and_after_it_went_back(stop: int, watched: bool, tmp_path: Path) -> None:
    def make() -> stabilgan.Trainer:
        return Wild([answer(), *([Watch(every=10)] if watched else []), stabilgan.EMA(0.9)]).t

    whole = make().fit(play.ring, 100)
    assert len(whole.game.tricks[-1].responses) == 1  # type: ignore[attr-defined]
    make().fit(play.ring, stop).save(tmp_path / "run.pt")
    again = make().load(tmp_path / "run.pt").fit(play.ring, 100 - stop)
    assert play.same(again.state_dict(), whole.state_dict())


WILD_WORKLOAD = """
import torch
from torch import nn
import stabilgan

def wild():
    g, d = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.5) for net in (g, d))
    return stabilgan.Workload(
        g=g, d=d, opt_g=opt_g, opt_d=opt_d, latent=4, batch_size=16, loss="wasserstein",
        data=lambda n, generator: torch.randn(n, 2, generator=generator) + 1,
        judge=lambda x: {"coverage": float(x.isfinite().all())},
    )
"""


def test_the_bench_records_responses_and_goes_on_after_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(WILD_WORKLOAD)
    records = {}
    for arm in ("none", "respond:factor=0.01:every=20"):
        case = Case(workload=f"{tmp_path / 'mine.py'}:wild", arm=arm, seed=0, steps=200, evaluations=4)
        folder = Folder(tmp_path / "out")
        folder.open()
        records[arm] = run(case, folder, device=torch.device("cpu"))
    plain, answered = records.values()
    assert plain["status"] == "diverged"
    assert plain["responses"] == []
    assert answered["status"] == "ok"
    assert [(r["detector"], r["action"]) for r in answered["responses"]] == [("divergence", "rollback")]


def test_the_grammar_reaches_its_options() -> None:
    respond, _ = parse("respond:on=divergence/collapse:do=set:set=r1.weight=10:budget=1+r1:weight=0")
    assert isinstance(respond, Respond)
    assert (respond.on, respond.do, respond.set, respond.budget) == ("divergence/collapse", "set", "r1.weight=10", 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do": "panic"}, "do is 'panic'; expected one of warn, save, rollback"),
        ({"every": 0}, "every is 0; expected 1 or more"),
        ({"cooldown": -1}, "cooldown is -1; expected 0 or more"),
        ({"factor": 1.5}, r"in \(0, 1\]"),
        ({"do": "raise", "trick": "r1", "factor": 0.5}, "above 1"),
        ({"do": "raise"}, "expected for example trick='r1'"),
        ({"do": "set", "set": "weight"}, "expected name.option=value"),
        ({"trick": "r1"}, "trick is 'r1', but do is 'rollback'; expected do=raise with it"),
        ({"do": "warn", "set": "r1.weight=5"}, "expected do=set with it"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Respond(**options)


def test_going_back_is_refused_where_every_other_step_only_looks_ahead() -> None:
    def attached(form: str, do: str) -> stabilgan.Trainer:
        return told(Respond(on="says", do=do, folder="."), others=parse(f"extragradient:form={form}"))  # type: ignore[arg-type]

    with pytest.raises(ValueError, match=r"do=rollback could put the players out of phase .* expected .*form=past"):
        attached("two_call", "rollback")
    attached("two_call", "save")
    attached("past", "rollback")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "divergance"}, "no detector named 'divergance'; did you mean 'divergence'"),
        ({"do": "raise", "trick": "r2"}, "no trick played here named 'r2'; did you mean 'r1'"),
        ({"do": "raise", "trick": "ema"}, "ema has no weight that could be raised"),
        ({"do": "raise", "trick": "r1"}, "r1 has the weight 0, which no factor raises"),
        ({"do": "set", "set": "r1.wait=3"}, "no option named 'wait'"),
        ({"do": "set", "set": "r1.weight=-3"}, "weight is -3.0; expected 0 or more"),
    ],
)
def test_what_is_not_there_is_refused_at_attach(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wild([R1(0.0), stabilgan.EMA(), Respond(**options)])
