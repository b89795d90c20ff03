"""Weight clipping against a step written by hand."""

from __future__ import annotations

import math

import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import SpectralNorm, WeightClipping


def test_the_steps_are_those_of_the_hand_written_loop_with_its_clamp() -> None:
    real, fake = one_step.batches()
    _, d = play.players(dtype=torch.float64)
    opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
    for _ in range(3):
        opt_d.zero_grad()
        stabilgan.losses.logistic.d(d(real), d(fake)).backward()
        opt_d.step()
        for p in d.parameters():
            p.data = p.data.apply_(lambda w: min(max(w, -0.05), 0.05))
    found = one_step.with_trick(WeightClipping(c=0.05), real, fake, steps=3)
    assert torch.equal(found, play.params(d))
    assert found.abs().max() == 0.05


def test_batchnorm_is_clipped_and_its_statistics_and_frozen_layers_are_not() -> None:
    d = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    d[0].requires_grad_(False)
    g, before = play.generator_net(), d[0].weight.clone()
    opt_d = torch.optim.SGD([p for p in d.parameters() if p.requires_grad], lr=0.1)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [WeightClipping()])
    d(game.real(torch.randn(8, 2))).sum().backward()
    opt_d.step()
    assert torch.equal(d[0].weight, before)
    assert d[1].weight.tolist() == [pytest.approx(0.01)] * 4
    assert max(d[1].running_var.tolist()) > 0.5


def test_gs_step_does_not_clip() -> None:
    g, d = play.players()
    before = play.params(d)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [WeightClipping()])
    game.critic(g(torch.randn(4, 4))).sum().backward()
    game.opt_g.step()
    assert torch.equal(play.params(d), before)


def test_a_clipped_critic_is_as_lipschitz_as_its_weights_allow() -> None:
    """Each layer's ∞-norm is at most inputs · c, so D's slope in that norm is at most their product."""
    real, fake = one_step.batches()
    _, d = play.players(dtype=torch.float64)
    torch.nn.utils.vector_to_parameters(one_step.with_trick(WeightClipping(c=0.3), real, fake), d.parameters())
    x = torch.randn(200, 2, dtype=torch.float64)

    def slope(x: Tensor) -> Tensor:
        x = x.requires_grad_()
        return torch.autograd.grad(d(x).sum(), x)[0].abs().sum(1)

    assert slope(x).max() <= (2 * 0.3) * (16 * 0.3) * (16 * 0.3)


def test_it_and_spectral_norm_are_not_played_together() -> None:
    g, d = play.players()
    with pytest.raises(ValueError, match="can't be played together: it divides the clipped weights"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [WeightClipping(), SpectralNorm()])


def test_it_makes_no_passes() -> None:
    assert one_step.counted(WeightClipping()) == WeightClipping().cost == stabilgan.Cost()


@pytest.mark.parametrize("c", [0.0, -1.0, math.nan])
def test_a_bound_that_is_none_is_refused(c: float) -> None:
    with pytest.raises(ValueError, match=r"weight_clipping: c is .*; expected more than 0"):
        WeightClipping(c)
