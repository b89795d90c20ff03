"""Lookahead-minimax against its recursion written out, and in the bilinear game."""

from __future__ import annotations

import play
import pytest
import torch
from bilinear import Bilinear
from torch import nn

import stabilgan
from stabilgan import Lookahead


def test_both_players_go_back_after_every_kth_step_of_g_as_written_out() -> None:
    """Alternating steps of the bilinear game at rate 0.1, with k = 3 and alpha = 0.3."""
    x, y, slow = 1.0, 1.0, (1.0, 1.0)
    game = Bilinear([Lookahead(k=3, alpha=0.3)])
    for step in range(1, 11):
        y -= 0.1 * x
        x += 0.1 * y
        if step % 3 == 0:
            slow = x, y = slow[0] + 0.3 * (x - slow[0]), slow[1] + 0.3 * (y - slow[1])
        game.alternate(1)
        torch.testing.assert_close(game.point, torch.tensor([x, y], dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_it_makes_simultaneous_steps_converge_that_diverge_without_it() -> None:
    """The k-step map is (1 ± 0.1i)^k; going halfway back has the modulus |½ + ½(1 + 0.1i)^k| < 1 for k = 20."""
    modulus = abs(0.5 + 0.5 * (1 + 0.1j) ** 20)
    assert modulus < 1
    assert Bilinear([Lookahead(k=20)]).simultaneous(400).distance == pytest.approx(2**0.5 * modulus**20, rel=1e-8)
    assert Bilinear().simultaneous(400).distance > 10


def test_with_more_steps_of_d_gs_steps_are_counted() -> None:
    def run(*tricks: stabilgan.Trick) -> nn.Module:
        g, d = play.players()
        t = stabilgan.Trainer(g, d, play.sgd(g), play.sgd(d), tricks, latent=4, batch_size=8, n_critic=3)
        return t.fit(play.ring, 2).game.d

    assert torch.equal(play.params(run(Lookahead(k=3))), play.params(run()))
    assert not torch.equal(play.params(run(Lookahead(k=2))), play.params(run()))


def test_weights_that_the_optimizer_does_not_hold_and_statistics_stay() -> None:
    g, d = play.players()
    d[0].requires_grad_(False)
    opt_d = torch.optim.SGD([p for p in d.parameters() if p.requires_grad], lr=0.1)
    t = stabilgan.Trainer(g, d, play.sgd(g), opt_d, [Lookahead(k=2)], latent=4, batch_size=8)
    first = d[0].weight.clone()
    t.fit(play.ring, 4)
    assert torch.equal(d[0].weight, first)
    assert g[1].num_batches_tracked.item() == 8
    assert len(t.game.tricks[0].state_dict()["slow"]["d"]) == 4


def test_weights_loaded_after_attach_are_what_it_goes_back_to() -> None:
    game = Bilinear([Lookahead(k=1, alpha=0.5)])
    nn.init.constant_(game.g.weight, 5.0)
    game.alternate(1)
    y = 0.5 * (1 + 1 - 0.1 * 5)
    assert game.point.tolist() == pytest.approx([0.5 * (5 + 5 + 0.1 * (1 - 0.1 * 5)), y])


def test_an_average_takes_in_the_iterates_before_they_go_back() -> None:
    ema = stabilgan.EMA(0.0)
    game = Bilinear([Lookahead(k=1, alpha=0.5), ema]).alternate(1)
    fast = 1 + 0.1 * 0.9
    assert play.params(ema.average).item() == pytest.approx(fast)
    assert game.point[0].item() == pytest.approx((1 + fast) / 2)


@pytest.mark.parametrize("options", [{"k": 0}, {"alpha": 0.0}, {"alpha": 1.5}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Lookahead(**options)  # type: ignore[arg-type]
