"""Trick and Game: the whole protocol on one page.

A *game* is one generator against one discriminator. The loop says three words where values pass - `real`,
`fake`, `critic` - and PyTorch announces the rest: a pre-hook and a post-hook on each optimizer's step.
A *trick* is one change to adversarial training: methods that take a value and return the value to use instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabilgan import checks, host, losses, surgery

Player = Literal["d", "g"]
PLAYERS: tuple[Player, Player] = ("d", "g")

SELECT, CHANGE, STEP = 0, 1, 2
"""When a trick acts among others: first those that choose samples, then those that change them, then the rest."""

CHANGES = (
    "what D sees",
    "what D is",
    "the loss",
    "a penalty on D",
    "a term for G",
    "how players move",
    "memory",
    "a response",
    "nothing",
)
"""What a trick can change, in the order in which lists show them."""


class Cost(NamedTuple):
    """What a trick adds to one step of each player, in passes of the players' networks.

    A backward pass is counted where it begins, at a player's output. `second_order` counts gradients that are
    differentiated again; each costs about two backward passes more.
    """

    g_forward: float = 0
    g_backward: float = 0
    d_forward: float = 0
    d_backward: float = 0
    second_order: float = 0

    def __str__(self) -> str:
        words = ("G forward", "G backward", "D forward", "D backward", "second order")
        return ", ".join(f"{n:g} {w}" for n, w in zip(self, words, strict=True) if n) or "no passes"


class Trick:
    """One change to adversarial training; every default changes nothing.

    A subclass overrides what it needs. Options are keyword arguments of its constructor, which is what
    `--tricks name:option=value` sets. Whatever it remembers goes through `state_dict`, as plain tensors, numbers,
    lists and dicts. Whatever it draws comes from `game.generator(self)`, never from torch's global generator.
    """

    name: ClassVar[str]
    order: ClassVar[int] = CHANGE
    conflicts: ClassVar[Mapping[str, str]] = {}
    """Names of tricks it can't be played with -> what goes wrong together."""
    needs_logits: ClassVar[bool] = False
    """True where D's scores must not have passed a sigmoid."""
    off: ClassVar[Mapping[str, Any] | None] = None
    """Options at which it does nothing, or None if it is either there or not."""
    source: ClassVar[str] = ""
    """The paper, and the equation or section."""
    changes: ClassVar[str] = "how players move"
    """What it acts on, one of `CHANGES`."""
    when: ClassVar[str] = ""
    """A sentence or two for people who choose: what trouble it is for, and where it does not help."""
    made_for: ClassVar[frozenset[str] | None] = None
    """Names of the losses that its source has it for; it plays with all that it fits. None where that names none."""
    limits: ClassVar[Mapping[str, str]] = {}
    """Conditions that it can't honour ("labels", "compile", "points", ...) -> what happens there.

    It begins with "refused" where the trick does not play under that condition; else it plays, but in part.
    """
    needs_latents: ClassVar[bool] = False
    """True where it calls G again: the game then notes what G was called with, in `Seen.made_by`."""

    fits: frozenset[str] | None = None
    """Names of the losses that it is defined for, all others being refused at attach; None where any will do. An object
    whose options fit more says so by an attribute of its own."""

    every: int = 1
    """`penalty` is asked for on every n-th step and then counts n-fold (lazy regularisation, Karras et al. 2020)."""

    @property
    def cost(self) -> Cost:
        """What one step of each player costs more, at the default `every`: a class attribute, or a property."""
        return Cost()

    def setup(self, game: Game) -> None:
        """Once, at attach: operate on `game.d`, build an average, take a generator."""

    def real(self, x: Tensor, game: Game) -> Tensor:
        """What D sees as real. Labels, if the loop gave any, are in `game.labels`."""
        return x

    def fake(self, x: Tensor, game: Game) -> Tensor:
        """What D sees as fake. A trick that moves samples moves `game.labels` with them."""
        return x

    def critic(self, d: Critic, game: Game) -> Critic:
        """What G plays against: `d`, or a callable to use in its place."""
        return d

    def loss(self, loss: losses.Loss, game: Game) -> losses.Loss:
        """The pair of losses; asked only where the loop takes its loss from `game.loss`."""
        return loss

    def penalty(self, player: Player, game: Game) -> Tensor | None:
        """A scalar to add to that player's loss, or None."""
        return None

    def before_step(self, player: Player, game: Game) -> None:
        """The player's gradients are ready, penalties included; its weights have not moved."""

    def after_step(self, player: Player, game: Game) -> None:
        """The player's weights have moved."""

    def teardown(self, game: Game) -> None:
        """Once, at detach: close what `setup` opened."""

    def report(self) -> dict[str, float | str]:
        """Numbers and words for the loop's progress bar, by short names; never waits for the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if k != "fits" and not k.startswith("_"))
        return f"{type(self).__name__}({options})"


Critic = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """A batch as D saw it, and how the loop called D with it.

    `x` is the tensor, `labels` what rode along through the verb; `args` and `kwargs` are D's call, where D was
    called with that very tensor (`args[at]` or `kwargs[at]` is `x`), else None. `made_by` is G's latest call before
    it, in the same form with the latents as `x`, for `fake` and `critic` where a trick needs latents.
    """

    x: Tensor
    labels: tuple[Any, ...] = ()
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    at: int | str = 0
    made_by: Seen | None = None

    def call(self, x: Tensor) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """The arguments of the same call with `x` in the place of the batch."""
        if self.args is None:
            return (x, *self.labels), {}
        if isinstance(self.at, str):
            return self.args, {**(self.kwargs or {}), self.at: x}
        return (*self.args[: self.at], x, *self.args[self.at + 1 :]), self.kwargs or {}


class Game:
    """One generator against one discriminator, and the tricks between them; `attach` makes it.

    Attributes:
        g, d: the two players, bare (a compiled or DDP-wrapped module is looked through).
        called_d: D as the loop calls it, wrappers and all.
        opt_g, opt_d: their optimizers, bare.
        tricks: in the order in which they act.
        steps: how often each player has moved, `{"d": 0, "g": 0}`.
        labels: what rides along with the samples that pass now; a tuple, empty where the loop gives none.
        seen: the latest batch by verb, `{"real": Seen, "fake": Seen, "critic": Seen}`; `real` and `fake` as D saw
            them, `critic` what G was judged on.
        scores: D's latest output by verb, detached. A verb is missing where D was never called with its tensor.
        losses: what the loop told `record`, detached.
        loss: the pair of losses after the tricks have changed it, or None in a loop that owns its loss.
        looking_ahead: players whose step under way only looks ahead; a trick adds one in `before_step`. Such a step is
            not counted, and no `after_step` is called for it.
        probabilities: D's scores have passed a sigmoid. Known at attach where that is D's last layer, else from the
            graph of D's first call.
        distributed: penalties are averaged over the ranks of torch's process group, where there is one.
        seed: where the tricks' own generators start.
    """

    def __init__(
        self,
        g: nn.Module,
        d: nn.Module,
        opt_g: Optimizer,
        opt_d: Optimizer,
        tricks: Iterable[Trick] = (),
        *,
        loss: losses.Loss | None = None,
        accumulate: int = 1,
        score: Callable[[Any], Tensor] | None = None,
        distributed: bool = True,
        seed: int = 0,
    ) -> None:
        self.g, self.d = host.bare_module(g), host.bare_module(d)
        self.opt_g, self.opt_d = host.bare_optimizer(opt_g), host.bare_optimizer(opt_d)
        for trick in (tricks := list(tricks)):
            if not isinstance(trick, Trick):
                raise TypeError(f"{trick!r} is not a Trick; expected objects such as stabilgan.R1(weight=10)")
            if not getattr(trick, "name", ""):
                raise TypeError(f"{type(trick).__name__} has no name; give the class one: name = 'my_trick'")
            if (wrong := checks.missaid(trick)) is not None:
                raise TypeError(f"{trick.name}: {wrong}")
        self.tricks = tuple(sorted(tricks, key=lambda t: t.order))
        self.steps: dict[Player, int] = {"d": 0, "g": 0}
        self.labels: tuple[Any, ...] = ()
        self.seen: dict[str, Seen] = {}
        self.scores: dict[str, Tensor] = {}
        self.losses: dict[str, Tensor] = {}
        self.looking_ahead: set[Player] = set()
        self.seed = seed
        self.called_d: Critic = d
        self._score = score
        self.distributed = distributed
        self._passes = 0
        self.probabilities = score is None and surgery.ends_in_sigmoid(self.d)
        self._undecided = not self.probabilities
        # Only overridden methods are ever called, so that a game with few tricks costs little.
        self._acting = {
            method: [t for t in self.tricks if getattr(type(t), method) is not getattr(Trick, method)]
            for method in _MOMENTS
        }
        checks.refuse(self, accumulate=accumulate, loss=loss)
        self._history: dict[str, deque[Seen]] = {v: deque(maxlen=accumulate) for v in ("real", "fake", "critic")}
        self._joined: tuple[Tensor, list[tuple[str, Tensor, slice]]] | None = None
        self._reminder: checks.Reminder | None = checks.Reminder(accumulate)
        self.loss = self._given_loss = loss
        checks.enlist(self)
        try:
            for trick in self._acting["setup"]:
                trick.setup(self)
        except BaseException:
            checks.dismiss(self)
            raise
        for trick in self._acting["loss"]:
            assert self.loss is not None
            self.loss = trick.loss(self.loss, self)
        # Not traced: what the game hears must not make D's compiled graph depend on it.
        self._heard, self._deaf = d, False
        hear = host.uncompiled(self._hear)
        self._hooks = [d.register_forward_hook(hear, with_kwargs=True)]
        self._drawn: Seen | None = None
        if any(t.needs_latents for t in self.tricks):
            self._hooks.append(g.register_forward_hook(host.uncompiled(self._hear_g), with_kwargs=True))
        for player in PLAYERS:
            self._hooks += self._listen(player, self.optimizer(player))

    # --- the three words -------------------------------------------------------------------------------------

    def real(self, x: Tensor, *labels: Any) -> Any:
        """What D is to see as real: `netD(game.real(x))`, or `x, y = game.real(x, y)`."""
        return self._through("real", x, labels)

    def fake(self, x: Tensor, *labels: Any) -> Any:
        """What D is to see as fake: `netD(game.fake(x.detach()))`, or `x, y = game.fake(x, y)`."""
        return self._through("fake", x, labels)

    def critic(self, x: Tensor, *args: Any, real: bool = False, **kwargs: Any) -> Any:
        """What G is judged by: `game.critic(fake)` in the place of `netD(fake)` in G's turn.

        Further arguments go to D. `real=True` where a loss for G looks at real samples too (relativistic ones).
        """
        d = self.called_d
        for trick in self._acting["critic"]:
            d = checks.judge_of(trick, trick.critic(d, self))
        with self._unheard():
            out = d(x, *args, **kwargs)
        if self._reminder is not None:
            self._reminder.said("critic")
        if not real and self._hooks:
            seen = Seen(x, args, (x, *args), kwargs, made_by=self._drawn)
            self.seen["critic"] = seen
            self._history["critic"].append(seen)
            self._note("critic", out)
        return out

    def cat(self, parts: Sequence[Any]) -> Any:
        """Joins what `real` and `fake` gave, for one call of D, in the place of `torch.cat`; labels are joined too.

        `netD(game.cat([game.real(real), game.fake(fake.detach())]))`, or `x, y = game.cat([game.real(x, y), ...])`.
        The game then knows whose rows are whose, in any order and among others of the loop's own. A penalty calls D
        with one part alone, and with the same part of every other tensor of the call.

        Raises:
            ValueError: no part is a tensor that `real` or `fake` has just returned.
        """
        rows = [part if isinstance(part, tuple) else (part,) for part in parts]
        x, *labels = (torch.cat(column) for column in zip(*rows, strict=True))
        mine, start = [], 0
        for part, *_ in rows:
            mine += [(verb, part, slice(start, start + len(part))) for verb in ("real", "fake") if self._is(part, verb)]
            start += len(part)
        if not mine and self._hooks:
            raise ValueError(
                "game.cat was given no tensor that game.real or game.fake has just returned; write "
                "`x = game.cat([game.real(real), game.fake(fake.detach())])`, then `output = netD(x)`"
            )
        self._joined = (x, mine) if self._hooks else None
        return (x, *labels) if labels else x

    def _is(self, x: Any, verb: str) -> bool:
        seen = self.seen.get(verb)
        return seen is not None and seen.x is x

    def _through(self, verb: str, x: Tensor, labels: tuple[Any, ...]) -> Any:
        if not self._hooks:  # detached
            return (x, *labels) if labels else x
        self.labels, given = labels, x
        for trick in self._acting[verb]:
            x = checks.shown_by(trick, verb, getattr(trick, verb)(x, self))
        if self._reminder is not None:
            self._reminder.passed(verb, given, x)
        seen = Seen(x, self.labels, made_by=self._drawn if verb == "fake" else None)
        self.seen[verb] = seen
        self._history[verb].append(seen)
        return (x, *self.labels) if labels else x

    # --- what the game hears ---------------------------------------------------------------------------------

    def record(self, **values: Tensor) -> None:
        """Tells the game the loop's losses, `game.record(d_loss=..., g_loss=...)`, for detectors to watch."""
        if self._hooks:
            self.losses.update({name: value.detach() for name, value in values.items()})

    def _hear(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """D was called: if with a verb's own tensor, keep how, and what it answered."""
        if self._deaf or module is not self._heard:
            return
        called: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for at, x in called:
            if self._joined is not None and x is self._joined[0]:
                for verb, part, rows in self._joined[1]:
                    if self._is(part, verb):
                        its = [host.rows_of(tree, rows, len(x)) for tree in (args, kwargs, out)]
                        self._keep(verb, *Seen(part, (), its[0], its[1], at).call(part), at, its[2])
                return
            for verb in ("real", "fake"):
                if self._is(x, verb):
                    self._keep(verb, args, kwargs, at, out)
                    return

    def _hear_g(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """G was called by the loop: keep with what; its latents are the first tensor of numbers."""
        if self._deaf:
            return
        called: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for at, z in called:
            if isinstance(z, Tensor) and z.is_floating_point():
                self._drawn = Seen(z.detach(), (), args, kwargs, at)
                return

    def _keep(self, verb: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], at: int | str, out: Any) -> None:
        """D was called with the latest batch of a verb."""
        heard = self.seen[verb] = replace(self.seen[verb], args=args, kwargs=kwargs, at=at)
        if history := self._history[verb]:
            history[-1] = heard
        self._note(verb, out)

    @contextmanager
    def _unheard(self) -> Iterator[None]:
        """D's passes inside it are the game's own, not the loop's turns of D."""
        before, self._deaf = self._deaf, True
        try:
            yield
        finally:
            self._deaf = before

    def _note(self, verb: str, out: Any) -> None:
        if self._score is not None:
            out = self._score(out)
        if isinstance(out, Tensor):
            self.scores[verb] = out.detach()
            if self._undecided and (passed := surgery.passed_sigmoid(out)) is not None:
                self.probabilities, self._undecided = passed, False
                if passed:
                    checks.refuse_sigmoid(self)

    def _listen(self, player: Player, optimizer: Optimizer) -> list[Any]:
        def before(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
            if closure is None:
                self._before(player)
                return None

            # Gradients are ready only once the closure has run, inside the step. What it returns is the loss that the
            # optimizer compares (LBFGS), which the penalties are part of.
            def closure_then_tricks() -> Any:
                if self._reminder is not None:
                    self._reminder.new_turn()
                value = closure()
                added = self._before(player)
                return value if added is None or not isinstance(value, Tensor) else value + added

            rest = {k: v for k, v in kwargs.items() if k != "closure"}
            return (args[0], closure_then_tricks, *args[2:]), rest

        def after(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if player in self.looking_ahead:
                self.looking_ahead.discard(player)
            else:
                self.steps[player] += 1
                for trick in self._acting["after_step"]:
                    trick.after_step(player, self)
            if self._reminder is not None and not self._reminder.moved(player, self):
                self._reminder = None
            for verb in self._verbs(player):
                self._history[verb].clear()  # the next turn's micro-batches are others, and may be fewer
            if player == "g" and "critic" in self.seen:
                seen = self.seen["critic"]  # let go of G's graph
                self.seen["critic"] = replace(seen, x=seen.x.detach(), args=None)

        return [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def _before(self, player: Player) -> Tensor | None:
        """Adds the penalties to the gradients, lets tricks change them, and returns the sum of the penalties."""
        added = self._add_penalties(player) if self._acting["penalty"] else None
        for trick in self._acting["before_step"]:
            trick.before_step(player, self)
        return added

    def _add_penalties(self, player: Player) -> Tensor | None:
        due = [t for t in self._acting["penalty"] if self.steps[player] % t.every == 0]
        parameters = [p for p in self.player(player).parameters() if p.requires_grad]
        if not due or not parameters:
            return None
        added = None
        with torch.enable_grad(), self._one_micro_batch_at_a_time(player) as turns:
            for share in turns:
                values = [(t.every * share, checks.added_by(t, player, t.penalty(player, self))) for t in due]
                terms = [weight * value for weight, value in values if value is not None]
                if terms:  # one micro-batch's graph is let go before the next one's is made
                    loss = sum(terms[1:], terms[0])
                    host.add_gradients(loss, parameters, self.optimizer(player), over_ranks=self.distributed)
                    added = loss.detach() if added is None else added + loss.detach()
        return added

    @contextmanager
    def _one_micro_batch_at_a_time(self, player: Player) -> Iterator[Iterator[float]]:
        """With gradient accumulation, `seen` runs through the batches of this turn; yields the share of each."""
        verbs = self._verbs(player)
        latest = dict(self.seen)
        turns = max(len(self._history[v]) for v in verbs)

        def each() -> Iterator[float]:
            for i in range(max(turns, 1)):
                for verb in verbs:
                    if history := self._history[verb]:
                        self.seen[verb] = history[min(i, len(history) - 1)]
                yield 1 / max(turns, 1)

        try:
            yield each()
        finally:
            self.seen = latest

    @staticmethod
    def _verbs(player: Player) -> tuple[str, ...]:
        return ("real", "fake") if player == "d" else ("critic",)

    # --- what tricks use -------------------------------------------------------------------------------------

    def player(self, player: Player) -> nn.Module:
        return self.d if player == "d" else self.g

    def optimizer(self, player: Player) -> Optimizer:
        return self.opt_d if player == "d" else self.opt_g

    def saw(self, verb: str, trick: Trick) -> Seen:
        """The latest batch of a verb, for a trick that can't do without it."""
        try:
            return self.seen[verb]
        except KeyError:
            raise RuntimeError(
                f"{trick.name} needs what D sees as {verb}, but the loop never called game.{verb}; "
                f"write `{checks.LINES[verb]}`"
            ) from None

    def score(
        self, x: Tensor, seen: Seen, *, weights: Mapping[str, Tensor] | None = None, through: Critic | None = None
    ) -> Tensor:
        """D's scores of `x`, called the way the loop called it with `seen`; a pass that changes nothing.

        D's buffers (BatchNorm statistics, spectral-norm vectors) and torch's generators stay as they were, autocast is
        off and D runs uncompiled, so that gradients of gradients work. Returns D's output, or `score(output)`.

        Args:
            x: samples, in the place of those in `seen`.
            seen: the call.
            weights: by name, in the place of D's own.
            through: called in the place of D, which it calls in turn; what a trick's `critic` was given.
        """
        out = self._pass(self.d, x, seen, weights, through)
        if self._score is not None:
            out = self._score(out)
        if not isinstance(out, Tensor):
            raise TypeError(
                f"D returns a {type(out).__name__}; expected a tensor of scores. "
                "Tell attach how to read it: attach(..., score=lambda out: out[0])"
            )
        return out

    def features(self, x: Tensor, seen: Seen, layer: str | None = None) -> Tensor:
        """What D's last layer, or the one of that name, is given for `x`; a pass as `score` makes it."""
        kept: list[Tensor] = []
        with self.d.get_submodule(surgery.last_layer(self.d, layer)).register_forward_pre_hook(
            lambda module, args: kept.append(args[0])
        ):
            self._pass(self.d, x, seen)
        return kept[-1]

    def generate(self, made_by: Seen, z: Tensor | None = None) -> Tensor:
        """G's samples from the latents of a call that the loop made (`Seen.made_by`), or from others in their place.

        A pass that changes nothing, as `score` is for D; for tricks with `needs_latents`.
        """
        out = self._pass(self.g, made_by.x if z is None else z, made_by)
        if not isinstance(out, Tensor):
            raise TypeError(f"G returns a {type(out).__name__}; expected a tensor of samples")
        return out

    def latents(self, verb: str, trick: Trick) -> Seen:
        """How the loop called G for the latest batch of a verb, for a trick that can't do without it."""
        made_by = self.saw(verb, trick).made_by
        if made_by is None:
            raise RuntimeError(
                f"{trick.name} needs the latents of what the loop gave to game.{verb}, but G was not called before; "
                "expected a loop that calls the generator that was attached, with the latents as its first tensor"
            )
        return made_by

    def _pass(
        self,
        player: nn.Module,
        x: Tensor,
        seen: Seen,
        weights: Mapping[str, Tensor] | None = None,
        through: Critic | None = None,
    ) -> Any:
        """A player's output for `x`, called the way the loop called it with `seen`; nothing notices."""
        dtype = next((p.dtype for p in player.parameters() if p.is_floating_point()), x.dtype)
        args, kwargs = seen.call(x.to(dtype))
        self._passes += 1
        with (
            self._unheard(),
            host.unchanged(player),
            host.own_forward(player),
            host.unnoticed(x.device, seed=hash((self.seed, self.steps["d"], self.steps["g"], self._passes))),
        ):
            buffers = {name: b.clone() for name, b in player.named_buffers()}
            return host.called_with(player, buffers | dict(weights or {}), args, kwargs, through=through)

    def generator(self, trick: Trick) -> torch.Generator:
        """A CPU generator for this trick alone; it differs by trick, by place in the list and by DDP rank."""
        # Its place among those that act; what only looks comes before them and must not change what they draw.
        acting = sorted(self.tricks, key=lambda t: t.order < SELECT)
        index = 1 + next(i for i, t in enumerate(acting) if t is trick)
        salt = sum(ord(c) * 31**i for i, c in enumerate(trick.name)) % 2**31
        return torch.Generator().manual_seed((self.seed * 1_000_003 + salt * 101 + index * 13 + host.rank()) % 2**63)

    # --- the rest --------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Takes every hook off again and lets go of the loop's tensors and of the tricks.

        The loop is then what it was before `attach`, bit for bit; `real`, `fake`, `cat` and `critic` may stay in it and
        pass values through, and `loss` is the pair that was given. Two things stay: what tricks built into D
        (parametrizations, added layers and their weights), and what they have done to the weights so far.
        """
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        checks.dismiss(self)
        for trick in self._acting["teardown"]:
            trick.teardown(self)
        self._acting = {method: [] for method in self._acting}
        self.loss, self.labels, self._joined, self._reminder = self._given_loss, (), None, None
        self._drawn = None
        self.seen.clear()
        self.scores.clear()
        self.losses.clear()
        for history in self._history.values():
            history.clear()

    def acting(self, method: str) -> list[Trick]:
        """The tricks that have a method of their own of that name, in the order in which they act."""
        return self._acting[method]

    def readings(self) -> dict[str, float | str]:
        """What tricks have to say at the moment, flat, for the loop's progress bar or logger.

        A watch gives the latest value of each detector by its name, and under `alarm` the names of those that are in
        alarm now, if any. Never waits for the device: on a GPU a reading arrives some steps after it was taken.
        """
        said: dict[str, float | str] = {}
        for trick in self._acting["report"]:
            said |= trick.report()
        return said

    def plan(self) -> str:
        """What runs where, in order, as text."""
        lines = [f"{type(self.g).__name__} against {type(self.d).__name__}"]
        for method, moment in _MOMENTS.items():
            if moment and (acting := self._acting[method]):
                lines.append(f"  {moment}: " + ", then ".join(repr(t) for t in acting))
        if len(lines) == 1:
            lines.append("  no tricks: the loop runs as if nothing were attached")
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Any]:
        """Step counts and every trick's state, as plain tensors, numbers and lists. Modules are the loop's to save."""
        return {
            "steps": dict(self.steps),
            "passes": self._passes,
            "tricks": [{"name": t.name, "state": t.state_dict()} for t in self.tricks],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave. Raises ValueError if it is of a game with other tricks."""
        names, own = [t["name"] for t in state["tricks"]], [t.name for t in self.tricks]
        if names != own:
            raise ValueError(f"this state is of a game with the tricks {names}; this game has {own}")
        self.steps.update(state["steps"])
        self._passes = state["passes"]
        for trick, saved in zip(self.tricks, state["tricks"], strict=True):
            trick.load_state_dict(saved["state"])


_MOMENTS = {
    "setup": "at attach",
    "real": "game.real(x)",
    "fake": "game.fake(x)",
    "critic": "game.critic(x)",
    "loss": "the pair of losses",
    "penalty": "before each step, added to the loss",
    "before_step": "gradients are ready",
    "after_step": "weights have moved",
    "report": "",
    "teardown": "",
}
"""When each method of a trick is called, for the plan."""


def attach(
    g: nn.Module,
    d: nn.Module,
    opt_g: Any,
    opt_d: Any,
    tricks: Sequence[Trick] = (),
    *,
    loss: losses.Loss | None = None,
    accumulate: int = 1,
    score: Callable[[Any], Tensor] | None = None,
    distributed: bool = True,
    seed: int = 0,
) -> Game:
    """Puts tricks between a generator and a discriminator in any training loop.

    Args:
        g, d: the modules that the loop calls; compiled and DDP-wrapped ones are looked through.
        opt_g, opt_d: their optimizers, wrapped (Lightning, Fabric, Accelerate) or not; other games may share them.
        tricks: what to play with; their list order holds within each `order`.
        loss: a pair from `stabilgan.losses` for loops that take their loss from `game.loss`; tricks that change the
            loss need it.
        accumulate: micro-batches per step, so that penalties look at all of them.
        score: reads the scores from D's output where that is not a tensor of scores.
        distributed: average penalties over the ranks of torch's process group, where there is one; False where each
            rank trains a model of its own.
        seed: where the tricks' own generators start.

    While a game is attached, save `state_dict()`s and not whole modules: hooks can't be pickled.

    Everything is checked before anything is touched. While the loop makes its first steps, a word that it forgets or
    says twice is told as a `stabilgan.LoopWarning`.

    Raises:
        ValueError: an optimizer lacks its player's parameters; D or a trick plays elsewhere already; two tricks
            conflict; a logit penalty meets a D that ends in a sigmoid (where that can't be seen from D's layers, D's
            first call raises it); a trick changes a loss that the loop owns; a player is sharded (FSDP); D's
            parameters have hooks that a penalty's gradients would miss.
        TypeError: a player or an optimizer is no such thing, or a trick is none, or it says what it conflicts with or
            can't honour in another form than `{name: why}`.
    """
    return Game(
        g, d, opt_g, opt_d, tricks, loss=loss, accumulate=accumulate, score=score, distributed=distributed, seed=seed
    )
