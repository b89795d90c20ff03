"""Workloads: what is drawn, how it is judged, and what is said of mistakes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stabilgan import Trainer, spec, workloads
from stabilgan.workloads import digits, mixtures


def test_the_ring_has_as_many_modes_as_it_says_all_of_one_weight() -> None:
    """Not the seven modes, one of them double, of the demo with the end point."""
    w = workloads.ring(sigma=0.01)
    x = w.data(80_000, torch.Generator().manual_seed(0))
    angle = torch.atan2(x[:, 1], x[:, 0]).div(2 * math.pi / 8).round().long() % 8
    counts = torch.bincount(angle, minlength=8)
    assert len(counts) == 8
    assert (counts - 10_000).abs().max() < 5 * math.sqrt(80_000 * 7 / 64)
    torch.testing.assert_close(x.norm(dim=1).mean(), torch.tensor(1.0), rtol=0, atol=1e-3)


def test_perfect_samples_score_as_the_protocol_says() -> None:
    w = workloads.ring()
    assert w.judge is not None
    found = w.judge(w.data(100_000, torch.Generator().manual_seed(0)))
    assert found["modes"] == 8
    assert found["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.002)
    assert found["kl"] < 1e-3


def test_the_grid_lies_on_minus_four_to_four() -> None:
    w = workloads.grid()
    x = w.data(50_000, torch.Generator().manual_seed(0))
    assert x.round().unique(dim=0).shape == (25, 2)
    assert set(x.round().unique().abs().tolist()) == {0, 2, 4}
    assert (w.primary, w.target) == ("modes", 25.0)


@pytest.mark.parametrize(
    ("name", "parameters_g", "parameters_d"),
    [
        # 2-400-400-400-400-2 without biases, BatchNorm's two per unit; maxout of 5 into 200 three times, then one score
        ("pacgan", 2 * 400 + 3 * 400**2 + 400 * 2 + 4 * 800, 1000 * 3 + 2 * 1000 * 201 + 201),
        ("dual", 3 * 400 + 3 * 400 * 401 + 401 * 2, 3 * 200 + 3 * 200 * 201 + 201),
    ],
)
def test_published_protocols_have_the_published_sizes(name: str, parameters_g: int, parameters_d: int) -> None:
    w = workloads.make(f"ring:protocol={name}")
    assert sum(p.numel() for p in w.g.parameters()) == parameters_g
    assert sum(p.numel() for p in w.d.parameters()) == parameters_d


@pytest.mark.parametrize(
    "name", ["ring", "grid", "ring:protocol=pacgan", "ring:protocol=dual", "ring:modes=16:sigma=0.02"]
)
def test_every_mixture_trains(name: str) -> None:
    w = workloads.make(name)
    t = Trainer(w.g, w.d, w.opt_g, w.opt_d, latent=w.latent, loss=w.loss, batch_size=w.batch_size)
    assert w.judge is not None
    assert w.judge(t.fit(w.data, 2).sample(w.samples))["modes"] >= 0


def test_a_generator_that_gives_nan_is_judged_as_having_no_modes() -> None:
    w = workloads.ring()
    assert w.judge is not None
    found = w.judge(torch.full((100, 2), torch.nan))
    assert found["modes"] == found["high_quality"] == 0


@pytest.mark.parametrize("text", ["ring:modes=1", "ring:sigma=0", "grid:side=1"])
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(spec.SpecError, match="expected"):
        workloads.make(text)


def test_maxout_takes_the_largest_piece() -> None:
    layer = mixtures.Maxout(1, 2, 3)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [-1.0], [-2.0], [-3.0]]))
        layer.linear.bias.zero_()
    assert layer(torch.tensor([[1.0], [-1.0]])).tolist() == [[3.0, -1.0], [-1.0, 3.0]]


@pytest.fixture(scope="module")
def mnist(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[workloads.Workload]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STABILGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        first = workloads.make("mnist", data_dir=data_dir)
        again = workloads.make("mnist", data_dir=data_dir)
        assert first.notes == again.notes  # read from the cache
        assert len(list((digits.cache_dir() / "classifiers").iterdir())) == 1
        yield first


@pytest.mark.data
@pytest.mark.slow
class TestRealDigits:
    """The judge of MNIST, trained once into a cache of the test's own."""

    def test_the_classifier_names_98_of_100_test_digits(self, mnist: workloads.Workload) -> None:
        assert mnist.notes["classifier_accuracy"] > 0.98

    def test_real_digits_score_near_perfect(self, mnist: workloads.Workload) -> None:
        assert mnist.judge is not None
        rows = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))[:2500]
        found = mnist.judge(mnist.data[rows])
        assert found["modes"] == 10
        assert found["kl"] < 0.02  # real digits are not quite uniform
        assert found["coverage"] > 0.9
        assert found["recall"] > 0.6

    def test_one_digit_is_one_mode_and_noise_is_none(self, mnist: workloads.Workload, data_dir: Path) -> None:
        assert mnist.judge is not None
        images, labels = digits.load("MNIST", data_dir, train=True)
        ones = digits.scaled(images[labels == 1][:2500])
        found = mnist.judge(ones)
        assert found["modes"] == 1
        assert found["kl"] == pytest.approx(math.log(10), abs=0.1)
        assert found["coverage"] < 0.2
        assert mnist.judge(torch.full((2500, 784), torch.nan))["modes"] == 0


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision import datasets

    def refused(self: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(datasets.MNIST, "download", refused)
    monkeypatch.setenv("STABILGAN_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_network")
def test_missing_data_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*MNIST/raw.*--data-dir or STABILGAN_DATA"):
        workloads.make("mnist", data_dir=tmp_path)
