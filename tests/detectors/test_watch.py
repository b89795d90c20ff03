import copy
import io
import json
import logging
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from stabilgan import losses
from stabilgan.detectors import (
    Alarm,
    AlarmWarning,
    Collapse,
    Detector,
    Divergence,
    Oscillation,
    Reading,
    Saturation,
    Watch,
)
from stabilgan.game import Trick, attach


def small(**options):
    """All four, with windows that fill within a few steps."""
    return Watch(
        [Collapse(window=64), Saturation(window=5), Oscillation(window=32, cycles=2), Divergence()],
        **{"every": 10, "family": "logistic"} | options,
    )


class Players:
    """A ring GAN and its loop, as a stranger writes it."""

    def __init__(self, tricks=(), device="cpu", record=True, sigmoid=False, **options):
        torch.manual_seed(0)
        self.g = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)).to(device)
        last = [nn.Sigmoid()] if sigmoid else []
        self.d = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), *last).to(device)
        self.opt_g, self.opt_d = (torch.optim.Adam(p.parameters(), 1e-3) for p in (self.g, self.d))
        self.game = attach(self.g, self.d, self.opt_g, self.opt_d, tricks, **options)
        self.record, self.device = record, device

    def play(self, steps, scale=1.0):
        for _ in range(steps):
            angle = torch.randint(8, (32,), device=self.device) * math.tau / 8
            real = torch.stack([angle.cos(), angle.sin()], 1) * scale
            fake = self.g(torch.randn(32, 4, device=self.device))
            d_loss = losses.logistic.d(self.d(self.game.real(real)), self.d(self.game.fake(fake.detach())))
            self.opt_d.zero_grad()
            d_loss.backward()
            self.opt_d.step()
            g_loss = losses.logistic.g(self.game.critic(fake), None)
            self.opt_g.zero_grad()
            g_loss.backward()
            if self.record:
                self.game.record(d_loss=d_loss, g_loss=g_loss)
            self.opt_g.step()
        return self

    def everything(self):
        state = [*self.g.state_dict().values(), *self.d.state_dict().values(), torch.get_rng_state()]
        for optimizer in (self.opt_g, self.opt_d):
            state += [v for s in optimizer.state_dict()["state"].values() for v in s.values()]
        return state


class Failing(Detector):
    name = "failing"
    statistics = ("one",)

    def __init__(self, where):
        self.where = where

    def update(self, view):
        self.fail("update")

    def missing(self):
        self.fail("missing")

    def measure(self):
        self.fail("measure")
        return torch.ones(1)

    def judge(self, values, step):
        self.fail("judge")
        return Reading(self.name, step, 1.0, 1.0, "ok", "")

    def fail(self, here):
        if here == self.where:
            raise ZeroDivisionError(f"in {here}")


class Scripted(Detector):
    """Reads what it is told to, one answer after another."""

    name = "scripted"
    statistics = ("one",)

    def __init__(self, states, patience=1):
        self.states, self.patience = list(states), patience

    def update(self, view):
        pass

    def measure(self):
        return torch.ones(1)

    def judge(self, values, step):
        return Reading(self.name, step, values["one"], 2.0, self.states.pop(0), "it is so")


def test_a_watched_game_is_the_unwatched_one_bit_for_bit():
    watch = Watch([*small().detectors, Scripted(["alarm", "ok", "alarm", "alarm"]), Failing("measure")], every=10)
    watched, alone = Players([watch]).play(40), Players().play(40)
    assert len(watch.readings()) == 6
    assert [a.detector for a in watch.alarms] == ["scripted", "scripted"]
    for x, y in zip(watched.everything(), alone.everything(), strict=True):
        assert torch.equal(x, y)


def test_it_sees_all_there_is_to_see():
    views = []

    class Spy(Scripted):
        def update(self, view):
            views.append(view)

    players = Players([Watch([Spy("ok")], every=1000)]).play(2)
    view = views[-1]
    assert view.step == 2
    assert view.real.shape == view.fake.shape == (32, 2)
    assert view.scores_real.shape == view.scores_fake.shape == (32, 1)
    assert not view.fake.requires_grad
    assert not view.scores_real.requires_grad
    for player, norm in ((players.d, view.d_grad), (players.g, view.g_grad)):
        squares = 0.0 if player is players.d else sum(p.grad.square().sum() for p in player.parameters())
        if player is players.g:  # G's turn leaves its own gradients as they were
            assert norm.item() == pytest.approx(math.sqrt(squares), rel=1e-5)
    assert view.d_grad > 0
    assert torch.equal(view.d_loss, players.game.losses["d_loss"])
    assert not view.probabilities


def test_samples_are_compared_before_tricks_change_one_side_of_them():
    views = []

    class Spy(Scripted):
        def update(self, view):
            views.append(view)

    class Noise(Trick):
        name = "noise"

        def real(self, x, game):
            return x + 100

        def fake(self, x, game):
            return x + 100

    Players([Noise(), Watch([Spy("ok")], every=1000)]).play(1)
    assert views[0].real.abs().max() <= 1 + 1e-6


def test_what_the_loop_did_not_give_again_is_not_shown_again():
    views = []

    class Spy(Scripted):
        def update(self, view):
            views.append(view)

    players = Players([Watch([Spy("ok")], every=1000)]).play(1)
    loss = losses.logistic.g(players.game.critic(players.g(torch.randn(8, 4))), None)
    loss.backward()
    players.opt_g.step()  # G moves again, D does not
    assert views[-1].scores_real is views[-1].d_loss is views[-1].real is views[-1].d_grad is None
    assert views[-1].fake.shape == (8, 2)
    assert views[-1].g_grad is not None


@pytest.mark.parametrize(
    ("sigmoid", "scores", "expected"),
    [
        (False, None, False),
        (True, None, True),
        (False, "probabilities", True),
        (True, "logits", False),
    ],
)
def test_whether_scores_are_probabilities_is_seen_or_told(sigmoid, scores, expected):
    views = []

    class Spy(Scripted):
        def update(self, view):
            views.append(view)

    Players([Watch([Spy("ok")], every=1000, scores=scores)], sigmoid=sigmoid).play(1)
    assert views[0].probabilities is expected


def test_the_family_is_the_games_own_before_it_is_the_told_one():
    views = []

    class Spy(Scripted):
        def update(self, view):
            views.append(view.loss)

    Players([Watch([Spy("ok")], family="hinge")]).play(1)
    Players([Watch([Spy("ok")], family="hinge")], loss=losses.logistic).play(1)
    Players([Watch([Spy("ok")])]).play(1)
    assert views == ["hinge", "logistic", None]


class Refuse(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero):
            raise AssertionError(f"{func} asks the device")
        return func(*args, **kwargs or {})


def test_no_step_asks_the_device_not_even_one_that_reads():
    class NoLoop(Players):
        """Adam itself asks on a CPU; plain gradient steps don't."""

        def play(self, steps, scale=1.0):
            self.opt_g, self.opt_d = (torch.optim.SGD(p.parameters(), 1e-3) for p in (self.g, self.d))
            self.game.detach()
            self.game = attach(self.g, self.d, self.opt_g, self.opt_d, self.tricks)
            return super().play(steps, scale)

    watch, players = small(), NoLoop()
    players.tricks = [watch]
    with Refuse():
        players.play(40)
    assert not [r.text for r in watch.readings().values() if "failed" in r.text]  # a refusal would be caught as a fault
    assert all(r.value is not None for r in watch.readings().values())


@pytest.mark.gpu
def test_no_step_waits_for_the_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    watch = small()
    players = Players([watch], device="cuda").play(50)  # libraries start up
    torch.cuda.set_sync_debug_mode("error")
    try:
        players.play(100)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.readings()["collapse"].step == 150
    assert watch.readings()["saturation"].state == "ok"


@pytest.mark.parametrize("where", ["update", "missing", "measure", "judge"])
def test_a_detector_that_fails_says_unknown_and_training_goes_on(where):
    watch = Watch([Failing(where), Divergence()], every=5)
    Players([watch]).play(12)
    reading = watch.readings()["failing"]
    assert reading.state == "unknown"
    assert f"ZeroDivisionError: in {where}" in reading.text
    assert watch.readings()["divergence"].state == "ok"  # the others go on


def test_a_detector_that_failed_once_is_heard_again_at_its_next_reading():
    failing = Failing("update")
    watch = Watch([failing], every=5)
    players = Players([watch]).play(3)
    failing.where = ""
    assert "ZeroDivisionError" in players.play(2).game.tricks[0].readings()["failing"].text
    players.play(5)
    assert watch.readings()["failing"].state == "ok"


def test_samples_of_changing_shape_are_unknown_not_an_error():
    watch = Watch([Collapse(window=64)], every=5)
    players = Players([watch]).play(3)
    watch.real(torch.zeros(4, 7), players.game)
    players.game.tricks[0].after_step("g", players.game)
    assert "rows of shape (7,)" in watch.readings()["collapse"].text


def test_one_alarm_for_each_episode(caplog):
    states = ["ok", "alarm", "alarm", "unknown", "alarm", "ok", "alarm"]
    told = []
    watch = Watch([Scripted(states)], every=1, on_alarm=told.append)
    with caplog.at_level(logging.WARNING, logger="stabilgan"):
        Players([watch]).play(7)
    assert watch.alarms == told == [Alarm("scripted", step, 1.0, 2.0, "it is so") for step in (2, 7)]
    assert [r.getMessage() for r in caplog.records] == [str(a) for a in told]
    assert caplog.records[0].levelno == logging.WARNING


def test_patience_is_so_many_alarms_in_a_row():
    watch = Watch([Scripted(["alarm", "ok", "alarm", "alarm", "unknown", "alarm", "alarm", "alarm"], 3)], every=1)
    Players([watch]).play(8)
    assert [a.step for a in watch.alarms] == [8]


def test_what_on_alarm_raises_stops_the_loop():
    def stop(alarm):
        raise KeyboardInterrupt

    def refuse(alarm):
        raise RuntimeError("enough")

    for callback, error in ((stop, KeyboardInterrupt), (refuse, RuntimeError)):
        with pytest.raises(error):
            Players([Watch([Scripted(["alarm"])], every=1, on_alarm=callback)]).play(1)


def test_a_loop_that_records_nothing_is_told_what_to_write():
    watch = Watch([Divergence()], every=5)
    Players([watch], record=False).play(5)
    assert "game.record(d_loss=..., g_loss=...)" in watch.readings()["divergence"].text


def test_nan_in_real_training_is_an_alarm_at_the_next_reading():
    watch = small()
    players = Players([watch]).play(15)
    with torch.no_grad():
        next(players.g.parameters()).fill_(math.nan)
    players.play(5)
    assert [(a.detector, a.step) for a in watch.alarms] == [("divergence", 20)]
    others = {name: r.state for name, r in watch.readings().items() if name != "divergence"}
    assert set(others.values()) == {"unknown"}  # never "ok" for what can't be computed


def test_stopped_and_resumed_at_any_step_it_reads_the_same():
    whole = small()
    Players([whole]).play(45)
    for stop in (1, 7, 10, 33):
        first, second = Players([small()]), Players([small()])
        first.play(stop)
        file = io.BytesIO()
        torch.save(first.game.state_dict(), file)
        file.seek(0)
        second.game.load_state_dict(torch.load(file, weights_only=True))
        for mine, other in (
            (second.g, first.g),
            (second.d, first.d),
            (second.opt_g, first.opt_g),
            (second.opt_d, first.opt_d),
        ):
            mine.load_state_dict(copy.deepcopy(other.state_dict()))
        torch.set_rng_state(first.everything()[len(first.g.state_dict()) + len(first.d.state_dict())])
        second.play(45 - stop)
        resumed = second.game.tricks[0]
        assert repr(resumed.readings()) == repr(whole.readings())
        assert resumed.alarms == whole.alarms
        mine, theirs = resumed.state_dict(), whole.state_dict()
        assert repr(mine) == repr(theirs)


def test_a_state_of_other_detectors_is_refused():
    state = Watch([Divergence()]).state_dict()
    with pytest.raises(ValueError, match="'divergence'"):
        Watch([Collapse()]).load_state_dict(state)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="every is 0"):
        Watch(every=0)
    with pytest.raises(ValueError, match="each name once"):
        Watch([Collapse(), Collapse()])
    with pytest.raises(ValueError, match="expected 'logits' or 'probabilities'"):
        Watch(scores="sigmoid")


# --- where readings go -------------------------------------------------------------------------------------------


class Writer:
    """Stands in for TensorBoard's SummaryWriter."""

    def __init__(self):
        self.scalars, self.texts = [], []

    def add_scalar(self, tag, scalar_value, global_step):
        self.scalars.append((tag, scalar_value, global_step))

    def add_text(self, tag, text_string, global_step):
        self.texts.append((tag, text_string, global_step))


class Broken(Writer):
    def add_scalar(self, tag, scalar_value, global_step):
        raise OSError("no space left on device")


def entries(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def with_sinks(folder, detectors=None, **options):
    given = {"every": 10, "writer": Writer(), "log": folder / "run.jsonl", "display": True}
    return Watch(detectors or small().detectors, **given | options)


def test_alarms_are_warnings_where_asked_for_at_the_loops_own_line():
    players = Players([Watch([Scripted(["ok", "alarm", "alarm"])], every=1, warn=True)])
    with pytest.warns(AlarmWarning, match="scripted at step 2: it is so") as found:
        players.play(3)
    assert [w.filename for w in found] == [__file__]
    players = Players([Watch([Scripted(["alarm"])], every=1, warn=True)])
    with pytest.raises(AlarmWarning):  # where a filter makes it an error, it stops the loop
        players.play(1)
    Players([Watch([Scripted(["alarm"])], every=1)]).play(1)


def test_a_writer_gets_readings_as_scalars_and_alarms_as_text():
    writer = Writer()
    Players([Watch([Scripted(["ok", "alarm", "unknown"]), Divergence()], every=2, writer=writer)]).play(6)
    assert [s for s in writer.scalars if "scripted" in s[0]] == [("stabilgan/scripted", 1.0, n) for n in (2, 4, 6)]
    assert {s[0] for s in writer.scalars} == {"stabilgan/scripted", "stabilgan/divergence"}
    assert all(isinstance(value, float) for _, value, _ in writer.scalars)
    assert writer.texts == [("stabilgan/alarm", "scripted at step 4: it is so (1, threshold 2)", 4)]


@pytest.mark.filterwarnings("ignore")  # what tensorboard itself has to say
def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    Players([Watch([Scripted(["ok", "alarm"])], every=2, writer=writer)]).play(4)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("stabilgan/scripted")] == [(2, 1.0), (4, 1.0)]
    (text,) = events.Tensors("stabilgan/alarm/text_summary")
    assert b"it is so" in text.tensor_proto.string_val[0]


def test_what_is_no_writer_is_refused():
    with pytest.raises(TypeError, match="writer is a str; expected one with add_scalar and add_text, such as"):
        Watch(writer="runs/1")


def test_a_file_gets_a_line_for_each_reading_and_each_alarm(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    watch = Watch([Scripted(["ok", "alarm"]), Divergence()], every=2, log=path)
    Players([watch], record=False).play(4)
    found = entries(path)
    assert [(e["kind"], e["detector"], e["step"]) for e in found if e["detector"] == "scripted"] == [
        ("reading", "scripted", 2),
        ("reading", "scripted", 4),
        ("alarm", "scripted", 4),
    ]
    run = found[0]["run"]
    assert found[0] == {
        "run": run,
        "kind": "reading",
        "detector": "scripted",
        "step": 2,
        "value": 1.0,
        "threshold": 2.0,
        "state": "ok",
        "text": "it is so",
    }
    (alarm,) = (e for e in found if e["kind"] == "alarm")
    assert (alarm["reading"], alarm["threshold"], alarm["meaning"]) == (1.0, 2.0, "it is so")


def test_a_file_gets_the_losses_that_were_recorded_and_the_gradients_beside_them(tmp_path):
    players = Players([Watch([Scripted(["ok"] * 4)], every=3, log=tmp_path / "run.jsonl")]).play(9)
    found = [e for e in entries(tmp_path / "run.jsonl") if e["kind"] == "numbers"]
    assert [e["step"] for e in found] == [3, 6, 9]
    assert set(found[0]) == {"run", "kind", "step", "d_loss", "g_loss", "d_grad", "g_grad"}
    assert found[-1]["d_loss"] == pytest.approx(float(players.game.losses["d_loss"]))


def test_numbers_that_are_not_finite_are_null_in_the_file(tmp_path):
    class Odd(Scripted):
        def judge(self, values, step):
            return Reading(self.name, step, math.inf, math.nan, "unknown", "odd")

    Players([Watch([Odd([])], every=1, log=tmp_path / "run.jsonl")]).play(1)
    (entry,) = (e for e in entries(tmp_path / "run.jsonl") if e["kind"] == "reading")
    assert entry["value"] is None
    assert entry["threshold"] is None


def test_a_line_that_a_stopped_run_left_half_written_spoils_no_other(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('{"run": "0", "kind": "rea')
    Players([Watch([Scripted(["ok"])], every=1, log=path)]).play(1)
    first, second, *_ = path.read_text().splitlines()
    assert first == '{"run": "0", "kind": "rea'
    assert json.loads(second)["detector"] == "scripted"


def saved(players):
    """The bytes of a checkpoint."""
    file = io.BytesIO()
    parts = {name: getattr(players, name).state_dict() for name in ("g", "d", "opt_g", "opt_d", "game")}
    torch.save(parts | {"torch": torch.get_rng_state()}, file)
    return file.getvalue()


def resumed(checkpoint, tricks):
    """A new process's players."""
    players, state = Players(tricks), torch.load(io.BytesIO(checkpoint), weights_only=True)
    for name in ("g", "d", "opt_g", "opt_d", "game"):
        getattr(players, name).load_state_dict(state[name])
    torch.set_rng_state(state["torch"])
    return players


def test_a_run_that_is_taken_up_again_writes_no_line_twice(tmp_path):
    whole = tmp_path / "whole" / "run.jsonl"
    Players([with_sinks(whole.parent)]).play(45)
    first = Players([with_sinks(tmp_path)]).play(20)
    checkpoint = saved(first)
    first.play(15)  # it went on after the checkpoint, and was stopped
    resumed(checkpoint, [with_sinks(tmp_path)]).play(25)

    def told(path):
        return [{k: v for k, v in e.items() if k != "run"} for e in entries(path)]

    assert told(tmp_path / "run.jsonl") == told(whole)
    assert len({e["run"] for e in entries(tmp_path / "run.jsonl")}) == 1
    Players([with_sinks(tmp_path)]).play(45)  # another run into the same file
    assert len(entries(tmp_path / "run.jsonl")) == 2 * len(entries(whole))
    assert len({e["run"] for e in entries(tmp_path / "run.jsonl")}) == 2


def test_the_loops_progress_bar_gets_flat_numbers_and_words():
    watch = Watch([Scripted(["ok", "alarm", "ok"]), Collapse(window=1000)], every=2)
    players = Players([watch])
    assert players.game.readings() == {}
    assert players.play(2).game.readings() == {"scripted": 1.0}  # collapse has no number yet
    assert players.play(2).game.readings() == {"scripted": 1.0, "alarm": "scripted"}
    assert players.play(2).game.readings() == {"scripted": 1.0}


class FakeTerminal:
    """Makes rich's own console write to a string, as a terminal or as a file."""

    def __init__(self, monkeypatch, terminal):
        import rich
        from rich.console import Console

        self.text = io.StringIO()
        monkeypatch.setattr(rich, "_console", Console(file=self.text, force_terminal=terminal, width=100))


def test_a_terminal_shows_the_latest_readings_and_alarms_and_gives_the_cursor_back(monkeypatch):
    terminal = FakeTerminal(monkeypatch, True)
    players = Players([Watch([Scripted(["ok", "alarm"]), Divergence()], every=2, display=True)]).play(4)
    shown = terminal.text.getvalue()
    assert "stabilgan, step 4" in shown
    assert "scripted at step 4: it is so" in shown
    assert "\x1b[?25l" in shown
    assert "\x1b[?25h" not in shown
    players.game.detach()
    assert "\x1b[?25h" in terminal.text.getvalue()


def test_where_there_is_no_terminal_nothing_is_shown(monkeypatch):
    terminal = FakeTerminal(monkeypatch, False)
    Players([Watch([Scripted(["ok"])], every=1, display=True)]).play(1).game.detach()
    assert terminal.text.getvalue() == ""


def test_a_sink_that_fails_is_dropped_and_training_goes_on(caplog, tmp_path):
    watch = Watch([Scripted(["ok", "ok"])], every=1, writer=Broken(), log=tmp_path / "run.jsonl")
    Players([watch]).play(2)
    assert [r.getMessage() for r in caplog.records] == [
        "watch sends nothing more ToTensorBoard: OSError: no space left on device"
    ]
    assert [e["kind"] for e in entries(tmp_path / "run.jsonl")] == ["reading", "numbers"] * 2


def test_sending_changes_no_bit_of_training_and_asks_no_device(tmp_path, monkeypatch):
    FakeTerminal(monkeypatch, True)
    watched, alone = Players([with_sinks(tmp_path)]).play(40), Players().play(40)
    for x, y in zip(watched.everything(), alone.everything(), strict=True):
        assert torch.equal(x, y)
    players = Players()
    players.opt_g, players.opt_d = (torch.optim.SGD(p.parameters(), 1e-3) for p in (players.g, players.d))
    players.game.detach()
    players.game = attach(players.g, players.d, players.opt_g, players.opt_d, [with_sinks(tmp_path)])
    with Refuse():
        players.play(40)
        players.game.readings()
    assert players.game.readings().keys() == {"collapse", "saturation", "oscillation", "divergence"}
