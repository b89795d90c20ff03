"""DRAGAN against a step written by hand and torchgan."""

from __future__ import annotations

import numpy as np
import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import DRAGAN
from stabilgan.tricks.dragan import perturb
from stabilgan.tricks.wgan_gp import slope_penalty


def test_the_step_is_that_of_the_authors_code() -> None:
    """perturbed = x + 0.5 std U[0, 1) with numpy's std; then a point α on the way, one α for each sample."""
    real, fake = one_step.batches()
    trick = DRAGAN(weight=3.0)
    generator = one_step.generator_of(trick)
    alpha, u = torch.rand(6, generator=generator).double(), torch.rand(6, 2, generator=generator).double()

    def term(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        perturbed = real + 0.5 * float(np.std(real.numpy())) * u
        return 3.0 * (one_step.slopes(d, real + alpha[:, None] * (perturbed - real)) - 1).pow(2).mean()

    expected = one_step.written_out(term, real, fake)
    torch.testing.assert_close(one_step.with_trick(trick, real, fake), expected, rtol=1e-10, atol=1e-12)


def test_without_noise_it_looks_at_the_samples_themselves() -> None:
    real, fake = one_step.batches()
    expected = one_step.written_out(lambda d, x, _: 10 * (one_step.slopes(d, x) - 1).pow(2).mean(), real, fake)
    torch.testing.assert_close(one_step.with_trick(DRAGAN(noise=0.0), real, fake), expected, rtol=1e-10, atol=1e-12)


def test_images_keep_one_alpha_for_each_sample_and_noise_for_each_pixel() -> None:
    x = torch.zeros(2, 1, 3, 3)
    x[0] = 2  # std 1
    moved = perturb(x, torch.tensor([0.0, 1.0]), torch.arange(18.0).view_as(x) / 18) - x
    assert not moved[0].any()
    torch.testing.assert_close(moved[1], 0.5 * torch.arange(9.0, 18.0).view(1, 3, 3) / 18)


def test_a_batch_of_one_number_stays_where_it_is() -> None:
    assert perturb(torch.tensor([[3.0]]), torch.ones(1), torch.ones(1, 1)).item() == 3


def test_one_sample_gets_torchgans_penalty() -> None:
    """For more it takes one norm over the whole batch; and it draws α for each element, where the authors draw one."""
    functional = pytest.importorskip("torchgan.losses.functional")
    _, d = play.players()
    x = torch.randn(1, 2, requires_grad=True)
    torch.testing.assert_close(slope_penalty(d(x), x), functional.dragan_gradient_penalty(x, d(x)))
    x = torch.randn(2, 2, requires_grad=True)
    assert not torch.isclose(slope_penalty(d(x), x), functional.dragan_gradient_penalty(x, d(x)))


def test_it_needs_no_fakes() -> None:
    g, d = play.players()
    trick = DRAGAN()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    d(game.real(torch.randn(4, 2)))
    value = trick.penalty("d", game)
    assert value is not None
    assert value > 0


def test_it_costs_what_it_says() -> None:
    assert one_step.counted(DRAGAN()) == DRAGAN().cost


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}, {"noise": -0.5}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"dragan: \w+ is .*; expected"):
        DRAGAN(**options)  # type: ignore[arg-type]
