"""Feature matching against a linear discriminator, torchgan's loss and a step written by hand."""

import passes
import play
import pytest
import torch
from torch import nn
from torchgan.losses import FeatureMatchingGeneratorLoss

import stabilgan
from stabilgan import losses
from stabilgan.tricks import FeatureMatching
from stabilgan.tricks.feature_matching import feature_distance


@pytest.mark.parametrize(("layer", "features"), [(None, 4), ("2", 2)])
def test_the_step_is_that_of_the_loss_with_the_distance_written_out(layer: str | None, features: int) -> None:
    draw = torch.Generator().manual_seed(2)
    x, z = (torch.randn(n, dim, dtype=torch.float64, generator=draw) for n, dim in ((9, 2), (6, 4)))

    def step(in_game: bool) -> torch.Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_g = torch.optim.SGD(g.parameters(), lr=0.1)
        if in_game:
            game = stabilgan.attach(g, d, opt_g, play.sgd(d), [FeatureMatching(0.3, layer=layer)])
            d(game.real(x))
            losses.logistic.g(game.critic(g(z)), None).backward()
        else:
            f = d[:features]
            gap = f(x).mean(0) - f(g(z)).mean(0)
            (torch.log1p(torch.exp(-d(g(z)))).mean() + 0.3 * gap.dot(gap)).backward()
        opt_g.step()
        return play.params(g)

    torch.testing.assert_close(step(True), step(False), rtol=1e-10, atol=1e-12)


def test_before_a_linear_layer_it_is_the_squared_distance_of_the_means() -> None:
    g, d = nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 1))
    trick = FeatureMatching(weight=1.0)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    d(game.real(torch.tensor([[1.0, 2.0], [3.0, 2.0]])))  # mean (2, 2)
    z = torch.zeros(4, 3)
    with torch.no_grad():
        g.bias.copy_(torch.tensor([-1.0, -2.0]))  # mean (-1, -2)
    game.critic(g(z))
    penalty = trick.penalty("g", game)
    assert penalty is not None
    assert penalty.item() == 25.0


def test_convolutional_features_are_matched_place_by_place() -> None:
    fake, real = torch.randn(5, 3, 2, 2), torch.randn(4, 3, 2, 2)
    gap = fake.flatten(1).mean(0) - real.flatten(1).mean(0)
    torch.testing.assert_close(feature_distance(fake, real), gap.dot(gap))


def test_the_distance_of_means_is_torchgans_loss_of_them() -> None:
    fake, real = torch.randn(5, 12), torch.randn(4, 12)
    theirs = FeatureMatchingGeneratorLoss(reduction="sum")(real.mean(0), fake.mean(0))
    torch.testing.assert_close(feature_distance(fake, real), theirs)


def test_alone_it_brings_the_mean_of_a_shifted_generator_to_that_of_the_data() -> None:
    """A generator that only shifts, and nothing but this term: gradient descent on a square, 0.8 of the gap stays."""
    g, d = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        g.weight.copy_(torch.eye(2))
        g.bias.zero_()
    g.weight.requires_grad_(False)
    opt_g = torch.optim.SGD([g.bias], lr=0.1)
    game = stabilgan.attach(g, d, opt_g, play.sgd(d), [FeatureMatching(1.0)])
    x, z = torch.full((4, 2), 3.0), torch.zeros(4, 2)
    d(game.real(x))
    for _ in range(10):
        opt_g.zero_grad()
        game.critic(g(z)).sum().mul(0).backward()
        opt_g.step()
    torch.testing.assert_close(g.bias, torch.full((2,), 3 * (1 - 0.8**10)))


def test_a_conditional_discriminator_gets_its_labels() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.last = nn.Embedding(3, 2), nn.Linear(2, 1)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.last(x + self.embed(y))

    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.embed = nn.Linear(4, 2), nn.Embedding(3, 2)

        def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.net(z) * self.embed(y)

    g, d, trick = Labelled(), Conditional(), FeatureMatching(1.0)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    x, z, y, c = torch.randn(5, 2), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 1, 0, 0])
    d(*game.real(x, y))
    game.critic(g(z, c), c)
    expected = ((x + d.embed(y)).mean(0) - (g(z, c) + d.embed(c)).mean(0)).pow(2).sum()
    torch.testing.assert_close(trick.penalty("g", game), expected)


def test_a_loop_without_the_word_real_is_told_which_line_is_missing() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [FeatureMatching()])
    d(game.fake(g(torch.randn(4, 4)).detach())).sum().backward()
    game.opt_d.step()
    game.critic(g(torch.randn(4, 4))).sum().backward()
    with pytest.raises(RuntimeError, match=r"write `output = netD\(game.real\(real\)\)`"):
        game.opt_g.step()


@pytest.mark.parametrize("listed_first", [True, False])
@pytest.mark.parametrize("name", ["instance_noise", "diffaugment", "ada"])
def test_an_augmentation_beside_it_is_refused_with_its_reason(name: str, listed_first: bool) -> None:
    g, d = play.players(kind="images")
    tricks = [FeatureMatching(), play.trick(name)]
    reason = f"^feature_matching and {name} can't be played together: .*: G would be taught the augmentation$"
    with pytest.raises(ValueError, match=reason):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), tricks if listed_first else tricks[::-1])


def test_the_passes_are_those_declared() -> None:
    assert stabilgan.Cost(**passes.extra(FeatureMatching())) == FeatureMatching.cost


def test_a_layer_that_is_not_there_is_refused_at_attach() -> None:
    g, d = play.players()
    with pytest.raises(ValueError, match="named 'nope'; it has 0, 2, 4"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [FeatureMatching(layer="nope")])


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        FeatureMatching(**options)  # type: ignore[arg-type]
