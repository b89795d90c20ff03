"""One step of D by SGD in double precision, with a trick or with its term written out; and counting of passes."""

from __future__ import annotations

from collections.abc import Callable

import play
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import losses
from stabilgan.passes import counting

Term = Callable[[nn.Module, Tensor, Tensor], Tensor]


def batches(n: int = 6, m: int = 6) -> tuple[Tensor, Tensor]:
    """Real samples and fakes, (n, 2) and (m, 2)."""
    drawn = torch.randn(n + m, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return drawn[:n], drawn[n:]


def with_trick(trick: stabilgan.Trick, real: Tensor, fake: Tensor, *, steps: int = 1) -> Tensor:
    """D's weights after the trick's game."""
    g, d = play.players(dtype=torch.float64)
    opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [trick])
    for _ in range(steps):
        opt_d.zero_grad()
        losses.logistic.d(d(game.real(real)), d(game.fake(fake))).backward()
        opt_d.step()
    return play.params(d)


def written_out(term: Term, real: Tensor, fake: Tensor, *, steps: int = 1) -> Tensor:
    """The same with `term(d, real, fake)` in D's loss."""
    _, d = play.players(dtype=torch.float64)
    opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
    for _ in range(steps):
        opt_d.zero_grad()
        (losses.logistic.d(d(real), d(fake)) + term(d, real, fake)).backward()
        opt_d.step()
    return play.params(d)


def generator_of(trick: stabilgan.Trick) -> torch.Generator:
    """Where the trick's own generator starts, alone in a game."""
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    game.detach()
    return game.generator(trick)


def slopes(d: nn.Module, x: Tensor) -> Tensor:
    """(N,): the norm of D's gradient at each point, sample by sample; differentiable."""
    x = x.detach().requires_grad_()
    gradients = [torch.autograd.grad(d(x)[i].sum(), x, create_graph=True)[0][i] for i in range(len(x))]
    return torch.stack([g.pow(2).sum().sqrt() for g in gradients])


def counted(trick: stabilgan.Trick, kind: play.Kind = "points", steps: int = 4) -> stabilgan.Cost:
    """What each step costs more than without the trick."""
    with_it, without = (_passes(tricks, kind, steps) for tricks in ([trick], []))
    return stabilgan.Cost(*((a - b) / steps for a, b in zip(with_it, without, strict=True)))


def _passes(tricks: list[stabilgan.Trick], kind: play.Kind, steps: int) -> list[int]:
    g, d = play.players(kind=kind)
    t = stabilgan.Trainer(g, d, play.sgd(g), play.sgd(d), tricks, latent=4, batch_size=8)
    t.fit(play.data(kind), 2)
    with counting(t.game) as counts:
        t.fit(t._data, steps)
    return list(counts.values())


class DiracD(nn.Module):
    """D(x) = ψ x."""

    def __init__(self, psi: float = 1.0) -> None:
        super().__init__()
        self.psi = nn.Parameter(torch.tensor([[psi]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.psi


def dirac(tricks: list[stabilgan.Trick], steps: int, lr: float = 0.1, seed: int = 0) -> Tensor:
    """(steps + 1, 2), θ and ψ: simultaneous steps of the Dirac-GAN with Wasserstein's loss, from (1, 1).

    The data are 0, G gives θ, D's loss is ψθ and G's -ψθ: without a penalty the flow has eigenvalues ±i.
    """
    g, d = nn.Linear(1, 1, bias=False, dtype=torch.float64), DiracD()
    nn.init.ones_(g.weight)
    opt_g, opt_d = (torch.optim.SGD(net.parameters(), lr=lr) for net in (g, d))
    game = stabilgan.attach(g, d, opt_g, opt_d, tricks, seed=seed)
    real, z = torch.zeros(4, 1, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)
    way = [(g.weight.item(), d.psi.item())]
    for _ in range(steps):
        loss_d = losses.wasserstein.d(d(game.real(real)), d(game.fake(g(z).detach())))
        loss_g = losses.wasserstein.g(game.critic(g(z)), None)
        opt_g.zero_grad()
        loss_g.backward()
        opt_d.zero_grad()
        loss_d.backward()
        opt_g.step()
        opt_d.step()
        way.append((g.weight.item(), d.psi.item()))
    return torch.tensor(way, dtype=torch.float64)
