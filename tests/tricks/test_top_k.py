"""Top-k against the mean over the k best, written out."""

import passes
import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import losses
from stabilgan.tricks import TopK, Unrolled
from stabilgan.tricks.top_k import top_k_weights


def moved(trick: stabilgan.Trick, d: nn.Module | None = None) -> torch.Tensor:
    """G's weights after one step in a game, at a time when half of a batch of 7, rounded up, is kept."""
    g, own = play.players(dtype=torch.float64)
    d = d or own
    opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
    game = stabilgan.attach(g, d, opt_g, play.sgd(d), [trick])
    game.steps["g"] = 10_000
    z = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    losses.logistic.g(game.critic(g(z)), None).backward()
    opt_g.step()
    return play.params(g)


def test_the_step_is_that_of_the_mean_over_the_best() -> None:
    g, d = play.players(dtype=torch.float64)
    opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
    z = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    scores = d(g(z)).flatten().sort().values[-4:]
    torch.log1p(torch.exp(-scores)).mean().backward()
    opt_g.step()
    torch.testing.assert_close(moved(TopK(epoch=1)), play.params(g), rtol=1e-10, atol=1e-12)


def test_scores_of_patches_are_ranked_by_their_mean() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).view(-1, 1, 2, 3)

    torch.manual_seed(1)
    d = Patches().double()
    g, _ = play.players(dtype=torch.float64)
    opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
    z = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    scores = d(g(z))
    order = sorted(range(7), key=lambda i: -scores[i].mean().item())
    torch.log1p(torch.exp(-scores[order[:4]])).mean().backward()
    opt_g.step()
    torch.testing.assert_close(moved(TopK(epoch=1), d), play.params(g), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("top_k_first", [True, False])
def test_beside_unrolled_the_d_to_come_learns_from_all_fakes_and_g_from_the_best(top_k_first: bool) -> None:
    """One step of D ahead written out, on the whole batch; then the mean of G's loss over the 4 best of 7."""
    draw = torch.Generator().manual_seed(3)
    x, z = (torch.randn(7, n, dtype=torch.float64, generator=draw) for n in (2, 4))

    def moved(by_hand: bool) -> torch.Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
        if by_hand:
            own, fake = dict(d.named_parameters()), g(z)
            slopes = torch.autograd.grad(losses.logistic.d(d(x), d(fake)), list(own.values()), create_graph=True)
            later = {name: w - 2.0 * slope for (name, w), slope in zip(own.items(), slopes, strict=True)}
            scores = torch.func.functional_call(d, later, (fake,))
            losses.logistic.g(scores.flatten().sort().values[-4:], None).backward()
        else:
            tricks = [TopK(epoch=1), Unrolled(k=1, lr=2.0)]
            order = tricks if top_k_first else tricks[::-1]
            game = stabilgan.attach(g, d, opt_g, play.sgd(d), order, loss=losses.logistic)
            game.steps["g"] = 10_000
            d(game.real(x))
            losses.logistic.g(game.critic(g(z)), None).backward()
        opt_g.step()
        return play.params(g)

    torch.testing.assert_close(moved(False), moved(True), rtol=1e-9, atol=1e-11)


def test_scores_that_the_loop_sees_are_ds_own() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [TopK(epoch=1)])
    game.steps["g"] = 500
    fake = g(torch.randn(8, 4))
    assert torch.equal(game.critic(fake), d(fake))


def test_equal_scores_do_not_keep_more_than_k() -> None:
    weights = top_k_weights(torch.ones(6, 1), 2)
    assert weights.sort().values.tolist() == [0, 0, 0, 0, 3, 3]


def test_k_shrinks_by_epochs_down_to_the_share_and_never_to_nothing() -> None:
    trick = TopK(share=0.25, decay=0.5, epoch=10)
    assert [trick.kept(8, steps) for steps in (0, 9, 10, 19, 20, 30, 1000)] == [8, 8, 4, 4, 2, 2, 2]
    assert trick.kept(1, 1000) == 1
    assert [TopK(share=0.3, decay=0.01, epoch=1).kept(n, 5) for n in (2, 3, 10)] == [1, 1, 3]
    assert TopK().kept(1000, 782 * 69) == 500
    assert TopK().kept(1000, 782 * 68) == 505  # 0.99 ** 68 = 0.5049


def test_before_the_first_epoch_ends_nothing_changes() -> None:
    for with_trick, without in zip(play.by_hand([TopK()], 4), play.by_hand([], 4), strict=True):
        assert play.same(with_trick, without)


def test_real_scores_of_a_relativistic_loss_are_left_alone() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [TopK(epoch=1)])
    game.steps["g"] = 500
    real = game.critic(torch.randn(8, 2), real=True)
    (gradient,) = torch.autograd.grad(real.sum(), real)
    assert gradient.tolist() == [[1.0]] * 8


def test_it_costs_no_pass() -> None:
    assert stabilgan.Cost(**passes.extra(play.trick("top_k"))) == TopK().cost


def test_a_discriminator_with_several_outputs_is_refused() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.net(x), x

    g, d = play.generator_net(), Two()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [TopK(epoch=1)], score=lambda out: out[0])
    game.steps["g"] = 1
    with pytest.raises(TypeError, match="D returns a tuple; expected a tensor"):
        game.critic(g(torch.randn(8, 4)))


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.1}, {"decay": 0.0}, {"decay": 2.0}, {"epoch": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TopK(**options)  # type: ignore[arg-type]
