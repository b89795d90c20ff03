"""Step schemes of the Trainer: closed forms in the bilinear and the Dirac game, and steps written by hand."""

from __future__ import annotations

from typing import Any

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import losses, workloads
from stabilgan.tricks import parse


def game_of_two_weights(scheme: Any, loss: str, start: float = 1.0, tricks: str = "", **options: Any) -> Any:
    """G's one weight against D's one, in float64 at rate 0.1: the bilinear game by the Wasserstein losses, the
    Dirac-GAN by the saturating ones."""
    g, d = (nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(2))
    for net in (g, d):
        nn.init.constant_(net.weight, start)

    def constant(value: float) -> Any:
        return lambda n, generator: torch.full((n, 1), value, dtype=torch.float64)

    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
    t = stabilgan.Trainer(
        g, d, opt_g, opt_d, parse(tricks), latent=constant(1.0), batch_size=1, loss=loss, scheme=scheme, **options
    )
    zeros = constant(0.0)

    def play_on(steps: int) -> float:
        t.fit(zeros, steps)
        return torch.hypot(g.weight, d.weight).item()

    return play_on


def test_simultaneous_steps_of_the_bilinear_game_spiral_out() -> None:
    """Eigenvalues 1 ± 0.1i."""
    assert game_of_two_weights("simultaneous", "wasserstein")(300) == pytest.approx(2**0.5 * 1.01**150, rel=1e-8)


def test_with_extragradient_both_look_ahead_from_one_point_and_spiral_in() -> None:
    """Eigenvalues 1 - η² ± iη of a step of two gradients."""
    two_calls = game_of_two_weights("simultaneous", "wasserstein", tricks="extragradient:form=two_call")
    assert two_calls(150) == pytest.approx(2**0.5 * (1 - 0.1**2 + 0.1**4) ** 75, rel=1e-8)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 10.0])
def test_consensus_in_the_bilinear_game_has_the_modulus_of_its_eigenvalues(gamma: float) -> None:
    """½‖v‖² is ½(x² + y²), so that z' = (1 - 0.1 γ ∓ 0.1 i) z."""
    modulus = abs(1 - 0.1 * gamma - 0.1j)
    end = game_of_two_weights("consensus", "wasserstein", consensus=gamma)(20)
    assert end == pytest.approx(2**0.5 * modulus**20, rel=1e-8)


def test_consensus_makes_the_dirac_gan_converge_as_its_eigenvalues_say() -> None:
    """Near the equilibrium the Jacobian is ±½i, its square ¼: z' = (1 - 0.1 (γ/4 ± ½i)) z (Mescheder et al. 2018)."""
    play_on = game_of_two_weights("consensus", "saturating", start=1e-5, consensus=2.0)
    assert play_on(100) == pytest.approx(2**0.5 * 1e-5 * abs(1 - 0.1 * (0.5 + 0.5j)) ** 100, rel=1e-3)
    assert game_of_two_weights("simultaneous", "saturating")(150) > 1.42
    assert game_of_two_weights("consensus", "saturating")(150) < 1e-2


@pytest.mark.parametrize("scheme", ["simultaneous", "consensus"])
def test_the_step_is_the_papers_written_by_hand(scheme: Any) -> None:
    """Both players as functions of one long vector of weights, whose gradients are taken and squared by hand."""

    def players() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double(), play.discriminator_net().double()

    x, z = torch.randn(6, 2).double(), torch.randn(6, 4).double()
    g, d = players()
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
    t = stabilgan.Trainer(
        g, d, opt_g, opt_d, latent=lambda n, generator: z, batch_size=6, scheme=scheme, consensus=3.0
    ).fit(lambda n, generator: x, 1)

    g, d = players()
    d_weights, g_weights = list(d.parameters()), list(g.parameters())
    fake = g(z)
    d_loss, g_loss = losses.logistic.d(d(x), d(fake)), losses.logistic.g(d(fake), None)
    v = [
        *torch.autograd.grad(d_loss, d_weights, create_graph=True),
        *torch.autograd.grad(g_loss, g_weights, create_graph=True),
    ]
    down = [slope.detach() for slope in v]
    if scheme == "consensus":
        half = sum((slope**2).sum() for slope in v) / 2
        steeper = torch.autograd.grad(half, d_weights + g_weights, allow_unused=True)
        down = [a if b is None else a + 3.0 * b for a, b in zip(down, steeper, strict=True)]
    with torch.no_grad():
        for p, slope in zip(d_weights + g_weights, down, strict=True):
            p -= 0.1 * slope
    for net, own in ((t.game.d, d), (t.game.g, g)):
        torch.testing.assert_close(play.params(net), play.params(own), rtol=1e-10, atol=1e-12)


def trainer(scheme: Any = "alternating", tricks: str = "", **options: Any) -> stabilgan.Trainer:
    g, d = play.players()
    options = {"latent": 4, "batch_size": 8} | options
    return stabilgan.Trainer(g, d, play.adam(g), play.adam(d), parse(tricks), scheme=scheme, **options)


def test_consensus_of_weight_zero_is_simultaneous() -> None:
    ends = [trainer(scheme, consensus=0.0).fit(play.ring, 4).game for scheme in ("consensus", "simultaneous")]
    for player in ("g", "d"):
        one, other = (play.params(getattr(game, player)) for game in ends)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", ["simultaneous", "consensus"])
def test_a_scheme_resumes_bit_for_bit_and_differs_from_alternating(scheme: Any, tmp_path: Any) -> None:
    tricks = "r1:weight=1+ema+minibatch:kernels=4:dims=3"
    whole = trainer(scheme, tricks).fit(play.ring, 4).state_dict()
    trainer(scheme, tricks).fit(play.ring, 2).save(tmp_path / "run.pt")
    assert play.same(trainer(scheme, tricks).load(tmp_path / "run.pt").fit(play.ring, 2).state_dict(), whole)
    assert not play.same(trainer("alternating", tricks).fit(play.ring, 4).state_dict()["d"], whole["d"])


@pytest.mark.parametrize("scheme", ["simultaneous", "consensus"])
def test_a_conditional_game_with_a_relativistic_loss_plays_by_every_scheme(scheme: Any) -> None:
    class Labelled(nn.Module):
        def __init__(self, n_in: int, n_out: int) -> None:
            super().__init__()
            self.net, self.label = nn.Linear(n_in, n_out), nn.Embedding(3, n_out)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.net(x)) * self.label(y)

    torch.manual_seed(0)
    g, d = Labelled(4, 2), Labelled(2, 1)
    t = stabilgan.Trainer(
        *(g, d, play.adam(g), play.adam(d)),
        latent=4,
        conditional=True,
        scheme=scheme,
        loss="relativistic",
        batch_size=8,
    )
    before = play.params(g)
    t.fit((torch.randn(20, 2), torch.randint(3, (20,))), 5)
    assert play.params(g).isfinite().all()
    assert not torch.equal(play.params(g), before)


def test_accumulated_gradients_of_both_players_are_the_mean_over_micro_batches() -> None:
    x, z = play.ring(8, torch.Generator().manual_seed(0)), torch.randn(32, 4)

    def end(accumulate: int) -> torch.Tensor:
        torch.manual_seed(0)
        g, d = nn.Linear(4, 2), play.discriminator_net()
        batches, latents = iter(x.split(8 // accumulate)), iter(z.split(8 // accumulate))
        opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
        options: Any = {"batch_size": 8 // accumulate, "accumulate": accumulate, "scheme": "simultaneous"}
        t = stabilgan.Trainer(g, d, opt_g, opt_d, latent=lambda n, r: next(latents), **options)
        t.fit(lambda n, r: next(batches), 1)
        return torch.cat([play.params(g), play.params(d)])

    torch.testing.assert_close(end(4), end(1))


def test_replay_beside_consensus_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match="replay shows old ones"):
        trainer("consensus", "replay:size=12").fit(play.ring, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "simultanous"}, "no scheme named 'simultanous'; did you mean 'simultaneous'"),
        ({"scheme": "simultaneous", "n_critic": 2}, "n_critic is 2; expected 1"),
        ({"scheme": "consensus", "accumulate": 2}, "expected accumulate=1"),
        ({"scheme": "consensus", "amp": True}, "amp=False"),
        ({"consensus": -1.0}, "consensus is -1.0; expected a weight of 0 or more"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], message: str) -> None:
    import re

    with pytest.raises(ValueError, match=re.escape(message)):
        trainer(**options)


def test_workloads_name_a_scheme() -> None:
    assert workloads.make("ring:scheme=consensus").scheme == "consensus"
    assert workloads.make("grid").scheme == "alternating"
    with pytest.raises(ValueError, match="expected alternating or simultaneous or consensus"):
        workloads.make("ring:scheme=both")
