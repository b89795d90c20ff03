"""Measures of the game itself, on games whose answers are known."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabilgan.metrics import (
    GameField,
    duality_gap,
    gradient_norm,
    gradient_norms,
    jacobian_eigenvalues,
    overfitting,
    path_angle,
    singular_values,
)


class Point(nn.Module):
    """A player with nothing but a vector."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def dirac(gamma: float = 0.0, wasserstein: bool = False):
    """Dirac-GAN at its equilibrium (0, 0): D(x) = ψx, data at 0, generator at θ. Mescheder et al. 2018."""
    g, d = Point([0.0]), Point([0.0])

    def losses() -> tuple[Tensor, Tensor]:
        fake = (d.at * g.at).sum()
        if wasserstein:
            return fake, -fake
        penalty = gamma / 2 * d.at.square().sum()
        return F.softplus(fake) + math.log(2) + penalty, -F.softplus(fake)

    return g, d, losses


def as_set(values) -> list[tuple[float, float]]:
    return sorted((round(value.real, 9) + 0.0, round(value.imag, 9) + 0.0) for value in values)


def test_dirac_gan_eigenvalues_are_those_of_the_paper():
    assert as_set(jacobian_eigenvalues(*dirac()).values) == [(0.0, -0.5), (0.0, 0.5)]
    assert as_set(jacobian_eigenvalues(*dirac(wasserstein=True)).values) == [(0.0, -1.0), (0.0, 1.0)]
    for gamma in (0.3, 1.0, 2.0):
        root = complex(gamma**2 / 4 - 0.25) ** 0.5
        found = jacobian_eigenvalues(*dirac(gamma))
        want = [-gamma / 2 + root, -gamma / 2 - root]
        for value in want:  # a double eigenvalue at gamma = 1 is only found to the root of the rounding
            assert min(abs(value - other) for other in found.values) < 1e-7
        assert found.largest_real < 0  # it converges
    assert jacobian_eigenvalues(*dirac()).largest_real == 0
    assert jacobian_eigenvalues(*dirac()).rotation == (1.0, 1.0)
    assert jacobian_eigenvalues(*dirac(2.0)).rotation == (0.0, 0.0)


def test_the_sparse_solver_finds_the_eigenvalues_of_a_known_game():
    rng = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 300, generator=rng, dtype=torch.float64)
    curve = torch.rand(300, generator=rng, dtype=torch.float64)
    g, d = Point([0.3] * 300), Point([0.1] * 300)

    def losses() -> tuple[Tensor, Tensor]:
        value = d.at @ matrix @ g.at
        return -value + (curve * d.at.square()).sum() / 2, value

    found = jacobian_eigenvalues(g, d, losses, k=6)
    jacobian = torch.zeros(600, 600, dtype=torch.float64)
    jacobian[:300, :300] = -torch.diag(curve)
    jacobian[:300, 300:] = matrix
    jacobian[300:, :300] = -matrix.T
    want = torch.linalg.eigvals(jacobian)
    want = want[want.abs().argsort(descending=True)][:6]
    for value in want.tolist():
        assert min(abs(value - other) for other in found.values) < 1e-7
    assert found.parameters == 600
    assert found == jacobian_eigenvalues(g, d, losses, k=6)


def test_the_largest_eigenvalues_are_those_kept():
    g, d = Point([0.5]), Point([0.5, 0.5])

    def losses() -> tuple[Tensor, Tensor]:
        return (torch.tensor([1.0, 3.0]) * d.at.square()).sum() / 2, 2 * g.at.square().sum() / 2

    assert jacobian_eigenvalues(g, d, losses, k=2).values == (-3, -2)
    assert jacobian_eigenvalues(g, d, losses, k=1).values == (-3,)


def test_the_jacobian_of_networks_is_the_finite_difference_of_their_field():
    torch.manual_seed(0)
    g, d = nn.Linear(2, 2).double(), nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    z, x = torch.randn(8, 2).double(), torch.randn(8, 2).double()

    def losses() -> tuple[Tensor, Tensor]:
        fake = d(g(z))
        return F.softplus(-d(x)).mean() + F.softplus(fake).mean(), F.softplus(-fake).mean()

    field = GameField(g, d, losses)
    place, columns = field.point(), []
    with field.measuring():
        for unit in torch.eye(len(place), dtype=torch.float64):
            ends = []
            for sign in (1, -1):
                field.move(place + sign * 1e-5 * unit)
                ends.append(field.direction())
            columns.append((ends[0] - ends[1]) / 2e-5)
    want = torch.linalg.eigvals(torch.stack(columns, 1))
    found = jacobian_eigenvalues(g, d, losses, k=30)
    for value in want.tolist():
        assert min(abs(value - other) for other in found.values) < 1e-5


def test_measuring_leaves_no_trace():
    torch.manual_seed(0)
    g = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    d = nn.Linear(2, 1)
    z, x = torch.randn(8, 2), torch.randn(8, 2)

    def losses() -> tuple[Tensor, Tensor]:
        fake = d(g(z))
        return F.softplus(-d(x)).mean() + F.softplus(fake).mean(), F.softplus(-fake).mean()

    losses()[0].backward(inputs=list(d.parameters()))
    losses()[1].backward(inputs=list(g.parameters()))
    before = [t.clone() for m in (g, d) for t in m.state_dict().values()]
    grads = [p.grad.clone() for m in (g, d) for p in m.parameters()]
    state = torch.get_rng_state()
    point = GameField(g, d, losses).point()
    jacobian_eigenvalues(g, d, losses, k=2)
    path_angle(g, d, losses, point, point + 1, steps=5)
    duality_gap(g, d, lambda a, b: b(x).mean() - b(a(z)).mean(), steps=3)
    singular_values(g)
    assert all(
        torch.equal(a, b) for a, b in zip(before, [t for m in (g, d) for t in m.state_dict().values()], strict=True)
    )
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, [p for m in (g, d) for p in m.parameters()], strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert g.training


def test_path_angle_tells_attraction_from_rotation():
    g, d = Point([1.0]), Point([1.0])
    start, end = torch.tensor([1.0, 0.5]).double(), torch.zeros(2).double()
    pulled = path_angle(g, d, lambda: (d.at.square().sum(), g.at.square().sum()), start, end)
    assert pulled.turn == (pytest.approx(-1), pytest.approx(1))  # the sign changes at the end
    turned = path_angle(g, d, lambda: (-(d.at * g.at).sum(), (d.at * g.at).sum()), start, end)
    assert turned.turn == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))  # always across
    both = path_angle(
        g,
        d,
        lambda: (d.at.square().sum() / 2 - (d.at * g.at).sum(), g.at.square().sum() / 2 + (d.at * g.at).sum()),
        start,
        end,
    )
    assert both.turn == (pytest.approx(-1 / math.sqrt(2)), pytest.approx(1 / math.sqrt(2)))  # v = x + Jx: 45 degrees
    assert len(both.alphas) == len(both.cosines) == len(both.norms) == 41
    assert both.norms[0] == pytest.approx(start.norm().item() * math.sqrt(2))


def test_the_gap_is_zero_at_an_equilibrium_and_the_closed_form_elsewhere():
    def value(g: nn.Module, d: nn.Module) -> Tensor:
        return (g.at * d.at).sum() + g.at.square().sum() - d.at.square().sum()  # a saddle at 0, concave in d

    rest = duality_gap(Point([0.0]), Point([0.0]), value, steps=500, lr=0.1)
    assert rest.gap == pytest.approx(0, abs=1e-9)
    # max over d of gd - d² is g²/4, min over g of gd + g² is -d²/4: the gap is 5/4 (g² + d²)
    away = duality_gap(Point([2.0]), Point([1.0]), value, steps=500, lr=0.1)
    assert away.gap == pytest.approx(5 / 4 * 5, rel=1e-6)
    assert away.value == 2 + 4 - 1


def test_noise_finds_the_gap_at_a_stationary_point_that_is_no_equilibrium():
    def value(g: nn.Module, d: nn.Module) -> Tensor:
        return (d.at.square() - d.at.pow(4)).sum() + g.at.square().sum()  # d's best is at ±√½, not at 0

    plain = duality_gap(Point([0.0]), Point([0.0]), value, steps=300, lr=0.1, noise=0.0)
    shaken = duality_gap(Point([0.0]), Point([0.0]), value, steps=300, lr=0.1, noise=0.01)
    assert plain.gap == 0
    assert shaken.gap == pytest.approx(0.25, abs=1e-6)


def test_singular_values_are_exact_and_read_through_spectral_norm_without_moving_it():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4, bias=False)
    turned = nn.ConvTranspose2d(3, 5, 3)
    d = nn.Sequential(layer, nn.BatchNorm1d(4), nn.Conv2d(4, 3, 3), turned)
    found = singular_values(d, k=2)
    assert set(found) == {"0", "2", "3"}
    assert found["0"] == pytest.approx(torch.linalg.svdvals(layer.weight)[:2].tolist())
    assert found["2"][0] == pytest.approx(torch.linalg.matrix_norm(d[2].weight.flatten(1), 2).item(), rel=1e-5)
    assert found["3"][0] == pytest.approx(
        torch.linalg.matrix_norm(turned.weight.transpose(0, 1).flatten(1), 2).item(), rel=1e-5
    )
    wrapped = nn.utils.parametrizations.spectral_norm(nn.Linear(60, 40))  # far from converged
    state = {name: value.clone() for name, value in wrapped.state_dict().items()}
    assert singular_values(wrapped)[""] == (pytest.approx(1, rel=0.2),)
    assert all(torch.equal(value, state[name]) for name, value in wrapped.state_dict().items())
    assert wrapped.training
    with torch.no_grad():
        layer.weight[0, 0] = math.nan
    assert all(math.isnan(value) for value in singular_values(d)["0"])


def test_gradient_norms_at_any_scale():
    g, d = Point([1.0, 2.0]), Point([1.0])
    assert math.isnan(gradient_norm(g.parameters()).item())
    for scale in (1e-30, 1.0, 1e30):
        g.at.grad, d.at.grad = torch.tensor([3.0, 4.0]).double() * scale, torch.tensor([-2.0]).double() * scale
        norms = gradient_norms(g, d)
        assert (norms.g, norms.d, norms.ratio) == pytest.approx((5 * scale, 2 * scale, 2.5), rel=1e-6)
    d.at.grad.zero_()
    assert gradient_norms(g, d).ratio == math.inf
    g.at.grad.zero_()
    assert math.isnan(gradient_norms(g, d).ratio)
    g.at.grad[0] = math.nan
    assert math.isnan(gradient_norms(g, d).g)


def test_overfitting_reads_the_scores():
    same = overfitting(torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0]), torch.tensor([-2.0, -4.0]))
    assert (same.r_t, same.r_v, same.gap, same.effect) == (0.0, 0.0, 0.0, 0.0)
    learnt = overfitting(torch.tensor([4.0, 6.0]), torch.tensor([-3.0, -5.0]), torch.tensor([-3.0, -5.0]))
    assert (learnt.r_t, learnt.r_v, learnt.gap, learnt.effect) == (1.0, 1.0, 9.0, 9.0)
    alone = overfitting(torch.tensor([0.0, 2.0, -1.0, 5.0]))
    assert alone.r_t == 0.25
    assert math.isnan(alone.r_v)
    assert math.isnan(overfitting(torch.tensor([math.nan, 1.0])).r_t)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g, d, f: jacobian_eigenvalues(g, d, f, k=0), ValueError, "k is 0"),
        (lambda g, d, f: jacobian_eigenvalues(nn.ReLU(), d, f), ValueError, "g has no parameters"),
        (lambda g, d, f: path_angle(g, d, f, torch.zeros(3), torch.ones(2)), ValueError, r"start has shape \(3,\)"),
        (lambda g, d, f: path_angle(g, d, f, torch.ones(2), torch.ones(2)), ValueError, "the same point"),
        (lambda g, d, f: path_angle(g, d, f, torch.zeros(2), torch.ones(2), steps=2), ValueError, "steps is 2"),
        (lambda g, d, f: GameField(g, d, f).move(torch.ones(5)), ValueError, "the point has 5 numbers"),
        (lambda g, d, f: GameField(g, d, lambda: (d.at.expand(2), g.at)).direction(), ValueError, "d_loss has shape"),
        (lambda g, d, f: GameField(g, d, lambda: (d.at * math.nan, g.at)).direction(), FloatingPointError, "diverged"),
        (lambda g, d, f: jacobian_eigenvalues(g, d, lambda: (d.at, g.at)), ValueError, "second"),
        (lambda g, d, f: duality_gap(g, d, lambda a, b: a.at.sum(), steps=0), ValueError, "steps is 0"),
        (lambda g, d, f: duality_gap(g, d, lambda a, b: (a.at * math.nan).sum()), FloatingPointError, "became nan"),
        (lambda g, d, f: singular_values(d, k=0), ValueError, "k is 0"),
        (lambda g, d, f: overfitting(torch.zeros(0)), ValueError, "train is empty"),
    ],
)
def test_what_cannot_be_measured_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(*dirac()[:2], dirac()[2])
