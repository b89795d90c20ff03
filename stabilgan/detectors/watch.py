"""Watch: feeds detectors inside a game, and changes nothing in it."""

from __future__ import annotations

import copy
import logging
import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from stabilgan import host
from stabilgan.detectors.base import Alarm, Detector, Reading, Response, View
from stabilgan.detectors.collapse import Collapse
from stabilgan.detectors.divergence import Divergence
from stabilgan.detectors.oscillation import Oscillation
from stabilgan.detectors.saturation import Saturation
from stabilgan.detectors.sinks import AlarmWarning, Sink, ToFile, ToTensorBoard, ToTerminal, Writer
from stabilgan.game import SELECT, Game, Player, Trick

log = logging.getLogger("stabilgan")
NUMBERS = ("d_loss", "g_loss", "d_grad", "g_grad")
"""What goes to the log beside readings and alarms."""


class _Mail:
    """Numbers on their way from the device to the host, without anyone waiting for them."""

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))
        else:
            self._values = values.cpu()

    def here(self) -> bool:
        return self._arrived is None or self._arrived.query()

    def take(self) -> list[float]:
        """The numbers; waits for them if they aren't here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._values.numpy().tolist()  # unlike Tensor.tolist or item, asks no device
        return numbers


class Watch(Trick):
    """Tells when training goes wrong; training itself stays the same, bit for bit.

    Feeds detectors after each of G's steps and has them answer after every `every`-th. The first alarm of an episode
    goes to `alarms`, to `on_alarm`, and to the logger "stabilgan" as a warning; the detector is heard again once it
    has answered "ok". On a GPU the numbers travel while training goes on and are judged some steps later, so no
    step waits for them; `readings()` waits.

    Samples are taken before other tricks change them, gradients after all penalties and before any clipping, D's
    scores and the losses as the game knows them: `game.record(d_loss=..., g_loss=...)` gives the latter.

    A detector that fails does not stop training: its reading becomes "unknown" and carries the error. Nor does what
    readings are sent to (`writer`, `log`, `display`): it is dropped, and the logger says so. Of the ranks of one game
    only the first sends; each logs its alarms. `game.readings()` gives the latest values for a progress bar.

    Args:
        detectors: what to feed, as objects or by name ("collapse,oscillation:window=512", those of installed packages
            too); all four of `stabilgan.detectors` by default.
        every: steps of G between two readings.
        on_alarm: called with each `Alarm`; what it raises stops the loop.
        family: of the losses, in a loop that owns its loss; a name in `stabilgan.losses`.
        scores: "logits" or "probabilities", where it can't be seen whether D ends in a sigmoid.
        warn: alarms are Python warnings too, of the category `stabilgan.AlarmWarning`; where a filter makes that an
            error, it stops the loop.
        writer: a TensorBoard `SummaryWriter`: readings as scalars `stabilgan/<detector>`, alarms as text.
        log: a JSONL file to append to, a line for each reading, each alarm, and the losses at every reading; see
            `sinks.ToFile`.
        display: show the readings in the terminal while training goes on; nothing where there is none.
    """

    name = "watch"
    order = SELECT - 1  # before all others: samples as the loop has them, gradients before they are clipped
    changes = "nothing"
    source = "stabilgan"

    def __init__(
        self,
        detectors: Sequence[Detector] | str | None = None,
        every: int = 50,
        on_alarm: Callable[[Alarm], object] | None = None,
        family: str | None = None,
        scores: Literal["logits", "probabilities"] | None = None,
        *,
        warn: bool = False,
        writer: Writer | None = None,
        log: str | os.PathLike[str] | None = None,
        display: bool = False,
    ) -> None:
        if every < 1:
            raise ValueError(f"{self.name}: every is {every}; expected 1 or more")
        if scores not in (None, "logits", "probabilities"):
            raise ValueError(f"{self.name}: scores is {scores!r}; expected 'logits' or 'probabilities'")
        if isinstance(detectors, str):
            from stabilgan.detectors import parse  # which imports this module

            detectors = parse(detectors)
        if detectors is None:
            detectors = (Collapse(), Saturation(), Oscillation(), Divergence())
        names = [d.name for d in detectors]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: detectors are {names}; expected each name once")
        self.detectors, self.every, self.on_alarm = tuple(detectors), every, on_alarm
        self.family, self.scores, self.warn = family, scores, warn
        self._file = ToFile(log) if log is not None else None
        self._sinks: list[Sink] = [ToTensorBoard(writer)] if writer is not None else []
        self._sinks += [self._file] if self._file is not None else []
        self._sinks += [ToTerminal()] if display else []
        self._sends, self._unseen = True, False
        self.alarms: list[Alarm] = []
        self._fresh = [copy.deepcopy(d.state_dict()) for d in self.detectors]
        self._readings: dict[str, Reading] = {}
        self._in_a_row = dict.fromkeys(names, 0)
        self._heard = dict.fromkeys(names, False)
        self._failed: dict[str, int] = {}
        self._posted: list[tuple[Detector, int, _Mail]] = []
        self._counted: list[tuple[int, list[str], _Mail]] = []
        self._latest: dict[str, Tensor] = {}
        self._old: dict[str, Tensor] = {}
        self._recalled: dict[str, Tensor] = {}
        self._game: weakref.ref[Game] | None = None

    def __repr__(self) -> str:
        return f"Watch({', '.join(d.name for d in self.detectors)}; every={self.every})"

    def setup(self, game: Game) -> None:
        self._sends = host.rank() == 0 or not game.distributed
        self._game = weakref.ref(game)

    def teardown(self, game: Game) -> None:
        self._collect(wait=True)
        self._send(Sink.close)
        self._latest.clear()
        self._old.clear()
        self._recalled.clear()

    def real(self, x: Tensor, game: Game) -> Tensor:
        self._latest["real"] = x.detach()
        return x

    def fake(self, x: Tensor, game: Game) -> Tensor:
        self._latest["fake"] = x.detach()
        return x

    def before_step(self, player: Player, game: Game) -> None:
        # Under a fused optimizer with GradScaler, gradients are scaled, and are infinite where the step is skipped.
        if getattr(game.optimizer(player), "grad_scale", None) is not None:
            return
        gradients = [p.grad.detach() for p in game.player(player).parameters() if p.grad is not None]
        if gradients:
            self._latest[f"{player}_grad"] = get_total_norm(gradients)

    def after_step(self, player: Player, game: Game) -> None:
        if player == "d":
            return
        view, step = self._look(game), game.steps["g"]
        with torch.no_grad(), torch.autocast(self._device_type(game), enabled=False):
            for detector in self.detectors:
                self._guarded(detector, step, partial(detector.update, view))
            if step % self.every == 0:
                for detector in self.detectors:
                    self._guarded(detector, step, partial(self._post, detector, step))
                self._count(view)
        self._collect(wait=False)

    def readings(self) -> dict[str, Reading]:
        """The latest reading of each detector that has answered; waits for those on their way."""
        self._collect(wait=True)
        return dict(self._readings)

    def report(self) -> dict[str, float | str]:
        """The latest value of each detector that has one, and the names of those in alarm; does not wait."""
        self._collect(wait=False)
        said: dict[str, float | str] = {name: r.value for name, r in self._readings.items() if r.value is not None}
        if self.in_alarm:
            said["alarm"] = ", ".join(self.in_alarm)
        return said

    @property
    def in_alarm(self) -> list[str]:
        """The names of the detectors whose alarm is not over yet; does not wait."""
        return [name for name, heard in self._heard.items() if heard]

    def begin_anew(self) -> None:
        """Has the detectors forget what they have seen, for players that went back; what they have said stays."""
        self._posted.clear()
        self._failed.clear()
        for detector, state in zip(self.detectors, self._fresh, strict=True):
            detector.load_state_dict(copy.deepcopy(state))
        names = [d.name for d in self.detectors]
        self._in_a_row, self._heard = dict.fromkeys(names, 0), dict.fromkeys(names, False)

    def answered(self, response: Response) -> None:
        """Sends what was done about an alarm to where readings go."""
        self._send(Sink.response, response)

    # --- inside ----------------------------------------------------------------------------------------------

    def _device_type(self, game: Game) -> str:
        return next((p.device.type for p in game.g.parameters()), "cpu")

    def _look(self, game: Game) -> View:
        """What is new since G's last step; what the loop did not give again is not shown again."""
        new, self._recalled = self._recalled | self._new(game), {}
        self._old = _heard_in(game)
        seen, self._latest = self._latest, {}
        return View(
            step=game.steps["g"],
            real=seen.get("real"),
            fake=game.seen["critic"].x.detach() if "critic" in game.seen else seen.get("fake"),
            scores_real=new.get("scores_real"),
            scores_fake=new.get("scores_fake", new.get("scores_critic")),
            d_loss=new.get("d_loss"),
            g_loss=new.get("g_loss"),
            d_grad=seen.get("d_grad"),
            g_grad=seen.get("g_grad"),
            probabilities=game.probabilities if self.scores is None else self.scores == "probabilities",
            loss=game.loss.name if game.loss is not None else self.family,
        )

    def _new(self, game: Game) -> dict[str, Tensor]:
        return {name: x for name, x in _heard_in(game).items() if self._old.get(name) is not x}

    def _guarded(self, detector: Detector, step: int, act: Callable[[], Reading | None]) -> None:
        try:
            reading = act()
        # Watching must never end a training run, whatever a detector (a user's own, too) stumbles over; what
        # happened is not hidden: the reading says "unknown" and carries the error.
        except Exception as error:
            reading = detector.unknown(f"the detector failed with {type(error).__name__}: {error}", step)
            self._failed[detector.name] = step
        if reading is not None:
            self._note(reading, detector)

    def _post(self, detector: Detector, step: int) -> Reading | None:
        if (
            self._failed.get(detector.name, -self.every) > step - self.every
        ):  # it has not seen all since its last reading
            return None
        if detector.missing() is not None:
            return detector.answer(None, step)
        self._posted.append((detector, step, _Mail(detector.measure())))
        return None

    def _count(self, view: View) -> None:
        """Posts losses, and gradients beside them, to the log, where there is one."""
        seen = {name: x for name in NUMBERS if (x := getattr(view, name)) is not None}
        if self._file is not None and {"d_loss", "g_loss"} & set(seen):
            device = next(iter(seen.values())).device
            values = torch.stack([x.detach().float().mean().to(device) for x in seen.values()])
            self._counted.append((view.step, list(seen), _Mail(values)))

    def _open(self, detector: Detector, mail: _Mail, step: int) -> Reading:
        return detector.answer(mail.take(), step)

    def _collect(self, *, wait: bool) -> None:
        while self._posted and (wait or self._posted[0][2].here()):
            detector, step, mail = self._posted.pop(0)
            self._guarded(detector, step, partial(self._open, detector, mail, step))
        while self._counted and (wait or self._counted[0][2].here()):
            step, names, mail = self._counted.pop(0)
            self._send(Sink.numbers, step, dict(zip(names, mail.take(), strict=True)))
        if self._unseen:
            self._unseen = False
            self._send(Sink.flush)

    def _send(self, what: Callable[..., None], *values: object) -> None:
        """Calls a method of every sink; drops a sink that fails."""
        for sink in [*self._sinks] if self._sends else ():
            try:
                getattr(sink, what.__name__)(*values)
            # As above: a full disk, a closed writer or an odd terminal must never end a training run.
            except Exception as error:
                self._sinks.remove(sink)
                log.warning("watch sends nothing more %s: %s: %s", type(sink).__name__, type(error).__name__, error)

    def _note(self, reading: Reading, detector: Detector) -> None:
        name = detector.name
        self._readings[name] = reading
        self._unseen = True
        self._send(Sink.reading, reading)
        self._in_a_row[name] = self._in_a_row[name] + 1 if reading.state == "alarm" else 0
        if reading.state == "ok":
            self._heard[name] = False
        alarm = reading.alarm
        if alarm and not self._heard[name] and self._in_a_row[name] >= detector.patience:
            self._heard[name] = True
            self.alarms.append(alarm)
            self._send(Sink.alarm, alarm)
            log.warning("%s", alarm)
            if self.warn:
                warnings.warn(str(alarm), AlarmWarning, stacklevel=host.outside())
            if self.on_alarm is not None:
                self.on_alarm(alarm)

    def state_dict(self) -> dict[str, Any]:
        self._collect(wait=True)
        game = self._game() if self._game is not None else None
        return {
            # What D's turn has shown since G's last step: not yet seen by detectors where G moves first.
            "seen": dict(self._latest),
            "new": self._recalled | (self._new(game) if game is not None else {}),
            "detectors": {d.name: d.state_dict() for d in self.detectors},
            "readings": [asdict(r) for r in self._readings.values()],
            "alarms": [asdict(a) for a in self.alarms],
            "in_a_row": dict(self._in_a_row),
            "heard": dict(self._heard),
            "failed": dict(self._failed),
            "log": self._file.state_dict() if self._file is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        have, given = [d.name for d in self.detectors], list(state["detectors"])
        if have != given:
            raise ValueError(f"this state is of a watch with the detectors {given}; this one has {have}")
        self._posted.clear()
        self._counted.clear()
        if (game := self._game() if self._game is not None else None) is not None:
            self._old = _heard_in(game)
            device = next((p.device for p in game.g.parameters()), None)
            self._latest = {name: x.to(device) for name, x in state.get("seen", {}).items()}
            self._recalled = {name: x.to(device) for name, x in state.get("new", {}).items()}
        for detector in self.detectors:
            detector.load_state_dict(state["detectors"][detector.name])
        self._readings = {r["detector"]: Reading(**r) for r in state["readings"]}
        self.alarms = [Alarm(**a) for a in state["alarms"]]
        self._in_a_row, self._heard, self._failed = dict(state["in_a_row"]), dict(state["heard"]), dict(state["failed"])
        if self._file is not None and (kept := state.get("log")) is not None:
            self._file.load_state_dict(kept)


def _heard_in(game: Game) -> dict[str, Tensor]:
    """D's scores and the losses, as the game has heard them last."""
    heard = {f"scores_{verb}": game.scores[verb] for verb in ("real", "fake", "critic") if verb in game.scores}
    return heard | {name: game.losses[name] for name in ("d_loss", "g_loss") if name in game.losses}
