"""Historical averaging against its formula, torchgan's loss and the bilinear game."""

import passes
import play
import pytest
import torch
from torch import nn
from torchgan.losses import HistoricalAverageDiscriminatorLoss

import stabilgan
from stabilgan import losses
from stabilgan.tricks import HistoricalAveraging


def test_each_step_is_that_of_the_loss_with_the_distance_to_the_mean_of_the_past() -> None:
    data = torch.Generator().manual_seed(4)
    batches = [torch.randn(6, 2, dtype=torch.float64, generator=data) for _ in range(5)]

    def run(in_game: bool) -> torch.Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [HistoricalAveraging(0.7)]) if in_game else None
        past: list[torch.Tensor] = []
        for x in batches:
            opt_d.zero_grad()
            if game is not None:
                losses.logistic.d(d(game.real(x)), d(game.fake(x + 1))).backward()
            else:
                past.append(play.params(d))
                weights = torch.cat([p.reshape(-1) for p in d.parameters()])
                pull = (weights - sum(past) / len(past)).pow(2).sum()
                (losses.logistic.d(d(x), d(x + 1)) + 0.7 * pull).backward()
            opt_d.step()
        return play.params(d)

    torch.testing.assert_close(run(True), run(False), rtol=1e-10, atol=1e-12)


def test_the_pull_is_that_of_torchgans_loss_but_for_the_mean_that_holds_the_present_weights_too() -> None:
    """The paper's sum over i = 1..t holds the weights of step t; torchgan's mean stops one before, so it pulls t/(t-1)
    times as much."""
    (g, d), (_, twin) = (play.players(dtype=torch.float64) for _ in range(2))
    opt_d, opt_twin = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (d, twin))
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [HistoricalAveraging(0.7)])
    theirs = HistoricalAverageDiscriminatorLoss(lambd=0.7)
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for t in range(1, 6):
        twin.load_state_dict(d.state_dict())
        before = play.params(d)
        opt_d.zero_grad()
        drive = sum(t * p.sum() for p in d.parameters())  # so that the weights move
        (d(game.real(x)).sum() * 0 + drive).backward()
        opt_d.step()
        theirs.train_ops(twin, opt_twin)
        ours, expected = play.params(d) - before + 0.1 * t, play.params(twin) - before
        torch.testing.assert_close(ours, expected * (t - 1) / t, rtol=1e-10, atol=1e-12)
        assert bool(ours.norm() > 1e-3) is (t > 1)


def bilinear(weight: float, steps: int) -> float:
    """The distance from the equilibrium of xy, from (1, 1), both players at once at a rate of 0.1."""
    g, d = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for net in (g, d):
        nn.init.ones_(net.weight)
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (g, d))
    stabilgan.attach(g, d, opt_g, opt_d, [HistoricalAveraging(weight)])
    for _ in range(steps):
        opt_g.zero_grad()
        opt_d.zero_grad()
        x, y = g.weight, d.weight
        (x * y.detach()).sum().backward()
        (-x.detach() * y).sum().backward()
        opt_g.step()
        opt_d.step()
    return torch.hypot(g.weight, d.weight).item()


def test_the_bilinear_game_spirals_out_without_it() -> None:
    assert bilinear(0.0, 500) == pytest.approx(2**0.5 * 1.01**250)  # each step multiplies the distance by √(1 + 0.1²)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_it_damps_the_bilinear_game_by_a_power_of_time(weight: float) -> None:
    """With m still, θ' = Jθ - 2w(θ - m) rests at 2w(2w - J)⁻¹m; then m' = (θ - m)/t shrinks as t^(-1/(1 + 4w²))."""
    early, late = bilinear(weight, 200), bilinear(weight, 800)
    assert late < early < 2**0.5
    assert late / early == pytest.approx(4 ** (-1 / (1 + 4 * weight**2)), rel=0.02)


def test_without_gradients_nothing_moves() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), torch.optim.SGD(d.parameters(), lr=0.1), [HistoricalAveraging()])
    before = play.params(d)
    for _ in range(3):
        game.opt_d.zero_grad()
        d(game.real(torch.randn(4, 2))).sum().mul(0).backward()
        game.opt_d.step()
    assert torch.equal(play.params(d), before)


def test_weights_that_are_loaded_after_attach_are_where_the_past_begins() -> None:
    g, d = play.players()
    trick = HistoricalAveraging()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    _, other = play.players(seed=5)
    d.load_state_dict(other.state_dict())
    penalty = trick.penalty("d", game)
    assert penalty is not None
    assert penalty.item() == 0


def test_accumulation_counts_a_step_once() -> None:
    data = torch.randn(8, 2)

    def run(parts: int) -> torch.Tensor:
        g, d = play.players()
        opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [HistoricalAveraging()], accumulate=parts)
        for _ in range(4):
            opt_d.zero_grad()
            for x in data.chunk(parts):
                (losses.logistic.d(d(game.real(x)), d(game.fake(x + 1))) / parts).backward()
            opt_d.step()
        return play.params(d)

    torch.testing.assert_close(run(4), run(1))


def test_it_costs_no_pass() -> None:
    assert stabilgan.Cost(**passes.extra(HistoricalAveraging())) == HistoricalAveraging().cost


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 or more"):
        HistoricalAveraging(-1.0)
