"""Every trick on a CUDA device, under every condition and without host synchronisation; and the bench.

The checks are the promises that the contract holds every trick against on the CPU, on another device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import play
import pytest
import torch

import stabilgan
from stabilgan.bench.plan import Case, Folder
from stabilgan.bench.run import run
from stabilgan.testing import PROMISES, Promise, Subject
from stabilgan.tricks import TRICKS

WARM_UP = 2
"""So many steps of a game may make the host wait."""
ON_DEVICE = [promise for promise in PROMISES if promise.condition is not None]
HALF = [promise for promise in ON_DEVICE if promise.name in ("autocast", "overflow")]
"""Those that run under autocast, in a type that can be chosen."""

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
every_trick = pytest.mark.parametrize("name", sorted(TRICKS))


def named(promise: Promise) -> str:
    return promise.name.replace(" ", "_")


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions without TF32, the same each time, so that runs can be compared."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@contextmanager
def nobody_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_cuda(name: str, **options: Any) -> Subject:
    """The trick on trial on the GPU, where a step after the first ones that makes the host wait is an error."""

    def around(step: int) -> AbstractContextManager[None]:
        return nobody_waits() if step >= WARM_UP else nullcontext()

    return replace(play.subject(name), device=torch.device("cuda"), around=around, **options)


@pytest.mark.gpu
@on_gpu
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("promise", ON_DEVICE, ids=named)
@every_trick
def test_every_trick_keeps_every_promise_on_a_gpu_and_nobody_waits(name: str, promise: Promise) -> None:
    play.hold(promise, on_cuda(name))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("promise", HALF, ids=named)
@every_trick
def test_every_trick_plays_under_float16_autocast_with_a_grad_scaler(name: str, promise: Promise) -> None:
    play.hold(promise, on_cuda(name, low=torch.float16))


@pytest.mark.parametrize(
    ("promise", "low"),
    [(promise, torch.bfloat16) for promise in ON_DEVICE if not promise.slow] + [(p, torch.float16) for p in HALF],
    ids=lambda value: named(value) if isinstance(value, Promise) else str(value),
)
def test_the_checks_for_a_gpu_run_on_a_cpu_and_look_at_each_step(promise: Promise, low: torch.dtype) -> None:
    entered = list[int]()

    @contextmanager
    def around(step: int) -> Iterator[None]:
        entered.append(step)
        yield
        entered.append(~step)

    play.hold(promise, replace(play.subject("r1"), device=torch.device("cpu"), around=around, low=low))
    if promise.name != "float32 penalty":  # which looks at a penalty after the first step
        assert max(entered) >= WARM_UP
    assert entered[1::2] == [~step for step in entered[::2]]


def trainer(name: str, **options: object) -> stabilgan.Trainer:
    subject = play.subject(name)
    g, d = (net.cuda() for net in subject.world.players())
    tricks = [play.trick(name), stabilgan.Watch(every=2)]
    options = {"latent": 4, "batch_size": 8, "loss": subject.loss} | options
    return stabilgan.Trainer(g, d, play.sgd(g), play.sgd(d), tricks, **options)


def data_of(name: str, n: int) -> torch.Tensor:
    (x,) = play.subject(name).world.batch(n, torch.Generator().manual_seed(0))
    return x.cuda()


@pytest.mark.gpu
@on_gpu
@every_trick
@pytest.mark.parametrize("amp", [False, True])
def test_no_step_makes_the_host_wait_for_the_device(name: str, amp: bool) -> None:
    """A watch neither, whose readings arrive while training goes on."""
    data = data_of(name, 64)
    t = trainer(name, amp=amp).fit(data, 2)
    with nobody_waits():
        t.fit(data, 8)
    assert all("failed" not in reading.text for reading in t.game.tricks[0].readings().values())
    assert all(p.isfinite().all() for p in t.game.g.parameters())


@pytest.mark.gpu
@on_gpu
@every_trick
def test_players_compiled_to_kernels_play(name: str) -> None:
    t = trainer(name, compile=True).fit(data_of(name, 20), 3)
    assert all(p.isfinite().all() for p in t.game.g.parameters())


@pytest.mark.gpu
@on_gpu
def test_the_bench_records_the_gpu(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "results")
    folder.open()
    case = Case("ring", "replay+r1:weight=1", 0, steps=40, evaluations=2, device="cuda")
    record = run(case, folder, device=torch.device("cuda", 0))
    assert record["status"] == "ok", record["traceback"]
    assert record["environment"]["device_name"] == torch.cuda.get_device_name(0)
    assert record["cost"]["step_ms"] > 0
    assert record["cost"]["peak_mb"] > 0
