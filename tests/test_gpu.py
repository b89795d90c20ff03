"""Every trick on a CUDA device: no host synchronisation, exact resume, autocast, and the bench."""

from __future__ import annotations

from pathlib import Path

import play
import pytest
import torch

import stabilgan
from stabilgan.bench.plan import Case, Folder
from stabilgan.bench.run import run
from stabilgan.tricks import TRICKS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
every_trick = pytest.mark.parametrize("name", sorted(TRICKS))


def trainer(name: str, **options: object) -> stabilgan.Trainer:
    subject = play.subject(name)
    g, d = (net.cuda() for net in subject.world.players())
    tricks = [play.trick(name), stabilgan.Watch(every=2)]
    options = {"latent": 4, "batch_size": 8, "loss": subject.loss} | options
    return stabilgan.Trainer(g, d, play.sgd(g), play.sgd(d), tricks, **options)


def data_of(name: str, n: int) -> torch.Tensor:
    (x,) = play.subject(name).world.batch(n, torch.Generator().manual_seed(0))
    return x.cuda()


@every_trick
@pytest.mark.parametrize("amp", [False, True])
def test_no_step_makes_the_host_wait_for_the_device(name: str, amp: bool) -> None:
    data = data_of(name, 64)
    t = trainer(name, amp=amp).fit(data, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        t.fit(data, 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all("failed" not in reading.text for reading in t.game.tricks[0].readings().values())
    assert all(p.isfinite().all() for p in t.game.g.parameters())


@every_trick
def test_stop_and_resume_equals_the_uninterrupted_run(name: str, tmp_path: Path) -> None:
    data = data_of(name, 20)
    whole = trainer(name).fit(data, 5).state_dict()
    trainer(name).fit(data, 3).save(tmp_path / "run.pt")
    again = trainer(name).load(tmp_path / "run.pt").fit(data, 2).state_dict()
    for player in ("g", "d"):
        for key, value in whole[player].items():
            torch.testing.assert_close(again[player][key], value)


@every_trick
def test_compiled_players_play(name: str) -> None:
    t = trainer(name, compile=True).fit(data_of(name, 20), 3)
    assert all(p.isfinite().all() for p in t.game.g.parameters())


def test_the_bench_records_the_gpu(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "results")
    folder.open()
    case = Case("ring", "replay+r1:weight=1", 0, steps=40, evaluations=2, device="cuda")
    record = run(case, folder, device=torch.device("cuda", 0))
    assert record["status"] == "ok", record["traceback"]
    assert record["environment"]["device_name"] == torch.cuda.get_device_name(0)
    assert record["cost"]["step_ms"] > 0
    assert record["cost"]["peak_mb"] > 0
