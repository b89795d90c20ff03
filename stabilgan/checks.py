"""What can be wrong with a game: refused at attach before anything is touched, or told once while the loop runs."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stabilgan import host, losses

if TYPE_CHECKING:
    from stabilgan.game import Critic, Game, Player, Trick

LINES = {
    "real": "output = netD(game.real(real))",
    "fake": "output = netD(game.fake(fake.detach()))",
    "critic": "output = game.critic(fake)",
}
"""The line that each word belongs to, as a loop would write it."""

SIGMOID = (
    "works on logits, but this discriminator ends in a sigmoid; take the sigmoid off and use a loss on logits "
    "(stabilgan.losses.logistic, or torch's BCEWithLogitsLoss)"
)

_PLAYED_IN: dict[int, tuple[weakref.ref[Trick], weakref.ref[Game]]] = {}  # by id: a trick need not be hashable
_GAME_OF: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Game]] = weakref.WeakKeyDictionary()


class LoopWarning(UserWarning):
    """A training loop uses its game in a way that can't have been meant; the message says which line to change."""


# --- at attach -----------------------------------------------------------------------------------------------


def enlist(game: Game) -> None:
    """Notes that D and the tricks play in this game."""
    _GAME_OF[game.d] = weakref.ref(game)
    for trick in game.tricks:
        _PLAYED_IN[id(trick)] = weakref.ref(trick), weakref.ref(game)


def dismiss(game: Game) -> None:
    """Lets D and the tricks go, so that they may play in another game."""
    _GAME_OF.pop(game.d, None)
    for trick in game.tricks:
        _PLAYED_IN.pop(id(trick), None)


def refuse(game: Game, *, accumulate: int, loss: losses.Loss | None) -> None:
    """Raises ValueError for all that can be known to be wrong at attach; touches nothing."""
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}; expected the number of micro-batches to a step, 1 or more")
    _refuse_players(game)
    changed = any(_makes_the_loss(trick) for trick in game.tricks)
    for i, trick in enumerate(game.tricks):
        if any(trick is other for other in game.tricks[:i]):
            raise ValueError(f"this {trick.name} is in the list of tricks twice; expected each object once")
        for option, value in vars(trick).items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"{trick.name}: {option} is nan; expected a number")
        mark = _PLAYED_IN.get(id(trick))
        if mark is not None and mark[0]() is trick and mark[1]() is not None:
            raise ValueError(f"this {trick.name} plays in another game already; make a new one for each game")
        for second in game.tricks:
            if (why := apart(trick, second)) is not None:
                raise ValueError(f"{trick.name} and {second.name} can't be played together: {why}")
        if trick.needs_logits and game.probabilities:
            raise ValueError(f"{trick.name} {SIGMOID}")
        if loss is not None and not changed and trick.fits is not None and loss.name not in trick.fits:
            raise ValueError(
                f"{trick.name} fits the losses {', '.join(sorted(trick.fits))} alone; this game's loss is {loss.name}. "
                "Play with one of those, or leave it out"
            )
    for trick in game.acting("loss") if loss is None else ():
        raise ValueError(
            f"{trick.name} changes the loss, which this loop owns; call stabilgan.losses.{trick.name} there instead, "
            "or give attach(loss=...) a pair and take your losses from game.loss.d and game.loss.g"
        )
    for trick in game.acting("penalty"):
        for name, p in game.d.named_parameters():
            if getattr(p, "_post_accumulate_grad_hooks", None):
                raise ValueError(
                    f"D's parameter {name} has a hook from register_post_accumulate_grad_hook, which would not run for "
                    f"the gradients that {trick.name} adds when the optimizer steps; expected none. Take it off, or do "
                    "what it does just before opt_d.step()"
                )


def missaid(trick: Trick | type[Trick]) -> str | None:
    """What is wrong with the form in which it says what it conflicts with and can't honour, or None."""
    for said, example in (("conflicts", "{'r1': 'why not'}"), ("limits", "{'labels': 'refused at attach'}")):
        told = getattr(trick, said)
        if not isinstance(told, Mapping) or not all(isinstance(text, str) for pair in told.items() for text in pair):
            return f"{said} is {told!r}; expected each name with what goes wrong: {said} = {example}"
    return None


def apart(one: Trick, other: Trick) -> str | None:
    """Why one can't be played with the other, or None: it says so, or does not fit the loss that the other makes."""
    if other.name in one.conflicts:
        return one.conflicts[other.name]
    if one.fits is not None and _makes_the_loss(other) and other.name not in one.fits:
        return f"the loss becomes {other.name}, and {one.name} fits {', '.join(sorted(one.fits))} alone"
    return None


def _makes_the_loss(trick: Trick) -> bool:
    """Whether it puts the pair of its name in the place of the loop's."""
    return trick.changes == "the loss" and trick.name in losses.LOSSES


def _refuse_players(game: Game) -> None:
    for name in ("d", "g"):
        player, optimizer = game.player(name), game.optimizer(name)
        if (how := host.sharded(player)) is not None:
            raise ValueError(
                f"{name} is sharded ({how}): a penalty's second derivative and an average of weights need whole "
                "parameters on each rank; expected a plain module or one in DistributedDataParallel"
            )
        have = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [n for n, p in player.named_parameters() if p.requires_grad and id(p) not in have]
        if missing:
            raise ValueError(
                f"opt_{name} does not hold {len(missing)} parameters of {name} (the first: {missing[0]}); expected an "
                f"optimizer made from {name}.parameters(). Are the arguments in the order g, d, opt_g, opt_d?"
            )
    if game.g is game.d:
        raise ValueError("g and d are one module; expected a generator and a discriminator: attach(g, d, opt_g, opt_d)")
    if game.opt_d is game.opt_g:
        raise ValueError(
            "opt_g and opt_d are one optimizer; a game needs one for each player, to know whose step it is"
        )
    if (other := _GAME_OF.get(game.d)) is not None and other() is not None:
        raise ValueError("this discriminator plays in another game already; call detach() on that one first")


def refuse_sigmoid(game: Game) -> None:
    """The same for what only D's first call shows: its scores have passed a sigmoid that is no layer of its end."""
    for trick in game.tricks:
        if trick.needs_logits:
            game.detach()
            raise ValueError(f"{trick.name} {SIGMOID}")


# --- what a trick returns ------------------------------------------------------------------------------------


def shown_by(trick: Trick, verb: str, x: Any) -> Tensor:
    """What its `real` or `fake` returned, where that is a tensor; else raises TypeError."""
    if isinstance(x, Tensor):
        return x
    raise TypeError(
        f"{trick.name}.{verb} returned {_kind(x)}; expected the tensor that D is to see. End it with `return x`"
    )


def judge_of(trick: Trick, d: Any) -> Critic:
    """What its `critic` returned, where that can be called; else raises TypeError."""
    if callable(d):
        judge: Critic = d
        return judge
    raise TypeError(
        f"{trick.name}.critic returned {_kind(d)}; expected what G is judged by. End it with `return d`, or with a "
        "callable in its place: `return lambda x, *args, **kwargs: d(x, *args, **kwargs)`"
    )


def added_by(trick: Trick, player: Player, value: Any) -> Tensor | None:
    """What its `penalty` returned, where that is None or one number in a tensor; else raises TypeError."""
    if value is None or (isinstance(value, Tensor) and value.numel() == 1):
        return value
    if isinstance(value, Tensor):
        said = f"a tensor of shape {tuple(value.shape)}"
        todo = "Take the mean over the batch: `return value.mean()`"
    else:
        said, todo = _kind(value), "Compute it from the player's outputs by torch alone, so that its gradient arrives"
    raise TypeError(
        f"{trick.name}.penalty({player!r}) returned {said}; expected a tensor of one number, or None. {todo}"
    )


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


# --- in the loop ---------------------------------------------------------------------------------------------


class Reminder:
    """Watches a loop's first steps and tells it, once for each, which line is missing or doubled.

    It looks at which words were said and at which tensors passed, never at what is in them, and leaves after `LAST`
    steps of D.
    """

    PATIENCE = 20
    """So many steps has D made before a word that was never said counts as forgotten."""
    LAST = 100

    def __init__(self, accumulate: int) -> None:
        self._accumulate = accumulate
        self._said: set[str] = set()
        self._told: set[str] = set()
        self._moves = {"d": 0, "g": 0}
        self._given: dict[str, list[weakref.ref[Tensor]]] = {"real": [], "fake": [], "critic": []}
        self._returned: dict[str, list[weakref.ref[Tensor]]] = {"real": [], "fake": [], "critic": []}

    def passed(self, verb: str, x: Tensor, out: Tensor) -> None:
        """The loop gave `x` to a word and got `out`."""
        self._said.add(verb)
        given, returned = self._given[verb], self._returned[verb]
        # In an accumulated turn one batch may well come several times.
        again = len(given) >= self._accumulate and any(ref() is x for ref in given)
        if again or any(ref() is x for ref in returned):
            self._tell(
                f"{verb} twice",
                f"a tensor went through game.{verb} twice in one turn of D, so that tricks act on it twice; call "
                f"game.{verb} once in each turn and use what it returned: x = game.{verb}(...), then netD(x)",
            )
        if verb == "fake" and x.grad_fn is not None and torch.is_grad_enabled():
            self._tell(
                "gradient",
                "game.fake was given a tensor that carries G's gradient, so that D's backward runs through G too; "
                f"write `{LINES['fake']}` in D's turn, and `{LINES['critic']}` in G's",
            )
        given.append(weakref.ref(x))
        if out is not x:
            returned.append(weakref.ref(out))

    def said(self, verb: str) -> None:
        self._said.add(verb)

    def new_turn(self) -> None:
        """What comes now may be what came before: a new step, or the same closure once more."""
        for refs in (*self._given.values(), *self._returned.values()):
            refs.clear()

    def moved(self, player: Player, game: Game) -> bool:
        """A player's weights have moved; returns whether there is anything left to watch for."""
        self.new_turn()
        if player == "g":
            self._moves["g"] += self._moves["d"] > 0  # before D plays, G may learn alone
            return True
        self._moves["d"] += 1
        if self._moves["d"] == self.PATIENCE:
            self._tell_forgotten(game)
        return self._moves["d"] < self.LAST

    def _tell_forgotten(self, game: Game) -> None:
        steps = f"D has made {self._moves['d']} steps, but"
        for verb in ("real", "fake"):
            if verb not in self._said and (game.acting(verb) or self._said & {"real", "fake"}):
                self._tell(verb, f"{steps} the loop never called game.{verb}; write `{LINES[verb]}`")
        if "critic" not in self._said and self._moves["g"] and (needing := game.acting("critic")):
            self._tell(
                "critic",
                f"{steps} the loop never called game.critic, which {needing[0].name} needs; in G's turn write "
                f"`{LINES['critic']}` in the place of netD(fake)",
            )
        looking = game.acting("real") or game.acting("fake") or game.acting("penalty")
        for verb in sorted(self._said & {"real", "fake"} - game.scores.keys()):
            if looking and verb in game.seen:
                self._tell(f"{verb} unheard", f"{steps} {_why_unheard(game, verb)}")

    def _tell(self, what: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warnings.warn(message, LoopWarning, stacklevel=host.outside())


def _why_unheard(game: Game, verb: str) -> str:
    if game.seen[verb].args is not None:
        return (
            "what it returns is no tensor of scores, so that tricks and detectors can't see them; tell attach how to "
            "read it: attach(..., score=lambda out: out[0])"
        )
    return (
        f"never with the tensor that game.{verb} returned, so that its scores can't be seen; give D that very tensor "
        "(what changes it goes before the word), join real and fake by game.cat in the place of torch.cat, and attach "
        "the module that the loop calls"
    )
