"""WGAN-GP against a step written by hand, torchgan and the Dirac-GAN."""

from __future__ import annotations

import math

import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import WGANGP
from stabilgan.tricks.wgan_gp import interpolate, slope_penalty


def test_it_is_zero_for_a_critic_of_slope_one_and_its_weight_for_a_flat_one() -> None:
    x = torch.randn(5, 3, requires_grad=True)
    unit = torch.tensor([[0.6], [0.0], [0.8]])
    torch.testing.assert_close(slope_penalty(x @ unit, x), torch.tensor(0.0), atol=1e-12, rtol=0)
    assert slope_penalty((x * 0).sum(1), x).item() == 1


def test_a_flat_critic_gets_no_gradient_rather_than_nan() -> None:
    d = nn.Linear(3, 1)
    nn.init.zeros_(d.weight)
    x = torch.randn(5, 3, requires_grad=True)
    slope_penalty(d(x), x).backward()
    assert d.weight.grad is not None
    assert d.weight.grad.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(("sided", "sizes"), [("two", (6, 6)), ("one", (6, 6)), ("two", (6, 4)), ("two", (4, 7))])
def test_the_step_is_that_of_the_loss_with_the_penalty_written_out(sided: str, sizes: tuple[int, int]) -> None:
    real, fake = one_step.batches(*sizes)
    trick = WGANGP(weight=7.0, sided=sided)  # type: ignore[arg-type]
    epsilon = torch.rand(len(real), generator=one_step.generator_of(trick)).double()

    def term(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        points = [e * x + (1 - e) * fake[i % len(fake)] for i, (e, x) in enumerate(zip(epsilon, real, strict=True))]
        excess = one_step.slopes(d, torch.stack(points)) - 1
        return 7.0 * (excess if sided == "two" else excess.clamp_min(0)).pow(2).mean()

    expected = one_step.written_out(term, real, fake)
    torch.testing.assert_close(one_step.with_trick(trick, real, fake), expected, rtol=1e-10, atol=1e-12)


def test_one_sided_leaves_slopes_below_one_alone() -> None:
    real, fake = one_step.batches()
    _, d = play.players(dtype=torch.float64)
    assert one_step.slopes(d, torch.cat([real, fake])).max() < 1
    free = one_step.written_out(lambda d, real, fake: real.new_zeros(()), real, fake)
    assert torch.equal(one_step.with_trick(WGANGP(sided="one"), real, fake), free)
    assert not torch.equal(one_step.with_trick(WGANGP(), real, fake), free)


def test_each_sample_has_an_epsilon_of_its_own_whatever_its_shape() -> None:
    real, fake = torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    mixed = interpolate(real, fake, torch.tensor([0.0, 0.25, 1.0]))
    assert [sample.unique().tolist() for sample in mixed] == [[0.0], [0.25], [1.0]]


def test_one_sample_gets_torchgans_penalty() -> None:
    """For more it takes one norm over the whole batch, and one epsilon, where the paper has one for each sample."""
    functional = pytest.importorskip("torchgan.losses.functional")
    _, d = play.players()
    x = torch.randn(1, 2, requires_grad=True)
    torch.testing.assert_close(slope_penalty(d(x), x), functional.wasserstein_gradient_penalty(x, d(x)))
    x = torch.randn(2, 2, requires_grad=True)
    assert not torch.isclose(slope_penalty(d(x), x), functional.wasserstein_gradient_penalty(x, d(x)))


def test_the_dirac_gan_passes_its_equilibrium_and_ends_far_from_it() -> None:
    """ψ' = -θ - 2λ(|ψ| - 1) sign ψ: at 0 the penalty drives ψ away from 0, and ψ → 0+ at θ = 2λ instead of at θ = 0."""
    way = one_step.dirac([WGANGP(weight=1.0)], 250)
    theta = psi = 1.0
    expected = [(theta, psi)]
    for _ in range(250):
        theta, psi = theta + 0.1 * psi, psi - 0.1 * (theta + 2 * (abs(psi) - 1) * math.copysign(1, psi))
        expected.append((theta, psi))
    torch.testing.assert_close(way, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(way[-1], torch.tensor([2.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-6)


def test_d_is_called_with_the_labels_of_the_real_batch() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.embed = nn.Linear(2, 4), nn.Embedding(3, 4)

        def forward(self, x: Tensor, *, y: Tensor) -> Tensor:
            return (self.net(x) * self.embed(y)).sum(1)

    g, _ = play.players()
    d, trick = Conditional(), WGANGP()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    x, y = game.real(torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1]))
    d(x, y=y)
    x, other = game.fake(torch.randn(3, 2), torch.tensor([2, 2, 2]))
    d(x, y=other)
    value = trick.penalty("d", game)
    assert value is not None
    slope = (d.embed(y) @ d.net.weight).norm(dim=1)  # the same at every point: scores are linear in x
    torch.testing.assert_close(value, 10 * (slope - 1).square().mean())


def test_it_costs_what_it_says() -> None:
    assert one_step.counted(WGANGP()) == WGANGP().cost


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}, {"sided": "three"}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"wgan_gp: \w+ is .*; expected"):
        WGANGP(**options)  # type: ignore[arg-type]
