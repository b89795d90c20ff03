"""That a trick plays with points, with images, and with labels, or says that it can't."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stabilgan.testing.play import difference, params, sgd
from stabilgan.testing.promise import Broken, Promise, Subject
from stabilgan.testing.promises.loops import finite
from stabilgan.testing.promises.saving import taken_up, written
from stabilgan.testing.worlds import IMAGES, LABELLED_IMAGES, LABELLED_POINTS, POINTS


def plays_with_points(subject: Subject) -> None:
    finite(subject.by_hand(4, world=POINTS), "after 4 steps on points")


def plays_with_images(subject: Subject) -> None:
    """In channels-last memory as in the usual one, up to rounding."""

    def ends(memory: torch.memory_format) -> tuple[nn.Module, nn.Module]:
        players: Any = tuple(player.to(memory_format=memory) for player in IMAGES.players())
        t = subject.trainer(world=IMAGES, players=players, optimizer=sgd)
        t.fit(lambda n, generator: IMAGES.batch(n, generator)[0].contiguous(memory_format=memory), 4)
        return t.game.g, t.game.d

    last, usual = ends(torch.channels_last), ends(torch.contiguous_format)
    finite(usual, "after 4 steps on images")
    for player, a, b in zip(("G", "D"), last, usual, strict=True):
        if not torch.allclose(params(a), params(b), rtol=1e-3, atol=1e-4):
            gap = (params(a) - params(b)).abs().max()
            raise Broken(f"images in channels-last memory lead to other weights of {player}, by up to {gap:.2g}")


def plays_with_labels(subject: Subject) -> None:
    world = LABELLED_IMAGES if subject.world.images else LABELLED_POINTS
    t = subject.trainer(world=world)
    made, shown = list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
    t.game.g.register_forward_hook(lambda g, given, out: made.append(_kept(out, given[1])))
    t.game.d.register_forward_pre_hook(lambda d, given: shown.append(_kept(*given)))

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        x, y = world.batch(n, generator)
        made.append((x, y))
        return x, y

    t.fit(draw, 4)
    finite((t.game.g, t.game.d), "after 4 conditional steps")
    _hold_labels(made, shown)
    stopped = subject.trainer(world=world).fit(world.data, 3)
    again = taken_up(written(stopped.state_dict()), subject.trainer(world=world)).fit(world.data, 1)
    if found := difference(again.state_dict(), t.state_dict()):
        raise Broken(f"taken up after 3 conditional steps, the run ends otherwise: {found}")


def _kept(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) != len(y):
        raise Broken(f"D was shown {len(x)} samples with {len(y)} labels; what moves samples moves game.labels")
    return x.detach().clone(), y.clone()


def _hold_labels(made: list[tuple[Tensor, Tensor]], shown: list[tuple[Tensor, Tensor]]) -> None:
    """Raises Broken where D was shown a sample with another label than it was made or drawn with.

    What is looked at only afterwards makes no step wait. A sample that nobody made, such as an augmented one, may have
    any label.
    """
    known = {row: label for x, y in made for row, label in zip(_rows(x), y.tolist(), strict=True)}
    for x, y in shown:
        if any(known.get(row, label) != label for row, label in zip(_rows(x), y.tolist(), strict=True)):
            raise Broken("D was shown a sample with the label of another one; what moves samples moves game.labels")


def _rows(x: Tensor) -> list[bytes]:
    return [row.tobytes() for row in x.detach().cpu().contiguous().numpy()]


PROMISES = (
    Promise("points", "It plays with points.", plays_with_points, "points"),
    Promise("images", "It plays with images, in channels-last memory too.", plays_with_images, "images"),
    Promise("labels", "It plays in a conditional game, each label with its sample.", plays_with_labels, "labels"),
)
