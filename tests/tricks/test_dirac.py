"""Each penalty on D in the Dirac-GAN (Mescheder et al. 2018), whose flow without one has eigenvalues ±i.

D(x) = ψx, the data are 0 and G gives θ. R1 under the logistic loss, WGAN-GP and the penalty between samples have theirs
in their own files.
"""

from __future__ import annotations

import math

import one_step
import pytest
import torch

from stabilgan.tricks import DRAGAN, R1, R2, Consistency, LeCam

START = torch.ones(2, dtype=torch.float64)


@pytest.mark.parametrize("trick", [R1, R2])
@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_a_zero_centred_penalty_moves_by_the_matrix_of_its_eigenvalues(trick: type[R1], weight: float) -> None:
    """θ' = ψ, ψ' = -θ - γψ: eigenvalues -γ/2 ± √(γ²/4 - 1), to the left of zero whatever γ."""
    flow = torch.tensor([[0.0, 1.0], [-1.0, -weight]], dtype=torch.float64)
    root = complex(weight**2 / 4 - 1) ** 0.5
    expected = sorted((-weight / 2 + root, -weight / 2 - root), key=lambda v: (v.real, v.imag))
    found = sorted(torch.linalg.eigvals(flow).tolist(), key=lambda v: (v.real, v.imag))
    assert found == pytest.approx(expected)
    way = one_step.dirac([trick(weight)], 200)
    step = torch.eye(2, dtype=torch.float64) + 0.1 * flow
    for n in (1, 20, 200):
        torch.testing.assert_close(way[n], torch.linalg.matrix_power(step, n) @ START, rtol=1e-9, atol=1e-12)
    assert way[-1].norm() < 0.05


def test_consistency_under_noise_is_a_zero_centred_penalty_on_average() -> None:
    """E λ(ψx - ψ(x + σn))² = λσ²ψ² for reals and for fakes: 4λσ² is R1's γ. Noise multiplies ψ alone, so it fades."""
    lam, noise, runs = 0.5, 0.5, 40
    flow = torch.tensor([[0.0, 1.0], [-1.0, -4 * lam * noise**2]], dtype=torch.float64)
    step = torch.eye(2, dtype=torch.float64) + 0.1 * flow
    ways = torch.stack([one_step.dirac([Consistency(lam, on="both", noise=noise)], 60, seed=s) for s in range(runs)])
    expected = torch.linalg.matrix_power(step, 60) @ START
    error = ways[:, 60].std(0) / math.sqrt(runs)
    assert ((ways[:, 60].mean(0) - expected).abs() < 4 * error).all()
    assert ways[:, 60].norm(dim=1).max() < START.norm() / 2


def lecam_by_hand(steps: int, h: float) -> torch.Tensor:
    """(steps + 1, 2): α_R is 0, so that only fakes that D scores below 0 are drawn to it."""
    theta = psi = 1.0
    way = [(theta, psi)]
    for n in range(steps):
        pull = 2 * theta**2 * psi * (psi * theta < 0) * (n > 0)
        theta, psi = theta + h * psi, psi - h * (theta + pull)
        way.append((theta, psi))
    return torch.tensor(way, dtype=torch.float64)


def test_lecam_ends_on_a_circle_whose_size_is_that_of_the_steps() -> None:
    """Its pull is of third order: the eigenvalues stay ±i. Over a turn r² falls by λr⁴/4 a time unit, while steps of
    size h blow it up by h r²: they meet at r² = 4h/λ, the better the smaller h."""
    way = one_step.dirac([LeCam(weight=1.0, start=1)], 500)
    torch.testing.assert_close(way, lecam_by_hand(500, h=0.1), rtol=1e-9, atol=1e-9)
    turn = lecam_by_hand(40_000, h=0.01)[-629:].square().sum(1)
    assert turn.mean() == pytest.approx(0.04, rel=0.05)


def test_dragan_draws_d_to_a_slope_of_one_and_away_from_the_equilibrium() -> None:
    """ψ' = -θ - 2λ(|ψ| - 1) sign ψ, as with WGAN-GP: at ψ = 0 there is no rest."""
    way = one_step.dirac([DRAGAN(weight=0.5, noise=0.0)], 250)
    theta = psi = 1.0
    expected = [(theta, psi)]
    for _ in range(250):
        theta, psi = theta + 0.1 * psi, psi - 0.1 * (theta + 2 * 0.5 * (abs(psi) - 1) * math.copysign(1, psi))
        expected.append((theta, psi))
    torch.testing.assert_close(way, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    assert way[-50:].norm(dim=1).min() > 0.5
