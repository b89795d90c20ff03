"""Instance noise against a step written by hand, its schedule, and the statistics of what it draws."""

from __future__ import annotations

from typing import Any

import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import InstanceNoise, losses
from stabilgan.tricks.instance_noise import faded


class Keeps(nn.Module):
    """A discriminator that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.shown = nn.Linear(2, 1), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.detach())
        return self.net(x)


def game_of(d: nn.Module, trick: InstanceNoise) -> stabilgan.Game:
    g, _ = play.players()
    return stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])


def test_noise_falls_in_a_line_to_nothing_or_by_tens_or_not_at_all() -> None:
    assert [faded(1.0, t, 4) for t in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    assert [faded(1.0, t, 3, "exponential") for t in range(4)] == pytest.approx([1, 0.1, 0.01, 0.001])
    assert faded(1.0, 10**6, 3, "constant") == 1.0


def test_what_d_sees_is_the_sample_and_noise_of_that_strength() -> None:
    game = game_of(Keeps(), InstanceNoise(std=0.5))
    x = torch.full((20_000, 2), 3.0)
    shown = [game.real(x), game.fake(x)]
    game.critic(x)
    shown += game.d.shown
    for seen in shown:
        assert seen.mean().item() == pytest.approx(3.0, abs=0.02)
        assert seen.std().item() == pytest.approx(0.5, abs=0.01)
    noises = torch.stack([s.flatten() - 3 for s in shown])
    assert torch.corrcoef(noises).fill_diagonal_(0).abs().max() < 0.03  # drawn anew each time


def test_the_step_is_that_of_the_loss_on_samples_with_the_noise_added_by_hand() -> None:
    real, fake = torch.randn(6, 2).double(), torch.randn(6, 2).double()
    g, d = play.players(dtype=torch.float64)
    opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
    trick = InstanceNoise(std=0.3, steps=2)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [trick])
    drawn = torch.Generator().manual_seed(game.generator(trick).initial_seed())
    _, by_hand = play.players(dtype=torch.float64)
    for std in (0.3, 0.15, 0.0, 0.0):
        opt_d.zero_grad()
        losses.logistic.d(d(game.real(real)), d(game.fake(fake))).backward()
        opt_d.step()
        noise = [torch.zeros(6, 2).double().normal_(0, std, generator=drawn) if std else 0 for _ in range(2)]
        loss = losses.logistic.d(by_hand(real + noise[0]), by_hand(fake + noise[1]))
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for p, gradient in zip(by_hand.parameters(), gradients, strict=True):
                p -= 0.1 * gradient
    torch.testing.assert_close(play.params(d), play.params(by_hand), rtol=1e-10, atol=1e-12)


def test_gs_gradient_passes_through_the_noise() -> None:
    d = Keeps()
    game = game_of(d, InstanceNoise(std=0.3))
    x = torch.randn(5, 2, requires_grad=True)
    game.critic(x).sum().backward()
    torch.testing.assert_close(x.grad, d.net.weight.expand(5, 2))
    assert not torch.equal(d.shown[0], x)


def test_when_the_noise_is_gone_nothing_is_drawn_or_copied() -> None:
    game = game_of(Keeps(), trick := InstanceNoise(steps=1))
    game.steps["d"] = 1
    before = trick.state_dict()
    x = torch.randn(3, 2)
    assert game.real(x) is x
    assert play.same(trick.state_dict(), before)


def test_noise_follows_the_layout_of_the_samples() -> None:
    game = game_of(Keeps(), InstanceNoise())
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert game.real(x).is_contiguous(memory_format=torch.channels_last)


def test_whole_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"samples are torch.int64; expected floating-point ones"):
        game_of(Keeps(), InstanceNoise()).real(torch.ones(3, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": -0.1}, "std is -0.1; expected 0 or more"),
        ({"steps": 0}, "steps is 0; expected the number of D's steps"),
        ({"decay": "cosine"}, "decay is 'cosine'; expected one of linear, exponential, constant"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InstanceNoise(**options)
