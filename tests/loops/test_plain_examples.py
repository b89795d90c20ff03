"""The plain loops of `examples/` run, and the well-known one differs from its raw form in four lines and in nothing."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import play
import pytest
import torch

import stabilgan
from stabilgan.tricks import parse

EXAMPLES = Path(__file__).parents[2] / "examples"

RAW = {
    "    game = stabilgan.attach(netG, netD, optimizerG, optimizerD, tricks)  # <--\n": "",
    "        output = netD(game.real(real))  # <--\n": "        output = netD(real)\n",
    "        output = netD(game.fake(fake.detach()))  # <--\n": "        output = netD(fake.detach())\n",
    "        output = game.critic(fake)  # <--\n": "        output = netD(fake)\n",
}
"""The README's promise: one line added, three changed."""


def module(name: str, source: str) -> ModuleType:
    made = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader=None))
    exec(compile(source, f"{name}.py", "exec"), made.__dict__)
    return made


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STABILGAN_DATA", raising=False)


def test_four_lines_make_the_well_known_loop_a_game_and_change_no_bit_of_it(drawn: None) -> None:
    hooked = (EXAMPLES / "dcgan.py").read_text()
    raw = hooked
    for mine, theirs in RAW.items():
        assert raw.count(mine) == 1
        raw = raw.replace(mine, theirs)
    train = raw[raw.index("def train(") : raw.index("def main(")]
    assert "game" not in train
    ends = []
    for source in (hooked, raw):
        example = module("dcgan", source)
        torch.manual_seed(0)
        g, d = example.networks(width=4)
        example.train(g, d, example.images(8), 4, [])
        ends.append([g.state_dict(), d.state_dict(), torch.get_rng_state()])
    assert play.same(*ends)


@pytest.mark.parametrize("arm", ["replay+ema+minibatch:kernels=4", "spectral_norm+minibatch_stddev+replay:size=20"])
def test_tricks_that_need_no_logits_play_in_it(arm: str, drawn: None) -> None:
    example = module("dcgan", (EXAMPLES / "dcgan.py").read_text())
    torch.manual_seed(0)
    g, d = example.networks(width=4)
    tricks = parse(arm)
    watch = stabilgan.Watch([stabilgan.Saturation(window=2), stabilgan.Divergence()], every=2)
    example.train(g, d, example.images(8), 4, [*tricks, watch])
    assert all(p.isfinite().all() for net in (g, d) for p in net.parameters())
    assert watch.readings()["saturation"].value is not None


def test_a_logit_penalty_is_refused_there_since_d_ends_in_a_sigmoid(drawn: None) -> None:
    example = module("dcgan", (EXAMPLES / "dcgan.py").read_text())
    g, d = example.networks(width=4)
    with pytest.raises(ValueError, match="r1 works on logits, but this discriminator ends in a sigmoid"):
        example.train(g, d, itertools.repeat(torch.zeros(4, 1, 28, 28)), 1, [stabilgan.R1()])


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("dcgan", ["--batch-size", "8"], "saturation: "),
        ("wgan_gp", [], "Wasserstein estimate"),
        ("conditional", [], "of the samples are of the class asked for"),
    ],
)
def test_each_example_runs(
    name: str,
    words: list[str],
    says: str,
    drawn: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    example = module(name, (EXAMPLES / f"{name}.py").read_text())
    monkeypatch.setattr(sys, "argv", [name, "--steps", "25", *words])
    example.main()
    assert says in capsys.readouterr().out


def test_the_conditional_example_learns_its_classes() -> None:
    example = module("conditional", (EXAMPLES / "conditional.py").read_text())
    torch.manual_seed(0)
    assert example.in_their_place(example.train(300, parse("replay+r1:weight=0.1+ema"))) > 0.9


@pytest.mark.data
def test_the_well_known_loop_reads_fashion_mnist(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABILGAN_DATA", str(data_dir))
    example = module("dcgan", (EXAMPLES / "dcgan.py").read_text())
    x = next(example.images(16))
    assert x.shape == (16, 1, 28, 28)
    assert -1 == x.min() < x.mean() < x.max() <= 1
