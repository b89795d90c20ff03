"""Gradient penalties against closed forms and a step written by hand."""

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import losses
from stabilgan.tricks.r1 import gradient_norm_penalty


def test_r1_of_a_linear_critic_is_half_its_squared_weight() -> None:
    d = nn.Linear(3, 1, bias=False)
    x = torch.randn(5, 3, requires_grad=True)
    torch.testing.assert_close(gradient_norm_penalty(d(x), x), d.weight.square().sum() / 2)


def test_r1_of_a_quadratic_is_its_squared_distance() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0]], requires_grad=True)
    assert gradient_norm_penalty(x.square().sum(1) / 2, x).item() == (25 + 1) / 2 / 2


def test_patches_of_one_sample_are_summed_before_the_gradient() -> None:
    d = nn.Conv2d(1, 1, 1, bias=False)
    x = torch.randn(2, 1, 3, 3, requires_grad=True)
    torch.testing.assert_close(gradient_norm_penalty(d(x), x), 9 * d.weight.square().sum() / 2)


@pytest.mark.parametrize(("trick", "verb"), [(stabilgan.R1, "real"), (stabilgan.R2, "fake")])
def test_the_step_is_that_of_the_loss_with_the_penalty_written_out(trick: type[stabilgan.R1], verb: str) -> None:
    real, fake = torch.randn(6, 2), torch.randn(6, 2)

    def step(in_game: bool) -> torch.Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
        x, y = real.double(), fake.double()
        if in_game:
            game = stabilgan.attach(g, d, play.sgd(g), opt_d, [trick(weight=7.0)])
            losses.logistic.d(d(game.real(x)), d(game.fake(y))).backward()
        else:
            point = (x if verb == "real" else y).clone().requires_grad_()
            (slope,) = torch.autograd.grad(d(point).sum(), point, create_graph=True)
            (losses.logistic.d(d(x), d(y)) + 7.0 / 2 * slope.pow(2).sum(1).mean()).backward()
        opt_d.step()
        return play.params(d)

    torch.testing.assert_close(step(True), step(False), rtol=1e-10, atol=1e-12)


def test_lazy_use_asks_on_every_nth_step_and_counts_n_fold() -> None:
    def moved(every: int) -> list[torch.Tensor]:
        g, d = play.players()
        opt_d = torch.optim.SGD(d.parameters(), lr=1e-3)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.R1(weight=2.0, every=every)])
        gradients = []
        for _ in range(4):
            opt_d.zero_grad()
            d(game.real(torch.ones(4, 2))).sum().mul(0).backward()
            opt_d.step()
            gradients.append(torch.cat([p.grad.reshape(-1) for p in d.parameters() if p.grad is not None]))
        return gradients

    lazy, eager = moved(3), moved(1)
    torch.testing.assert_close(lazy[0], 3 * eager[0])
    assert [bool(v.any()) for v in lazy] == [True, False, False, True]


def test_dirac_gan_with_r1_spirals_in_and_without_it_does_not() -> None:
    """Simultaneous gradients of the Dirac-GAN; eigenvalues ±0.5i, with R1 -γ/2 ± √(γ²/4 - ¼) (Mescheder 2018)."""

    def distance(weight: float) -> float:
        g, d = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for net in (g, d):
            nn.init.ones_(net.weight)
        opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
        game = stabilgan.attach(g, d, opt_g, opt_d, [stabilgan.R1(weight)])
        real, z = torch.zeros(1, 1), torch.ones(1, 1)
        for _ in range(500):
            loss_d = losses.logistic.d(d(game.real(real)), d(game.fake(g(z).detach())))
            loss_g = losses.saturating.g(game.critic(g(z)), None)
            opt_g.zero_grad()
            loss_g.backward()
            opt_d.zero_grad()
            loss_d.backward()
            opt_g.step()
            opt_d.step()
        return torch.hypot(g.weight, d.weight).item()

    assert distance(1.0) < 1e-6
    assert distance(0.0) > 1.0


def test_a_conditional_discriminator_gets_its_labels_in_the_penalty() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.embed = nn.Linear(2, 4), nn.Embedding(3, 4)

        def forward(self, x: torch.Tensor, *, y: torch.Tensor) -> torch.Tensor:
            return (self.net(x) * self.embed(y)).sum(1)

    g, _ = play.players()
    d = Conditional()
    opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.R1()])
    x, y = game.real(torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1]))
    d(x, y=y).sum().mul(0).backward()
    opt_d.step()
    expected = (d.embed(y) @ d.net.weight).square().sum(1).mean() / 2  # the slope of a score linear in x
    point = x.clone().requires_grad_()
    torch.testing.assert_close(gradient_norm_penalty(game.score(point, game.seen["real"]), point), expected)


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        stabilgan.R1(**options)  # type: ignore[arg-type]
