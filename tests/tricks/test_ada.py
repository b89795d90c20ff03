"""ADA: its changes against torch's own flips and turns and the paper's matrices, and its controller by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import ADA, DiffAugment, losses, spec
from stabilgan.tricks import parse
from stabilgan.tricks.ada import affine, colour_matrix, warp

ONE, NONE = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def game_of(trick: ADA, channels: int = 1) -> stabilgan.Game:
    g, _ = play.players(kind="images")
    d = nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 1))
    return stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])


class Reshaped(nn.Sequential):
    """A D with a linear layer first, which flat images come to."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


# The changes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (affine(-ONE, ONE, NONE, NONE, NONE), lambda x: x.flip(3)),
        (affine(ONE, ONE, ONE * math.pi / 2, NONE, NONE), lambda x: torch.rot90(x, 1, (2, 3))),
        (affine(ONE, ONE, ONE * math.pi, NONE, NONE), lambda x: x.flip(2, 3)),
        (affine(ONE, ONE, NONE, 2 * ONE, -ONE), lambda x: nn.functional.pad(x, (0, 2, 1, 0), "replicate")),
        (affine(ONE / 2, ONE / 2, NONE, NONE, NONE), None),
    ],
)
def test_the_map_is_the_one_it_says(source: Tensor, expected: Any) -> None:
    x = draw(1, 2, 6, 6)
    moved = warp(x, source)
    if expected is None:  # twice as large: its middle is read at halves and quarters between pixels
        middle = x[:, :, 2:4, 2:4].mean((2, 3))
        torch.testing.assert_close(moved[:, :, 2:4, 2:4].mean((2, 3)), middle)
        torch.testing.assert_close(moved[0, 0, 3, 3], (x[0, 0, 2:4, 2:4] * torch.tensor([[1, 3], [3, 9]]) / 16).sum())
    else:
        by = expected(x)
        inside = slice(1, 6), slice(0, 4)  # the move brings mirrored pixels in at its borders
        if by.shape != x.shape:
            moved, by = moved[:, :, inside[0], inside[1]], by[:, :, 0:6, 2:8][:, :, inside[0], inside[1]]
        torch.testing.assert_close(moved, by)


def test_a_turn_of_an_oblong_image_keeps_its_shapes_round() -> None:
    """A disc in the middle looks the same after a turn by any angle; at the borders it comes in mirrored."""
    y, x = torch.meshgrid(torch.arange(24.0) - 11.5, torch.arange(40.0) - 19.5, indexing="ij")
    disc = torch.exp(-(x.square() + y.square()) / 18).double().view(1, 1, 24, 40)
    turned = warp(disc, affine(ONE, ONE, 0.7 * ONE, NONE, NONE))
    assert (turned - disc)[:, :, 4:20, 12:28].abs().max() < 0.03


def test_outside_the_image_goes_on_mirrored() -> None:
    x = draw(1, 1, 1, 4)
    moved = warp(x, affine(ONE, ONE, NONE, 2 * ONE, NONE))
    torch.testing.assert_close(moved.flatten(), x.flatten()[[2, 3, 3, 2]])


def test_colours_are_the_papers_matrices() -> None:
    """Homogeneous 4 x 4 matrices, multiplied in the order of appendix B."""
    b, c, f, h, s = 0.3, 1.7, 1.0, 0.9, 2.5
    v = torch.ones(3, dtype=torch.float64) / math.sqrt(3)
    along = torch.outer(v, v)
    cross = torch.tensor([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]], dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)

    def lift(m: Tensor, offset: float = 0.0) -> Tensor:
        full = torch.eye(4, dtype=torch.float64)
        full[:3, :3], full[:3, 3] = m, offset
        return full

    hue = math.cos(h) * eye + math.sin(h) * cross + (1 - math.cos(h)) * along  # Rodrigues
    saturation = along + s * (eye - along)
    whole = lift(saturation) @ lift(hue) @ lift(eye - 2 * f * along) @ lift(c * eye) @ lift(eye, b)
    matrix, offset = colour_matrix(3, b * ONE, c * ONE, f * ONE, h * ONE, s * ONE)
    torch.testing.assert_close(matrix[0], whole[:3, :3])
    torch.testing.assert_close(offset.expand(1, 3, 1)[0, :, 0], whole[:3, 3])


def test_gradients_pass_through_every_change() -> None:
    x = draw(2, 3, 5, 5).requires_grad_()
    source = affine(*draw(5, 2, seed=1).mul(0.3).add(torch.tensor([[1.0], [1.0], [0.0], [0.0], [0.0]])))
    assert torch.autograd.gradcheck(lambda x: warp(x, source), (x,))
    game = game_of(ADA(p=1.0, images=0), channels=3)
    seen = torch.ones(4, 3, 8, 8, requires_grad=True)
    game.critic(seen).sum().backward()
    assert seen.grad is not None
    assert (seen.grad.flatten(1).abs().sum(1) > 0).all()


# How often --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        ("blit", [0.5, 0.75, 1 - 1 / 9]),  # mirrored, turned, moved by -1, 0 or 1 either way
        ("geom", [1, 1, 1, 1]),
        ("color", [1, 1, 0.5, 1, 1]),
    ],
)
def test_each_change_falls_on_each_image_with_probability_p(policy: str, changes: list[float]) -> None:
    """The share of images that nothing has changed is the product over changes of 1 - p · (share that shows)."""
    p, n = 0.3, 6000
    x = draw(n, 3, 8, 8).float()
    seen = game_of(ADA(p=p, images=0, policy=policy), channels=3).real(x)
    same = ((seen - x).abs().flatten(1).amax(1) < 1e-4).float().mean().item()
    expected = math.prod(1 - p * share for share in changes)
    assert same == pytest.approx(expected, abs=4 * math.sqrt(expected / n))


def test_images_that_nothing_falls_on_stay_bit_for_bit() -> None:
    x = draw(500, 1, 8, 8).float()
    seen = game_of(ADA(p=0.02, images=0)).real(x)
    same = (seen == x).flatten(1).all(1)
    assert 0.6 < same.float().mean() < 0.95
    assert not same.all()


def test_at_p_zero_with_a_controller_nothing_is_changed_yet() -> None:
    x = draw(20, 3, 8, 8).float()
    assert torch.equal(game_of(ADA(), channels=3).real(x), x)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_will_do(channels: int) -> None:
    x = draw(6, channels, 8, 8).float()
    seen = game_of(ADA(p=1.0, images=0), channels).real(x)
    assert seen.shape == x.shape
    assert seen.isfinite().all()
    assert not torch.equal(seen, x)


def test_flat_images_and_half_precision_come_back_as_they_were() -> None:
    game = game_of(ADA(p=1.0, images=0, shape="1x8x8"))
    assert game.real(torch.randn(5, 64)).shape == (5, 64)
    assert game.real(torch.randn(5, 64).bfloat16()).dtype == torch.bfloat16


def test_autocast_does_not_coarsen_the_map() -> None:
    x = draw(6, 1, 32, 32).float()
    plain = game_of(ADA(p=1.0, images=0)).real(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(game_of(ADA(p=1.0, images=0)).real(x), plain)


# The controller ---------------------------------------------------------------------------------------------------


class Certain(nn.Module):
    """A discriminator whose scores of the batch are told beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.says = nn.Parameter(torch.ones(1)), torch.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.says * self.weight + 0 * x.flatten(1).sum(1)


def ps(says: list[list[float]], **options: Any) -> list[float]:
    """p after each step of D, whose scores of real samples are given."""
    g, d = play.generator_net("images"), Certain()
    trick = ADA(**options)
    game = stabilgan.attach(g, d, play.sgd(g), torch.optim.SGD(d.parameters(), lr=0.0), [trick])
    seen = []
    for scores in says:
        d.says = torch.tensor(scores)
        d(game.real(torch.zeros(len(scores), 1, 4, 4))).sum().backward()
        game.opt_d.step()
        seen.append(trick.probability.item())
    return seen


def test_p_moves_by_the_images_shown_every_fourth_step() -> None:
    sure = [[1.0, 2.0, 3.0, 4.0]] * 8
    assert ps(sure, images=1000) == pytest.approx([0, 0, 0, 0.016, 0.016, 0.016, 0.016, 0.032])
    unsure = [[1.0, -2.0, 3.0, 4.0]] * 4  # r = ½, below 0.6
    assert ps(unsure, images=1000, p=0.5) == pytest.approx([0.5, 0.5, 0.5, 0.484])
    assert ps(unsure, images=1000, p=0.5, target=0.4) == pytest.approx([0.5, 0.5, 0.5, 0.516])


def test_r_is_the_mean_over_all_steps_since_p_moved() -> None:
    first, last = [[1.0, 1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0, -1.0]]  # r = 1 and ½: ¾ and 0.625 in all
    assert ps(first + last, images=80, every=2, p=0.5)[-1] == pytest.approx(0.6)
    assert ps(first + last * 3, images=80, every=4, p=0.5)[-1] == pytest.approx(0.7)
    assert ps(last, images=80, every=1, p=0.5)[-1] == pytest.approx(0.45)
    assert ps([[1.0, -1.0]] * 2, images=80, every=1, p=0.5, target=0.0) == [0.5, 0.5]


def test_p_stays_between_zero_and_one() -> None:
    assert ps([[1.0] * 4] * 3, images=5, every=1) == pytest.approx([0.8, 1, 1])
    assert ps([[-1.0] * 4] * 2, images=5, every=1, p=0.5) == [0, 0]


def test_p_stays_where_it_starts_without_images() -> None:
    assert ps([[1.0] * 4] * 5, images=0, p=0.25) == [0.25] * 5


@pytest.mark.parametrize("owned", [False, True])
def test_under_least_squares_the_sign_is_about_one_half(owned: bool) -> None:
    """In a loop that owns its loss, the trick has to be told."""
    trick = ADA(images=100, every=1, p=0.5, loss="least_squares" if owned else None)
    pair = None if owned else losses.least_squares
    g, _ = play.players(kind="images")
    d = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    nn.init.zeros_(d[1].weight)
    game = stabilgan.attach(g, d, play.sgd(g), torch.optim.SGD(d.parameters(), 0.0), [trick], loss=pair)
    for score, expected in ((0.7, 0.6), (0.3, 0.5)):  # ten images shown: p moves by a tenth, up or down
        nn.init.constant_(d[1].bias, score)
        d(game.real(torch.zeros(10, 1, 8, 8))).sum().backward()
        game.opt_d.step()
        assert trick.probability.item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["wasserstein", "relativistic"])
def test_a_loss_whose_scores_have_no_zero_is_refused_unless_p_stays(name: str) -> None:
    def attached(trick: ADA) -> None:
        g, d = play.players(kind="images")
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick], loss=losses.named(name))

    with pytest.raises(ValueError, match=f"ada fits the losses hinge, .* alone; this game's loss is {name}"):
        attached(ADA())
    attached(ADA(images=0, p=0.5))


def test_a_loss_without_a_zero_is_refused_by_name_too() -> None:
    with pytest.raises(ValueError, match="ada: under the wasserstein loss a score has no middle to be on a side of"):
        ADA(loss="wasserstein")


def test_a_trick_that_makes_the_loss_such_a_one_is_refused_beside_it() -> None:
    with pytest.raises(spec.SpecError, match="ada and relativistic: the loss becomes relativistic, and ada fits hinge"):
        parse("ada+relativistic")
    g, d = play.players(kind="images")
    with pytest.raises(ValueError, match="can't be played together: the loss becomes relativistic"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [stabilgan.Relativistic(), ADA()], loss=losses.logistic)
    assert len(parse("ada:images=0:p=0.3+relativistic")) == 2


@pytest.mark.parametrize("trick", [lambda **o: ADA(**o), lambda **o: DiffAugment(**o)], ids=["ada", "diffaugment"])
@pytest.mark.parametrize(
    ("first", "shape", "said"),
    [
        (nn.Linear(2, 8), None, r"begins with a linear layer, so its samples are \(N, 2\); expected images \(N"),
        (nn.Linear(2, 8), "1x28x28", r".* samples are \(N, 2\); expected flat images of 1x28x28"),
        (nn.Sequential(nn.Identity(), nn.Conv1d(2, 1, 3)), None, r"begins with a Conv1d; expected images"),
        (nn.Conv2d(1, 2, 3), None, None),
        (nn.Linear(784, 8), "1x28x28", None),
        (nn.Flatten(), None, None),
        (Reshaped(), None, None),
    ],
)
def test_ds_first_layer_says_at_attach_whether_samples_are_images(
    trick: Any, first: Any, shape: Any, said: Any
) -> None:
    """Where nobody can tell, the first batch says it."""
    g, d = nn.Linear(4, 2), nn.Sequential(copy.deepcopy(first), nn.Linear(8, 1))

    def attached(**options: Any) -> stabilgan.Game:
        return stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick(shape=shape, **options)])

    if said is None:
        attached()
    else:
        with pytest.raises(ValueError, match=rf"^(ada|diffaugment): D {said}"):
            attached()
        attached(policy="")  # which changes nothing


def test_p_and_what_it_rests_on_are_saved() -> None:
    g, d = play.players(kind="images")
    trick = ADA(images=100, every=3)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    d(game.real(torch.randn(4, 1, 8, 8))).sum().backward()
    game.opt_d.step()
    state = trick.state_dict()
    assert (state["scores"], state["shown"]) == (4, 4)
    assert state["signs"].item() == game.scores["real"].sign().sum().item()
    state["p"] += 1  # a copy
    assert trick.probability.item() == 0


def test_a_loop_that_hides_its_scores_is_told_so() -> None:
    g, d = play.players(kind="images")
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [ADA()])
    d(game.real(torch.randn(4, 1, 8, 8)).clone()).sum().backward()
    with pytest.raises(RuntimeError, match="needs D's scores of real samples, but D was never called with what"):
        game.opt_d.step()


def test_points_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^ada: samples are \(4, 2\); expected images \(N, C, H, W\)\..*$"):
        game_of(ADA()).real(torch.randn(4, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 1.5}, "target is 1.5; expected a mean of signs"),
        ({"images": -1}, "images is -1; expected 0 or more"),
        ({"every": 0}, "every is 0; expected 1 or more"),
        ({"p": 1.5}, "p is 1.5; expected a probability"),
        ({"policy": "geometry"}, "no part named 'geometry'; did you mean 'geom'"),
        ({"shape": "8"}, "shape is '8'; expected channels x height x width"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADA(**options)
