"""The shapes in which people write a GAN's loop, each with small convolutional networks at 16 x 16.

Each shape is a function of a `Stage`, whose words are the game's, or nothing at all for the raw loop; so the raw loop
and the hooked one are the same text but for the four lines. What D was really given and what it really answered is
noted by the stage itself, for tests to hold the game against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, softplus

import stabilgan
from stabilgan import losses

N, NZ = 6, 8


def generator() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(NZ, 8, 4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 4, 2, 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 1, 4, 2, 1),
        nn.Tanh(),
    )


def features(norm: bool = False) -> list[nn.Module]:
    return [
        nn.Conv2d(1, 4, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 8, 4, 2, 1),
        *([nn.BatchNorm2d(8)] if norm else []),
        nn.LeakyReLU(0.2),
    ]


def critic_net(norm: bool = False) -> nn.Module:
    return nn.Sequential(*features(norm), nn.Conv2d(8, 1, 4), nn.Flatten())


def probability_net() -> nn.Module:
    return nn.Sequential(*features(True), nn.Conv2d(8, 1, 4), nn.Sigmoid(), nn.Flatten(0))


class WithFeatures(nn.Module):
    """Gives scores and features, for feature matching."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(*features()), nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.head(h), h.mean((2, 3))


class MultiScale(nn.Module):
    """Gives a list of score maps, one for each of two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Sequential(*features(), nn.Conv2d(8, 1, 3, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.scales[0](x), self.scales[1](nn.functional.avg_pool2d(x, 2))]


class Projection(nn.Module):
    """A conditional D: its score looks at labels through an inner product (Miyato & Koyama 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.embed, self.head = nn.Sequential(*features()), nn.Embedding(3, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.body(x).sum((2, 3))
        return self.head(h) + (self.embed(y) * h).sum(1, keepdim=True)


class Labelled(nn.Module):
    """A conditional G."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.embed = generator(), nn.Embedding(3, NZ)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.net(z * self.embed(y)[:, :, None, None])


@dataclass
class Stage:
    """Two players, their optimizers, data, and the words that the loop says."""

    g: nn.Module
    d: nn.Module
    opt_g: torch.optim.Optimizer
    opt_d: torch.optim.Optimizer
    game: stabilgan.Game | None = None
    data: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(1))
    shown: dict[str, list[tuple[Tensor, ...]]] = field(default_factory=lambda: {"real": [], "fake": []})
    answers: dict[str, list[Any]] = field(default_factory=lambda: {"real": [], "fake": []})
    told: dict[str, float] = field(default_factory=dict)
    schedules: list[Any] = field(default_factory=list)

    def batch(self, n: int = N) -> Tensor:
        """Real images (n, 1, 16, 16): a bright bar at a random place."""
        at = torch.randint(16, (n,), generator=self.data)
        return 2.0 * (torch.arange(16)[None, :] == at[:, None]).float()[:, None, None, :].expand(n, 1, 16, 16) - 1

    def z(self, n: int = N) -> Tensor:
        return torch.randn(n, NZ, 1, 1, generator=self.data)

    def y(self, n: int = N) -> Tensor:
        return torch.randint(3, (n,), generator=self.data)

    def real(self, x: Tensor, *labels: Tensor) -> Any:
        out = self.game.real(x, *labels) if self.game else ((x, *labels) if labels else x)
        self.shown["real"].append(out if labels else (out,))
        return out

    def fake(self, x: Tensor, *labels: Tensor) -> Any:
        out = self.game.fake(x, *labels) if self.game else ((x, *labels) if labels else x)
        self.shown["fake"].append(out if labels else (out,))
        return out

    def critic(self, *args: Any) -> Any:
        return self.game.critic(*args) if self.game else self.d(*args)

    def cat(self, parts: Any) -> Any:
        return self.game.cat(parts) if self.game else torch.cat(parts)

    def answered(self, verb: str, out: Any) -> Any:
        """Notes what D answered, for tests to compare with `game.scores`."""
        self.answers[verb].append(out)
        return out

    def record(self, **values: Tensor) -> None:
        self.told |= {name: value.item() for name, value in values.items()}
        if self.game:
            self.game.record(**values)


def separate_backward(s: Stage, steps: int) -> None:
    """The well-known DCGAN example: BCE on a sigmoid, labels filled in place, a backward pass for each side."""
    for _ in range(steps):
        s.d.zero_grad()
        x = s.batch()
        label = torch.full((len(x),), 1.0)
        output = s.answered("real", s.d(s.real(x)))
        err_real = binary_cross_entropy(output, label)
        err_real.backward()
        fake = s.g(s.z())
        label.fill_(0.0)
        output = s.answered("fake", s.d(s.fake(fake.detach())))
        err_fake = binary_cross_entropy(output, label)
        err_fake.backward()
        s.opt_d.step()
        s.g.zero_grad()
        label.fill_(1.0)
        output = s.critic(fake)
        err_g = binary_cross_entropy(output, label)
        err_g.backward()
        s.record(d_loss=err_real + err_fake, g_loss=err_g)
        s.opt_g.step()


def g_first(s: Stage, steps: int) -> None:
    """G moves first, and D looks at the same fakes afterwards."""
    for _ in range(steps):
        fake = s.g(s.z())
        s.opt_g.zero_grad()
        g_loss = losses.logistic.g(s.critic(fake), None)
        g_loss.backward()
        s.opt_g.step()
        s.opt_d.zero_grad()
        real_score = s.answered("real", s.d(s.real(s.batch())))
        fake_score = s.answered("fake", s.d(s.fake(fake.detach())))
        d_loss = losses.logistic.d(real_score, fake_score)
        d_loss.backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        s.opt_d.step()


def joint_backward(s: Stage, steps: int) -> None:
    """One loss of D for both sides."""
    for _ in range(steps):
        _discriminator(s)
        _generator(s)


def concatenated(s: Stage, steps: int) -> None:
    """One call of D for both sides; BatchNorm sees them together."""
    for _ in range(steps):
        fake = s.g(s.z())
        s.opt_d.zero_grad()
        out = s.d(s.cat([s.real(s.batch()), s.fake(fake.detach())]))
        real_score, fake_score = out.chunk(2)
        s.answered("real", real_score), s.answered("fake", fake_score)
        d_loss = losses.logistic.d(real_score, fake_score)
        d_loss.backward()
        s.opt_d.step()
        s.opt_g.zero_grad()
        g_loss = losses.logistic.g(s.critic(fake), None)
        g_loss.backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        s.opt_g.step()


def own_gradient_penalty(s: Stage, steps: int) -> None:
    """WGAN-GP: two critic steps to each of G, with a penalty of the loop's own on interpolates."""
    for _ in range(steps):
        for _ in range(2):
            x, fake = s.real(s.batch()), s.fake(s.g(s.z()).detach())
            s.opt_d.zero_grad()
            real_score, fake_score = s.answered("real", s.d(x)), s.answered("fake", s.d(fake))
            share = torch.rand(len(x), 1, 1, 1, generator=s.data)
            mixed = (share * x + (1 - share) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(s.d(mixed).sum(), mixed, create_graph=True)
            d_loss = fake_score.mean() - real_score.mean() + 10 * (slope.flatten(1).norm(dim=1) - 1).square().mean()
            d_loss.backward()
            s.opt_d.step()
        s.opt_g.zero_grad()
        g_loss = -s.critic(s.g(s.z())).mean()
        g_loss.backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        s.opt_g.step()


def closure(s: Stage, steps: int) -> None:
    """Each turn is a closure that the optimizer calls, LBFGS several times."""
    for _ in range(steps):
        x, fake = s.batch(), s.g(s.z())

        def d_turn(x: Tensor = x, fake: Tensor = fake) -> Tensor:
            s.opt_d.zero_grad()
            real_score = s.answered("real", s.d(s.real(x)))
            fake_score = s.answered("fake", s.d(s.fake(fake.detach())))
            loss = losses.logistic.d(real_score, fake_score)
            loss.backward()
            s.record(d_loss=loss)
            return loss

        z = s.z()

        def g_turn(z: Tensor = z) -> Tensor:
            s.opt_g.zero_grad()
            loss = losses.logistic.g(s.critic(s.g(z)), None)
            loss.backward()
            s.record(g_loss=loss)
            return loss

        s.opt_d.step(d_turn)
        s.opt_g.step(g_turn)


def accumulation(s: Stage, steps: int) -> None:
    """Two micro-batches to each step."""
    for _ in range(steps):
        s.opt_d.zero_grad()
        for _ in range(2):
            real_score = s.answered("real", s.d(s.real(s.batch())))
            fake_score = s.answered("fake", s.d(s.fake(s.g(s.z()).detach())))
            d_loss = losses.logistic.d(real_score, fake_score) / 2
            d_loss.backward()
        s.opt_d.step()
        s.opt_g.zero_grad()
        for _ in range(2):
            g_loss = losses.logistic.g(s.critic(s.g(s.z())), None) / 2
            g_loss.backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        s.opt_g.step()


def grad_scaler(s: Stage, steps: int) -> None:
    """Scaled losses; a freak batch makes D's first gradients infinite, so that its first step is skipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**80)
    for step in range(steps):
        fake = s.g(s.z())
        s.opt_d.zero_grad()
        real_score = s.answered("real", s.d(s.real(s.batch() * (1e25 if step == 0 else 1.0))))
        fake_score = s.answered("fake", s.d(s.fake(fake.detach())))
        d_loss = losses.logistic.d(real_score, fake_score)
        scaler.scale(d_loss).backward()
        scaler.step(s.opt_d)
        s.opt_g.zero_grad()
        g_loss = losses.logistic.g(s.critic(fake), None)
        scaler.scale(g_loss).backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        scaler.step(s.opt_g)
        scaler.update()


def two_schedulers(s: Stage, steps: int) -> None:
    """A learning-rate schedule for each player, made before the game in `play`."""
    for _ in range(steps):
        _discriminator(s)
        _generator(s)
        for schedule in s.schedules:
            schedule.step()


def tuple_of_scores(s: Stage, steps: int) -> None:
    """D gives scores and features; G matches the features of real images, which D sees once more for that."""
    for _ in range(steps):
        x, fake = s.real(s.batch()), s.g(s.z())
        s.opt_d.zero_grad()
        real_out, fake_out = s.answered("real", s.d(x)), s.answered("fake", s.d(s.fake(fake.detach())))
        d_loss = losses.logistic.d(real_out[0], fake_out[0])
        d_loss.backward()
        s.opt_d.step()
        s.opt_g.zero_grad()
        score, h = s.critic(fake)
        target = real_out[1].mean(0).detach()
        g_loss = losses.logistic.g(score, None) + (h.mean(0) - target).square().sum()
        g_loss.backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        s.opt_g.step()


def list_of_scores(s: Stage, steps: int) -> None:
    """D gives a list of score maps; hinge losses are summed over them."""
    for _ in range(steps):
        fake = s.g(s.z())
        s.opt_d.zero_grad()
        pairs = zip(
            s.answered("real", s.d(s.real(s.batch()))),
            s.answered("fake", s.d(s.fake(fake.detach()))),
            strict=True,
        )
        d_loss = torch.stack([losses.hinge.d(real, fake) for real, fake in pairs]).sum()
        d_loss.backward()
        s.opt_d.step()
        s.opt_g.zero_grad()
        g_loss = torch.stack([losses.hinge.g(score, None) for score in s.critic(fake)]).sum()
        g_loss.backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        s.opt_g.step()


def conditional(s: Stage, steps: int) -> None:
    """Labels ride along, and D and G both take them."""
    for _ in range(steps):
        y, z = s.y(), s.z()
        fake = s.g(z, y)
        s.opt_d.zero_grad()
        real_score = s.answered("real", s.d(*s.real(s.batch(), s.y())))
        fake_score = s.answered("fake", s.d(*s.fake(fake.detach(), y)))
        d_loss = losses.hinge.d(real_score, fake_score)
        d_loss.backward()
        s.opt_d.step()
        s.opt_g.zero_grad()
        g_loss = losses.hinge.g(s.critic(fake, y), None)
        g_loss.backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        s.opt_g.step()


def concatenated_labels(s: Stage, steps: int) -> None:
    """One call of a conditional D for both sides, fakes first."""
    for _ in range(steps):
        y, z = s.y(), s.z()
        fake = s.g(z, y)
        s.opt_d.zero_grad()
        shown = [s.fake(fake.detach(), y), s.real(s.batch(N - 1), s.y(N - 1))]
        out = s.d(*s.cat(shown)) if s.game else s.d(*map(torch.cat, zip(*shown, strict=True)))
        fake_score, real_score = out.split([N, N - 1])
        s.answered("real", real_score), s.answered("fake", fake_score)
        d_loss = softplus(-real_score).mean() + softplus(fake_score).mean()
        d_loss.backward()
        s.opt_d.step()
        s.opt_g.zero_grad()
        g_loss = losses.logistic.g(s.critic(fake, y), None)
        g_loss.backward()
        s.record(d_loss=d_loss, g_loss=g_loss)
        s.opt_g.step()


def _discriminator(s: Stage) -> None:
    s.opt_d.zero_grad()
    real_score = s.answered("real", s.d(s.real(s.batch())))
    fake_score = s.answered("fake", s.d(s.fake(s.g(s.z()).detach())))
    loss = losses.logistic.d(real_score, fake_score)
    loss.backward()
    s.record(d_loss=loss)
    s.opt_d.step()


def _generator(s: Stage) -> None:
    s.opt_g.zero_grad()
    loss = losses.logistic.g(s.critic(s.g(s.z())), None)
    loss.backward()
    s.record(g_loss=loss)
    s.opt_g.step()


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=2e-3, betas=(0.5, 0.999))


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1e-2, momentum=0.5)


def lbfgs(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(module.parameters(), lr=0.05, max_iter=3, line_search_fn="strong_wolfe")


@dataclass(frozen=True)
class Shape:
    """A loop, and what it needs: networks, optimizers, what `attach` is told, and tricks that suit it."""

    run: Callable[[Stage, int], None]
    d: Callable[[], nn.Module] = critic_net
    g: Callable[[], nn.Module] = generator
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam
    options: dict[str, Any] = field(default_factory=dict)
    tricks: str = "replay:size=12+r1:weight=2+ema+minibatch:kernels=3:dims=2"


NO_LOGITS = "replay:size=12+ema+minibatch:kernels=3:dims=2"
SHAPES = {
    "separate backward": Shape(
        separate_backward, probability_net, tricks="replay:size=12+ema+minibatch:kernels=3:dims=2"
    ),
    "G first": Shape(g_first),
    "one joint backward": Shape(joint_backward),
    "real and fake in one call": Shape(concatenated, lambda: critic_net(norm=True)),
    "a gradient penalty of its own": Shape(own_gradient_penalty, tricks="replay:size=12+r1+ema+spectral_norm"),
    "a closure": Shape(closure),
    "LBFGS": Shape(closure, optimizer=lbfgs),
    "gradient accumulation": Shape(accumulation, options={"accumulate": 2}),
    "GradScaler": Shape(grad_scaler, optimizer=sgd),
    "two schedulers": Shape(two_schedulers),
    "a tuple of scores": Shape(
        tuple_of_scores,
        WithFeatures,
        options={"score": lambda out: out[0]},
        tricks="replay:size=12+r1+ema+spectral_norm",
    ),
    "a list of scores": Shape(
        list_of_scores,
        MultiScale,
        options={"score": lambda out: torch.cat([o.flatten(1) for o in out], 1)},
        tricks="replay:size=12+r1:weight=0.1+ema+spectral_norm",
    ),
    "labels": Shape(conditional, Projection, Labelled),
    "labels in one call": Shape(concatenated_labels, Projection, Labelled),
}


def stage(shape: Shape, tricks: list[stabilgan.Trick] | None) -> Stage:
    """The players at their start; `tricks=None` is the loop without stabilgan."""
    torch.manual_seed(0)
    g, d = shape.g(), shape.d()
    s = Stage(g, d, shape.optimizer(g), shape.optimizer(d))
    if shape.run is two_schedulers:
        s.schedules = [
            torch.optim.lr_scheduler.ExponentialLR(s.opt_g, 0.9),
            torch.optim.lr_scheduler.LambdaLR(s.opt_d, lambda step: 1 / (1 + step)),
        ]
    if tricks is not None:
        s.game = stabilgan.attach(g, d, s.opt_g, s.opt_d, tricks, **shape.options)
    return s
