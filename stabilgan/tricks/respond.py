"""Respond: does something about an alarm, by itself."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stabilgan import host, spec
from stabilgan.detectors import DETECTORS, Alarm, AlarmWarning, Response, Watch
from stabilgan.game import PLAYERS, STEP, Game, Player, Trick
from stabilgan.tricks import _snapshot
from stabilgan.tricks.ttur import scale_rates

log = logging.getLogger("stabilgan")

Action = Literal["warn", "save", "rollback", "raise", "set"]
ACTIONS: tuple[Action, ...] = ("warn", "save", "rollback", "raise", "set")


class Respond(Trick):
    """Answers an alarm of a `Watch` in the same game, within a budget: goes back, saves, or turns another trick up.

    Without a watch in the game it feeds detectors of its own, the ones named in `on`, which then see samples and
    gradients after other tricks have changed them. Alarms arrive as the watch hears them, on a GPU some steps later, so
    that no step waits; an answer itself may. Ranks of one game agree on an alarm, and on what is healthy, at every
    `every`-th step, for which they wait.

    Actions:
        rollback: players, what their optimizers remember and other tricks' state go back to the last healthy snapshot,
            and both players' learning rates are multiplied by `factor` (½), again at each time. Step numbers, data,
            latents and schedules go on; the detectors begin anew. A snapshot is taken at every `every`-th step without
            an alarm and counts as healthy once each detector has answered after it without one; the first is of the
            start. That costs two copies of players, optimizers and tricks' states in memory, and in `state_dict`. A
            learning-rate scheduler that computes rates from the first one undoes the factor.
        raise: the `weight` of the trick named `trick` is multiplied by `factor` (2).
        set: an option of another trick is set, `set="r1.weight=10"`, so that one that was played at zero strength
            begins to act. It has to be one that the trick looks at in each step.
        save: the game as it stands, to `folder`: models, optimizers and `game.state_dict()`, loadable with
            `weights_only=True`.
        warn: a Python warning, `stabilgan.AlarmWarning`.

    Each answer is in `responses`, in the logger "stabilgan", where the watch sends readings, and in the bench's record.

    Args:
        on: detectors whose alarms are answered, joined by "/": "divergence/saturation"; or "any".
        do: the action.
        factor: of rates, in (0, 1], or of a weight, above 1; None takes ½ and 2.
        trick: the name of the trick whose weight is raised.
        set: "name.option=value".
        every: steps of G between two snapshots, and between two readings of detectors of its own.
        cooldown: steps after an answer in which no other is given; an alarm that is not over then is answered.
        budget: how many answers in all; 0 leaves the game alone.
        folder: where `save` writes.

    Raises:
        ValueError: an option out of range; a detector that isn't watched; a trick or option that isn't there.
    """

    name = "respond"
    order = STEP + 10  # after all else, so that what it keeps is what the step has left
    off: ClassVar = {"budget": 0}
    changes = "a response"
    limits: ClassVar = {
        "an answer": "may make the host wait for the device; ranks wait for each other at every `every`-th step"
    }
    when = (
        "Long runs that nobody watches: one that diverges goes on from where it was sound. It mends no wrong setting."
    )
    source = "stabilgan"

    def __init__(
        self,
        on: str = "divergence",
        do: Action = "rollback",
        factor: float | None = None,
        trick: str | None = None,
        set: str | None = None,
        every: int = 50,
        cooldown: int = 200,
        budget: int = 3,
        folder: str = ".",
    ) -> None:
        if do not in ACTIONS:
            raise ValueError(f"respond: do is {do!r}; expected one of {', '.join(ACTIONS)}")
        for option, value, least in (("every", every, 1), ("cooldown", cooldown, 0), ("budget", budget, 0)):
            if value < least:
                raise ValueError(f"respond: {option} is {value}; expected {least} or more")
        factor = {"rollback": 0.5, "raise": 2.0}.get(do) if factor is None else factor
        if do == "rollback" and not (factor is not None and 0 < factor <= 1):
            raise ValueError(f"respond: factor is {factor}; expected what rates are multiplied by, in (0, 1]")
        if do == "raise" and not (factor is not None and factor > 1):
            raise ValueError(f"respond: factor is {factor}; expected what a weight is multiplied by, above 1")
        if do == "raise" and trick is None:
            raise ValueError(
                "respond: do=raise needs the trick whose weight is raised; expected for example trick='r1'"
            )
        if do == "set" and (set is None or "." not in set.partition("=")[0] or "=" not in set):
            raise ValueError(f"respond: set is {set!r}; expected name.option=value, for example set='r1.weight=10'")
        for option, given, action in (("trick", trick, "raise"), ("set", set, "set")):
            if given is not None and do != action:
                raise ValueError(f"respond: {option} is {given!r}, but do is {do!r}; expected do={action} with it")
        self.on, self.do, self.factor, self.trick, self.set = on, do, factor, trick, set
        self.every, self.cooldown, self.budget, self.folder = every, cooldown, budget, folder
        self.responses: list[Response] = []
        self._names = tuple(DETECTORS) if on == "any" else tuple(on.split("/"))
        self._own: Watch | None = None
        self._game: weakref.ref[Game] | None = None
        self._answered, self._ready = 0, 0  # alarms that were looked at; the step from which on answers are given
        self._healthy: dict[str, Any] | None = None
        self._candidate: dict[str, Any] | None = None
        self._changed: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"Respond(on={self.on!r}, do={self.do!r}, budget={self.budget})"

    @property
    def left(self) -> int:
        """How many answers the budget still holds."""
        return self.budget - len(self.responses)

    def setup(self, game: Game) -> None:
        self._game = weakref.ref(game)
        watches = [t for t in game.tricks if isinstance(t, Watch)]
        if watches and self.on == "any":
            self._names = tuple(d.name for d in watches[0].detectors)
        there = [d.name for d in watches[0].detectors] if watches else list(DETECTORS)
        for name in self._names:
            if name not in there:
                raise ValueError(f"respond: {spec.unknown('detector', name, there)}")
        if not watches:
            self._own = Watch([DETECTORS[name]() for name in self._names], every=self.every)
            self._own.setup(game)
        if self.do in ("raise", "set"):
            self._target(game)
        if self.do == "rollback" and any(getattr(t, "form", "") == "two_call" for t in game.tricks):
            raise ValueError(
                "respond: do=rollback could put the players out of phase where extragradient looks ahead in every "
                "other step; expected extragradient:form=past, or another response"
            )

    def _target(self, game: Game) -> tuple[Trick, str, Any]:
        """Whose option is changed, which, and to what."""
        path, _, text = (self.set or "").partition("=") if self.do == "set" else (f"{self.trick}.weight", "", "")
        name, _, option = path.partition(".")
        trick = next((t for t in game.tricks if t.name == name and t is not self), None)
        if trick is None:
            raise ValueError(f"respond: {spec.unknown('trick played here', name, [t.name for t in game.tricks])}")
        now = getattr(trick, option, None)
        if self.do == "set":
            made = spec.build(type(trick), {option: text}, name)
            if not hasattr(trick, option) or not hasattr(made, option):
                raise ValueError(f"respond: {name} keeps no {option} that could be set while it plays")
            return trick, option, getattr(made, option)
        if isinstance(now, bool) or not isinstance(now, (int, float)):
            raise ValueError(
                f"respond: {name} has no weight that could be raised; expected a trick with one, or do=set"
            )
        if now == 0:
            raise ValueError(f"respond: {name} has the weight 0, which no factor raises; expected do='set'")
        return trick, option, now * (self.factor or 1.0)

    # --- what it hears ---------------------------------------------------------------------------------------

    def real(self, x: Tensor, game: Game) -> Tensor:
        if self._own is not None and self.budget:
            self._own.real(x, game)
        return x

    def fake(self, x: Tensor, game: Game) -> Tensor:
        if self._own is not None and self.budget:
            self._own.fake(x, game)
        return x

    def before_step(self, player: Player, game: Game) -> None:
        if self.budget == 0:
            return
        if self._own is not None:
            self._own.before_step(player, game)
        if self._healthy is None and self.do == "rollback":
            self._healthy = _snapshot.take(game, self._others(game))

    def after_step(self, player: Player, game: Game) -> None:
        if self.budget == 0:
            return
        if self._own is not None:
            self._own.after_step(player, game)
        if player == "d":
            return
        if (alarm := self._alarm(game)) is not None:
            self._answer(alarm, game)
        elif self.do == "rollback" and self.left:
            self._keep(game)

    def _watch(self, game: Game) -> Watch:
        return self._own or next(t for t in game.tricks if isinstance(t, Watch))

    def _others(self, game: Game) -> list[Trick]:
        """The tricks that go back with the players."""
        return [t for t in game.tricks if not isinstance(t, (Watch, Respond))]

    def _alarm(self, game: Game) -> Alarm | None:
        """The alarm to answer now."""
        step, together = game.steps["g"], self._together(game)
        if not self.left or step < self._ready or (together and step % self.every):
            return None
        watch = self._watch(game)
        new, self._answered = watch.alarms[self._answered :], len(watch.alarms)
        up = [a for a in new if a.detector in self._names and a.detector in watch.in_alarm]
        alarm = up[-1] if up else None
        return host.first_over_ranks(alarm) if together else alarm

    def _together(self, game: Game) -> bool:
        """Whether there are other ranks to agree with."""
        return game.distributed and host.ranks() > 1

    def _keep(self, game: Game) -> None:
        """Takes a snapshot where one is due, and trusts the last one once the detectors have answered after it.

        Ranks do so together: what one distrusts no other may go back to.
        """
        watch, step, together = self._watch(game), game.steps["g"], self._together(game)
        if together and step % self.every:
            return
        watched = [d for d in watch.detectors if d.name in self._names]
        quiet, since = not any(d.name in watch.in_alarm for d in watched), step
        if self._candidate is not None:
            since = self._candidate["step"]
        answered = all(d.reading is not None and d.reading.step > since and d.reading.state != "alarm" for d in watched)
        if together:
            quiet, answered = (all(flags) for flags in zip(*host.of_all_ranks((quiet, answered)), strict=True))
        if not quiet:
            self._candidate = None
            return
        if self._candidate is not None and answered:
            self._healthy, self._candidate = self._candidate, None
        if self._candidate is None and step % self.every == 0:
            self._candidate = _snapshot.take(game, self._others(game))

    # --- what it does ----------------------------------------------------------------------------------------

    def _answer(self, alarm: Alarm, game: Game) -> None:
        step = game.steps["g"]
        if self.do == "rollback":
            text = self._roll_back(game)
        elif self.do == "save":
            text = self._save(alarm, game)
        elif self.do == "warn":
            text = alarm.meaning
        else:
            text = self._change(game)
        response = Response(step, alarm.detector, self.do, text)
        self.responses.append(response)
        self._ready = step + self.cooldown
        log.warning("%s", response)
        self._watch(game).answered(response)
        if self.do == "warn":
            warnings.warn(str(alarm), AlarmWarning, stacklevel=host.outside())

    def _roll_back(self, game: Game) -> str:
        assert self._healthy is not None  # taken before the first step
        _snapshot.put_back(self._healthy, game, self._others(game))
        for player in PLAYERS:
            scale_rates(game.optimizer(player), self.factor or 1.0)
        self._watch(game).begin_anew()
        self._candidate = None
        return f"went back to the weights of step {self._healthy['step']}; learning rates times {self.factor:g}"

    def _change(self, game: Game) -> str:
        trick, option, value = self._target(game)
        before = getattr(trick, option)
        setattr(trick, option, value)
        self._changed[f"{trick.name}.{option}"] = value
        return f"{trick.name}'s {option} is {value} now, instead of {before}"

    def _save(self, alarm: Alarm, game: Game) -> str:
        path = Path(self.folder) / f"{alarm.detector}-{game.steps['g']}.pt"
        if game.distributed and host.rank() > 0:
            return f"the first rank saves to {path}"
        state = {
            "alarm": asdict(alarm),
            **{p: game.player(p).state_dict() for p in PLAYERS},
            **{f"opt_{p}": game.optimizer(p).state_dict() for p in PLAYERS},
            "game": game.state_dict(),
        }
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, part)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # a full disk must not end the run that it was to help
            return f"could not save to {path}: {error}"
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        return f"saved to {path}"

    # --- the rest --------------------------------------------------------------------------------------------

    def report(self) -> dict[str, float | str]:
        return {"responses": len(self.responses)} if self.responses else {}

    def teardown(self, game: Game) -> None:
        if self._own is not None:
            self._own.teardown(game)

    def state_dict(self) -> dict[str, Any]:
        return {
            "responses": [asdict(r) for r in self.responses],
            "answered": self._answered,
            "ready": self._ready,
            "healthy": self._healthy,
            "candidate": self._candidate,
            "changed": dict(self._changed),
            "own": self._own.state_dict() if self._own is not None and self.budget else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.responses = [Response(**r) for r in state["responses"]]
        self._answered, self._ready = state["answered"], state["ready"]
        self._healthy, self._candidate = state["healthy"], state["candidate"]
        self._changed = dict(state["changed"])
        if self._own is not None and state["own"] is not None:
            self._own.load_state_dict(state["own"])
        game = self._game() if self._game is not None else None
        for path, value in self._changed.items():
            name, _, option = path.partition(".")
            for trick in game.tricks if game is not None else ():
                if trick.name == name:
                    setattr(trick, option, value)
