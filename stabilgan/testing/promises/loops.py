"""That a trick plays in any loop: the Trainer's or one by hand, whoever moves first and however weights are moved."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from stabilgan.detectors import Watch
from stabilgan.testing.play import difference, params
from stabilgan.testing.promise import Broken, NotAsked, Promise, Subject
from stabilgan.testing.promises.saving import few, taken_up, written
from stabilgan.testing.worlds import NORMED

Players = tuple[nn.Module, nn.Module]


def hold(one: Players, other: Players, said: str) -> None:
    """Raises Broken where two pairs of players are not the same."""
    for player, a, b in zip(("G", "D"), one, other, strict=True):
        if found := difference(a, b):
            raise Broken(f"{said}: {player}'s {found}")


def finite(players: Players, said: str) -> None:
    """Raises Broken where weights are not finite."""
    for player, module in zip(("G", "D"), players, strict=True):
        if not params(module).isfinite().all():
            raise Broken(f"{said}, weights of {player} are not finite")


def plays(subject: Subject) -> None:
    t = subject.trainer().fit(subject.world.data, 3)
    finite((t.game.g, t.game.d), "after 3 steps")


def plays_in_the_trainer_as_by_hand(subject: Subject) -> None:
    t = subject.trainer()
    t.generator.manual_seed(2)  # where the latents of the loop by hand start
    order = torch.Generator().manual_seed(1)
    t.fit(lambda n, _: subject.world.data(n, order), 5)
    hold((t.game.g, t.game.d), subject.by_hand(5), "after 5 steps the trainer and the loop by hand differ")


def may_be_watched(subject: Subject) -> None:
    watched = subject.by_hand(5, tricks=[subject.make(), Watch(every=1)])
    hold(watched, subject.by_hand(5), "with a Watch beside it training ends otherwise")


def lets_g_move_first(subject: Subject) -> None:
    finite(subject.by_hand(4, g_first=True), "where G moves first")


def lets_d_be_frozen(subject: Subject) -> None:
    frozen = subject.by_hand(4, freeze=True)
    hold(frozen, subject.by_hand(4), "with D frozen in G's turn training ends otherwise")


def takes_batches_of_any_size(subject: Subject) -> None:
    finite(subject.by_hand(6, sizes={1: 3, 2: 2, 4: 13}), "after batches of 8, 3, 2, 8, 13 and 8")


def takes_a_closure(subject: Subject) -> None:
    hold(subject.by_hand(3, closure=True), subject.by_hand(3), "with closures training ends otherwise")


class Wrapped:
    """The shape of Lightning's and Fabric's optimizer wrappers."""

    def __init__(self, optimizer: Optimizer | Wrapped) -> None:
        self.optimizer = optimizer


def takes_a_wrapped_optimizer(subject: Subject) -> None:
    wrapped = subject.by_hand(3, wrap=lambda o: Wrapped(Wrapped(o)))
    hold(wrapped, subject.by_hand(3), "with a wrapped optimizer training ends otherwise")


def accumulates(subject: Subject) -> None:
    data = few(subject)
    whole = subject.trainer(accumulate=2).fit(data, 4)
    finite((whole.game.g, whole.game.d), "after accumulated steps")
    stopped = subject.trainer(accumulate=2).fit(data, 3)
    again = taken_up(written(stopped.state_dict()), subject.trainer(accumulate=2)).fit(data, 1)
    if found := difference(again.state_dict(), whole.state_dict()):
        raise Broken(f"taken up after 3 accumulated steps, the run ends otherwise: {found}")


def passes_unnoticed(subject: Subject) -> None:
    """BatchNorm counts the batches that it learns from, which are those of the loop."""
    world = subject.world if subject.world.images else NORMED
    t = subject.trainer(world=world).fit(world.data, 3)
    norms = [m for m in t.game.d.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    counted = {int(m.num_batches_tracked) for m in norms if m.num_batches_tracked is not None}
    own = 3 * (4 if t.loss.needs_real else 3)  # a relativistic G looks at real samples too
    if not counted:
        raise NotAsked("it leaves D no BatchNorm to notice anything")
    if counted != {own}:
        raise Broken(
            f"D's BatchNorm learned from {max(counted)} batches where the loop gave it {own}; call D through game.score"
        )


PROMISES = (
    Promise("plays", "It plays in a training loop, and weights stay finite.", plays),
    Promise(
        "trainer",
        "The Trainer does with it, bit for bit, what a loop written by hand does.",
        plays_in_the_trainer_as_by_hand,
    ),
    Promise("watched", "A Watch beside it changes nothing.", may_be_watched),
    Promise("g first", "G may move first.", lets_g_move_first, "g first"),
    Promise("frozen d", "D may be frozen in G's turn.", lets_d_be_frozen, "frozen d"),
    Promise("batch size", "Batches may be smaller or larger than the last.", takes_batches_of_any_size, "batch size"),
    Promise("closure", "The optimizer may be given a closure.", takes_a_closure, "closure"),
    Promise("wrapped", "The optimizer may be wrapped by a framework.", takes_a_wrapped_optimizer, "wrapped"),
    Promise("accumulate", "It plays under gradient accumulation, and resumes.", accumulates, "accumulate"),
    Promise("unnoticed", "Passes of its own leave no trace in D's statistics.", passes_unnoticed),
)
