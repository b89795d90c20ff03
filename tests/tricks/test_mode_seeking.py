"""Mode seeking against the formula of the authors' code and a generator that only stretches."""

import passes
import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import losses
from stabilgan.tricks import ModeSeeking
from stabilgan.tricks.mode_seeking import mode_seeking_loss


@pytest.mark.parametrize("n", [8, 7, 3, 2])
def test_the_step_is_that_of_the_loss_with_the_ratio_written_out(n: int) -> None:
    z = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def step(in_game: bool) -> torch.Tensor:
        torch.manual_seed(0)
        g = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
        d = play.discriminator_net().double()
        opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
        if in_game:
            game = stabilgan.attach(g, d, opt_g, play.sgd(d), [ModeSeeking(0.4)])
            losses.logistic.g(game.critic(g(z)), None).backward()
        else:
            half = n // 2
            z1, z2 = z[:half], z[half : 2 * half]
            ratio = (g(z2) - g(z1)).abs().mean() / (z2 - z1).abs().mean()
            (torch.log1p(torch.exp(-d(g(z)))).mean() + 0.4 * (1 / (ratio + 1e-5))).backward()
        opt_g.step()
        return play.params(g)

    torch.testing.assert_close(step(True), step(False), rtol=1e-10, atol=1e-12)


def test_a_generator_that_stretches_by_c_pays_one_by_c() -> None:
    z = torch.randn(10, 3, dtype=torch.float64)
    for c in (0.5, 3.0):
        torch.testing.assert_close(mode_seeking_loss(c * z + 1, z).item(), 1 / (c + 1e-5))


def test_collapse_pays_the_most_and_has_no_gradient() -> None:
    z = torch.randn(6, 3)
    x = torch.ones(6, 2, requires_grad=True)
    loss = mode_seeking_loss(x, z)
    loss.backward()
    assert loss.item() == pytest.approx(1e5)
    assert x.grad is not None
    assert not x.grad.any()


class Labelled(nn.Module):
    """G(z, y) = scale[y] z + shift[y]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Embedding(3, 1), nn.Embedding(3, 1)
        nn.init.ones_(self.scale.weight)
        self.scale.weight.data *= 2

    def forward(self, y: torch.Tensor, *, noise: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        assert len(noise["row"]) == len(z) == len(y)
        return self.scale(y) * z + self.shift(y) + noise["row"]


def test_a_pair_shares_its_condition() -> None:
    """Every label stretches by 2, whatever it shifts by, so that only pairs of one label give 1 / 2."""
    g, d, trick = Labelled(), nn.Sequential(nn.Linear(1, 1)), ModeSeeking()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    y = torch.tensor([0, 1, 2, 2, 1, 0, 0])
    game.critic(g(y, noise={"row": torch.randn(7, 1).long()}, z=torch.randn(7, 1)))
    penalty = trick.penalty("g", game)
    assert penalty is not None
    assert penalty.item() == pytest.approx(1 / (2 + 1e-5), rel=1e-5)


def test_a_batch_of_one_adds_nothing() -> None:
    g, d, trick = nn.Linear(4, 2), play.discriminator_net(), ModeSeeking()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    game.critic(g(torch.randn(1, 4))).sum().mul(0).backward()
    before = play.params(g)
    game.opt_g.step()
    assert torch.equal(play.params(g), before)


def test_a_loop_that_does_not_call_the_generator_is_told() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [ModeSeeking()])
    x = torch.randn(4, 2, requires_grad=True)
    game.critic(x).sum().backward()
    with pytest.raises(RuntimeError, match="mode_seeking needs the latents"):
        game.opt_g.step()


def test_the_passes_are_those_declared() -> None:
    assert stabilgan.Cost(**passes.extra(ModeSeeking())) == ModeSeeking.cost


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ModeSeeking(**options)  # type: ignore[arg-type]
