"""ignite's engine with the hooks: its checkpoints, its progress bar, resuming in mid-epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import framework
import ignite_gan
import play
import pytest
import torch

import stabilgan

X = framework.patterns()  # with batches of 20, an epoch is 6 steps


def state(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items() if name != "trainer"}


def test_without_tricks_it_is_ignites_own_loop_bit_for_bit(tmp_path: Path) -> None:
    raw = framework.before("ignite_gan").train(X, 7, out=tmp_path, batch_size=20)
    ours = ignite_gan.train(X, 7, out=tmp_path, batch_size=20)
    del ours["game"]
    assert play.same(state(ours), state(raw))


def test_four_lines_make_the_difference() -> None:
    assert framework.changed_lines("ignite_gan") == [
        "real_score = d(game.real(real))",
        "fake_score = d(game.fake(fake.detach()))",
        "score = game.critic(fake)",
    ]


@pytest.mark.parametrize(("stop", "amp"), [(3, False), (6, False), (7, True)])
def test_resumed_from_ignites_checkpoint_it_equals_the_uninterrupted_run(stop: int, amp: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path, "batch_size": 20, "amp": amp}
    whole = ignite_gan.train(X, 11, framework.tricks(), **options)
    ignite_gan.train(X, stop, framework.tricks(), **options, every=stop)
    saved = tmp_path / f"checkpoint_{stop}.pt"
    again = ignite_gan.train(X, 11, framework.tricks(), **options, resume=saved)
    assert again["trainer"].state.iteration == 11
    assert play.same(state(again), state(whole))
    assert all(p.isfinite().all() for p in again["g"].parameters())


def test_readings_reach_the_progress_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    watch = stabilgan.Watch(every=1, family="logistic")
    parts = ignite_gan.train(X, 10, [watch], out=tmp_path, batch_size=20)
    value = watch.readings()["divergence"].value
    assert parts["trainer"].state.metrics["divergence"] == value
    assert "divergence=" in capfd.readouterr().err
    assert torch.is_tensor(parts["trainer"].state.metrics["d_loss"])


def test_the_example_runs_and_resumes_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    framework.run(ignite_gan, monkeypatch, "--steps", 2, "--every", 2, "--out", tmp_path, "--device", "cpu")
    saved = tmp_path / "checkpoint_2.pt"
    again = ["--steps", 3, "--every", 3, "--out", tmp_path, "--device", "cpu", "--resume", saved]
    framework.run(ignite_gan, monkeypatch, *again)
    assert torch.load(tmp_path / "checkpoint_3.pt", weights_only=True)["game"]["steps"] == {"d": 3, "g": 3}
