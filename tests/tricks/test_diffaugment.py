"""DiffAugment against loops over pixels, its ranges, and a step written by hand."""

from __future__ import annotations

from typing import Any

import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import DiffAugment, losses
from stabilgan.tricks.diffaugment import cut_out, recolour, translate


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def game_of(*tricks: stabilgan.Trick, channels: int = 1) -> stabilgan.Game:
    g, _ = play.players(kind="images")
    d = nn.Sequential(nn.Flatten(), nn.Linear(channels * 64, 1))
    return stabilgan.attach(g, d, play.sgd(g), play.sgd(d), list(tricks))


def test_images_move_as_a_loop_over_pixels_moves_them() -> None:
    x, down, right = draw(5, 2, 4, 6), torch.tensor([0, 1, -2, 3, -4]), torch.tensor([0, -1, 5, 6, 2])
    moved = torch.zeros_like(x)
    for n in range(5):
        for i in range(4):
            for j in range(6):
                row, column = i + int(down[n]), j + int(right[n])
                if 0 <= row < 4 and 0 <= column < 6:
                    moved[n, :, row, column] = x[n, :, i, j]
    assert torch.equal(translate(x, down, right), moved)


def test_rectangles_are_cut_as_a_loop_over_pixels_cuts_them() -> None:
    x, top, left = draw(4, 3, 5, 6), torch.tensor([0, 2, -1, 4]), torch.tensor([1, -2, 5, 3])
    cut = x.clone()
    for n in range(4):
        for i in range(5):
            for j in range(6):
                if top[n] <= i < top[n] + 2 and left[n] <= j < left[n] + 3:
                    cut[n, :, i, j] = 0
    assert torch.equal(cut_out(x, top, left, 2, 3), cut)


def test_colours_follow_the_formulas_of_the_paper_s_code() -> None:
    x, add, saturation, contrast = draw(4, 3, 5, 5), *draw(3, 4, seed=1)
    for n in range(4):
        y = x[n] + add[n]
        grey = y.mean(0)
        y = torch.stack([(y[c] - grey) * saturation[n] + grey for c in range(3)])
        y = (y - y.mean()) * contrast[n] + y.mean()
        torch.testing.assert_close(recolour(x, add, saturation, contrast)[n], y)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: recolour(x, *draw(3, 2, seed=1)),
        lambda x: translate(x, torch.tensor([1, -1]), torch.tensor([0, 2])),
        lambda x: cut_out(x, torch.tensor([1, -1]), torch.tensor([0, 2]), 2, 2),
    ],
)
def test_gradients_pass_through_every_change_even_twice(change: Any) -> None:
    x = draw(2, 3, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(change, (x,))
    assert torch.autograd.gradgradcheck(change, (x,))


def test_moves_reach_an_eighth_of_each_side_and_no_further() -> None:
    game = game_of(DiffAugment("translation"))
    x = torch.zeros(4000, 1, 16, 8)
    x[:, 0, 8, 4] = 1.0
    seen = game.real(x)[:, 0].mean(0)
    rows, columns = seen.sum(1), seen.sum(0)
    torch.testing.assert_close(rows[6:11], torch.full((5,), 0.2), rtol=0, atol=0.03)
    torch.testing.assert_close(columns[3:6], torch.full((3,), 1 / 3), rtol=0, atol=0.03)
    assert rows.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("size", [8, 7])
def test_the_middle_of_the_cut_is_anywhere(size: int) -> None:
    """Starts are uniform; the authors' code clamps the same rectangle to the image."""
    game = game_of(DiffAugment("cutout"))
    seen = game.real(torch.ones(20_000, 1, size, 1))[:, 0, :, 0]
    half = int(size / 2 + 0.5)
    middles = size + 1 - half % 2
    cut = [0.0] * size
    for middle in range(middles):
        for row in range(max(0, middle - half // 2), min(size, middle - half // 2 + half)):
            cut[row] += 1 / middles
    torch.testing.assert_close(1 - seen.mean(0), torch.tensor(cut), rtol=0, atol=0.02)


def test_colour_strengths_have_the_ranges_of_the_paper() -> None:
    game = game_of(DiffAugment("color"))
    x = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2).expand(4000, 1, 1, 2)  # mean 0, contrast 1
    seen = game.real(x).flatten(1)
    brightness, contrast = seen.mean(1), (seen[:, 1] - seen[:, 0]) / 2
    assert -0.5 <= brightness.min() < -0.49
    assert 0.49 < brightness.max() <= 0.5
    assert 0.5 <= contrast.min() < 0.51
    assert 1.49 < contrast.max() <= 1.5
    colours = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).expand(4000, 2, 1, 1)
    vivid = game_of(DiffAugment("color")).fake(colours).flatten(1)
    stretch = (vivid[:, 1] - vivid[:, 0]) / 2  # saturation times contrast
    assert stretch.min() >= 0
    assert 2.5 < stretch.max() <= 3


def test_the_step_is_that_of_the_loss_on_images_augmented_by_hand() -> None:
    real, fake = draw(6, 3, 8, 8), draw(6, 3, 8, 8, seed=1)

    def step(in_game: bool) -> Tensor:
        torch.manual_seed(0)
        d = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        g, _ = play.players()
        opt_d, trick = torch.optim.SGD(d.parameters(), lr=0.1), DiffAugment("color,translation")
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [trick])
        generator = torch.Generator().manual_seed(game.generator(trick).initial_seed())

        def augmented(x: Tensor) -> Tensor:
            u = torch.rand(3, 6, generator=generator).double()
            down, right = (torch.randint(-1, 2, (6,), generator=generator) for _ in range(2))
            out = torch.zeros_like(x)
            for n in range(6):
                y = x[n] + u[0, n] - 0.5
                y = y.mean(0) + 2 * u[1, n] * (y - y.mean(0))
                y = y.mean() + (0.5 + u[2, n]) * (y - y.mean())
                out[n] = torch.roll(nn.functional.pad(y, (1, 1, 1, 1)), (int(down[n]), int(right[n])), (1, 2))[
                    :, 1:-1, 1:-1
                ]
            return out

        if in_game:
            losses.logistic.d(d(game.real(real)), d(game.fake(fake))).backward()
        else:
            losses.logistic.d(d(augmented(real)), d(augmented(fake))).backward()
        opt_d.step()
        return play.params(d)

    torch.testing.assert_close(step(True), step(False), rtol=1e-6, atol=1e-7)  # colours are drawn in float32


def test_g_is_judged_on_augmented_images_and_learns_through_them() -> None:
    game = game_of(DiffAugment())
    x = torch.ones(3, 1, 8, 8, requires_grad=True)
    plain = game.d(x)
    judged = game.critic(x)
    assert not torch.allclose(judged, plain)
    judged.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not torch.equal(game.critic(x), judged)  # drawn anew


def test_flat_images_are_augmented_in_their_shape() -> None:
    x = draw(6, 192).float()
    flat = game_of(DiffAugment(shape="3x8x8"), channels=3).real(x)
    assert flat.shape == x.shape
    assert torch.equal(flat, game_of(DiffAugment(), channels=3).real(x.view(6, 3, 8, 8)).flatten(1))


def test_the_policy_is_followed_in_its_order_and_commas_may_be_dashes() -> None:
    x = draw(6, 3, 8, 8).float()
    assert torch.equal(game_of(DiffAugment("cutout-color")).real(x), game_of(DiffAugment("cutout,color")).real(x))
    assert not torch.equal(game_of(DiffAugment("color,cutout")).real(x), game_of(DiffAugment("cutout,color")).real(x))
    assert stabilgan.tricks.parse("diffaugment:policy=cutout-color")[0]._parts == ("cutout", "color")


def test_half_precision_stays_half_precision() -> None:
    x = draw(2, 1, 8, 8).bfloat16()
    assert game_of(DiffAugment()).real(x).dtype == torch.bfloat16


@pytest.mark.parametrize(("trick", "shape"), [(DiffAugment(), (4, 2)), (DiffAugment(shape="1x28x28"), (4, 2))])
def test_points_are_refused_in_one_line(trick: DiffAugment, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'^diffaugment: samples are \(4, 2\); expected .*shape="1x28x28".*$'):
        game_of(trick).real(torch.randn(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "colour"}, "policy is 'colour'; no part named 'colour'; did you mean 'color'"),
        ({"color": -1.0}, "color is -1.0; expected a strength of 0 or more"),
        ({"translation": 2.0}, "translation is 2.0; expected a share of the side"),
        ({"cutout": -0.5}, "cutout is -0.5; expected a share of the side"),
        ({"shape": "28x28"}, "shape is '28x28'; expected channels x height x width"),
        ({"shape": "0x2x2"}, "expected channels x height x width"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffAugment(**options)
