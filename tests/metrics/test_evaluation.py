"""Everything at once, and what a reading is worth."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stabilgan import metrics
from stabilgan.metrics import compare, evaluate, half_sample_interval, prdc

from .samples import grid, normal


def test_evaluate_gives_what_each_measure_gives_alone():
    x, y = normal(400, 6, 0), normal(300, 6, 1)
    result = evaluate(x, y, sigma=1.0, tile=128)
    assert result.prdc == prdc(x, y)
    assert result.frechet == metrics.frechet_distance(x, y)
    assert result.kernel == metrics.kernel_distance(x, y)
    assert result.sliced == metrics.sliced_wasserstein(x, y)
    assert result.ndb == metrics.ndb(x, y, bins=60)
    assert result.pqmass == metrics.pqmass(x, y, regions=60)
    assert result.birthday == metrics.birthday_test(x, y, size=60)
    assert result.vendi == metrics.vendi_score(y)
    assert result.vendi_real == metrics.vendi_score(x)
    assert result.rke.score == pytest.approx(metrics.rke(y, sigma=1.0).score, rel=1e-6)
    assert result.rke_real.score == pytest.approx(metrics.rke(x, sigma=1.0).score, rel=1e-6)
    alone = metrics.authenticity(x, y)
    assert result.authenticity.share == alone.share
    assert torch.equal(result.authenticity.nearest, alone.nearest)
    assert torch.equal(result.authenticity.distance, alone.distance)


def test_evaluate_survives_a_collapsed_generator_and_says_what_it_cannot_do():
    x = normal(100, 3, 0)
    result = evaluate(x, torch.zeros(100, 3))
    assert (result.prdc.recall, result.vendi.score) == (0.0, pytest.approx(1))
    assert result.rke.score == pytest.approx(1)
    assert result.birthday.probability == 1.0
    with pytest.raises(ValueError, match="the reals are all alike"):
        evaluate(torch.zeros(100, 3), x)
    with pytest.raises(ValueError, match="k is 100 with 100 real"):
        evaluate(x, x, k=100)
    with pytest.raises(ValueError, match="fake has 9 samples; expected at least 10"):
        evaluate(x, x[:9])
    assert evaluate(x, x[:12]).ndb.bins == 2


def test_compare_puts_reals_in_the_place_of_the_fakes_at_the_same_sizes():
    real, fake = grid(2000), grid(1500, 5, seed=1)
    compared = compare(prdc, real, fake)
    assert (compared.fake.n, compared.fake.m) == (compared.real.n, compared.real.m) == (1000, 1000)
    assert compared.real.coverage > 0.9 > 0.3 > compared.fake.coverage
    with_holdout = compare(prdc, real, fake, holdout=grid(700, seed=2), repeats=20)
    assert (with_holdout.fake.n, with_holdout.fake.m) == (with_holdout.real.n, with_holdout.real.m) == (2000, 700)
    low, high = with_holdout.interval["coverage"]
    assert low < with_holdout.fake.coverage < high < with_holdout.real.coverage
    assert compare(prdc, real, fake, repeats=5) == compare(prdc, real, fake, repeats=5)


def test_intervals_of_a_mean_are_students():
    half_width = []
    for s in range(20):
        y = normal(400, 1, s)
        low, high = half_sample_interval(lambda _, f: f.mean().item(), y, y, repeats=300, seed=s)["value"]
        half_width.append((high - low) / 2)
    assert sum(half_width) / 20 == pytest.approx(1.96 / math.sqrt(400), rel=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth = 1 - math.exp(-4.5)
    centre = torch.zeros(1, 2)
    inside = 0
    for s in range(100):
        y = normal(2000, 2, s)
        found = half_sample_interval(lambda _, f: metrics.mixture_modes(f, centre, 1.0), y[:10], y, repeats=40, seed=s)
        low, high = found["high_quality"]
        inside += low <= truth <= high
    assert inside / 100 == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 100))


def test_numbers_of_an_evaluation_have_dotted_names():
    x = normal(60, 3, 0)
    found = half_sample_interval(evaluate, x[:30], x[30:], repeats=2)
    assert {"prdc.coverage", "frechet.distance", "vendi.score", "authenticity.share"} <= set(found)
    assert not {"kernel.std", "rke.sigma"} & set(found)


def test_wrong_arguments_are_named():
    x = normal(20, 2, 0)
    with pytest.raises(ValueError, match="repeats is 1"):
        half_sample_interval(prdc, x, x, repeats=1)
    with pytest.raises(ValueError, match="real has 1 sample"):
        compare(prdc, x[:1], x)


def test_importing_the_measures_loads_no_heavy_package():
    heavy = ("scipy", "torchvision", "matplotlib")
    code = f"import sys, stabilgan.metrics; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__, name


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
@pytest.mark.parametrize(
    "call",
    [
        "prdc(x, y)",
        "authenticity(x, y)",
        "rke(x, sigma=1.0)",
        "kernel_distance(x, y, subsets=0)",
        "kernel_distance(x, y)",
        "frechet_distance(x, y)",
        "sliced_wasserstein(x, y)",
        "vendi_score(x)",
        "fkea(x, sigma=1.0)",
        "ndb(x, y)",
        "pqmass(x, y, repeats=2)",
        "birthday_test(x, y)",
        "evaluate(x, y)",
    ],
)
def test_memory_does_not_grow_with_the_square_of_the_samples(call):
    code = f"""
import torch
from pathlib import Path
from stabilgan.metrics import *
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
torch.set_num_threads(1)  # more of them would wait for each other on a busy machine
x, y = torch.randn(2, 30_000, 8)
before = peak()
{call}
print((peak() - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 300  # MB; one matrix of 30,000 x 30,000 takes 3,433


@pytest.mark.gpu
def test_every_measure_runs_on_a_gpu_and_reads_as_on_a_cpu():
    x, y = normal(2000, 64, 0), normal(1500, 64, 1)
    here, there = evaluate(x, y), evaluate(x.cuda(), y.cuda())
    assert there.prdc == here.prdc  # exact on either
    assert there.authenticity.distance.is_cuda
    assert there.authenticity.share == here.authenticity.share
    assert there.birthday == here.birthday
    for name, field in (
        ("frechet", "distance"),
        ("kernel", "distance"),
        ("sliced", "distance"),
        ("vendi", "score"),
        ("rke", "score"),
        ("pqmass", "chi2"),
    ):
        want = getattr(getattr(here, name), field)
        assert getattr(getattr(there, name), field) == pytest.approx(want, rel=1e-4), name
    images = torch.rand(8, 3, 176, 176, generator=torch.Generator().manual_seed(0))
    assert metrics.ms_ssim_diversity(images.cuda(), data_range=1.0, pairs=8).similarity == pytest.approx(
        metrics.ms_ssim_diversity(images, data_range=1.0, pairs=8).similarity, rel=1e-4
    )
    assert metrics.fkea(x.cuda(), sigma=8.0).score == pytest.approx(metrics.fkea(x, sigma=8.0).score, rel=1e-4)


@pytest.mark.gpu
def test_prdc_of_fifty_thousand_inception_features_takes_seconds_on_a_gpu():
    x, y = (torch.randn(50_000, 2048, device="cuda") for _ in range(2))
    prdc(x[:4096], y[:4096])
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    prdc(x, y)
    end.record()
    torch.cuda.synchronize()
    assert start.elapsed_time(end) < 60_000
    assert torch.cuda.max_memory_allocated() - held < 4 * 2**30  # no N x N, which would be 10 GB
