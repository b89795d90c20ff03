"""Balance: who waits, what of a step is taken back, and what goes on."""

from __future__ import annotations

import copy
from typing import Any

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import Balance, losses

FAR = 100.0  # a distance between real and fake at which one of D's judgements is sure


class Duel:
    """A game whose real samples lie at +place and fakes at -place; D scores by the sum of a sample at first."""

    def __init__(self, trick: Balance, make: Any = play.sgd, place: float = FAR) -> None:
        self.g, self.d = nn.Linear(4, 2), nn.Linear(2, 1)
        with torch.no_grad():
            self.d.weight.fill_(1.0)
            self.d.bias.zero_()
            self.g.weight.zero_()
            self.g.bias.fill_(-place)
        self.opt_g, self.opt_d = make(self.g), make(self.d)
        self.place, self.trick = place, trick
        self.game = stabilgan.attach(self.g, self.d, self.opt_g, self.opt_d, [trick], loss=losses.hinge)

    def turn(self, player: str) -> None:
        real, z = torch.full((6, 2), self.place), torch.ones(6, 4)
        if player == "d":
            self.opt_d.zero_grad()
            loss = self.d(self.game.fake(self.g(z).detach())).mean() - self.d(self.game.real(real)).mean()
        else:
            self.opt_g.zero_grad()
            loss = -self.game.critic(self.g(z)).mean()
        loss.backward()
        self.game.optimizer(player).step()  # type: ignore[arg-type]

    def kept(self, player: str) -> Any:
        net, optimizer = self.game.player(player), self.game.optimizer(player)  # type: ignore[arg-type]
        state = [{k: v for k, v in s.items() if k != "step"} for s in optimizer.state.values()]
        return copy.deepcopy([net.state_dict(), state])

    def stays(self, player: str) -> bool:
        before = self.kept(player)
        self.turn(player)
        return play.same(self.kept(player), before)


@pytest.mark.parametrize("make", [play.sgd, play.adam, lambda net: torch.optim.RMSprop(net.parameters(), momentum=0.9)])
def test_a_d_that_judges_too_well_waits_and_g_does_not(make: Any) -> None:
    duel = Duel(Balance(), make)
    assert not duel.stays("d")  # the first step is always made
    assert not duel.stays("g")
    assert duel.stays("d")
    assert not duel.stays("g")
    assert duel.trick.skipped == {"d": 1, "g": 0}
    assert duel.game.steps == {"d": 2, "g": 2}


def test_a_g_whose_d_judges_too_badly_waits() -> None:
    duel = Duel(Balance(low=0.2), place=-FAR)  # real where D expects fakes
    duel.turn("d")
    duel.turn("g")
    with torch.no_grad():
        duel.d.weight.fill_(1.0)  # whatever it has learned
    assert not duel.stays("d")
    assert duel.stays("g")
    assert duel.trick.skipped == {"d": 0, "g": 1}


@pytest.mark.parametrize("high", [0.99, 1.0, None])
def test_only_what_is_above_the_bound_waits(high: float | None) -> None:
    duel = Duel(Balance(high=high, low=0.0))
    duel.turn("d")
    assert duel.stays("d") is (high == 0.99)


def test_steps_after_one_that_was_not_made_go_on_as_if_it_had_never_been() -> None:
    """SGD with momentum, as written by hand: the third step is the second."""

    def ends(balanced: bool) -> torch.Tensor:
        trick = Balance(high=0.8 if balanced else None)
        duel = Duel(trick)
        duel.turn("d")
        if balanced:
            duel.turn("d")  # waits
            trick.high = None
        duel.turn("d")
        return play.params(duel.d)

    assert torch.equal(ends(True), ends(False))


def test_adams_step_counter_goes_on() -> None:
    duel = Duel(Balance(), play.adam)
    duel.turn("d")
    assert duel.stays("d")
    assert [state["step"].item() for state in duel.opt_d.state.values()] == [2.0, 2.0]


def test_the_gap_of_mean_scores_may_be_the_measure() -> None:
    """Scores are the sums ±2·place: a gap of 4·place, before the first step has changed D."""
    for high, waits in ((4.1 * 0.01, False), (3.9 * 0.01, True)):
        duel = Duel(Balance(high=high, measure="gap"), lambda net: torch.optim.SGD(net.parameters(), lr=1e-9), 0.01)
        duel.turn("d")
        duel.turn("d")
        assert duel.trick.skipped["d"] == waits


def test_scores_that_are_probabilities_have_their_middle_at_a_half() -> None:
    g = nn.Linear(4, 2)
    d = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    with torch.no_grad():
        d[0].weight.fill_(1.0)
        d[0].bias.zero_()
    trick, opt_d = Balance(), play.sgd(d)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [trick])
    for _ in range(2):  # all scores are above 0, so that with a middle of 0 no fake would be judged rightly
        opt_d.zero_grad()
        (d(game.real(torch.full((4, 2), 9.0))).mean() - d(game.fake(torch.full((4, 2), -9.0))).mean()).backward()
        opt_d.step()
    assert trick.skipped["d"] == 1


def test_a_loop_whose_scores_can_not_be_seen_is_told() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [Balance()])
    with pytest.raises(RuntimeError, match=r"balance needs what D sees as real, .* game\.real"):
        game.opt_d.step()
    game.real(torch.ones(2, 2))
    game.fake(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="D was never called with the tensors"):
        game.opt_d.step()


@pytest.mark.parametrize("options", [{"high": 1.5}, {"low": -0.1}, {"low": 0.9, "high": 0.5}, {"measure": "loss"}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Balance(**options)


@pytest.mark.parametrize("owned", [False, True])
def test_under_least_squares_the_middle_is_one_half(owned: bool) -> None:
    """D gives 0.6 to what is real and 0.4 to fakes, all of which it judges rightly; a loop's own loss is told."""
    g, d = nn.Linear(4, 2), nn.Linear(2, 1)
    nn.init.constant_(d.weight, 0.05)
    nn.init.constant_(d.bias, 0.5)
    trick = Balance(loss="least_squares" if owned else None)
    pair = None if owned else losses.least_squares
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick], loss=pair)
    (d(game.real(torch.ones(6, 2))) + d(game.fake(-torch.ones(6, 2)))).sum().backward()
    game.opt_d.step()
    assert trick.state_dict()["measured"].item() == 1.0


@pytest.mark.parametrize("pair", [losses.wasserstein, losses.relativistic], ids=lambda pair: pair.name)
def test_a_loss_whose_scores_have_no_middle_is_refused_unless_the_gap_is_measured(pair: losses.Loss) -> None:
    def attached(trick: Balance) -> None:
        g, d = play.players()
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick], loss=pair)

    with pytest.raises(ValueError, match=f"balance fits the losses hinge, .* alone; this game's loss is {pair.name}"):
        attached(Balance())
    attached(Balance(high=2.0, measure="gap"))
    attached(Balance(high=None))
