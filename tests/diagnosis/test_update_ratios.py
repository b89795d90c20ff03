"""Games whose end is known from their update ratio alone: 15 steps of D for one of G collapse on points."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch.nn.functional import softplus

import stabilgan
from stabilgan.diagnosis.dynamics import judge_series
from stabilgan.diagnosis.families import Series
from stabilgan.diagnosis.samples import judge_samples
from stabilgan.metrics import mixture_modes
from stabilgan.workloads.mixtures import dense, draw_mixture

ANGLE = torch.arange(8) * math.tau / 8
CENTRES = 2 * torch.stack([ANGLE.cos(), ANGLE.sin()], 1)


def play(d_steps, steps):
    """G, the watch and the columns of a log: z of 100, 2 x 128 each, Adam 5e-4, the saturating loss, batches of 64."""
    torch.manual_seed(0)
    data = torch.Generator().manual_seed(0)
    g, d = dense([100, 128, 128, 2], torch.nn.ReLU), dense([2, 128, 128, 1], lambda: torch.nn.LeakyReLU(0.2))
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), 5e-4, fused=True) for net in (g, d))
    watch = stabilgan.Watch(family="saturating")
    game = stabilgan.attach(g, d, opt_g, opt_d, [watch])
    columns = {"d_loss": [], "g_loss": []}
    for _ in range(steps):
        for _ in range(d_steps):
            real, fake = draw_mixture(CENTRES, 0.1, 64, data), g(torch.randn(64, 100)).detach()
            d_loss = softplus(-d(game.real(real))).mean() + softplus(d(game.fake(fake))).mean()
            opt_d.zero_grad()
            d_loss.backward()
            opt_d.step()
        g_loss = -softplus(game.critic(g(torch.randn(64, 100)))).mean()
        game.record(d_loss=d_loss, g_loss=g_loss)
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()
        columns["d_loss"].append(d_loss.item())
        columns["g_loss"].append(g_loss.item())
    return g, watch, {name: Series.of(values) for name, values in columns.items()}


@pytest.mark.slow
def test_fifteen_steps_of_d_for_one_of_g_collapse_and_one_for_one_does_not(caplog):
    caplog.set_level(logging.ERROR, "stabilgan")
    held_out = draw_mixture(CENTRES, 0.1, 1000, torch.Generator().manual_seed(1))
    found = {}
    for d_steps, steps in ((1, 3000), (15, 700)):
        g, watch, log = play(d_steps, steps)
        with torch.no_grad():
            fake = g(torch.randn(1000, 100))
        modes = mixture_modes(fake, CENTRES, 0.1)
        assert sum(n > 0 for n in modes.nearest) == (8 if d_steps == 1 else 1)  # the literature is right
        found[d_steps] = [f.failure for f in judge_samples(held_out, fake, splits=8).findings]
        assert judge_series(log, "saturating").findings == ()  # no loss shows a collapse
        assert ("collapse" in [a.detector for a in watch.alarms]) == (d_steps == 15)
    assert found == {1: [], 15: ["mode_collapse"]}
