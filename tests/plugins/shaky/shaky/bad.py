"""What breaks a promise, each another one."""

import torch

import stabilgan


class Discarded(stabilgan.Trick):
    """Computes a slope and throws its gradient away."""

    name = "discarded"
    changes = "a penalty on D"
    cost = stabilgan.Cost(d_forward=1, d_backward=2)

    def penalty(self, player, game):
        if player == "g":
            return None
        seen = game.saw("real", self)
        x = seen.x.detach().requires_grad_()
        scores = game.score(x, seen).sum()
        (slope,) = torch.autograd.grad(scores, x, retain_graph=True)
        return slope.square().sum() + 0 * scores


class GloballyNoisy(stabilgan.Trick):
    """Draws noise from torch's own generator."""

    name = "globally_noisy"
    changes = "what D sees"

    def real(self, x, game):
        return x + 0.1 * torch.randn_like(x)


class Forgetful(stabilgan.Trick):
    """Remembers a mean of the data, and does not save it."""

    name = "forgetful"
    changes = "what D sees"

    def __init__(self) -> None:
        self._mean = 0.0

    def real(self, x, game):
        self._mean = 0.9 * self._mean + 0.1 * x.detach().mean(0)
        return x + 0.1 * self._mean


class Asking(stabilgan.Trick):
    """Halves gradients, and waits for the device to know which are zero."""

    name = "asking"

    def before_step(self, player, game):
        for p in game.player(player).parameters():
            if p.grad is not None and p.grad.norm().item() != 0:
                p.grad.mul_(0.5)


class NeverOff(stabilgan.Trick):
    """Scales real samples, a little at zero strength too."""

    name = "never_off"
    changes = "what D sees"
    off = {"strength": 0.0}  # noqa: RUF012 - as people write it

    def __init__(self, strength: float = 0.5) -> None:
        self.strength = strength

    def real(self, x, game):
        return x * (1.001 + self.strength)


class Nameless(stabilgan.Trick):
    """Has no name."""


class Listed(stabilgan.Trick):
    """Lists what it conflicts with, and says nothing of why."""

    name = "listed"
    conflicts = ["r1"]  # noqa: RUF012 - as people write it
