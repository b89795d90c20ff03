"""The zero-centred penalty between real and fake against a step written by hand and the Dirac-GAN."""

from __future__ import annotations

import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import WGANGP, ZeroGP


def test_the_step_is_that_of_the_loss_with_the_penalty_written_out() -> None:
    real, fake = one_step.batches()
    trick = ZeroGP(weight=3.0)
    epsilon = torch.rand(len(real), 1, generator=one_step.generator_of(trick)).double()

    def term(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return 3.0 * one_step.slopes(d, epsilon * real + (1 - epsilon) * fake).pow(2).mean()

    expected = one_step.written_out(term, real, fake)
    torch.testing.assert_close(one_step.with_trick(trick, real, fake), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_dirac_gan_converges_at_the_rate_of_its_eigenvalues(weight: float) -> None:
    """θ' = ψ, ψ' = -θ - 2λψ: eigenvalues -λ ± √(λ² - 1), all to the left of zero."""
    flow = torch.tensor([[0.0, 1.0], [-1.0, -2 * weight]], dtype=torch.float64)
    step = torch.eye(2, dtype=torch.float64) + 0.1 * flow
    assert torch.linalg.eigvals(flow).real.max() < 0
    way = one_step.dirac([ZeroGP(weight)], 300)
    for n in (1, 10, 200):
        expected = torch.linalg.matrix_power(step, n) @ torch.ones(2, dtype=torch.float64)
        torch.testing.assert_close(way[n], expected, rtol=1e-9, atol=1e-12)
    assert way[-1].norm() < 0.01


def test_without_it_the_dirac_gan_circles_outwards() -> None:
    """Eigenvalues ±i: each simultaneous step is longer by √(1 + 0.1²)."""
    way = one_step.dirac([ZeroGP(0.0)], 100)
    torch.testing.assert_close(way[-1].norm().item(), 2**0.5 * 1.01**50)


def test_it_and_wgan_gp_are_not_played_together() -> None:
    g, d = play.players()
    with pytest.raises(ValueError, match="can't be played together: at the same points"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [ZeroGP(), WGANGP()])


def test_it_costs_what_it_says() -> None:
    assert one_step.counted(ZeroGP()) == ZeroGP().cost


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"zero_gp: \w+ is .*; expected"):
        ZeroGP(**options)  # type: ignore[arg-type]
