"""Two time scales: D's rates, before and after, and beside schedulers and files."""

from __future__ import annotations

import copy

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import TTUR
from stabilgan.tricks.ttur import two_time_scales


def game_of(opt_d: torch.optim.Optimizer, g: nn.Module, d: nn.Module, ratio: float = 4.0) -> stabilgan.Game:
    return stabilgan.attach(g, d, play.sgd(g), opt_d, [TTUR(ratio)])


def test_ds_rates_are_multiplied_at_attach_and_put_back_at_detach() -> None:
    g, d = play.players()
    first, rest = list(d.parameters())[:2], list(d.parameters())[2:]
    opt_d = torch.optim.SGD([{"params": first, "lr": 0.1}, {"params": rest, "lr": 0.03}], lr=1.0)
    game = game_of(opt_d, g, d, 0.5)
    assert [group["lr"] for group in opt_d.param_groups] == [0.05, 0.015]
    game.detach()
    assert [group["lr"] for group in opt_d.param_groups] == [0.1, 0.03]


def test_the_step_is_the_ratio_times_as_long() -> None:
    def moved(ratio: float) -> torch.Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
        game, before = game_of(opt_d, g, d, ratio), play.params(d)
        d(game.real(torch.ones(2, 2).double())).sum().backward()
        opt_d.step()
        return play.params(d) - before

    torch.testing.assert_close(moved(3.0), 3 * moved(1.0), rtol=1e-10, atol=1e-12)


def test_a_rate_that_is_a_tensor_keeps_its_place() -> None:
    g, d = play.players()
    rate = torch.tensor(0.5)
    opt_d = torch.optim.Adam(d.parameters(), lr=rate)
    game = game_of(opt_d, g, d)
    assert opt_d.param_groups[0]["lr"] is rate
    assert rate.item() == 2.0
    game.detach()
    assert rate.item() == 0.5


def test_an_optimizer_loaded_before_attach_is_not_sped_up_twice() -> None:
    g, d = play.players()
    opt_d = play.adam(d)
    game = game_of(opt_d, g, d)
    saved = copy.deepcopy(opt_d.state_dict())
    game.detach()
    again = play.adam(d)
    again.load_state_dict(saved)
    game_of(again, g, d)
    assert again.param_groups[0]["lr"] == pytest.approx(0.04)


def test_a_scheduler_built_before_is_refused_and_one_built_after_goes_on_from_the_new_rate() -> None:
    g, d = play.players()
    opt_d = play.adam(d)
    torch.optim.lr_scheduler.LambdaLR(opt_d, lambda epoch: 0.5)
    with pytest.raises(ValueError, match=r"has a learning-rate scheduler, .* Build it after attach"):
        game_of(opt_d, g, d)
    game_of(opt_d, g, d, 1.0)
    g, d = play.players()
    opt_d = play.adam(d)
    game_of(opt_d, g, d)
    torch.optim.lr_scheduler.LambdaLR(opt_d, lambda epoch: 0.5)
    assert opt_d.param_groups[0]["lr"] == pytest.approx(0.02)


def test_the_trainers_option_is_the_same() -> None:
    def run(ttur: float, tricks: list[stabilgan.Trick]) -> stabilgan.Trainer:
        g, d = play.players()
        trainer = stabilgan.Trainer(g, d, play.adam(g), play.adam(d), tricks, latent=4, batch_size=8, ttur=ttur)
        return trainer.fit(play.ring, 3)

    by_option, by_trick, without = run(4.0, []), run(1.0, [TTUR(4.0)]), run(1.0, [])
    assert play.same(by_option.game.d, by_trick.game.d)
    assert not play.same(by_option.game.d, without.game.d)
    assert by_option.game.opt_g.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize("ratio", [0.0, -1.0])
def test_ratios_out_of_range_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="expected above 0"):
        TTUR(ratio)
    with pytest.raises(ValueError, match="expected above 0"):
        two_time_scales(torch.optim.SGD([torch.zeros(1)], lr=0.1), ratio)
