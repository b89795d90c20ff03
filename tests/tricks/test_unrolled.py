"""Unrolled D: closed forms in the bilinear game, and D's optimizer itself as the oracle of the steps."""

from __future__ import annotations

import copy
from typing import Any

import play
import pytest
import torch
from bilinear import Bilinear
from torch import nn

import stabilgan
from stabilgan import Unrolled, losses
from stabilgan.tricks._unrolled_steps import AdamSteps, unroll


def g_moved_by(game: Bilinear) -> float:
    """The gradient that G's next step, at rate 0.1, goes down."""
    before = game.point[0].item()
    game.turn("g")
    return (before - game.point[0].item()) / 0.1


@pytest.mark.parametrize("k", [1, 2, 5])
def test_gs_gradient_flows_through_the_answer_of_a_linear_d(k: int) -> None:
    """D answers x with y - k·lr·x, so that G's loss -y·x becomes -(y - k·lr·x)·x, of slope -y + 2k·lr·x."""
    game = Bilinear([Unrolled(k=k, lr=0.2)])
    game.turn("d")
    x, y = game.point.tolist()
    assert g_moved_by(game) == pytest.approx(-y + 2 * k * 0.2 * x, rel=1e-10)
    assert game.point[1].item() == y  # D itself stays


def test_what_another_trick_puts_before_d_is_before_the_unrolled_d_too() -> None:
    """With D shown 2x: it answers with y - k·lr·2x, G's loss is -(y - 2k·lr·x)·2x, of slope -2y + 8k·lr·x."""

    class Doubled(stabilgan.Trick):
        name = "doubled"

        def fake(self, x: torch.Tensor, game: stabilgan.Game) -> torch.Tensor:
            return 2 * x

        def critic(self, d: Any, game: stabilgan.Game) -> Any:
            return lambda x, *labels: d(2 * x, *labels)

    game = Bilinear([Unrolled(k=3, lr=0.2), Doubled()])
    game.turn("d")
    x, y = game.point.tolist()
    assert g_moved_by(game) == pytest.approx(-2 * y + 8 * 3 * 0.2 * x, rel=1e-10)


def test_it_makes_the_bilinear_game_converge() -> None:
    assert Bilinear([Unrolled(k=5, lr=0.1)]).alternate(500).distance < 1e-6
    assert Bilinear().alternate(500).distance > 1


@pytest.mark.parametrize(
    "options", [{}, {"weight_decay": 0.1}, {"amsgrad": True}, {"weight_decay": 0.1, "decoupled": True}]
)
@pytest.mark.parametrize("before", [0, 3])
def test_adams_steps_are_those_that_the_optimizer_makes(options: dict[str, Any], before: int) -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(3, 2, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    options = dict(options)
    kind = torch.optim.AdamW if options.pop("decoupled", False) else torch.optim.Adam
    optimizer = kind(net.parameters(), lr=0.05, betas=(0.5, 0.9), **options)

    def move() -> None:
        optimizer.zero_grad()
        (net(x) - 1).square().mean().backward()
        optimizer.step()

    for _ in range(before):
        move()
    parameters = list(net.parameters())
    start = [p.detach().clone().requires_grad_() for p in parameters]
    state = copy.deepcopy(optimizer.state_dict())
    led = unroll(lambda w: (x @ w[0].T + w[1] - 1).square().mean(), start, AdamSteps(parameters, optimizer), 4)
    assert play.same(optimizer.state_dict(), state)
    for _ in range(4):
        move()
    for w, p in zip(led, net.parameters(), strict=True):
        torch.testing.assert_close(w, p, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda weights: torch.optim.SGD(weights, lr=0.1),
        lambda weights: torch.optim.Adam(weights, lr=0.01, betas=(0.5, 0.9), weight_decay=0.1),
        lambda weights: torch.optim.AdamW(weights, lr=0.01, betas=(0.5, 0.9), weight_decay=0.5, amsgrad=True),
    ],
    ids=["SGD", "Adam", "AdamW"],
)
def test_in_a_game_the_answer_is_where_ds_own_optimizer_leads(make: Any) -> None:
    g, d = play.players(dtype=torch.float64)
    opt_d, trick = make(d.parameters()), Unrolled(k=3)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [trick], loss=losses.logistic)
    real, fake = torch.randn(6, 2).double(), g(torch.randn(6, 4).double())

    def move(module: nn.Module, optimizer: torch.optim.Optimizer, shown: torch.Tensor) -> None:
        optimizer.zero_grad()
        losses.logistic.d(module(shown), module(fake.detach())).backward()
        optimizer.step()

    for _ in range(2):
        game.fake(fake.detach())
        move(d, opt_d, game.real(real))
    game.critic(fake)
    later = copy.deepcopy(d)
    optimizer = make(later.parameters())
    optimizer.load_state_dict(copy.deepcopy(opt_d.state_dict()))
    for _ in range(3):
        move(later, optimizer, real)
    assert trick._answered is not None
    for name, w in later.named_parameters():
        torch.testing.assert_close(trick._answered[name], w, rtol=1e-10, atol=1e-12)


def test_with_adam_gs_gradient_is_the_slope_of_the_loss_against_the_d_that_adam_leads_to() -> None:
    """By finite differences: for G's samples moved a little, D's own optimizer makes the k steps."""
    torch.manual_seed(1)
    g, d = nn.Linear(4, 2).double(), play.discriminator_net().double()
    opt_d = play.adam(d)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [Unrolled(k=3)], loss=losses.logistic)
    real, z = torch.randn(6, 2).double(), torch.randn(6, 4).double()
    for _ in range(2):
        opt_d.zero_grad()
        losses.logistic.d(d(game.real(real)), d(game.fake(g(z).detach()))).backward()
        opt_d.step()
    fake = g(z).detach().requires_grad_()
    (slope,) = torch.autograd.grad(losses.logistic.g(game.critic(fake), None), fake)

    def against_the_answer(x: torch.Tensor) -> torch.Tensor:
        later = copy.deepcopy(d)
        optimizer = play.adam(later)
        optimizer.load_state_dict(copy.deepcopy(opt_d.state_dict()))
        for _ in range(3):
            optimizer.zero_grad()
            losses.logistic.d(later(real), later(x)).backward()
            optimizer.step()
        return losses.logistic.g(later(x), None).detach()

    direction = torch.randn_like(slope)
    step = 1e-5 * direction
    rise = (against_the_answer(fake.detach() + step) - against_the_answer(fake.detach() - step)) / 2e-5
    torch.testing.assert_close((slope * direction).sum(), rise, rtol=1e-5, atol=1e-8)


def test_a_weight_of_d_that_never_had_a_gradient_makes_no_nan() -> None:
    g, d = play.players()
    with torch.no_grad():
        d[2].weight[0].zero_()
        d[2].bias[0] = 0.0
        d[4].weight[:, 0] = 0.0  # the unit is dead in both directions: its gradients are exactly zero
    opt_d = play.adam(d)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [Unrolled(k=2)], loss=losses.wasserstein)
    losses.wasserstein.d(d(game.real(torch.randn(6, 2))), d(game.fake(torch.randn(6, 2)))).backward()
    for p in d.parameters():
        p.grad = None  # D makes no step: its state is empty
    game.critic(g(torch.randn(6, 4))).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in g.parameters())


def test_real_samples_are_judged_by_the_same_answer_where_gs_loss_looks_at_them() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [Unrolled(k=2, lr=0.5)], loss=losses.relativistic)
    x = torch.randn(6, 2)
    losses.relativistic.d(d(game.real(x)), d(game.fake(torch.randn(6, 2)))).backward()
    fake = g(torch.randn(6, 4))
    game.critic(fake)
    judged = game.critic(x, real=True)
    later = copy.deepcopy(d)
    optimizer = torch.optim.SGD(later.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        losses.relativistic.d(later(x), later(fake.detach())).backward()
        optimizer.step()
    torch.testing.assert_close(judged, later(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(judged, d(x), atol=1e-3)


def test_after_gs_step_d_judges_as_it_is() -> None:
    game = Bilinear([Unrolled(k=3, lr=0.2)]).alternate(2)
    x = torch.full((1, 1), 3.0, dtype=torch.float64)
    assert torch.equal(game.game.critic(x), game.d(x))


def test_a_layer_of_d_that_its_optimizer_does_not_hold_stays_in_the_answer() -> None:
    g, d = play.players()
    d[0].requires_grad_(False)
    opt_d = torch.optim.SGD([p for p in d.parameters() if p.requires_grad], lr=0.1)
    trick = Unrolled(k=1)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [trick], loss=losses.logistic)
    losses.logistic.d(d(game.real(torch.randn(6, 2))), d(game.fake(torch.randn(6, 2)))).backward()
    game.critic(g(torch.randn(6, 4)))
    assert trick._answered is not None
    assert sorted(trick._answered) == ["2.bias", "2.weight", "4.bias", "4.weight"]


def test_a_loop_that_owns_its_loss_has_to_name_it() -> None:
    g, d = play.players()
    with pytest.raises(ValueError, match=r"this loop owns; expected its name, Unrolled\(loss='logistic'\)"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [Unrolled()])
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [Unrolled(loss="logistic", lr=1.0)])
    d(game.real(torch.randn(6, 2)))
    fake = g(torch.randn(6, 4))
    assert not torch.allclose(game.critic(fake), d(fake), atol=1e-3)


def test_a_loop_that_never_shows_real_samples_is_told() -> None:
    game = Bilinear([Unrolled()])
    game.opt_d.step()
    with pytest.raises(RuntimeError, match=r"unrolled needs what D sees as real, .* game\.real"):
        game.turn("g")


def test_an_optimizer_that_maximises_is_refused() -> None:
    with pytest.raises(ValueError, match="maximize=True; expected one that minimises"):
        Bilinear([Unrolled()], lambda net: torch.optim.SGD(net.parameters(), lr=0.1, maximize=True))


@pytest.mark.parametrize("options", [{"k": -1}, {"lr": 0.0}, {"loss": "logistics"}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|did you mean"):
        Unrolled(**options)
