"""CTGAN's shape (Xu et al. 2019, arXiv:1907.00503): a GAN for tables, with columns of numbers and of categories.

    python examples/tabular.py --steps 1500

The table is made here, so that its frequencies are known: an age in three modes, a price in two, a country of four, and
a plan of three whose frequencies depend on the country. A number becomes its mode (one-hot) and its place in it; a
generator of residual blocks gives tanh for the places and a Gumbel softmax for each one-hot; the discriminator judges
packs of ten rows at once, with dropout; one category of one column is asked for (the conditional vector). The loss is
the logistic one with R1 in the place of WGAN-GP. At the end, frequencies in the table and in what was made are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gumbel_softmax, one_hot, softplus

import stabilgan
from stabilgan import EMA, tricks

PACK = 10
COUNTRIES = {"A": 0.5, "B": 0.3, "C": 0.15, "D": 0.05}
PLANS = ("free", "basic", "pro")
PLANS_BY_COUNTRY = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])


def table(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Numbers (n, 2): age and price; categories (n, 2): country and plan."""

    def mixture(shares: list[float], means: list[float], deviations: list[float]) -> Tensor:
        mode = torch.tensor(shares).multinomial(n, replacement=True, generator=generator)
        return torch.tensor(means)[mode] + torch.tensor(deviations)[mode] * torch.randn(n, generator=generator)

    age, price = mixture([0.3, 0.5, 0.2], [20, 40, 70], [2, 5, 4]), mixture([0.8, 0.2], [10, 100], [2, 10])
    country = torch.tensor(list(COUNTRIES.values())).multinomial(n, replacement=True, generator=generator)
    plan = PLANS_BY_COUNTRY[country].multinomial(1, generator=generator)[:, 0]
    return torch.stack([age, price], 1), torch.stack([country, plan], 1)


@dataclass
class Modes:
    """A mixture of normal distributions along one column, (modes,) each."""

    shares: Tensor
    means: Tensor
    deviations: Tensor

    @classmethod
    def fit(cls, x: Tensor, modes: int, iterations: int = 100) -> Modes:
        """Expectation-maximisation from evenly spaced quantiles."""
        means = x.quantile(torch.linspace(0.05, 0.95, modes))
        found = cls(torch.full((modes,), 1 / modes), means, x.std().expand(modes) / modes)
        for _ in range(iterations):
            belongs = found.belongs(x)
            total = belongs.sum(0) + 1e-6
            means = (belongs * x[:, None]).sum(0) / total
            variance = (belongs * (x[:, None] - means).square()).sum(0) / total
            found = cls(total / len(x), means, variance.sqrt().clamp(min=1e-3))
        return found

    def belongs(self, x: Tensor) -> Tensor:
        """(n, modes): how likely each number is of each mode."""
        density = -((x[:, None] - self.means) / self.deviations).square() / 2 - self.deviations.log()
        return (density + self.shares.log()).softmax(1)


class Columns:
    """Rows to vectors and back: for each number its place in [-1, 1] and its mode, for each category a one-hot."""

    def __init__(self, numbers: Tensor, categories: Tensor, modes: int = 4) -> None:
        self.modes = [Modes.fit(column, modes) for column in numbers.T]
        self.counts = [len(COUNTRIES), len(PLANS)]
        self.frequencies = [categories[:, i].bincount(minlength=k) / len(categories) for i, k in enumerate(self.counts)]
        self.spans: list[tuple[str, int]] = []
        for m in self.modes:
            self.spans += [("tanh", 1), ("softmax", len(m.means))]
        self.spans += [("softmax", k) for k in self.counts]
        self.width = sum(width for _, width in self.spans)

    def encode(self, numbers: Tensor, categories: Tensor, generator: torch.Generator) -> Tensor:
        parts = []
        for column, m in zip(numbers.T, self.modes, strict=True):
            mode = m.belongs(column).multinomial(1, generator=generator)[:, 0]
            place = (column - m.means[mode]) / (4 * m.deviations[mode])
            parts += [place.clamp(-1, 1)[:, None], one_hot(mode, len(m.means)).float()]
        parts += [one_hot(c, k).float() for c, k in zip(categories.T, self.counts, strict=True)]
        return torch.cat(parts, 1)

    def decode(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        parts = rows.split([width for _, width in self.spans], 1)
        numbers = []
        for place, mode, m in zip(parts[0::2], parts[1::2], self.modes, strict=False):
            at = mode.argmax(1)
            numbers.append(place[:, 0] * 4 * m.deviations[at] + m.means[at])
        return torch.stack(numbers, 1), torch.stack([p.argmax(1) for p in parts[-len(self.counts) :]], 1)

    def conditions(self, n: int, generator: torch.Generator, *, by_log: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The conditional vector (n, sum of counts): one category of one column; with that column and category, (n,).

        `by_log` draws categories by the logarithm of how often they are, as in training, so that rare ones are seen.
        """
        column = torch.randint(len(self.counts), (n,), generator=generator)
        weights = [(f * 1e4 + 1).log() if by_log else f for f in self.frequencies]
        drawn = torch.stack([w.multinomial(n, replacement=True, generator=generator) for w in weights], 1)
        category = drawn.gather(1, column[:, None])[:, 0]
        start = torch.tensor([sum(self.counts[:i]) for i in range(len(self.counts))])
        return one_hot(start[column] + category, sum(self.counts)).float(), column, category


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(x), x], 1)


class Generator(nn.Module):
    """z (n, latent) and a condition (n, c) to rows (n, width)."""

    def __init__(self, columns: Columns, latent: int, hidden: int = 128) -> None:
        super().__init__()
        inputs = latent + sum(columns.counts)
        self.spans = columns.spans
        self.body = nn.Sequential(
            Residual(inputs, hidden),
            Residual(inputs + hidden, hidden),
            nn.Linear(inputs + 2 * hidden, columns.width),
        )

    def logits(self, z: Tensor, condition: Tensor) -> Tensor:
        return self.body(torch.cat([z, condition], 1))

    def heads(self, logits: Tensor) -> Tensor:
        parts = logits.split([width for _, width in self.spans], 1)
        made = [
            part.tanh() if kind == "tanh" else gumbel_softmax(part, tau=0.2)
            for part, (kind, _) in zip(parts, self.spans, strict=True)
        ]
        return torch.cat(made, 1)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        return self.heads(self.logits(z, condition))


class Discriminator(nn.Module):
    """Rows (n, width) and their conditions (n, c) to one score for each pack of ten rows, (n / 10, 1)."""

    def __init__(self, columns: Columns, hidden: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(PACK * (columns.width + sum(columns.counts)), hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.5),
            nn.Linear(hidden, 1),
        )

    def forward(self, rows: Tensor, condition: Tensor) -> Tensor:
        return self.body(torch.cat([rows, condition], 1).view(len(rows) // PACK, -1))


class TabularGAN:
    """The loop: one turn of D, one of G, on rows that match what was asked for."""

    def __init__(self, rows: int, played: Sequence[stabilgan.Trick], *, latent: int = 64, seed: int = 0) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        numbers, self.categories = table(rows, self.draw)
        self.columns = Columns(numbers, self.categories)
        self.rows = self.columns.encode(numbers, self.categories, self.draw)
        self.latent = latent
        self.of = [
            [(self.categories[:, i] == k).nonzero()[:, 0] for k in range(n)] for i, n in enumerate(self.columns.counts)
        ]
        self.g, self.d = Generator(self.columns, latent), Discriminator(self.columns)
        self.opt_g = torch.optim.Adam(self.g.parameters(), 1e-3, (0.5, 0.9), weight_decay=1e-6)
        self.opt_d = torch.optim.Adam(self.d.parameters(), 1e-3, (0.5, 0.9))
        self.game = stabilgan.attach(self.g, self.d, self.opt_g, self.opt_d, played, seed=seed)

    def matching(self, column: Tensor, category: Tensor) -> Tensor:
        """Rows of the table that have what was asked for."""
        chance = torch.rand(len(column), generator=self.draw).tolist()
        found = [self.of[i][k] for i, k in zip(column.tolist(), category.tolist(), strict=True)]
        return self.rows[torch.stack([rows[int(u * len(rows))] for rows, u in zip(found, chance, strict=True)])]

    def step(self, batch: int) -> tuple[Tensor, Tensor]:
        g, d, game = self.g, self.d, self.game
        condition, column, category = self.columns.conditions(batch, self.draw, by_log=True)
        order = torch.randperm(batch, generator=self.draw)  # the rows of a pack are not asked for alike
        real, real_condition = self.matching(column, category)[order], condition[order]
        logits = g.logits(torch.randn(batch, self.latent, generator=self.draw), condition)
        fake = g.heads(logits)

        # --8<-- [start:turn]
        self.opt_d.zero_grad()
        d_loss = softplus(-d(*game.real(real, real_condition))).mean()
        d_loss = d_loss + softplus(d(*game.fake(fake.detach(), condition))).mean()
        d_loss.backward()
        self.opt_d.step()

        self.opt_g.zero_grad()
        g_loss = softplus(-game.critic(fake, condition)).mean()
        # --8<-- [end:turn]
        asked = logits[:, -sum(self.columns.counts) :].split(self.columns.counts, 1)
        misses = [
            cross_entropy(part[column == i], category[column == i], reduction="sum") for i, part in enumerate(asked)
        ]
        (g_loss + sum(misses) / batch).backward()
        game.record(d_loss=d_loss, g_loss=g_loss)
        self.opt_g.step()
        return d_loss.detach(), g_loss.detach()

    @torch.no_grad()
    def sample(self, n: int, g: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Numbers and categories of n made rows, conditions drawn as often as in the table."""
        g = g or self.g
        training = g.training
        condition, _, _ = self.columns.conditions(n, self.draw, by_log=False)
        rows = g.eval()(torch.randn(n, self.latent, generator=self.draw), condition)
        g.train(training)
        return self.columns.decode(rows)


def frequencies(categories: Tensor) -> list[Tensor]:
    """Of each country, of each plan, and of each plan in each country, (4,), (3,), (4, 3)."""
    country, plan = categories.T
    pairs = (country * len(PLANS) + plan).bincount(minlength=len(COUNTRIES) * len(PLANS)).view(-1, len(PLANS)).float()
    return [pairs.sum(1) / len(plan), pairs.sum(0) / len(plan), pairs / pairs.sum(1, keepdim=True).clamp(min=1)]


def report(gan: TabularGAN, numbers: Tensor, categories: Tensor) -> dict[str, float]:
    """How far the made table is from the real one: total variation of each column's frequencies, in [0, 1]."""
    real, made = frequencies(gan.categories), frequencies(categories)
    distance = {
        "country": (real[0] - made[0]).abs().sum().item() / 2,
        "plan": (real[1] - made[1]).abs().sum().item() / 2,
        "plan given country": ((real[2] - made[2]).abs().sum(1) / 2 * real[0]).sum().item(),
    }
    real_numbers = gan.columns.decode(gan.rows)[0]
    for i, name in enumerate(("age", "price")):
        edges = real_numbers[:, i].quantile(torch.linspace(0, 1, 21))[1:-1]
        shares = torch.bucketize(numbers[:, i].contiguous(), edges).bincount(minlength=20) / len(numbers)
        distance[name] = (shares - 1 / 20).abs().sum().item() / 2
    for name, share, met in zip(COUNTRIES, real[0], made[0], strict=True):
        print(f"country {name}: {share:.3f} in the table, {met:.3f} made")
    print("total variation:", ", ".join(f"{name} {value:.3f}" for name, value in distance.items()))
    return distance


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=200, help="a multiple of ten")
    parser.add_argument("--tricks", default="replay:size=2000+r1:weight=1+ema:decay=0.99")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    watch = stabilgan.Watch(family="logistic")
    played = tricks.parse(options.tricks)
    gan = TabularGAN(10_000, [*played, watch], seed=options.seed)
    for step in range(options.steps):
        d_loss, g_loss = gan.step(options.batch)
        if step % 250 == 249:
            print(f"step {step + 1}: d_loss {d_loss:.3f}  g_loss {g_loss:.3f}", flush=True)
    average = next((t.average for t in played if isinstance(t, EMA)), None)
    distance = report(gan, *gan.sample(10_000, average))
    for alarm in watch.alarms:
        print(alarm)
    return distance


if __name__ == "__main__":
    main()
