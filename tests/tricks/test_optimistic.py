"""Optimistic steps against optimistic SGD and Adam written by hand, and in the bilinear game."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import play
import pytest
import torch
from bilinear import Bilinear
from torch import nn

import stabilgan
from stabilgan import Optimistic


class HandWrittenAdam:
    """Optimistic Adam, Algorithm 1 of Daskalakis et al.: both terms from their own moments."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.w, self.t = weights.clone(), 0
        self.m, self.v = torch.zeros_like(weights), torch.zeros_like(weights)
        self.before = torch.zeros_like(weights)

    def step(self, gradient: torch.Tensor) -> torch.Tensor:
        self.t += 1
        self.m = 0.5 * self.m + 0.5 * gradient
        self.v = 0.99 * self.v + 0.01 * gradient**2
        ratio = (self.m / (1 - 0.5**self.t)) / ((self.v / (1 - 0.99**self.t)).sqrt() + 1e-8)
        self.w = self.w - 2 * 0.01 * ratio + 0.01 * self.before
        self.before = ratio
        return self.w


class HandWrittenSGD:
    """Optimistic mirror descent, Eq. 6: w - 2η g + η g of the step before."""

    def __init__(self, weights: torch.Tensor) -> None:
        self.w, self.before = weights.clone(), torch.zeros_like(weights)

    def step(self, gradient: torch.Tensor) -> torch.Tensor:
        self.w = self.w - 2 * 0.01 * gradient + 0.01 * self.before
        self.before = gradient
        return self.w


@pytest.mark.parametrize(
    ("make", "by_hand"),
    [
        (lambda net: torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.5, 0.99)), HandWrittenAdam),
        (lambda net: torch.optim.SGD(net.parameters(), lr=1e-2), HandWrittenSGD),
    ],
)
def test_the_steps_are_those_of_the_paper_written_by_hand(
    make: Callable[[nn.Module], torch.optim.Optimizer], by_hand: type[HandWrittenAdam | HandWrittenSGD]
) -> None:
    g, d = play.players(dtype=torch.float64)
    opt_d = make(d)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [Optimistic()])
    hand = by_hand(play.params(d))
    data = torch.Generator().manual_seed(0)
    for _ in range(6):
        opt_d.zero_grad()
        d(game.real(play.ring(8, data).double())).square().mean().backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in d.parameters() if p.grad is not None])
        opt_d.step()
        torch.testing.assert_close(play.params(d), hand.step(gradient), rtol=1e-9, atol=1e-11)


def test_a_step_that_a_grad_scaler_leaves_out_moves_nothing_and_is_none() -> None:
    """A fused optimizer is asked for it all the same: Adam by hand goes on as if that batch had not been."""
    g, d = play.players()
    opt_d = torch.optim.Adam(d.parameters(), lr=1e-2, betas=(0.5, 0.99), fused=True)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [Optimistic()])
    hand, scaler = HandWrittenAdam(play.params(d)), torch.amp.GradScaler("cpu", init_scale=1024.0)
    data = torch.Generator().manual_seed(0)
    for step in range(6):
        before, overflow = play.params(d), step in (0, 3)
        opt_d.zero_grad()
        loss = d(game.real(play.ring(8, data))).square().mean()
        scaler.scale(loss * torch.inf if overflow else loss).backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in d.parameters() if p.grad is not None]) / scaler.get_scale()
        scaler.step(opt_d)
        scaler.update()
        if overflow:
            assert torch.equal(play.params(d), before)
        else:
            torch.testing.assert_close(play.params(d), hand.step(gradient), rtol=1e-4, atol=1e-6)


def test_optimistic_descent_converges_in_the_bilinear_game_at_the_rate_of_its_eigenvalues() -> None:
    """w' = w - 2ηAw + ηAw of before: λ² - (1 - 2iη)λ - iη = 0 for A's eigenvalues ±i."""
    eta = 0.1
    largest = np.abs(np.linalg.eigvals(np.array([[1 - 2j * eta, 1j * eta], [1, 0]]))).max()
    end = Bilinear([Optimistic()]).simultaneous(2000).distance
    assert end == pytest.approx(Bilinear([Optimistic()]).simultaneous(1990).distance * largest**10, rel=1e-3)
    assert end < 1e-3
    assert Bilinear().simultaneous(2000).distance > 1e4


def test_a_weight_between_lets_half_of_it_through() -> None:
    game = Bilinear([Optimistic(weight=0.5)])
    game.turn("d")
    assert game.point[1].item() == pytest.approx(1 - 1.5 * 0.1)  # the first step: δ + ½ (δ - 0)
    game.turn("d")
    assert game.point[1].item() == pytest.approx(1 - 1.5 * 0.1 - 0.1)  # then the steps are equal: δ + ½ (δ - δ)


def test_an_average_takes_in_where_the_optimistic_step_ends() -> None:
    ema = stabilgan.EMA(0.0)
    game = Bilinear([ema, Optimistic()]).alternate(3)
    assert torch.equal(play.params(ema.average), game.point[:1])


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight is -1\.0; expected 0 or more"):
        Optimistic(-1.0)
