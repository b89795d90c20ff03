"""The project's first real case: the dense MNIST GAN at rate 0.002 fails within an epoch, is caught, and is mended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stabilgan import Trainer, Watch, tricks, workloads

pytestmark = [pytest.mark.data, pytest.mark.slow]
EPOCH = 600


def one_epoch(arm: str, seed: int, data_dir: Path) -> tuple[Trainer, Watch, workloads.Workload]:
    torch.manual_seed(seed)
    w, watch = workloads.make("mnist", data_dir=data_dir), Watch()
    t = Trainer(
        w.g, w.d, w.opt_g, w.opt_d, [*tricks.parse(arm), watch], latent=w.latent, batch_size=w.batch_size, seed=seed
    )
    return t.fit(w.data, EPOCH), watch, w


@pytest.mark.parametrize("seed", [0, 1])
def test_the_plain_gans_failure_is_caught_within_its_first_epoch(seed: int, data_dir: Path) -> None:
    t, watch, w = one_epoch("none", seed, data_dir)
    first = {alarm.detector: alarm.step for alarm in reversed(watch.alarms)}
    assert {"collapse", "saturation"} & set(first)
    assert min(first.values()) <= EPOCH
    assert w.judge is not None
    assert w.judge(t.sample(w.samples))["modes"] <= 3


def test_r1_mends_it_and_nothing_is_reported(data_dir: Path) -> None:
    t, watch, w = one_epoch("r1:weight=10", 0, data_dir)
    assert watch.alarms == []
    assert w.judge is not None
    assert w.judge(t.sample(w.samples))["modes"] >= 8
