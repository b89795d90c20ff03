"""CycleGAN (Zhu et al. 2017, arXiv:1703.10593): clothes become digits and digits clothes, from pictures without pairs.

    python examples/cyclegan.py --steps 2000 --out cyclegan.png

Two generators under one optimizer, two discriminators under another, a game for each discriminator. `Replay(size=50)`
is the paper's image pool. Data come from $STABILGAN_DATA, or are downloaded. The picture has a column for each sample:
A, A to B, and back again; then B, B to A, and back again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

import stabilgan
from stabilgan import EMA, Replay, Watch
from stabilgan.workloads import digits


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def generator(width: int = 16, blocks: int = 3) -> nn.Sequential:
    """The paper's ResNet, small: (N, 1, 28, 28) to the same, in [-1, 1]; down to 7 x 7 and up again."""
    layers: list[nn.Module] = [nn.Conv2d(1, width, 7, padding=3, padding_mode="reflect")]
    for i in (1, 2):
        layers += [nn.InstanceNorm2d(i * width), nn.ReLU(), nn.Conv2d(i * width, 2 * i * width, 3, 2, 1)]
    layers += [nn.InstanceNorm2d(4 * width), nn.ReLU(), *(Residual(4 * width) for _ in range(blocks))]
    for i in (4, 2):
        layers += [nn.ConvTranspose2d(i * width, i * width // 2, 4, 2, 1), nn.InstanceNorm2d(i * width // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 7, padding=3, padding_mode="reflect"), nn.Tanh())


def discriminator(width: int = 32) -> nn.Sequential:
    """A PatchGAN: (N, 1, 28, 28) to scores (N, 1, 5, 5), each of a patch of 22 x 22."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        nn.InstanceNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, 1, 1),
        nn.InstanceNorm2d(4 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4 * width, 1, 4, 1, 1),
    )


def draw_weights(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        nn.init.zeros_(layer.bias)


def adversarial(score: Tensor, target: float) -> Tensor:
    return mse_loss(score, torch.full_like(score, target))


class CycleGAN:
    """The two-by-two loop. A game's tricks act on its own discriminator, though the optimizers are shared.

    Args:
        tricks_a, tricks_b: for the game about pictures of A (`to_a` against `judge_a`), and for that about B.
        width: of the generators; the discriminators are twice as wide.
        cycle, identity: the weights of these losses; the paper's are 10 and 5.
        rate: Adam's.
    """

    def __init__(
        self,
        tricks_a: Sequence[stabilgan.Trick] = (),
        tricks_b: Sequence[stabilgan.Trick] = (),
        *,
        width: int = 16,
        cycle: float = 10.0,
        identity: float = 5.0,
        rate: float = 2e-4,
    ) -> None:
        self.to_b, self.to_a = generator(width), generator(width)
        self.judge_a, self.judge_b = discriminator(2 * width), discriminator(2 * width)
        self.players = nn.ModuleList([self.to_b, self.to_a, self.judge_a, self.judge_b]).apply(draw_weights)
        self.opt_g = torch.optim.Adam(chain(self.to_b.parameters(), self.to_a.parameters()), rate, (0.5, 0.999))
        self.opt_d = torch.optim.Adam(chain(self.judge_a.parameters(), self.judge_b.parameters()), rate, (0.5, 0.999))
        self.cycle, self.identity = cycle, identity
        self.game_a = stabilgan.attach(self.to_a, self.judge_a, self.opt_g, self.opt_d, tricks_a, seed=0)
        self.game_b = stabilgan.attach(self.to_b, self.judge_b, self.opt_g, self.opt_d, tricks_b, seed=1)

    def step(self, a: Tensor, b: Tensor) -> dict[str, float]:
        """One step of the generators, then one of the discriminators; returns the losses."""
        fake_b, fake_a = self.to_b(a), self.to_a(b)

        self.judge_a.requires_grad_(False)
        self.judge_b.requires_grad_(False)
        self.opt_g.zero_grad()
        loss_a = adversarial(self.game_a.critic(fake_a), 1.0)
        loss_b = adversarial(self.game_b.critic(fake_b), 1.0)
        loss_cycle = l1_loss(self.to_a(fake_b), a) + l1_loss(self.to_b(fake_a), b)
        loss_identity = l1_loss(self.to_a(a), a) + l1_loss(self.to_b(b), b)
        (loss_a + loss_b + self.cycle * loss_cycle + self.identity * loss_identity).backward()
        self.opt_g.step()

        self.judge_a.requires_grad_(True)
        self.judge_b.requires_grad_(True)
        self.opt_d.zero_grad()
        judged_a = adversarial(self.judge_a(self.game_a.real(a)), 1.0)
        judged_a = (judged_a + adversarial(self.judge_a(self.game_a.fake(fake_a.detach())), 0.0)) / 2
        judged_a.backward()
        judged_b = adversarial(self.judge_b(self.game_b.real(b)), 1.0)
        judged_b = (judged_b + adversarial(self.judge_b(self.game_b.fake(fake_b.detach())), 0.0)) / 2
        judged_b.backward()
        self.game_a.record(d_loss=judged_a, g_loss=loss_a)
        self.game_b.record(d_loss=judged_b, g_loss=loss_b)
        self.opt_d.step()

        named = {"g_a": loss_a, "g_b": loss_b, "cycle": loss_cycle, "d_a": judged_a, "d_b": judged_b}
        return {name: loss.item() for name, loss in named.items()}

    def state_dict(self) -> dict[str, Any]:
        parts = ("players", "opt_g", "opt_d", "game_a", "game_b")
        return {part: getattr(self, part).state_dict() for part in parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part, saved in state.items():
            getattr(self, part).load_state_dict(saved)


def images(name: str) -> Tensor:
    """(60000, 1, 28, 28) in [-1, 1]."""
    return digits.scaled(digits.load(name, None, train=True)[0]).view(-1, 1, 28, 28)


@torch.no_grad()
def picture(to_b: nn.Module, to_a: nn.Module, a: Tensor, b: Tensor) -> Tensor:
    """Rows: a, to B, back to A; b, to A, back to B."""
    from torchvision.utils import make_grid

    rows = [a, to_b(a), to_a(to_b(a)), b, to_a(b), to_b(to_a(b))]
    return make_grid(torch.cat(rows), nrow=len(a), padding=2, value_range=(-1, 1), normalize=True, pad_value=0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=16, help="of the generators' first layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the picture, a PNG")
    parser.add_argument("--checkpoint", type=Path, help="where to keep the run; if it is there, the run goes on")
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    average_a, average_b = EMA(0.99), EMA(0.99)
    watch_a, watch_b = Watch(family="least_squares"), Watch(family="least_squares")
    gan = CycleGAN([Replay(50), average_a, watch_a], [Replay(50), average_b, watch_b], width=options.width)
    order = torch.Generator().manual_seed(options.seed)
    first = 0
    if options.checkpoint and options.checkpoint.exists():
        saved = torch.load(options.checkpoint, weights_only=True)
        gan.load_state_dict(saved["gan"])
        order.set_state(saved["order"])
        first = saved["step"]

    clothes, numbers = images("FashionMNIST"), images("MNIST")
    for step in range(first, options.steps):
        rows = torch.randint(len(clothes), (2, options.batch), generator=order)
        losses = gan.step(clothes[rows[0]], numbers[rows[1]])
        if step % 100 == 99:
            print(f"step {step + 1}:", "  ".join(f"{name} {value:.3f}" for name, value in losses.items()), flush=True)

    if options.checkpoint:
        torch.save({"gan": gan.state_dict(), "order": order.get_state(), "step": options.steps}, options.checkpoint)
    if options.out:
        from torchvision.utils import save_image

        save_image(picture(average_b.average, average_a.average, clothes[:10], numbers[:10]), options.out)
    for watch in (watch_a, watch_b):
        for alarm in watch.alarms:
            print(alarm)


if __name__ == "__main__":
    main()
