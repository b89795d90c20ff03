"""A GAN for sound, and D over sequences: nothing assumes pictures."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import example
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import EMA, R1, R2, Minibatch, MinibatchStddev, Replay, SpectralNorm, Watch, losses
from stabilgan.detectors import Collapse

audio = example.load("audio")


def new(*tricks: stabilgan.Trick) -> stabilgan.Game:
    torch.manual_seed(0)
    netG, netD = audio.generator(latent=4, width=2), audio.discriminator(width=2)
    return stabilgan.attach(netG, netD, play.adam(netG), play.adam(netD), tricks)


def played(game: stabilgan.Game, steps: int) -> stabilgan.Game:
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        audio.step(game, game.g, game.d, audio.tones(8, draw), torch.randn(8, 4, generator=draw))
    return game


def test_the_pitches_of_real_tones_are_heard_and_noise_has_none() -> None:
    counts = audio.pitch_counts(audio.tones(500, torch.Generator().manual_seed(0)))
    assert counts[-1] == 0
    assert min(counts[:-1]) > 60
    assert audio.pitch_counts(torch.randn(200, 1, 1024, generator=torch.Generator().manual_seed(0)))[-1] > 150


def test_phase_shuffle_moves_each_sound_by_itself() -> None:
    shuffle, x = audio.PhaseShuffle(2), torch.arange(10.0).expand(100, 3, 10).contiguous()
    torch.manual_seed(0)
    starts = shuffle(x)[:, 0, 2] - x[:, 0, 2]
    assert sorted(set(starts.tolist())) == [-2, -1, 0, 1, 2]
    assert torch.equal(shuffle(x)[:, 0], shuffle(x)[:, 0]) is False
    assert torch.equal(shuffle.eval()(x), x)


def test_a_penalty_leaves_the_draws_of_phase_shuffle_as_they_were() -> None:
    game = new()
    torch.manual_seed(1)
    game.d(game.real(audio.tones(4, torch.Generator().manual_seed(0))))
    state = torch.get_rng_state()
    game.score(game.seen["real"].x, game.seen["real"])
    assert torch.equal(torch.get_rng_state(), state)


TOGETHER: list[Callable[[], list[stabilgan.Trick]]] = [
    lambda: [Replay(size=20), R1(1.0), R2(1.0), EMA(0.5), Minibatch(kernels=4, dims=2), SpectralNorm()],
    lambda: [Replay(size=20, policy="reservoir"), MinibatchStddev(), R1(1.0)],
]


@pytest.mark.parametrize("tricks", TOGETHER, ids=["minibatch", "stddev"])
def test_tricks_play_together_on_sound(tricks: Callable[[], list[stabilgan.Trick]]) -> None:
    watch = Watch([Collapse(window=24)], every=2, family="relativistic")
    game = new(*tricks(), watch)
    before = [p.detach().clone() for p in game.d.parameters()]
    played(game, 4)
    assert all(p.isfinite().all() for net in (game.g, game.d) for p in net.parameters())
    still = [name for (name, b), a in zip(game.d.named_parameters(), before, strict=True) if torch.equal(a, b)]
    assert all(name.endswith("bias") for name in still)  # of the last layer: the relativistic loss does not feel it
    assert len(still) <= 1
    assert watch.readings()["collapse"].step == 4


def test_spectral_norm_bounds_convolutions_along_time() -> None:
    game = new(SpectralNorm())
    found = [m.weight.detach() for m in game.d.modules() if isinstance(m, nn.Conv1d)]
    assert len(found) == 3
    for weight in found:
        largest = torch.linalg.matrix_norm(weight.flatten(1), 2)
        torch.testing.assert_close(largest, torch.tensor(1.0), atol=0.05, rtol=0)


def patches() -> nn.Module:
    """A fully convolutional D over (N, 1, T): scores for each stretch of time."""
    return nn.Sequential(nn.Conv1d(1, 4, 8, 4), nn.LeakyReLU(0.2), nn.Conv1d(4, 1, 8, 4))


class OverTime(nn.Module):
    """A recurrent D over (N, T, C), channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 8, batch_first=True)
        self.last = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rnn(x)[0])


class OverPoints(nn.Module):
    """A D over scalars (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, None])[:, 0]


SHAPES = {"patches": (patches, (1, 64)), "over time": (OverTime, (5, 3)), "scalars": (OverPoints, ())}
ALONE: dict[str, Callable[[], stabilgan.Trick]] = {
    "replay": lambda: Replay(size=6),
    "r1": lambda: R1(1.0),
    "r2": lambda: R2(1.0),
    "minibatch": lambda: Minibatch(kernels=3, dims=2),
    "stddev": lambda: MinibatchStddev(),
    "spectral": lambda: SpectralNorm(),
    "watch": lambda: Watch([Collapse(window=20)], every=1, family="logistic"),
}


@pytest.mark.parametrize("trick", ALONE)
@pytest.mark.parametrize("shape", SHAPES)
def test_samples_may_have_any_shape(shape: str, trick: str) -> None:
    make, size = SHAPES[shape]
    torch.manual_seed(0)
    g, d = nn.Sequential(nn.Linear(4, 64)), make()
    played = ALONE[trick]()
    game = stabilgan.attach(g, d, play.adam(g), play.adam(d), [played])
    for _ in range(3):
        fake = g(torch.randn(8, 4))[:, : torch.Size(size).numel()].reshape(8, *size)
        game.opt_d.zero_grad()
        losses.logistic.d(d(game.real(torch.randn(8, *size))), d(game.fake(fake.detach()))).backward()
        game.opt_d.step()
        game.opt_g.zero_grad()
        losses.logistic.g(game.critic(fake), None).backward()
        game.opt_g.step()
    assert all(p.isfinite().all() for net in (g, d) for p in net.parameters())
    if isinstance(played, Watch):
        assert "failed" not in played.readings()["collapse"].text
        assert played.readings()["collapse"].value is not None


def test_the_sound_is_written_as_it_was_made(tmp_path: Path) -> None:
    x = audio.tones(3, torch.Generator().manual_seed(0))
    audio.write(tmp_path / "tones.wav", x)
    with wave.open(str(tmp_path / "tones.wav")) as file:
        assert (file.getframerate(), file.getnframes(), file.getsampwidth()) == (8192, 3 * 1024, 2)
        heard = torch.frombuffer(bytearray(file.readframes(3 * 1024)), dtype=torch.int16)
    torch.testing.assert_close(heard.float() / 32767, x.flatten(), atol=1e-4, rtol=0)
