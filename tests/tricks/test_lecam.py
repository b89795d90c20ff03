"""LeCam against its recursion and a step written by hand."""

from __future__ import annotations

import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import LeCam


def authors(real: Tensor, fake: Tensor, anchor_real: float, anchor_fake: float) -> Tensor:
    """The regulariser as the paper's code has it, sample by sample."""
    above = [max(score - anchor_fake, score * 0) ** 2 for score in real.flatten()]
    below = [max(anchor_real - score, score * 0) ** 2 for score in fake.flatten()]
    return sum(above) / len(above) + sum(below) / len(below)


def test_the_steps_are_those_of_the_loss_with_the_penalty_written_out() -> None:
    """The averages are freed of the bias of their start at zero: Σ decay^i s_i / Σ decay^i."""
    real, fake = one_step.batches(6, 4)
    means: list[tuple[float, float]] = []

    def term(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        means.append((d(real).mean().item(), d(fake).mean().item()))
        if len(means) <= 2:
            return real.new_zeros(())
        weights = [0.9 ** (len(means) - 2 - i) for i in range(len(means) - 1)]
        anchors = [sum(w * m[side] for w, m in zip(weights, means[:-1], strict=True)) / sum(weights) for side in (0, 1)]
        return 2.0 * authors(d(real), d(fake), *anchors)

    expected = one_step.written_out(term, real, fake, steps=5)
    found = one_step.with_trick(LeCam(weight=2.0, decay=0.9, start=2), real, fake, steps=5)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_nothing_happens_before_its_start() -> None:
    real, fake = one_step.batches()
    free = one_step.written_out(lambda d, real, fake: real.new_zeros(()), real, fake, steps=3)
    assert torch.equal(one_step.with_trick(LeCam(start=3), real, fake, steps=3), free)
    assert not torch.equal(
        one_step.with_trick(LeCam(start=3), real, fake, steps=4),
        one_step.written_out(lambda d, real, fake: real.new_zeros(()), real, fake, steps=4),
    )


def test_the_averages_take_in_every_step_when_the_term_is_asked_for_now_and_then() -> None:
    trick, eager = LeCam(start=1, every=3), LeCam(weight=1e-30, start=1)
    for made in (trick, eager):
        g, d = play.players()
        opt_d = torch.optim.SGD(d.parameters(), lr=0.0)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [made])
        for i in range(5):
            d(game.real(torch.full((3, 2), float(i)))), d(game.fake(torch.full((2, 2), -float(i))))
            opt_d.step()
    assert torch.equal(trick.anchors(torch.zeros(1)), eager.anchors(torch.zeros(1)))


def test_a_batch_that_d_never_saw_is_told() -> None:
    g, d = play.players()
    opt_d = play.sgd(d)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [LeCam()])
    d(game.real(torch.randn(3, 2))).sum().backward()
    d(game.fake(torch.randn(3, 2)) * 1)
    with pytest.raises(RuntimeError, match="lecam averages D's scores of fake samples, but D was not called with"):
        opt_d.step()


def test_there_are_no_anchors_before_the_first_step() -> None:
    with pytest.raises(RuntimeError, match="no anchors before D has made a step"):
        LeCam().anchors(torch.zeros(1))


def test_it_costs_what_it_says() -> None:
    assert one_step.counted(LeCam(start=1)) == LeCam().cost
    assert one_step.counted(LeCam()) == stabilgan.Cost()


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}, {"decay": 1.0}, {"decay": -0.1}, {"start": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"lecam: \w+ is .*; expected"):
        LeCam(**options)  # type: ignore[arg-type]
