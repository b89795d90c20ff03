"""Gradient normalisation against its formula, steps written by hand and its bound."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import GradientNormalisation, SpectralNorm, losses
from stabilgan.tricks.gradient_normalisation import normalised


def formula(d: nn.Module, x: Tensor) -> Tensor:
    """Sample by sample, from D's own forward pass."""
    x = x if x.requires_grad else x.detach().requires_grad_()
    rows = []
    for i in range(len(x)):
        (gradient,) = torch.autograd.grad(d(x)[i].sum(), x, create_graph=True)
        rows.append(d(x)[i] / (gradient[i].pow(2).sum().sqrt() + d(x)[i].abs()))
    return torch.stack(rows)


def game_of(d: nn.Module, tricks: list[stabilgan.Trick] | None = None, **options: Any) -> stabilgan.Game:
    g, _ = play.players()
    tricks = [GradientNormalisation()] if tricks is None else tricks
    return stabilgan.attach(g, d, play.sgd(g), play.sgd(d), tricks, **options)


def test_a_linear_score_is_divided_by_its_weights_and_itself() -> None:
    d = nn.Linear(2, 1)
    x = torch.randn(5, 2)
    score, slope = d(x).detach(), d.weight.detach().norm()
    game_of(d)
    torch.testing.assert_close(d(x), score / (slope + score.abs()))


def test_both_players_steps_are_those_of_the_formula_written_out() -> None:
    def steps(in_game: bool) -> Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
        real, fake = one_step.batches(6, 4)
        z = torch.randn(6, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        if in_game:
            game = stabilgan.attach(g, d, opt_g, opt_d, [GradientNormalisation()])
        losses.hinge.d(
            *((d(game.real(real)), d(game.fake(fake))) if in_game else (formula(d, real), formula(d, fake)))
        ).backward()
        opt_d.step()
        opt_g.zero_grad()
        losses.hinge.g(game.critic(g(z)) if in_game else formula(d, g(z)), None).backward()
        opt_g.step()
        return torch.cat([play.params(g), play.params(d)])

    torch.testing.assert_close(steps(True), steps(False), rtol=1e-10, atol=1e-12)


def test_a_piecewise_linear_critic_of_any_weights_has_slopes_of_at_most_one_and_scores_within_one() -> None:
    """‖∇D^‖ = (‖∇D‖ / (‖∇D‖ + |D|))², since ∇D is constant within a piece."""
    for scale in (0.1, 1.0, 30.0):
        _, d = play.players(dtype=torch.float64)
        with torch.no_grad():
            for p in d.parameters():
                p.mul_(scale)
        x = 3 * torch.randn(300, 2, dtype=torch.float64)
        bare, score = one_step.slopes(d, x[:20]), d(x[:20]).abs().squeeze(1)
        game_of(d)
        slope = one_step.slopes(d, x[:20])
        torch.testing.assert_close(slope, (bare / (bare + score)) ** 2)
        assert slope.max() <= 1
        assert d(x).abs().max() < 1
        far, near = (d(x[i::2]).squeeze(1) for i in (0, 1))
        assert (far - near).abs().max() < 2


def test_weights_of_any_size_give_the_same_scores() -> None:
    d = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    game_of(d)
    x = torch.randn(5, 2)
    before = d(x)
    with torch.no_grad():
        for p in d[2].parameters():
            p.mul_(100)
    torch.testing.assert_close(d(x), before)


def test_patches_share_the_slope_of_their_sum() -> None:
    d = nn.Conv2d(1, 1, 2, bias=False)
    x = torch.randn(3, 1, 4, 4)
    expected = formula(d, x)
    game_of(d)
    assert d(x).shape == (3, 1, 3, 3)
    torch.testing.assert_close(d(x), expected)


def test_a_flat_critic_gives_finite_scores() -> None:
    d = nn.Linear(2, 1)
    nn.init.zeros_(d.weight)
    nn.init.zeros_(d.bias)
    game_of(d)
    scores = d(torch.randn(4, 2))
    scores.sum().backward()
    assert scores.tolist() == [[0.0]] * 4
    assert all(p.grad is not None and p.grad.isfinite().all() for p in d.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_outside_training_d_answers_the_same(mode: Any) -> None:
    _, d = play.players()
    game_of(d)
    x = torch.randn(5, 2)
    with mode():
        quiet, drawn_there = d(x), d(x * 1)
    assert not quiet.requires_grad
    assert torch.equal(quiet, d(x).detach())
    assert torch.equal(drawn_there, quiet)
    assert not x.requires_grad


def test_the_gradient_that_reaches_g_is_that_of_the_normalised_score() -> None:
    _, d = play.players(dtype=torch.float64)
    x = torch.randn(4, 2, dtype=torch.float64)
    expected = torch.autograd.grad(formula(d, (point := x.clone().requires_grad_())).sum(), point)[0]
    game = game_of(d)
    point = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(game.critic(point * 1).sum(), point)[0], expected)


def test_passes_of_other_tricks_see_the_normalised_score() -> None:
    _, d = play.players()
    x = torch.randn(4, 2)
    expected = formula(d, x)
    game = game_of(d)
    heard = d(game.real(x))
    torch.testing.assert_close(game.scores["real"], expected.detach())
    torch.testing.assert_close(game.score(x, game.seen["real"]), heard)


def test_detach_takes_the_wrapper_off() -> None:
    _, d = play.players()
    x = torch.randn(4, 2)
    before = d(x)
    game = game_of(d)
    assert not torch.equal(d(x), before)
    game.detach()
    assert torch.equal(d(x), before)
    assert "forward" not in vars(d)


def test_what_was_wrapped_around_it_since_goes_on_with_the_bare_score() -> None:
    _, d = play.players()
    x = torch.randn(4, 2)
    before = d(x)
    game = game_of(d)
    inner = d.forward
    d.forward = lambda x: 2 * inner(x)  # type: ignore[method-assign]
    game.detach()
    assert torch.equal(d(x), 2 * before)


def test_a_forward_that_was_put_into_d_before_goes_on() -> None:
    """As Accelerate does: one with autocast, and its original for where autocast is off."""
    _, d = play.players()
    x = torch.randn(4, 2)
    expected, slope = formula(d, x), one_step.slopes(d, x).view(-1, 1)
    plain = type(d).forward
    d._original_forward = d.forward  # type: ignore[assignment]
    d.forward = MethodType(lambda self, x: plain(self, x) + 1, d)  # type: ignore[method-assign]
    more = d(x)
    game = game_of(d)
    heard = d(game.real(x))
    torch.testing.assert_close(heard, more / (slope + more.abs()))
    torch.testing.assert_close(game.score(x, game.seen["real"]), expected)
    game.detach()
    assert torch.equal(d(x), more)


def test_a_copy_of_d_answers_with_its_own_weights() -> None:
    _, d = play.players()
    game_of(d)
    twin, x = copy.deepcopy(d), torch.randn(4, 2)
    assert torch.equal(twin(x), d(x))
    before = d(x)
    nn.init.ones_(twin[0].weight)
    assert not torch.equal(twin(x), before)
    assert torch.equal(d(x), before)


def test_spectral_norm_goes_with_it() -> None:
    _, d = play.players()
    game_of(d, [SpectralNorm(), GradientNormalisation()])
    x = torch.randn(4, 2)
    d.eval()
    inner = nn.Sequential(*d)
    torch.testing.assert_close(d(x), formula(inner, x))


def test_labels_and_keywords_are_handed_on() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.embed = nn.Linear(2, 4), nn.Embedding(3, 4)

        def forward(self, y: Tensor, *, image: Tensor) -> Tensor:
            return (self.net(image) * self.embed(y)).sum(1)

    d, x, y = Conditional(), torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1])
    score, slope = d(y, image=x), (d.embed(y) @ d.net.weight).norm(dim=1)
    game_of(d)
    torch.testing.assert_close(d(y, image=x), score / (slope + score.abs()))


def test_the_first_call_tells_of_what_can_not_be_normalised() -> None:
    class Ends(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.net, self.how = nn.Linear(2, 1), how

        def forward(self, x: Tensor) -> Any:
            scores = self.net(x.float())
            return scores.sigmoid() if self.how == "sigmoid" else (scores, x)

    sigmoid, pair = Ends("sigmoid"), Ends("pair")
    game_of(sigmoid), game_of(pair)
    with pytest.raises(ValueError, match="gradient_normalisation works on logits"):
        sigmoid(torch.randn(3, 2))
    with pytest.raises(TypeError, match="D returns a tuple; expected a tensor of scores"):
        pair(torch.randn(3, 2))
    with pytest.raises(TypeError, match="D was called without a floating-point tensor"):
        pair(torch.ones(3, 2, dtype=torch.long))


def test_data_parallel_is_refused() -> None:
    g, d = play.players()
    with pytest.raises(ValueError, match="wrapped in DataParallel, whose copies would all call the first one"):
        stabilgan.attach(g, nn.DataParallel(d), play.sgd(g), play.sgd(d), [GradientNormalisation()])
    assert "forward" not in vars(d)


@pytest.mark.parametrize("other", ["r1", "r2", "wgan_gp", "zero_gp", "dragan"])
def test_gradient_penalties_are_not_played_with_it(other: str) -> None:
    _, d = play.players()
    with pytest.raises(ValueError, match="a penalty on the normalised slope takes third derivatives"):
        game_of(d, [GradientNormalisation(), play.trick(other)])


def test_autocast_keeps_the_type_of_ds_scores_and_takes_the_slope_in_float32() -> None:
    d = nn.Linear(2, 1)
    x = torch.randn(6, 2)
    with torch.autocast("cpu", torch.bfloat16):
        raw = d(x)
        assert normalised(d(point := x.clone().requires_grad_()), point).dtype == raw.dtype == torch.bfloat16
        game_of(d)
        assert d(x).dtype == torch.bfloat16


def test_it_costs_what_it_says() -> None:
    """A second-order gradient in each of D's three calls; it begins at D's own score, within."""
    assert one_step.counted(GradientNormalisation()) == GradientNormalisation().cost
