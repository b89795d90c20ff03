"""ADA: images are augmented only as often as D overfits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from stabilgan import host, losses
from stabilgan.game import Critic, Game, Player, Trick
from stabilgan.tricks._draws import Draws
from stabilgan.tricks._images import NO_POINTS, as_images, policy_from, refuse_points, shape_from

PARTS = ("blit", "geom", "color")


def affine(scale_x: Tensor, scale_y: Tensor, angle: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Maps of the plane that scale, then turn clockwise on the screen, then move; each of (N,), the result (N, 3, 3).

    >>> one, none = torch.ones(1), torch.zeros(1)
    >>> (affine(2 * one, one, none, 3 * one, none) @ torch.tensor([5.0, 7.0, 1.0])).tolist()  # (2 · 5 + 3, 7)
    [[13.0, 7.0, 1.0]]
    """
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rows = (cos * scale_x, -sin * scale_y, right), (sin * scale_x, cos * scale_y, down), (zero, zero, one)
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def warp(x: Tensor, source: Tensor) -> Tensor:
    """Takes each pixel from where `source` sends its place; bilinear, and images go on mirrored outside.

    Args:
        x: (N, C, H, W).
        source: (N, 3, 3), on places (right, down, 1) in pixels from the middle of the image.

    >>> one, none = torch.ones(1), torch.zeros(1)
    >>> warp(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), affine(one, one, none, one, none)).round().tolist()
    [[[[2.0, 3.0, 4.0, 4.0]]]]
    """
    height, width = x.shape[2:]
    across, down = source.to(x.dtype)[:, :2].unbind(1)
    # grid_sample's unit is half a side
    across = torch.stack([across[:, 0], across[:, 1] * (height / width), across[:, 2] * (2 / width)], 1)
    down = torch.stack([down[:, 0] * (width / height), down[:, 1], down[:, 2] * (2 / height)], 1)
    grid = affine_grid(torch.stack([across, down], 1), list(x.shape), align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def colour_matrix(
    channels: int, brightness: Tensor, contrast: Tensor, flip: Tensor, hue: Tensor, saturation: Tensor
) -> tuple[Tensor, Tensor]:
    """What brightness, contrast, luma flip, hue and saturation, in this order, do to a pixel.

    Luma is the share of a pixel along the grey axis v = (1, ..., 1) / √channels; hue turns around that axis, which
    takes three channels.

    Args:
        brightness, contrast, flip, hue, saturation: (N,); 0, 1, 0, 0 and 1 change nothing. `flip` is 0 or 1, `hue` an
            angle.

    Returns:
        A matrix (N, channels, channels) and an offset (N, 1, 1), for all channels.

    >>> half, one, none = torch.full((1,), 0.5), torch.ones(1), torch.zeros(1)
    >>> matrix, offset = colour_matrix(1, half, 2 * one, one, none, one)
    >>> matrix.item(), offset.item()  # -2 (x + ½)
    (-2.0, -1.0)
    """
    brightness, contrast, flip, hue, saturation = (
        t.view(-1, 1, 1) for t in (brightness, contrast, flip, hue, saturation)
    )
    grey = brightness.new_full((channels, channels), 1 / channels)
    vivid = torch.eye(channels, dtype=grey.dtype, device=grey.device) - grey
    turned = vivid
    if channels == 3:
        across = torch.roll(torch.eye(3, dtype=grey.dtype, device=grey.device), 1, 0)
        turned = hue.cos() * vivid + hue.sin() * (across - across.t()) / math.sqrt(3)
    return contrast * ((1 - 2 * flip) * grey + saturation * turned), contrast * brightness * (1 - 2 * flip)


class ADA(Trick):
    """Keeps D from learning few images by heart: images are augmented with a probability that follows its overfitting.

    Each change below is made to each image with probability p. Every 4 steps of D, p rises if r = E[sign D(real)] is
    above its target and falls if below (Karras et al. 2020, arXiv:2006.06676, Sec. 3, Eq. 1; strengths of appendix B).
    Under least squares the sign is that of D(real) - ½; Wasserstein and relativistic scores have no zero of their own,
    so that p can't follow them, and only images=0 plays with those losses.
    D sees real and fake that way, and G is judged on augmented images too, through changes that have gradients. Images
    are (N, C, H, W) in [-1, 1].

    - blit: mirrored, turned by a right angle, moved by whole pixels up to an eighth of a side.
    - geom: scaled, turned, stretched, moved; the logarithms are normal, and so is the move.
    - color: brightness, contrast, luma flip; with three channels hue, with several saturation.

    Geometry is one affine map and one bilinear look-up with mirrored borders, without the low-pass filters of the
    authors' code, which the finest detail would need. Images that no change falls on stay as they are, bit for bit.
    p is a tensor on the samples' device, so that nothing waits for it. With gradient accumulation r is of the last
    micro-batch. The look-up has a gradient but no gradient of that: what differentiates D's slope at G's samples again
    in G's turn can't stand inside it.

    Args:
        target: of r, in [-1, 1]; the paper's is 0.6.
        images: so many images shown move p from 0 to 1; the paper's is 500,000. 0 keeps p where it starts.
        every: steps of D between two moves of p, at least 1; the paper's is 4.
        p: where it starts, in [0, 1]; the paper's is 0.
        policy: parts of the above joined by commas or dashes; all of them are the paper's "bgc".
        shape: channels x height x width where samples are flat, as in "1x28x28".
        loss: the losses' name in a loop that owns its loss, which is the only way to know it there; None takes scores
            above 0 for real ones, as under the logistic loss. Under least squares say so.

    Raises:
        ValueError: an option out of range; a loss under which p has nothing to follow; samples that are no images, at
            attach where D is a Sequential, whose first layer says it, else at the first batch.
        RuntimeError: D was never called with what `game.real` returned, so that there is no r.
    """

    name = "ada"
    changes = "what D sees"
    when = "There are few images and D overfits, but how much is not known. With plenty of data p stays near 0."
    needs_logits = True
    fits: frozenset[str] | None = losses.WITH_MIDDLE
    made_for: ClassVar = frozenset(("logistic", "saturating"))
    off: ClassVar = {"p": 0.0, "images": 0}
    limits: ClassVar = {
        "points": NO_POINTS,
        "accumulate": "r is of the last micro-batch of each step",
        "a loop that owns its loss": "scores are taken about 0 unless `loss` names least squares",
    }
    source = "Karras et al. 2020, arXiv:2006.06676, Sec. 3, Eq. 1, appendix B"

    def __init__(
        self,
        target: float = 0.6,
        images: int = 500_000,
        every: int = 4,
        p: float = 0.0,
        policy: str = "blit-geom-color",
        shape: str | None = None,
        loss: str | None = None,
    ) -> None:
        if not -1 <= target <= 1:
            raise ValueError(f"{self.name}: target is {target}; expected a mean of signs, -1 to 1")
        if images < 0:
            raise ValueError(f"{self.name}: images is {images}; expected 0 or more")
        if every < 1:
            raise ValueError(f"{self.name}: every is {every}; expected 1 or more")
        if not 0 <= p <= 1:
            raise ValueError(f"{self.name}: p is {p}; expected a probability, 0 to 1")
        self.target, self.images, self.every, self.p, self.policy, self.shape = target, images, every, p, policy, shape
        self._parts = policy_from(policy, PARTS, self.name)
        self._shape = shape_from(shape, self.name)
        self._draws = Draws()
        self._probability, self._signs = torch.tensor(float(p)), torch.tensor(0.0)
        self._scores = self._shown = 0
        self._pair = None if loss is None else losses.with_middle(loss, self.name)
        self._middle = 0.0
        if images == 0:
            self.fits = None

    @property
    def probability(self) -> Tensor:
        """p as it is now, on the device."""
        return self._probability

    @property
    def _acts(self) -> bool:
        return bool(self._parts) and (self.p > 0 or self.images > 0)

    def setup(self, game: Game) -> None:
        if self._acts:
            refuse_points(game.d, self._shape, self.name)
        self._middle = losses.middle_of(game.loss or self._pair)
        self._draws.start(game.generator(self))

    def real(self, x: Tensor, game: Game) -> Tensor:
        self._shown += len(x)
        return self._augmented(x)

    def fake(self, x: Tensor, game: Game) -> Tensor:
        return self._augmented(x)

    def critic(self, d: Critic, game: Game) -> Critic:
        return lambda x, *args, **kwargs: d(self._augmented(x), *args, **kwargs)

    def after_step(self, player: Player, game: Game) -> None:
        if player == "g" or self.images == 0:
            return
        if "real" not in game.scores:
            raise RuntimeError(
                f"{self.name} needs D's scores of real samples, but D was never called with what game.real returned; "
                "write `output = netD(game.real(real))`"
            )
        scores = game.scores["real"]
        signs = (scores - self._middle).sign().sum(dtype=torch.float32)
        self._signs = self._signs.to(scores.device, non_blocking=True) + signs
        self._scores += scores.numel()
        if game.steps["d"] % self.every == 0:
            signs, shown = self._signs / self._scores, self._shown
            if game.distributed:
                signs, shown = host.mean_over_ranks(signs), shown * host.ranks()
            step = torch.sign(signs - self.target) * (shown / self.images)
            self._probability = (self._probability.to(scores.device, non_blocking=True) + step).clamp(0, 1)
            self._signs, self._scores, self._shown = torch.zeros_like(self._signs), 0, 0

    def _augmented(self, x: Tensor) -> Tensor:
        if not self._acts:
            return x
        self._probability = self._probability.to(x.device, non_blocking=True)
        images = host.full_precision(as_images(x, self._shape, self.name))
        with torch.autocast(x.device.type, enabled=False):
            if "blit" in self._parts or "geom" in self._parts:
                images = self._moved(images)
            if "color" in self._parts:
                images = self._coloured(images)
        return images.reshape(x.shape).to(x.dtype)

    def _moved(self, x: Tensor) -> Tensor:
        n, (height, width) = len(x), x.shape[2:]
        due, u, z = self._drawn(n, 7, x.device)
        # For each image: pixels come from where the first map sends what the next has sent, and so on.
        none, one = torch.zeros_like(u[0]), torch.ones_like(u[0])
        source = torch.eye(3, device=x.device).expand(n, 3, 3)
        touched = torch.zeros(n, dtype=torch.bool, device=x.device)
        if "blit" in self._parts:
            mirror = torch.where(due[0] & (u[0] < 0.5), -one, one)
            quarter = torch.where(due[1], (4 * u[1]).floor() * (math.pi / 2), none)
            by = torch.where(due[2], (u[2:4] - 0.5) / 4, none)
            source = source @ affine(mirror, one, none, none, none)
            source = source @ affine(one, one, quarter, none, none)
            source = source @ affine(one, one, none, (by[0] * width).round(), (by[1] * height).round())
            touched = touched | due[:3].any(0)
        if "geom" in self._parts:
            scale, stretch = (torch.where(due[i], torch.exp2(0.2 * z[i]), one) for i in (3, 4))
            # Turned before or after stretching, with probability p in all.
            once = 1 - (1 - self._probability).sqrt()
            turns = u[4:6] < once
            before, after = (torch.where(turns[i], (2 * u[i + 6] - 1) * math.pi, none) for i in (0, 1))
            by = torch.where(due[5], z[5:7] / 8, none)
            source = source @ affine(1 / scale, 1 / scale, none, none, none)
            source = source @ affine(one, one, before, none, none) @ affine(1 / stretch, stretch, none, none, none)
            source = source @ affine(one, one, after, none, none)
            source = source @ affine(one, one, none, by[0] * width, by[1] * height)
            touched = touched | due[3:6].any(0) | turns.any(0)
        return torch.where(touched.view(-1, 1, 1, 1), warp(x, source), x)

    def _coloured(self, x: Tensor) -> Tensor:
        n, channels = x.shape[:2]
        due, u, z = self._drawn(n, 5, x.device)
        none, one = torch.zeros_like(u[0]), torch.ones_like(u[0])
        matrix, offset = colour_matrix(
            channels,
            brightness=torch.where(due[0], 0.2 * z[0], none),
            contrast=torch.where(due[1], torch.exp2(0.5 * z[1]), one),
            flip=torch.where(due[2] & (u[2] < 0.5), one, none),
            hue=torch.where(due[3], (2 * u[3] - 1) * math.pi, none),
            saturation=torch.where(due[4], torch.exp2(z[4]), one),
        )
        changed = matrix.to(x.dtype) @ x.flatten(2) + offset.to(x.dtype)
        return torch.where(due.any(0).view(-1, 1, 1, 1), changed.view_as(x), x)

    def _drawn(self, n: int, changes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """For each change and image: whether it is made, uniform numbers (one more than changes) and normal ones."""
        generator = self._draws.on(device)
        due = torch.rand(changes, n, generator=generator, device=device) < self._probability
        u = torch.rand(changes + 1, n, generator=generator, device=device)
        return due, u, torch.randn(changes, n, generator=generator, device=device)

    def state_dict(self) -> dict[str, Any]:
        return {
            "p": self._probability.clone(),
            "signs": self._signs.clone(),
            "scores": self._scores,
            "shown": self._shown,
            "draws": self._draws.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._probability, self._signs = state["p"].clone(), state["signs"].clone()
        self._scores, self._shown = state["scores"], state["shown"]
        self._draws.load_state_dict(state["draws"])
