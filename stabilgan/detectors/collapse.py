"""Collapse: the fakes are all alike, or leave parts of the data out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from stabilgan.detectors.base import Detector, Reading, Ring, View, at_least


def spread(x: Tensor) -> Tensor:
    """The mean distance between two samples of a batch; 0 where all are identical.

    Args:
        x: (N, D), N of at least 2.

    >>> spread(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).item()
    5.0
    """
    return _mean_of_pairs(distances(x, x))


def _mean_of_pairs(among: Tensor) -> Tensor:
    return among.sum() / (len(among) * (len(among) - 1))


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (N, M) of (N, D) and (M, D), in full float32: small ones survive where they can."""
    # A matrix product is the faster way on a CPU, and loses small distances; TF32 would lose most on a GPU.
    exact = x.is_cuda or x.shape[1] <= 32
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist"
    return torch.cdist(x, y, compute_mode=mode)


class Reach(NamedTuple):
    """Three shares, scalars: of the reals that fakes reach, of the fakes near the data, of the reals near it."""

    coverage: Tensor
    precision: Tensor
    reference: Tensor


def reach(real: Tensor, fake: Tensor, *, k: int = 5) -> Reach:
    """How much of the data the fakes reach, and how many fakes are near the data at all.

    A real sample's neighbourhood is the ball out to its k-th nearest other real sample. *Coverage* is the share of
    neighbourhoods with at least one fake in them (Naeem et al. 2020, arXiv:2002.09797, Eq. 8), *precision* the share
    of fakes in at least one neighbourhood (Kynkäänniemi et al. 2019, arXiv:1904.06991, Eq. 1), *reference* the same
    of real samples, each left out of its own.

    Args:
        real, fake: (N, D) and (M, D).
        k: neighbours.

    >>> x = torch.arange(10.0)[:, None]
    >>> [round(share.item(), 3) for share in reach(x, x[:5], k=1)]  # 0 to 4 are reached, and 5, whose neighbour is 4
    [0.6, 1.0, 1.0]
    """
    centre = real.mean(0)  # tight clusters far from the origin would drown in float32
    return _reach(distances(real - centre, real - centre), distances(real - centre, fake - centre), k)


def _reach(among: Tensor, across: Tensor, k: int) -> Reach:
    among = among.fill_diagonal_(float("inf"))
    radius = among.topk(k, 1, largest=False).values[:, -1]
    inside = across <= radius[:, None]
    return Reach(
        inside.any(1).float().mean(),
        inside.any(0).float().mean(),
        (among <= radius[:, None]).any(0).float().mean(),
    )


def left_empty(real: int, due: float, k: int) -> float:
    """The share of N real samples that have no fake among them and their k nearest others, at most, where fakes come
    with `due` of what the reals give each place.

    A neighbourhood is empty where its k nearest are all real, which has the chance (1 + due)^-k, whatever the data
    are. Three standard errors come on top, binomial ones of real / k independent samples, since neighbours are empty
    together.

    Args:
        due: 1 where there are as many fakes as reals, 0.2 where a fifth of that comes.

    >>> round(left_empty(512, 1.0, 17), 3), round(left_empty(512, 0.2, 17), 3)
    (0.002, 0.158)
    """
    chance = (1 + due) ** -k
    return chance + 3 * math.sqrt(chance * (1 - chance) * k / real)


class Collapse(Detector):
    """Says that the fakes are all alike (total collapse) or that they leave parts of the data out (mode dropping).

    Two measures over the latest `window` samples of each side:

    - *spread*, the mean distance between fakes over that between reals, which does not ask how good the fakes are;
    - the *reached* share of the data: of the real samples that have a fake among their 17 nearest. A part is left out
      where fewer than `due` of the fakes come that the reals would give it, not where it gets merely less than its
      share: the alarm takes more empty neighbourhoods than `left_empty` allows a G that puts `due` everywhere.
      It is judged only where at least `near` of the fakes are near the data, relative to what real samples are to each
      other, and these alone count; of fakes far from the data nobody can tell which part of it they stand for. Fewer
      empty ones, but more than where half its due comes everywhere, are "unknown": an uneven G reads the same
      as one that leaves a small part out. Where modes overlap, less than the dropped share is missed: on raw
      MNIST digits, 0.96 is reached with 7 of 10 digits kept. At a window of 512 a sixth of the data has to be missing.

    A young G looks collapsed before it has learned to be diverse. What would be an alarm is "unknown" while diversity
    grows: while the measure had its best reading of the run, the first one aside, in the latest `young` steps, and is
    still near it.

    Samples are flattened; of more than `dimensions` numbers, evenly spaced ones are taken. Memory: at most window ·
    dimensions · 8 bytes (4 MiB) and, while measuring, twice that and three tables of window² numbers.

    Args:
        spread: an alarm below it; 1 is the data's own.
        due: a part of the data that gets less than this share of its fakes is left out.
        near: the share of fakes that have to lie near the data, relative to reals, before parts are judged.
        window: samples of each side.
        dimensions: numbers kept of each sample.
        young: steps for which a new best reading counts as growth.
        patience: readings in a row before a watch raises an alarm.
    """

    name = "collapse"
    source = (
        "coverage: Naeem et al. 2020, arXiv:2002.09797, Eq. 8; precision: Kynkäänniemi et al. 2019, arXiv:1904.06991"
    )
    statistics = ("spread_real", "spread_fake", "coverage", "precision", "reference")
    kept = ("_step", "_best")
    NEIGHBOURS: ClassVar = 17
    """The fewest that all stay empty of fakes with a chance under 0.05 where a fifth of them comes: 1.2^-17. A
    quarter of a small window at most."""
    FAIR: ClassVar = 0.5
    """No part is called reached where fewer than this share of its fakes come."""
    MORE: ClassVar = 1.1  # times the best so far is a new best: noise alone is none
    STILL: ClassVar = 0.8  # times the best is near it

    def __init__(
        self,
        spread: float = 0.2,
        due: float = 0.2,
        near: float = 0.5,
        window: int = 512,
        dimensions: int = 1024,
        young: int = 200,
        patience: int = 3,
    ) -> None:
        at_least(
            self.name,
            spread=(spread, 0),
            due=(due, 0),
            near=(near, 0),
            window=(window, 20),
            dimensions=(dimensions, 1),
            young=(young, 0),
            patience=(patience, 1),
        )
        self.spread, self.due, self.near = spread, due, near
        self.window, self.dimensions, self.young, self.patience = window, dimensions, young, patience
        self._real, self._fake = Ring(window), Ring(window)
        self._best: dict[str, list[float]] = {}

    @property
    def neighbours(self) -> int:
        """How many real samples make a neighbourhood."""
        return min(self.NEIGHBOURS, self.window // 4)

    def update(self, view: View) -> None:
        self._step = view.step
        for ring, x in ((self._real, view.real), (self._fake, view.fake)):
            if x is not None:
                flat = x.detach()[-self.window :].unsqueeze(-1).flatten(1)  # (N,) too
                ring.push(flat[:, :: -(-flat.shape[1] // self.dimensions)])

    def missing(self) -> str | None:
        for ring, what, line in (
            (self._real, "real samples", "netD(game.real(real))"),
            (self._fake, "fakes", "game.critic(fake)"),
        ):
            if ring.seen == 0:
                return f"no {what} were seen; write {line}"
            if not ring.full:
                return f"{ring.seen} {what} were seen, and {self.window} are needed"
        return None

    def measure(self) -> Tensor:
        real, fake = self._real.rows(), self._fake.rows()
        centre = real.mean(0)
        real, fake = real - centre, fake - centre
        among = distances(real, real)
        spreads = _mean_of_pairs(among), spread(fake)
        return torch.stack([*spreads, *_reach(among, distances(real, fake), self.neighbours)])

    def judge(self, values: Mapping[str, float], step: int) -> Reading:
        if values["spread_real"] == 0:
            return self.unknown("the real samples are all identical", step, None, self.spread)
        ratio = values["spread_fake"] / values["spread_real"]
        if ratio != ratio or ratio in (float("inf"),):
            return self.unknown("samples are not finite", step, None, self.spread)
        growing = self._growing(step, spread=ratio, coverage=values["coverage"])
        if ratio < self.spread and growing:
            why = f"the fakes differ by only {ratio:.2g} of what real samples do, but diversity is still growing"
            return self.unknown(why, step, ratio, self.spread)
        if ratio < self.spread:
            text = f"the fakes are all alike: they differ from each other by {ratio:.2g} of what real samples do"
            return Reading(self.name, step, ratio, self.spread, "alarm", text)
        near = min(values["precision"] / values["reference"], 1.0)
        if near < self.near:
            why = (
                f"the fakes differ from each other by {ratio:.2g} of what real samples do, so they are not all alike; "
                f"but only {near:.0%} of them are near the data, too few to say whether they leave parts of it out"
            )
            return self.unknown(why, step, ratio, self.spread)
        reached, k = values["coverage"], self.neighbours
        least, fair = (1 - left_empty(self.window, share * near, k) for share in (self.due, max(self.FAIR, self.due)))
        if reached < least and "coverage" in growing:
            why = f"the fakes reach only {reached:.0%} of the data, but that is still growing"
            return self.unknown(why, step, reached, least)
        if reached < least:
            text = f"the fakes leave parts of the data out: they reach {reached:.0%} of it"
            return Reading(self.name, step, reached, least, "alarm", text)
        if reached < fair:
            why = (
                f"the fakes reach {reached:.0%} of the data, which is less than chance explains, but fakes that come "
                "unevenly read the same as fakes that leave a part out"
            )
            return self.unknown(why, step, reached, least)
        text = f"the fakes reach {reached:.0%} of the data, and differ by {ratio:.2g} of what real samples do"
        return Reading(self.name, step, reached, least, "ok", text)

    def _growing(self, step: int, **now: float) -> list[str]:
        """Which of the measures are near a best that is young and is not the first that was seen."""
        growing = []
        for name, value in now.items():
            best, since, first = self._best.get(name, [value, step, step])
            if value > self.MORE * best:
                best, since = value, step
            self._best[name] = [best, since, first]
            if since > first and step - since < self.young and value >= self.STILL * best:
                growing.append(name)
        return growing
