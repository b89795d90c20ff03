"""The relativistic pair in the Trainer against a step written by hand."""

import play
import torch
from torch import nn
from torch.nn.functional import softplus

import stabilgan


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


def test_one_step_is_that_of_the_formula() -> None:
    g, d = play.players(dtype=torch.float64)
    trick = stabilgan.Relativistic()
    t = stabilgan.Trainer(g, d, sgd(g), sgd(d), [trick], latent=lambda n, r: torch.randn(n, 4, generator=r).double())
    t.fit(lambda n, r: play.ring(n, r).double(), 1)

    g2, d2 = play.players(dtype=torch.float64)
    opt_g, opt_d = sgd(g2), sgd(d2)
    latents, data = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    x = play.ring(64, data).double()
    fake = g2(torch.randn(64, 4, generator=latents).double()).detach()
    softplus(d2(fake) - d2(x)).mean().backward()
    opt_d.step()
    opt_d.zero_grad()
    softplus(d2(x) - d2(g2(torch.randn(64, 4, generator=latents).double()))).mean().backward()
    opt_g.step()
    torch.testing.assert_close(play.params(t.game.d), play.params(d2), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(play.params(t.game.g), play.params(g2), rtol=1e-10, atol=1e-12)
