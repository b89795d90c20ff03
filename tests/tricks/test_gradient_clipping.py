"""Gradient clipping against torch's own, and against steps written by hand."""

from __future__ import annotations

from typing import Any

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import GradientClipping


def step(clip: GradientClipping | None, gradients: list[torch.Tensor], player: str = "d") -> nn.Module:
    """One SGD step at rate 1 of a player whose gradients are given."""
    g, d = play.players(dtype=torch.float64)
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=1.0) for net in (g, d))
    game = stabilgan.attach(g, d, opt_g, opt_d, [clip] if clip else [])
    net = game.player(player)  # type: ignore[arg-type]
    for p, gradient in zip(net.parameters(), gradients, strict=True):
        p.grad = gradient.clone()
    game.optimizer(player).step()  # type: ignore[arg-type]
    return net


def gradients_of(player: str = "d", size: float = 1.0) -> list[torch.Tensor]:
    torch.manual_seed(3)
    net = play.players(dtype=torch.float64)[0 if player == "g" else 1]
    return [size * torch.randn_like(p) for p in net.parameters()]


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_clipping_by_length_gives_the_step_that_torch_gives(size: float) -> None:
    gradients = gradients_of(size=size)
    _, d = play.players(dtype=torch.float64)
    for p, gradient in zip(d.parameters(), gradients, strict=True):
        p.grad = gradient.clone()
    nn.utils.clip_grad_norm_(d.parameters(), 2.5)
    torch.optim.SGD(d.parameters(), lr=1.0).step()
    clipped = play.params(step(GradientClipping(norm=2.5), gradients))
    torch.testing.assert_close(clipped, play.params(d), rtol=1e-10, atol=1e-12)
    assert torch.equal(clipped, play.params(step(None, gradients))) is (size == 1e-3)


def test_clipping_by_value_moves_no_weight_further_than_the_rate_times_it() -> None:
    gradients = gradients_of()
    before = play.params(play.players(dtype=torch.float64)[1])
    moved = before - play.params(step(GradientClipping(norm=None, value=0.3), gradients))
    expected = torch.cat([g.reshape(-1) for g in gradients])
    expected = torch.where(expected > 0.3, 0.3, torch.where(expected < -0.3, -0.3, expected))
    torch.testing.assert_close(moved, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_normalised_step_always_has_the_same_length(size: float) -> None:
    before = play.params(play.players(dtype=torch.float64)[1])
    moved = before - play.params(step(GradientClipping(norm=0.25, normalise=True), gradients_of(size=size)))
    whole = torch.cat([g.reshape(-1) for g in gradients_of()])
    torch.testing.assert_close(moved, 0.25 * whole / whole.norm(), rtol=1e-8, atol=1e-10)


def test_a_gradient_of_zero_stays_zero() -> None:
    before = play.params(play.players(dtype=torch.float64)[1])
    after = play.params(step(GradientClipping(norm=50.0, normalise=True), gradients_of(size=0.0)))
    assert torch.equal(before, after)


@pytest.mark.parametrize(("option", "clipped"), [("both", "dg"), ("d", "d"), ("g", "g")])
def test_the_option_says_whose_gradients_are_clipped(option: Any, clipped: str) -> None:
    for player in "dg":
        gradients = gradients_of(player, 100.0)
        free = play.params(step(None, gradients, player))
        held = play.params(step(GradientClipping(player=option), gradients, player))
        assert torch.equal(free, held) is (player not in clipped)


def test_a_penalty_is_part_of_what_is_clipped() -> None:
    g, d = play.players()
    opt_d = torch.optim.SGD(d.parameters(), lr=1.0)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [GradientClipping(norm=0.5), stabilgan.R1(1e6)])
    before = play.params(d)
    d(game.real(torch.randn(8, 2))).mean().backward()
    opt_d.step()
    torch.testing.assert_close((play.params(d) - before).norm(), torch.tensor(0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"norm": 0.5}, {"norm": None, "value": 0.01}, {"norm": 0.5, "normalise": True}])
def test_scaled_gradients_of_a_fused_optimizer_are_clipped_as_unscaled_ones(options: dict[str, Any]) -> None:
    def run(scaled: bool) -> torch.Tensor:
        g, d = play.players()
        opt_d = torch.optim.Adam(d.parameters(), lr=0.1, eps=1e-2, fused=True)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [GradientClipping(**options)])
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        data = torch.Generator().manual_seed(0)
        for _ in range(3):
            opt_d.zero_grad()
            scaler.scale(d(game.real(play.ring(8, data))).square().mean()).backward()
            scaler.step(opt_d)
            scaler.update()
        return play.params(d)

    torch.testing.assert_close(run(True), run(False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"norm": 0.0}, {"value": -1.0}, {"player": "both players"}, {"norm": None, "normalise": True}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        GradientClipping(**options)
