"""What works."""

import torch
from torch import nn

import stabilgan


class Shake(stabilgan.Trick):
    """Blurs what D sees, real and fake alike.

    Args:
        sigma: of the noise, at least 0.
    """

    name = "shake"
    changes = "what D sees"
    when = "D tells real from fake by details that G has yet to learn."
    source = "nobody 2020"
    off = {"sigma": 0.0}  # noqa: RUF012 - as people write it

    def __init__(self, sigma: float = 0.1) -> None:
        self.sigma = sigma

    def setup(self, game):
        self._generator = game.generator(self)

    def blur(self, x):
        if self.sigma == 0:
            return x
        return x + self.sigma * torch.randn(x.shape, generator=self._generator).to(x)

    def real(self, x, game):
        return self.blur(x)

    def fake(self, x, game):
        return self.blur(x)

    def critic(self, d, game):
        return lambda x, *labels: d(self.blur(x), *labels)

    def state_dict(self):
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state):
        self._generator.set_state(state["generator"])


class Quiet(stabilgan.Detector):
    """Never says that anything is wrong.

    Args:
        patience: readings in a row.
    """

    name = "quiet"
    statistics = ("zero",)

    def __init__(self, patience: int = 1) -> None:
        self.patience = patience

    def update(self, view):
        self._step = view.step

    def measure(self):
        return torch.zeros(1)

    def judge(self, values, step):
        return stabilgan.detectors.Reading(self.name, step, values["zero"], 1.0, "ok", "all quiet")


def blobs(width: int = 8) -> stabilgan.Workload:
    """Two blobs, side by side."""
    g = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))
    d = nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def draw(n, generator):
        side = torch.randint(2, (n, 1), generator=generator) * 2.0 - 1
        return torch.cat([side, torch.zeros(n, 1)], 1) + 0.1 * torch.randn(n, 2, generator=generator)

    return stabilgan.Workload(
        g=g,
        d=d,
        opt_g=torch.optim.Adam(g.parameters(), 1e-3),
        opt_d=torch.optim.Adam(d.parameters(), 1e-3),
        data=draw,
        latent=2,
        steps=20,
        samples=50,
    )


CONSTANT = 3
