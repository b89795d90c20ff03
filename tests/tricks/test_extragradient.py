"""Extragradient: against ExtraAdam and extrapolation from the past written by hand, and in the bilinear game."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import play
import pytest
import torch
from bilinear import Bilinear
from torch import nn

import stabilgan
from stabilgan import Extragradient, Optimistic


def adam64(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.5, 0.99))


# The bilinear game, step 0.1, from (1, 1): numbers from the eigenvalues of the update -------------------------------


def test_simultaneous_steps_spiral_out_and_alternating_ones_go_round() -> None:
    assert Bilinear().simultaneous(2000).distance == pytest.approx(2**0.5 * 1.01**1000, rel=1e-8)  # 3e4
    assert 1.3 < Bilinear().alternate(2000).distance < 1.6


def test_two_calls_look_ahead_and_converge_as_the_papers_eigenvalues_say() -> None:
    """One step of two gradients has the eigenvalues 1 - η² ± iη, of modulus √(1 - η² + η⁴)."""
    end = Bilinear([Extragradient("two_call")]).simultaneous(2000).distance
    assert end == pytest.approx(2**0.5 * (1 - 0.1**2 + 0.1**4) ** 500, rel=1e-8)
    assert end == pytest.approx(0.0098, abs=5e-5)


def test_extrapolation_from_the_past_converges() -> None:
    assert Bilinear([Extragradient("past")]).simultaneous(2000).distance < 1e-3


@pytest.mark.parametrize("form", ["past", "two_call"])
def test_alternating_turns_converge_too(form: Any) -> None:
    assert Bilinear([Extragradient(form)]).alternate(2000).distance < 0.05


# Written by hand -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [play.sgd, adam64])
def test_two_calls_are_extra_adam_written_by_hand(make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    """Both calls of the optimizer go through one state; the second starts where the first one did."""

    def run(in_game: bool) -> torch.Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_d = make(d)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [Extragradient("two_call")] if in_game else [])
        data = torch.Generator().manual_seed(0)
        for call in range(8):
            opt_d.zero_grad()
            d(game.real(play.ring(8, data).double())).square().mean().backward()
            if in_game:
                opt_d.step()
            elif call % 2 == 0:
                start = [p.detach().clone() for p in d.parameters()]
                opt_d.step()
            else:
                with torch.no_grad():
                    for p, w in zip(d.parameters(), start, strict=True):
                        p.copy_(w)
                opt_d.step()
        return play.params(d)

    torch.testing.assert_close(run(True), run(False), rtol=1e-10, atol=1e-12)


def test_extrapolation_from_the_past_written_by_hand() -> None:
    """w½ <- w - η F(w½ of before), then w <- w - η F(w½), for both players of the bilinear game in turn."""
    x = y = ahead_x = ahead_y = 1.0
    game = Bilinear([Extragradient("past")])
    for _ in range(7):
        slope = ahead_x  # of D's loss y·x in y
        y -= 0.1 * slope
        ahead_y = y - 0.1 * slope
        slope = -ahead_y  # of G's loss -y·x in x
        x -= 0.1 * slope
        ahead_x = x - 0.1 * slope
        game.alternate(1)
        torch.testing.assert_close(game.point, torch.tensor([ahead_x, ahead_y], dtype=torch.float64))
    game.game.detach()
    torch.testing.assert_close(game.point, torch.tensor([x, y], dtype=torch.float64))


@pytest.mark.parametrize("make", [play.sgd, adam64])
def test_from_the_past_gradients_are_asked_where_optimistic_steps_stand(
    make: Callable[[nn.Module], torch.optim.Optimizer],
) -> None:
    """The two are one method in other words (Gidel et al., Sec. 3.3), around any optimizer."""
    past, optimistic = (Bilinear([trick], make) for trick in (Extragradient("past"), Optimistic()))
    for _ in range(20):
        torch.testing.assert_close(past.alternate(1).point, optimistic.alternate(1).point, rtol=1e-10, atol=1e-12)


# Beside others -------------------------------------------------------------------------------------------------------


def test_a_step_that_a_grad_scaler_leaves_out_leaves_the_player_where_it_stood() -> None:
    """A fused optimizer is asked for it all the same; the run ends as one in which that batch had not been."""

    def end(overflows: bool) -> torch.Tensor:
        g, d = play.players()
        opt_d = torch.optim.Adam(d.parameters(), lr=1e-2, fused=True)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [Extragradient("past")])
        scaler, data = torch.amp.GradScaler("cpu", init_scale=1024.0), torch.Generator().manual_seed(0)

        def move(x: torch.Tensor, times: float) -> None:
            opt_d.zero_grad()
            scaler.scale(times * d(game.real(x)).square().mean()).backward()
            scaler.step(opt_d)
            scaler.update()

        for step in range(5):
            if overflows and step in (0, 3):
                before = play.params(d)
                move(torch.ones(8, 2), torch.inf)
                assert torch.equal(play.params(d), before)
            move(play.ring(8, data), 1.0)
        return play.params(d)

    assert torch.equal(end(True), end(False))


@pytest.mark.parametrize("form", ["past", "two_call"])
def test_an_average_takes_in_weights_and_not_look_ahead_points(form: Any) -> None:
    ema = stabilgan.EMA(0.0)  # the average is the latest iterate that it was shown
    game = Bilinear([Extragradient(form), ema]).alternate(6)
    game.game.detach()
    assert torch.equal(play.params(ema.average), game.point[:1])


def test_only_every_second_call_is_counted_and_shown_to_others() -> None:
    class Count(stabilgan.Trick):
        name = "count"

        def __init__(self) -> None:
            self.moved: list[str] = []

        def after_step(self, player: stabilgan.game.Player, game: stabilgan.Game) -> None:
            self.moved.append(player)

    count = Count()
    game = Bilinear([count, Extragradient("two_call")]).alternate(6)
    assert game.game.steps == {"d": 3, "g": 3}
    assert count.moved == ["d", "g"] * 3


def test_the_trainer_goes_round_twice_for_a_step_of_two_calls() -> None:
    def run(form: Any) -> stabilgan.Trainer:
        g, d = play.players()
        tricks = [Extragradient(form)]
        t = stabilgan.Trainer(g, d, play.adam(g), play.adam(d), tricks, latent=4, batch_size=8, n_critic=3)
        return t.fit(play.ring, 4)

    for form, passes in (("past", 4 * 4), ("two_call", 4 * 8)):
        t = run(form)
        assert (t.steps, t.game.steps) == (4, {"d": 12, "g": 4})
        assert t.game.g[1].num_batches_tracked.item() == passes


# State ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["past", "two_call"])
@pytest.mark.parametrize("stop", range(1, 6))
def test_it_resumes_bit_for_bit_at_every_call_the_odd_ones_too(form: Any, stop: int) -> None:
    whole = Bilinear([Extragradient(form)], adam64).alternate(6)
    half = Bilinear([Extragradient(form)], adam64).alternate(stop)
    file = io.BytesIO()
    torch.save(half.state(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    again = Bilinear([Extragradient(form)], adam64)
    for name in ("g", "d", "opt_g", "opt_d", "game"):
        getattr(again, name).load_state_dict(state[name])
    again.alternate(6 - stop)
    assert play.same(again.state(), whole.state())


@pytest.mark.parametrize(("form", "steps"), [("past", 3), ("two_call", 3), ("two_call", 4)])
def test_detach_goes_back_from_the_look_ahead_point(form: Any, steps: int) -> None:
    game = Bilinear([Extragradient(form)]).alternate(steps)
    kept = copy.deepcopy(game.game.tricks[0].state_dict()["real"])
    stood = game.point
    game.game.detach()
    if kept:
        assert game.point.tolist() == [kept["g"][0].item(), kept["d"][0].item()]
        assert not torch.equal(game.point, stood)
    else:
        assert torch.equal(game.point, stood)


@pytest.mark.parametrize("form", ["past", "two_call"])
def test_at_zero_it_looks_nowhere(form: Any) -> None:
    still = Bilinear([Extragradient(form, ahead=0.0)]).alternate(5)
    assert torch.equal(still.point, Bilinear().alternate(5).point)
    assert still.game.steps == {"d": 5, "g": 5}


def test_half_a_step_ahead() -> None:
    game = Bilinear([Extragradient(ahead=0.5)])
    game.turn("d")
    assert game.point[1].item() == pytest.approx(1 - 0.1 - 0.05)


def test_a_state_of_the_other_form_is_refused() -> None:
    state = Extragradient("two_call").state_dict()
    with pytest.raises(ValueError, match="form='two_call', but this trick has form='past'"):
        Extragradient("past").load_state_dict(state)


@pytest.mark.parametrize("options", [{"form": "three_call"}, {"ahead": -1.0}, {"form": "two_call", "ahead": 0.5}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Extragradient(**options)


@pytest.mark.parametrize("other", [Optimistic, stabilgan.Lookahead])
def test_what_moves_players_in_its_own_way_is_refused(other: type[stabilgan.Trick]) -> None:
    with pytest.raises(ValueError, match="can't be played together"):
        Bilinear([Extragradient(), other()])
