"""The reference loop: its options, its feeds, its files."""

from pathlib import Path

import play
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stabilgan
from stabilgan.data import LoaderFeed, TensorFeed, feed


def trainer(**options: object) -> stabilgan.Trainer:
    g, d = play.players()
    return stabilgan.Trainer(g, d, play.adam(g), play.adam(d), **({"latent": 4, "batch_size": 8} | options))


def test_it_learns_a_gaussian() -> None:
    t = trainer(tricks=[stabilgan.R1(1.0), stabilgan.EMA(0.99)], batch_size=64)
    target = torch.tensor([3.0, -2.0])
    t.fit(lambda n, r: target + torch.randn(n, 2, generator=r), 500)
    samples = t.sample(1000)
    assert (samples.mean(0) - target).norm() < 0.5
    assert 0.5 < samples.std(0).min() < samples.std(0).max() < 1.5


def test_n_critic_gives_d_more_steps() -> None:
    assert trainer(n_critic=3).fit(play.ring, 4).game.steps == {"d": 12, "g": 4}


def test_accumulated_gradients_are_the_mean_over_micro_batches() -> None:
    x, z = play.ring(8, torch.Generator().manual_seed(0)), torch.randn(32, 4)

    def d_after(accumulate: int) -> torch.Tensor:
        torch.manual_seed(0)
        g, d = nn.Linear(4, 2), play.discriminator_net()  # no BatchNorm, which sees micro-batches
        at = iter(z.split(8 // accumulate))
        sgd = torch.optim.SGD(d.parameters(), lr=0.1)
        batches = iter(x.split(8 // accumulate))
        t = stabilgan.Trainer(
            g, d, play.sgd(g), sgd, latent=lambda n, r: next(at), batch_size=8 // accumulate, accumulate=accumulate
        )
        t.fit(lambda n, r: next(batches), 1)
        return play.params(d)

    torch.testing.assert_close(d_after(4), d_after(1))


def test_a_conditional_game_hands_labels_to_both_players() -> None:
    class Labelled(nn.Module):
        def __init__(self, n_in: int, n_out: int) -> None:
            super().__init__()
            self.net, self.label = nn.Linear(n_in, n_out), nn.Embedding(3, n_out)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.net(x) + self.label(y)

    g, d = Labelled(4, 2), Labelled(2, 1)
    t = stabilgan.Trainer(
        g, d, play.adam(g), play.adam(d), [stabilgan.R1(1.0)], latent=4, conditional=True, batch_size=8
    )
    t.fit((torch.randn(20, 2), torch.randint(3, (20,))), 5)
    assert t.sample(6, torch.tensor([0, 1, 2, 0, 1, 2])).shape == (6, 2)


def test_bfloat16_autocast_trains_float32_weights() -> None:
    t = trainer(amp=True, tricks=[stabilgan.R1(1.0)]).fit(play.ring, 3)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in t.game.g.parameters())


@pytest.mark.parametrize("option", ["batch_size", "n_critic", "accumulate"])
def test_counts_below_one_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is 0; expected 1 or more"):
        trainer(**{option: 0})


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    t = trainer().fit(play.ring, 1)
    t.save(path)
    whole = path.read_bytes()

    def broken(state: object, file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        t.fit(play.ring, 1).save(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_of_another_set_of_tricks_is_refused(tmp_path: Path) -> None:
    trainer(tricks=[stabilgan.EMA()]).fit(play.ring, 1).save(tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"tricks \['ema'\]; this game has \[\]"):
        trainer().load(tmp_path / "run.pt")


def test_an_epoch_of_tensors_shows_each_sample_once() -> None:
    stream = TensorFeed((torch.arange(10),), 4, seed=0)
    assert sorted(torch.cat([stream.next()[0] for _ in range(3)]).tolist()) == list(range(10))


@pytest.mark.parametrize("own_generator", [True, False])
def test_a_shuffling_loader_is_taken_up_where_it_stopped(own_generator: bool) -> None:
    def loader() -> DataLoader[tuple[torch.Tensor, ...]]:
        generator = torch.Generator().manual_seed(3) if own_generator else None
        return DataLoader(TensorDataset(torch.arange(10)), 3, shuffle=True, generator=generator)

    torch.manual_seed(0)
    whole = LoaderFeed(loader())
    for _ in range(6):
        whole.next()
    state, rng = whole.state_dict(), torch.get_rng_state()
    expected = [whole.next()[0].tolist() for _ in range(6)]
    again = LoaderFeed(loader())
    torch.manual_seed(77)
    again.load_state_dict(state)
    torch.set_rng_state(rng)
    assert [again.next()[0].tolist() for _ in range(6)] == expected


@pytest.mark.parametrize("data", ["text", 3, iter([])])
def test_data_of_the_wrong_kind_are_refused(data: object) -> None:
    with pytest.raises(TypeError, match="expected a tensor, a tuple of tensors"):
        feed(data, 4, 0)


def test_tensors_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths \[3, 4\]"):
        feed((torch.zeros(3), torch.zeros(4)), 2, 0)


def test_an_empty_loader_is_told() -> None:
    with pytest.raises(ValueError, match="no batch at all"):
        feed(DataLoader(TensorDataset(torch.arange(3)), 8, drop_last=True), 8, 0).next()


def test_fit_goes_on_with_the_same_tensors_in_another_tuple() -> None:
    x, y, drawn = torch.arange(40.0).view(20, 2), torch.arange(20), []

    class Noted(stabilgan.Trick):
        name = "noted"

        def real(self, x: torch.Tensor, game: stabilgan.Game) -> torch.Tensor:
            drawn.extend(x[:, 0].tolist())
            return x

    t = trainer(tricks=[Noted()], batch_size=5)
    for _ in range(4):
        t.fit((x, y), 1)
    assert sorted(drawn) == x[:, 0].tolist()  # one epoch, each sample once


def test_sampling_from_a_generator_that_draws_noise_itself_changes_nothing() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 2)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.net(z) + torch.randn(len(z), 2)

    def run(samples: int) -> torch.Tensor:
        torch.manual_seed(0)
        g, d = Noisy(), play.discriminator_net()
        t = stabilgan.Trainer(g, d, play.adam(g), play.adam(d), latent=4, batch_size=8).fit(play.ring, 2)
        for _ in range(samples):
            assert torch.equal(t.sample(5, seed=1), t.sample(5, seed=1))
        return play.params(t.fit(t._data, 2).game.g)

    assert torch.equal(run(0), run(2))
