"""CycleGAN: two games under shared optimizers, and replay as its image pool."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import example
import play
import pytest
import torch
from torch import Tensor

import stabilgan
from stabilgan import EMA, R1, Minibatch, Replay, SpectralNorm, Watch

Tricks = Sequence[stabilgan.Trick]
cyclegan = example.load("cyclegan")


def new(a: Tricks = (), b: Tricks = (), module: ModuleType = cyclegan) -> Any:
    torch.manual_seed(0)
    return module.CycleGAN(a, b, width=2)


def pictures(steps: int, batch: int = 2, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.rand(batch, 1, 28, 28, generator=generator) * 2 - 1  # noqa: E731
    return [(draw(), draw()) for _ in range(steps)]


def played(gan: Any, steps: int, batch: int = 2) -> Any:
    for a, b in pictures(steps, batch):
        gan.step(a, b)
    return gan


def gradients_of_d(gan: Any, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """The gradients with which the discriminators' optimizer steps, penalties included."""
    kept: dict[str, Tensor] = {}

    def keep(*_: Any) -> None:
        for name in ("judge_a", "judge_b"):
            kept[name] = torch.cat([p.grad.reshape(-1) for p in getattr(gan, name).parameters()])

    hook = gan.opt_d.register_step_pre_hook(keep)  # after the games' own
    gan.step(a, b)
    hook.remove()
    return kept


def test_without_tricks_it_is_bit_identical_to_the_loop_without_games() -> None:
    raw = new(module=example.load("cyclegan", before=True))
    assert not hasattr(raw, "game_a")
    assert play.same(played(new(), 3).players, played(raw, 3).players)


class ImagePool:
    """The image pool as its paper and its authors describe it, one image after another."""

    def __init__(self, size: int, random: Callable[[], float]) -> None:
        self.size, self.random, self.images = size, random, []

    def query(self, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        swap, which = self.random() < 0.5, int(self.random() * self.size)
        if not swap:
            return image
        old, self.images[which] = self.images[which], image
        return old


@pytest.mark.parametrize("batch", [1, 4])
def test_replay_is_the_image_pool_of_the_paper(batch: int) -> None:
    gan = new([Replay(size=5)], [Replay(size=5)])
    pools = {}
    for name in ("game_a", "game_b"):
        game = getattr(gan, name)
        generator = game.generator(game.tricks[0])  # a second one, which starts where the trick's own did
        pools[name] = ImagePool(5, lambda g=generator: torch.rand((), dtype=torch.float64, generator=g).item())
    swapped = {"game_a": 0, "game_b": 0}
    for a, b in pictures(24 // batch, batch):
        with torch.no_grad():
            made = {"game_a": gan.to_a(b), "game_b": gan.to_b(a)}
        gan.step(a, b)
        for name, pool in pools.items():
            expected = torch.stack([pool.query(image) for image in made[name]])
            shown = getattr(gan, name).seen["fake"].x
            assert torch.equal(shown, expected)
            swapped[name] += int((shown != made[name]).flatten(1).any(1).sum())
    assert min(swapped.values()) > 2
    assert swapped["game_a"] != swapped["game_b"] or batch == 4  # each game draws for itself


@pytest.mark.parametrize("which", ["ab", "a", "b"])
def test_r1_goes_into_its_own_discriminator_when_the_shared_optimizer_steps(which: str) -> None:
    ((a, b),) = pictures(1)
    with_r1 = new([R1(3.0)] if "a" in which else [], [R1(3.0)] if "b" in which else [])
    plain = gradients_of_d(new(), a, b)
    got = gradients_of_d(with_r1, a, b)
    twin = new()  # whose discriminators have not moved yet
    for letter, x in (("a", a), ("b", b)):
        judge = f"judge_{letter}"
        if letter not in which:
            assert torch.equal(got[judge], plain[judge])
            continue
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(getattr(twin, judge)(x).sum(), x, create_graph=True)
        penalty = 3.0 / 2 * slope.square().sum((1, 2, 3)).mean()
        wanted = torch.autograd.grad(penalty, list(getattr(twin, judge).parameters()), allow_unused=True)
        by_hand = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1)
                for p, g in zip(getattr(twin, judge).parameters(), wanted, strict=True)
            ]
        )
        torch.testing.assert_close(got[judge] - plain[judge], by_hand, atol=1e-5, rtol=1e-3)
        assert by_hand.abs().max() > 1e-4


def test_both_games_count_each_step_of_the_shared_optimizers_once() -> None:
    gan = played(new(), 3)
    assert gan.game_a.steps == gan.game_b.steps == {"d": 3, "g": 3}


def test_what_a_trick_builds_stands_in_its_own_discriminator() -> None:
    gan = played(new([SpectralNorm(), Minibatch(kernels=3, dims=2)]), 2)
    names = [n for n, _ in gan.judge_a.named_parameters()]
    assert any("parametrizations" in n for n in names)
    assert any("discrimination" in n for n in names)
    assert [n for n, _ in gan.judge_b.named_parameters()] == [n for n, _ in new().judge_b.named_parameters()]
    held = {id(p) for group in gan.opt_d.param_groups for p in group["params"]}
    assert all(id(p) in held for p in gan.judge_a.parameters())


def test_each_average_follows_its_own_generator() -> None:
    ema_a, ema_b = EMA(0.0), EMA(0.0)
    gan = played(new([ema_a], [ema_b]), 2)
    assert play.same(ema_a.average, gan.to_a)
    assert play.same(ema_b.average, gan.to_b)


def every_trick() -> list[stabilgan.Trick]:
    return [Replay(size=5), R1(1.0), Minibatch(kernels=3, dims=2), EMA(0.5), Watch(family="least_squares")]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_equals_the_uninterrupted_one(stop: int) -> None:
    batches = pictures(4)
    whole, first, second = (new(every_trick(), every_trick()) for _ in range(3))
    for a, b in batches:
        whole.step(a, b)
    for a, b in batches[:stop]:
        first.step(a, b)
    torch.save(first.state_dict(), file := io.BytesIO())
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    for a, b in batches[stop:]:
        second.step(a, b)
    assert play.same(second.state_dict(), whole.state_dict())


@pytest.mark.data
def test_the_example_goes_on_from_its_checkpoint(
    tmp_path: Any, data_dir: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(steps: int, name: str) -> Any:
        file = tmp_path / name
        arguments = ["--steps", str(steps), "--width", "2", "--batch", "2", "--checkpoint", str(file)]
        cyclegan.main([*arguments, "--out", str(tmp_path / "picture.png")])
        return torch.load(file, weights_only=True)

    whole = run(3, "whole.pt")
    run(1, "parts.pt")
    assert play.same(run(3, "parts.pt"), whole)
    assert (tmp_path / "picture.png").stat().st_size > 1000
