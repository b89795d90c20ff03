"""DiffAugment: real and fake images are changed alike, by what gradients pass through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from stabilgan import host
from stabilgan.game import Critic, Game, Trick
from stabilgan.tricks._draws import Draws
from stabilgan.tricks._images import NO_POINTS, as_images, policy_from, refuse_points, shape_from

PARTS = ("color", "translation", "cutout")


def recolour(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Adds brightness, then stretches each pixel's distance from its grey, then each image's from its mean.

    Args:
        x: (N, C, H, W).
        brightness, saturation, contrast: (N,); 0, 1 and 1 change nothing.

    >>> dark, grey = torch.tensor([[[[1.0]], [[3.0]]]]), torch.ones(1)
    >>> recolour(dark, 2 * grey, 0.5 * grey, grey).flatten().tolist()  # 3 and 5, half as far from 4
    [3.5, 4.5]
    """
    add, stretch, spread = (t.to(x.dtype).view(-1, 1, 1, 1) for t in (brightness, saturation, contrast))
    x = x + add
    grey = x.mean(1, keepdim=True)
    x = grey + stretch * (x - grey)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + spread * (x - mean)


def translate(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Moves each image by whole pixels; what is left bare becomes 0.

    Args:
        x: (N, C, H, W).
        down, right: (N,) whole numbers.

    >>> translate(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([1]), torch.tensor([0])).tolist()
    [[[[0.0, 0.0], [1.0, 2.0]]]]
    """
    (rows, row_there), (columns, column_there) = (
        _moved(size, by) for size, by in zip(x.shape[2:], (down, right), strict=True)
    )
    x = x.gather(2, rows[:, None, :, None].expand(x.shape)).gather(3, columns[:, None, None, :].expand(x.shape))
    there = row_there[:, None, :, None] & column_there[:, None, None, :]
    return x * there.to(x.dtype)


def _moved(size: int, by: Tensor) -> tuple[Tensor, Tensor]:
    """Where each place along a side comes from, and whether there is anything."""
    source = torch.arange(size, device=by.device) - by.unsqueeze(1)
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def cut_out(x: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Sets a rectangle of each image to 0; it may stick out.

    Args:
        x: (N, C, H, W).
        top, left: (N,) whole numbers, where the rectangle begins.

    >>> cut_out(torch.ones(1, 1, 2, 3), torch.tensor([-1]), torch.tensor([1]), 2, 2).tolist()
    [[[[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]]
    """
    sides = zip(x.shape[2:], (top, left), (height, width), strict=True)
    rows, columns = (_within(size, start.unsqueeze(1), length) for size, start, length in sides)
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _within(size: int, start: Tensor, length: int) -> Tensor:
    places = torch.arange(size, device=start.device)
    return (places >= start) & (places < start + length)


class DiffAugment(Trick):
    """Keeps D from learning few images by heart: it sees each real and each fake in another colour, place and cut.

    G is judged on augmented images too, through changes that have gradients, so that it learns the data and not the
    augmentation (Zhao et al. 2020, arXiv:2006.10738, Eq. 3-4; strengths as in the authors' code). Images are
    (N, C, H, W) in [-1, 1]. Penalties look at the augmented images.

    - color: brightness moves by up to ±½, saturation is stretched 0- to 2-fold, contrast ½- to 1½-fold.
    - translation: by whole pixels, up to an eighth of each side; the rest is 0.
    - cutout: a rectangle of half of each side is set to 0; it may stick out.

    Args:
        policy: any of these three, joined by commas or dashes; "" changes nothing.
        color: strength, at least 0; 1 is the paper's.
        translation: the largest move as a share of the side, 0 to 1; the paper's is 0.125.
        cutout: the rectangle's sides as a share of the image's, 0 to 1; the paper's is 0.5.
        shape: channels x height x width where samples are flat, as in "1x28x28".

    Raises:
        ValueError: an option out of range; samples that are no images, at attach where D is a Sequential, whose first
            layer says it, else at the first batch.
    """

    name = "diffaugment"
    changes = "what D sees"
    when = "There are few images (hundreds to some ten thousand) and D overfits. With plenty of data it only slows D."
    off: ClassVar = {"policy": ""}
    limits: ClassVar = {"points": NO_POINTS}
    source = "Zhao et al. 2020, arXiv:2006.10738, Eq. 3-4"

    def __init__(
        self,
        policy: str = "color-translation-cutout",
        color: float = 1.0,
        translation: float = 0.125,
        cutout: float = 0.5,
        shape: str | None = None,
    ) -> None:
        if color < 0:
            raise ValueError(f"{self.name}: color is {color}; expected a strength of 0 or more")
        for option, value in {"translation": translation, "cutout": cutout}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{self.name}: {option} is {value}; expected a share of the side, 0 to 1")
        self.policy, self.color, self.translation, self.cutout, self.shape = policy, color, translation, cutout, shape
        self._parts = policy_from(policy, PARTS, self.name)
        self._shape = shape_from(shape, self.name)
        self._draws = Draws()

    def setup(self, game: Game) -> None:
        if self._parts:
            refuse_points(game.d, self._shape, self.name)
        self._draws.start(game.generator(self))

    def real(self, x: Tensor, game: Game) -> Tensor:
        return self._augmented(x)

    def fake(self, x: Tensor, game: Game) -> Tensor:
        return self._augmented(x)

    def critic(self, d: Critic, game: Game) -> Critic:
        return lambda x, *args, **kwargs: d(self._augmented(x), *args, **kwargs)

    def _augmented(self, x: Tensor) -> Tensor:
        if not self._parts:
            return x
        images = host.full_precision(as_images(x, self._shape, self.name))
        for part in self._parts:
            images = getattr(self, f"_{part}")(images)
        return images.reshape(x.shape).to(x.dtype)

    def _color(self, x: Tensor) -> Tensor:
        u = torch.rand(3, len(x), generator=self._draws.on(x.device), device=x.device) - 0.5
        return recolour(x, self.color * u[0], 1 + 2 * self.color * u[1], 1 + self.color * u[2])

    def _translation(self, x: Tensor) -> Tensor:
        reach = [int(size * self.translation + 0.5) for size in x.shape[2:]]
        down, right = (self._whole(x, -most, most) for most in reach)
        return translate(x, down, right)

    def _cutout(self, x: Tensor) -> Tensor:
        height, width = (int(size * self.cutout + 0.5) for size in x.shape[2:])
        # The middle is anywhere in the image; an even side has its middle between two pixels.
        top, left = (
            self._whole(x, 0, size - length % 2) - length // 2
            for size, length in zip(x.shape[2:], (height, width), strict=True)
        )
        return cut_out(x, top, left, height, width)

    def _whole(self, x: Tensor, low: int, high: int) -> Tensor:
        """A whole number for each image, from low to high."""
        generator = self._draws.on(x.device)
        return torch.randint(low, high + 1, (len(x),), generator=generator, device=x.device)

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self._draws.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._draws.load_state_dict(state["draws"])
