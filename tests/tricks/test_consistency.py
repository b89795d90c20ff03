"""Consistency against steps written by hand and augmentation pixel by pixel."""

from __future__ import annotations

import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import Consistency, losses
from stabilgan.tricks.consistency import flip_and_shift


@pytest.mark.parametrize("on", ["real", "both"])
def test_the_step_on_points_is_that_of_the_loss_with_the_penalty_written_out(on: str) -> None:
    real, fake = one_step.batches(6, 4)
    trick = Consistency(weight=3.0, on=on, noise=0.2)  # type: ignore[arg-type]
    generator = one_step.generator_of(trick)
    noise = [torch.randn(n, 2, generator=generator).double() for n in (6, 4)]

    def term(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        value = 3.0 * (d(real) - d(real + 0.2 * noise[0])).pow(2).mean()
        return value if on == "real" else value + 3.0 * (d(fake) - d(fake + 0.2 * noise[1])).pow(2).mean()

    expected = one_step.written_out(term, real, fake)
    torch.testing.assert_close(one_step.with_trick(trick, real, fake), expected, rtol=1e-10, atol=1e-12)


def pixel_by_pixel(x: Tensor, flip: list[bool], down: list[int], right: list[int]) -> Tensor:
    out = torch.empty_like(x)
    n, _, height, width = x.shape
    for i in range(n):
        for row in range(height):
            for column in range(width):
                r, c = row - down[i], column - right[i]
                r = -r if r < 0 else 2 * (height - 1) - r if r >= height else r
                c = -c if c < 0 else 2 * (width - 1) - c if c >= width else c
                out[i, :, row, column] = x[i, :, r, width - 1 - c if flip[i] else c]
    return out


def test_images_are_mirrored_and_moved_each_in_its_own_way() -> None:
    x = torch.randn(4, 3, 5, 7)
    flip, down, right = [True, False, True, False], [0, 4, -2, -4], [6, -3, 0, -6]
    moved = flip_and_shift(x, torch.tensor(flip), torch.tensor(down), torch.tensor(right))
    assert torch.equal(moved, pixel_by_pixel(x, flip, down, right))


def test_an_image_moved_as_padding_and_cropping_move_it() -> None:
    x = torch.randn(1, 2, 6, 6)
    padded = nn.functional.pad(x, (3, 3, 3, 3), mode="reflect")
    moved = flip_and_shift(x, torch.tensor([False]), torch.tensor([3]), torch.tensor([-2]))
    assert torch.equal(moved, padded[:, :, 0:6, 5:11])


def test_draws_reach_every_shift_and_both_sides_and_no_further() -> None:
    trick = Consistency(shift=2)
    trick._generator = torch.Generator().manual_seed(0)
    x = torch.zeros(400, 1, 9, 9)
    x[:, :, 4, 3] = 1  # after a flip it stands at column 5
    at = trick.augment(x).flatten(1).argmax(1)
    assert sorted((at // 9).unique().tolist()) == [2, 3, 4, 5, 6]
    assert sorted((at % 9).unique().tolist()) == [1, 2, 3, 4, 5, 6, 7]
    assert sorted((Consistency.augment(unflipped(), x).flatten(1).argmax(1) % 9).unique().tolist()) == [1, 2, 3, 4, 5]


def unflipped() -> Consistency:
    trick = Consistency(shift=2, flip=False)
    trick._generator = torch.Generator().manual_seed(0)
    return trick


def test_an_image_smaller_than_the_shift_moves_as_far_as_it_can() -> None:
    trick = Consistency(shift=4)
    trick._generator = torch.Generator().manual_seed(0)
    x = torch.arange(6.0).view(1, 1, 2, 3).expand(50, 1, 2, 3)
    assert set(trick.augment(x).flatten().tolist()) == set(range(6))
    assert trick.augment(torch.ones(3, 1, 1, 1)).tolist() == [[[[1.0]]]] * 3


def test_the_step_on_images_compares_each_with_its_copy() -> None:
    trick = Consistency(weight=2.0, shift=3)
    generator = one_step.generator_of(trick)
    flip = torch.randint(0, 2, (6,), generator=generator).bool()
    down, right = (torch.randint(-3, 4, (6,), generator=generator) for _ in range(2))
    x = play.pictures(6, torch.Generator().manual_seed(0))
    g, d = play.players(kind="images")
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    d(game.real(x))
    value = trick.penalty("d", game)
    assert value is not None
    copies = pixel_by_pixel(x, flip.tolist(), down.tolist(), right.tolist())
    torch.testing.assert_close(value, 2 * (d(x) - d(copies)).pow(2).mean())


def test_a_discriminator_that_minds_no_mirror_pays_nothing_for_it() -> None:
    class Mirrored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.flatten(1)) + self.net(x.flip(-1).flatten(1))

    g, d, trick = play.generator_net(), Mirrored(), Consistency(shift=0)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    d(game.real(torch.randn(8, 1, 4, 4)))
    value = trick.penalty("d", game)
    assert value is not None
    assert value < 1e-12


def test_channels_last_images_train_as_others_do() -> None:
    def end(memory_format: torch.memory_format) -> Tensor:
        g, d = play.players(kind="images")
        d = d.to(memory_format=memory_format)
        opt_d = play.sgd(d)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [Consistency(on="both")])
        x, y = (play.pictures(8, torch.Generator().manual_seed(i)).to(memory_format=memory_format) for i in (0, 1))
        losses.logistic.d(d(game.real(x)), d(game.fake(y))).backward()
        opt_d.step()
        return torch.cat([p.detach().flatten() for p in d.parameters()])

    torch.testing.assert_close(end(torch.channels_last), end(torch.contiguous_format), rtol=1e-4, atol=1e-5)


def test_no_image_makes_the_host_wait_for_the_device() -> None:
    g, d = play.players(kind="images")
    t = stabilgan.Trainer(g, d, play.sgd(g), play.sgd(d), [Consistency(on="both")], latent=4, batch_size=8)
    t.fit(play.pictures, 1)
    with play.RefuseSync():
        t.fit(play.pictures, 3)


@pytest.mark.parametrize("kind", ["points", "images"])
@pytest.mark.parametrize("on", ["real", "both"])
def test_it_costs_what_it_says(on: str, kind: play.Kind) -> None:
    assert one_step.counted(Consistency(on=on), kind) == Consistency(on=on).cost  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"weight": -1.0}, {"every": 0}, {"on": "fake"}, {"shift": -1}, {"noise": -0.1}], ids=str
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"consistency: \w+ is .*; expected"):
        Consistency(**options)  # type: ignore[arg-type]
