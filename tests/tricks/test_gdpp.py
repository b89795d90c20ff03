"""The determinantal divergence against eigenvalues of dense matrices, and a step written by hand."""

import numpy as np
import passes
import play
import pytest
import torch
from torch import Tensor

import stabilgan
from stabilgan import losses
from stabilgan.tricks import GDPP
from stabilgan.tricks.gdpp import determinantal_divergence, log_det_plus_one


def dense(fake: Tensor, real: Tensor) -> float:
    """The same divergence from the eigenvalues of the features' own D x D matrices."""
    a, b = ((x / x.norm(dim=1, keepdim=True)).numpy() for x in (fake.flatten(1), real.flatten(1)))
    n = min(len(a), len(b))
    a, b = a[:n].T @ a[:n], b[:n].T @ b[:n]

    def log_det(m: np.ndarray) -> float:
        return float(np.log1p(np.linalg.eigvalsh(m)).sum())

    return log_det((a + b) / 2) - (log_det(a) + log_det(b)) / 2


@pytest.mark.parametrize(("n", "m", "shape"), [(6, 6, (3,)), (3, 5, (7,)), (8, 4, (2, 3, 3)), (1, 1, (4,))])
def test_it_is_the_divergence_of_the_dense_matrices(n: int, m: int, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(n)
    fake, real = (torch.randn(k, *shape, dtype=torch.float64, generator=draw) for k in (n, m))
    torch.testing.assert_close(determinantal_divergence(fake, real).item(), dense(fake, real), rtol=1e-9, atol=1e-12)


def test_it_is_zero_for_the_same_samples_in_another_order_and_another_sign() -> None:
    x = torch.randn(6, 4, dtype=torch.float64)
    assert abs(determinantal_divergence(-3 * x.flip(0), x).item()) < 1e-14


def test_modes_that_are_dropped_cost_more_the_more_they_are() -> None:
    real = torch.eye(8).repeat(4, 1)
    kept = [determinantal_divergence(real[:, :].roll(0, 1)[torch.arange(32) % k], real).item() for k in (8, 4, 2, 1)]
    assert kept == sorted(kept)
    assert abs(kept[0]) < 1e-5


def test_equal_eigenvalues_and_equal_samples_have_finite_gradients() -> None:
    for fake in (torch.eye(4), torch.ones(4, 4), torch.zeros(4, 4)):
        fake = fake.clone().requires_grad_()
        determinantal_divergence(fake, torch.eye(4)).backward()
        assert fake.grad is not None
        assert fake.grad.isfinite().all()


def test_the_gradient_is_that_of_finite_differences() -> None:
    fake, real = (torch.randn(5, 3, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(determinantal_divergence, (fake.requires_grad_(), real))
    assert torch.autograd.gradcheck(log_det_plus_one, fake.T)


def test_the_step_is_that_of_the_loss_with_the_divergence_written_out() -> None:
    draw = torch.Generator().manual_seed(2)
    x, z = (torch.randn(n, dim, dtype=torch.float64, generator=draw) for n, dim in ((9, 2), (6, 4)))

    def step(in_game: bool) -> Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
        if in_game:
            game = stabilgan.attach(g, d, opt_g, play.sgd(d), [GDPP(0.3)])
            d(game.real(x))
            losses.logistic.g(game.critic(g(z)), None).backward()
        else:
            fake, real = ((f := d[:-1](s)) / f.norm(dim=1, keepdim=True) for s in (g(z), x[:6]))
            a, b, one = fake.T @ fake, real.T @ real, torch.eye(16, dtype=torch.float64)
            divergence = torch.logdet(one + (a + b) / 2) - torch.logdet(one + a) / 2 - torch.logdet(one + b) / 2
            (torch.log1p(torch.exp(-d(g(z)))).mean() + 0.3 * divergence).backward()
        opt_g.step()
        return play.params(g)

    torch.testing.assert_close(step(True), step(False), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("listed_first", [True, False])
@pytest.mark.parametrize("name", ["instance_noise", "diffaugment", "ada"])
def test_an_augmentation_beside_it_is_refused_with_its_reason(name: str, listed_first: bool) -> None:
    g, d = play.players(kind="images")
    tricks = [GDPP(), play.trick(name)]
    reason = f"^gdpp and {name} can't be played together: .*: G would be taught the augmentation$"
    with pytest.raises(ValueError, match=reason):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), tricks if listed_first else tricks[::-1])


def test_the_passes_are_those_declared() -> None:
    assert stabilgan.Cost(**passes.extra(GDPP())) == GDPP.cost


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        GDPP(**options)  # type: ignore[arg-type]
