"""That a trick says what it is, does nothing at zero strength and something else otherwise, at the cost it states."""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import re
from collections.abc import Set
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabilgan import checks, losses
from stabilgan.game import CHANGES, Cost, Game, Player, Trick
from stabilgan.passes import counting
from stabilgan.testing.play import adam, difference, same
from stabilgan.testing.promise import CONDITIONS, Broken, NotAsked, Promise, Subject
from stabilgan.testing.worlds import World
from stabilgan.trainer import Trainer

_NAME = re.compile(r"[^\s:+,]+")
"""What the grammar of `--tricks` leaves whole."""


def described(subject: Subject) -> None:
    trick = subject.make()
    if inspect.getdoc(type(trick)) in (None, "", inspect.getdoc(Trick)):  # which is inherited
        raise Broken(f"{type(trick).__name__} has no docstring; its first line says what it does to training")
    if trick.changes not in CHANGES:
        raise Broken(f"changes is {trick.changes!r}; expected one of {', '.join(CHANGES)}")
    if not isinstance(trick.name, str) or trick.name == "none" or not _NAME.fullmatch(trick.name):
        raise Broken(
            f"name is {trick.name!r}, which --tricks can't ask for; expected a text without blanks, ':', '+' and ',', "
            "and not 'none', which is the arm without tricks"
        )
    if (wrong := checks.missaid(trick)) is not None:
        raise Broken(wrong)
    for condition in trick.limits.keys() - CONDITIONS.keys():  # words of its own are for readers alone
        if near := difflib.get_close_matches(condition, CONDITIONS, n=1, cutoff=0.7):
            raise Broken(f"limits has {condition!r}, which no promise knows; did you mean {near[0]!r}?")
    for said, names in (("fits", trick.fits), ("made_for", trick.made_for)):
        if names is not None and not isinstance(names, Set):
            raise Broken(f"{said} is {names!r}; expected a set of names of losses: {said} = frozenset({{'logistic'}})")
        if strange := [name for name in sorted(names or ()) if name not in losses.LOSSES]:
            raise Broken(f"{said} has {strange[0]!r}; expected names of losses: {', '.join(losses.LOSSES)}")
    if trick.fits is not None and trick.made_for is not None and (apart := trick.made_for - trick.fits):
        raise Broken(f"it is made for {min(apart)}, which it does not fit; expected made_for to be within fits")
    if not isinstance(trick.cost, Cost):
        raise Broken(f"cost is {trick.cost!r}; expected a stabilgan.Cost")


def does_nothing_when_off(subject: Subject) -> None:
    if subject.off is None:
        raise NotAsked("it states no options at which it does nothing (`off`)")
    off, without = subject.by_hand(5, tricks=[subject.off()]), subject.by_hand(5, tricks=[])
    for player, one, other in zip(("G", "D"), off, without, strict=True):
        if found := difference(one, other):
            raise Broken(f"after 5 steps at zero strength {player} is not what it is without the trick: {found}")


def acts(subject: Subject) -> None:
    """Five steps tell of most tricks; what acts now and then gets fifty."""
    for steps in (5, 50):
        trick = subject.make()
        t = subject.trainer(tricks=[trick])
        before = copy.deepcopy(trick.state_dict())
        t.fit(subject.world.data, steps)
        without = subject.trainer(tricks=[]).fit(subject.world.data, steps)
        if not same(t.game.g, without.game.g) or not same(t.game.d, without.game.d):
            return
        if not same(trick.state_dict(), before):
            return
    raise Broken(
        "after 50 steps both players are what they are without it, and it has kept nothing; give it options at which "
        "it acts in so few"
    )


def gradients_arrive(subject: Subject) -> None:
    trick, players, games = subject.make(), subject.world.players(), list[Game]()
    asked: dict[Player, list[float]] = {"d": [], "g": []}

    def watched(module: nn.Module) -> Optimizer:
        player: Player = "g" if module is players[0] else "d"
        optimizer = adam(module)
        # Before the game's own hook, which fails on a penalty without a gradient.
        optimizer.register_step_pre_hook(lambda *_: asked[player].extend(_penalty(trick, player, games[0])))
        return optimizer

    t = subject.trainer(tricks=[trick], players=players, optimizer=watched)
    games.append(t.game)
    t.fit(subject.world.data, 6)
    with torch.no_grad():
        for p in t.game.d.parameters():
            p.mul_(4)  # a penalty may well be zero where D is flat
    t.fit(subject.world.data, 2)
    for player, lengths in asked.items():
        if lengths and not any(lengths):
            raise Broken(
                f"penalty({player!r}) gave a value whose gradient is zero at each of {len(lengths)} steps, with a "
                "steep D too: something on its way was detached, or its slope asked for without create_graph=True"
            )
    _critic_hands_on(t.game, subject)


def _penalty(trick: Trick, player: Player, game: Game) -> list[float]:
    """The length of the gradient that a penalty brings to its player; nothing where there is no penalty."""
    with torch.enable_grad():
        value = checks.added_by(trick, player, trick.penalty(player, game))
    if value is None:
        return []
    if not value.requires_grad:
        raise Broken(f"penalty({player!r}) gave a value without a gradient: it changes no weight")
    weights = [p for p in game.player(player).parameters() if p.requires_grad]
    found = torch.autograd.grad(value, weights, allow_unused=True)
    arrived = [g for g in found if g is not None]
    if weights and not arrived:
        raise Broken(f"penalty({player!r}) gave a value that depends on none of {player.upper()}'s weights")
    return [sum(g.abs().sum().item() for g in arrived)]


def _critic_hands_on(game: Game, subject: Subject) -> None:
    x, *labels = subject.world.batch(8, torch.Generator().manual_seed(5))
    fake = x.clone().requires_grad_()
    scores: Tensor = game.critic(fake, *labels)
    (slope,) = torch.autograd.grad(scores.sum(), fake, allow_unused=True) if scores.requires_grad else (None,)
    if slope is None or not slope.any():
        raise Broken("game.critic(fake) hands no gradient on to the fakes, so that G learns nothing")


def costs_what_it_says(subject: Subject) -> None:
    """Counted as the bench counts, in a trainer, over the steps that G has made."""
    trick = subject.make()
    played, plain = _passes(subject.trainer(tricks=[trick]), subject.world), _plain_passes(subject.world, subject.loss)
    counted = [played[name] - plain[name] for name in Cost._fields]
    wrong = [
        f"{name} is {declared:g}, counted {found:.3g}"
        for name, declared, found in zip(Cost._fields, trick.cost, counted, strict=True)
        if not any(_near(declared, found * times) for times in {1, trick.every})
    ]
    if wrong:
        raise Broken(f"cost states passes that were not made, or not all: {'; '.join(wrong)}")


def _near(declared: float, counted: float) -> bool:
    """What happens on every n-th step alone may happen once more or less in the steps that were counted."""
    return math.isclose(declared, counted, abs_tol=0.02 if declared == int(declared) else 0.05 + 0.2 * declared)


def _passes(trainer: Trainer, world: World) -> dict[str, float]:
    """For each step that G has made."""
    begun, loops = trainer.fit(world.data, 2).steps, 24
    with counting(trainer.game) as counts:
        trainer.fit(world.data, loops)
    made = (trainer.steps - begun) or loops
    return {name: count / made for name, count in counts.items()}


@cache
def _plain_passes(world: World, loss: losses.Loss) -> dict[str, float]:
    nobody = Subject(Trick, None, world, loss)
    return _passes(nobody.trainer(tricks=[]), world)


PROMISES = (
    Promise("described", "Its class says what it does, what it changes and what it can't.", described),
    Promise("off", "At zero strength training is, bit for bit, what it is without it.", does_nothing_when_off),
    Promise("acts", "Played, it changes training or keeps something.", acts),
    Promise(
        "gradient",
        "What it adds to a loss moves weights, and G learns from its judge.",
        gradients_arrive,
    ),
    Promise("cost", "It costs the passes that it states.", costs_what_it_says),
)
