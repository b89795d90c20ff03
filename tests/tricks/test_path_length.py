"""Path length regularisation against a linear generator, whose Jacobian is its weight."""

import passes
import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import losses
from stabilgan.tricks import PathLength
from stabilgan.tricks.path_length import path_lengths


def noise_of(trick: PathLength, game: stabilgan.Game, shape: tuple[int, ...]) -> torch.Tensor:
    """What the trick is about to draw: y ~ N(0, I / dim x)."""
    y = torch.randn(shape, dtype=torch.float64, generator=game.generator(trick))
    return y / (y[0].numel() ** 0.5)


def test_the_length_of_a_linear_generator_is_that_of_its_transpose_times_y() -> None:
    g = nn.Linear(3, 5)
    z, y = torch.randn(4, 3, requires_grad=True), torch.randn(4, 5)
    torch.testing.assert_close(path_lengths(g(z), z, y), (y @ g.weight).norm(dim=1))


def test_the_first_steps_are_those_of_the_loss_with_the_penalty_written_out() -> None:
    """For x = Wz + b the Jacobian is W: no second differentiation in the step by hand."""
    draw = torch.Generator().manual_seed(1)
    latents = [torch.randn(6, 4, dtype=torch.float64, generator=draw) for _ in range(3)]

    def run(in_game: bool) -> torch.Tensor:
        torch.manual_seed(0)
        g, d = nn.Linear(4, 3).double(), nn.Linear(3, 1).double()
        opt_g, trick = torch.optim.SGD(g.parameters(), lr=0.1), PathLength(decay=0.9)
        game = stabilgan.attach(g, d, opt_g, play.sgd(d), [trick])
        draws, a = game.generator(trick), 0.0
        if not in_game:
            game.detach()
        for z in latents:
            opt_g.zero_grad()
            loss = losses.logistic.g(game.critic(g(z)), None)
            if not in_game:
                y = torch.randn(6, 3, dtype=torch.float64, generator=draws) / 3**0.5
                lengths = (y @ g.weight).pow(2).sum(1).sqrt()
                a = 0.9 * a + 0.1 * lengths.mean().item()
                loss = loss + 2 * (lengths - a).pow(2).mean()
            loss.backward()
            opt_g.step()
        return play.params(g)

    torch.testing.assert_close(run(True), run(False), rtol=1e-10, atol=1e-12)


def test_the_penalty_of_a_curved_generator_is_that_of_its_jacobian() -> None:
    torch.manual_seed(0)
    g = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 12), nn.Unflatten(1, (3, 2, 2))).double()
    d = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).double()
    trick = PathLength(weight=1.0, decay=0.0)  # a is the mean of this batch: the penalty is the lengths' variance
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    z, y = torch.randn(5, 4, dtype=torch.float64), noise_of(trick, game, (5, 3, 2, 2))
    game.critic(g(z))
    jacobians = [torch.autograd.functional.jacobian(lambda v: g(v[None])[0].flatten(), row) for row in z]
    lengths = torch.stack([j.T @ noise.flatten() for j, noise in zip(jacobians, y, strict=True)]).norm(dim=1)
    penalty = trick.penalty("g", game)
    assert penalty is not None
    torch.testing.assert_close(penalty.detach(), lengths.var(correction=0))


def test_it_makes_a_stretched_generator_round() -> None:
    """W with singular values 3 and 1/3: equal lengths in all directions means equal singular values."""

    def spread(weight: float) -> float:
        g, d = nn.Linear(2, 2), nn.Linear(2, 1)
        with torch.no_grad():
            g.weight.copy_(torch.diag(torch.tensor([3.0, 1 / 3])))
        opt_g = torch.optim.SGD(g.parameters(), lr=0.05)
        game = stabilgan.attach(g, d, opt_g, play.sgd(d), [PathLength(weight)])
        data = torch.Generator().manual_seed(0)
        for _ in range(300):
            opt_g.zero_grad()
            game.critic(g(torch.randn(32, 2, generator=data))).sum().mul(0).backward()
            opt_g.step()
        big, small = torch.linalg.svdvals(g.weight).tolist()
        return float(big / small)

    assert spread(0.0) == pytest.approx(9.0)
    assert spread(2.0) < 2.0


def test_a_generator_that_ignores_its_latents_gives_no_nan() -> None:
    g, d = nn.Linear(3, 2), nn.Linear(2, 1)
    nn.init.zeros_(g.weight)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [PathLength()])
    game.critic(g(torch.randn(4, 3))).sum().backward()
    game.opt_g.step()
    assert play.params(g).isfinite().all()


def test_the_passes_are_those_declared() -> None:
    assert stabilgan.Cost(**passes.extra(PathLength())) == PathLength.cost


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"decay": 1.0}, {"decay": -0.1}, {"every": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PathLength(**options)  # type: ignore[arg-type]
