"""Latent consistency against steps of both players written by hand."""

from __future__ import annotations

import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import LatentConsistency, losses


def test_both_players_steps_are_those_of_their_losses_with_the_terms_written_out() -> None:
    def steps(trick: LatentConsistency | None) -> tuple[Tensor, Tensor]:
        g, d = play.players(dtype=torch.float64)
        opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
        drawn = torch.Generator().manual_seed(7)
        real, z, z2 = (torch.randn(6, n, generator=drawn, dtype=torch.float64) for n in (2, 4, 4))
        terms: list[Tensor] = [real.new_zeros(()), real.new_zeros(())]
        if trick is not None:
            game = stabilgan.attach(g, d, opt_g, opt_d, [trick])
            fake_scores = d(game.fake(g(z).detach()))
        else:
            noise = torch.Generator()
            noise.set_state(start)
            near, near2 = (at + 0.1 * torch.randn(6, 4, generator=noise).double() for at in (z, z2))
            fake = g(z).detach()
            fake_scores = d(fake)
            terms[0] = 4.0 * (fake_scores - d(g(near).detach())).pow(2).mean()
        (losses.logistic.d(d(real), fake_scores) + terms[0]).backward()
        opt_d.step()
        fake = g(z2)
        if trick is None:
            terms[1] = -3.0 * (fake - g(near2)).pow(2).mean()
        scores = d(fake) if trick is None else game.critic(fake)
        opt_g.zero_grad()
        (losses.logistic.g(scores, None) + terms[1]).backward()
        opt_g.step()
        return play.params(g), play.params(d)

    trick = LatentConsistency(d_weight=4.0, g_weight=3.0, noise=0.1)
    start = one_step.generator_of(trick).get_state()
    for found, expected in zip(steps(trick), steps(None), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_gs_term_of_a_linear_generator_is_the_length_of_its_steps() -> None:
    """-λ E(A δ)², whatever z is."""
    g, d = nn.Sequential(nn.Linear(4, 2)), nn.Linear(2, 1)
    trick = LatentConsistency(g_weight=2.0, noise=0.5)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    delta = 0.5 * torch.randn(6, 4, generator=game.generator(trick))
    game.critic(g(torch.randn(6, 4)))
    value = trick.penalty("g", game)
    assert value is not None
    torch.testing.assert_close(value, -2 * (delta @ g[0].weight.t()).square().mean())


def test_ds_term_leaves_g_without_a_gradient() -> None:
    g, d = play.players()
    trick = LatentConsistency(g_weight=0.0)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    d(game.fake(g(torch.randn(6, 4)).detach()))
    value = trick.penalty("d", game)
    assert value is not None
    value.backward()
    assert all(p.grad is None for p in g.parameters())
    assert any(p.grad is not None for p in d.parameters())
    assert trick.penalty("g", game) is None


def test_a_conditional_generator_keeps_its_labels() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.embed = nn.Linear(4, 2, bias=False), nn.Embedding(3, 2)

        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return self.net(z) * self.embed(y)

    g, d = Conditional(), nn.Linear(2, 1)
    trick = LatentConsistency(g_weight=1.0, noise=1.0)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    delta, y = torch.randn(5, 4, generator=game.generator(trick)), torch.tensor([0, 1, 2, 0, 1])
    game.critic(g(torch.randn(5, 4), y))
    value = trick.penalty("g", game)
    assert value is not None
    torch.testing.assert_close(value, -((delta @ g.net.weight.t()) * g.embed(y)).square().mean())


def test_a_loop_that_never_calls_g_is_told() -> None:
    g, d = play.players()
    opt_d = play.sgd(d)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [LatentConsistency()])
    d(game.fake(torch.randn(6, 2))).sum().backward()
    with pytest.raises(RuntimeError, match=r"latent_consistency needs the latents of what the loop gave to game\.fake"):
        opt_d.step()


@pytest.mark.parametrize("options", [{}, {"d_weight": 0.0}, {"g_weight": 0.0}], ids=str)
def test_it_costs_what_it_says(options: dict[str, float]) -> None:
    assert one_step.counted(LatentConsistency(**options)) == LatentConsistency(**options).cost


@pytest.mark.parametrize("options", [{"d_weight": -1.0}, {"g_weight": -1.0}, {"noise": -1.0}, {"every": 0}], ids=str)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"latent_consistency: \w+ is .*; expected"):
        LatentConsistency(**options)  # type: ignore[arg-type]
