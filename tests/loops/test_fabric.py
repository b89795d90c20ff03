"""Lightning Fabric's loop with the hooks: set-up modules and optimizers, mixed precision, save and load."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import fabric_gan
import framework
import play
import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import stabilgan

X = framework.patterns()


def fabric(precision: Any = "32-true", **options: Any) -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision=precision, **options)


def state(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}


def test_without_tricks_it_is_fabrics_own_loop_bit_for_bit() -> None:
    raw = framework.before("fabric_gan").train(fabric(), X, 5, batch_size=20)
    ours = fabric_gan.train(fabric(), X, 5, batch_size=20)
    del ours["game"]
    assert play.same(state(ours), state(raw))


def test_four_lines_make_the_difference() -> None:
    assert framework.changed_lines("fabric_gan") == [
        "real_score = d(game.real(real))",
        "fake_score = d(game.fake(fake.detach()))",
        "score = game.critic(fake)",
    ]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_saved_and_loaded_at_an_odd_step_it_equals_the_uninterrupted_run(precision: str, tmp_path: Path) -> None:
    saved = tmp_path / "run.ckpt"
    whole = fabric_gan.train(fabric(precision), X, 8, framework.tricks(), batch_size=20)
    fabric_gan.train(fabric(precision), X, 3, framework.tricks(), batch_size=20, save=saved)
    again = fabric_gan.train(fabric(precision), X, 8, framework.tricks(), batch_size=20, resume=saved)
    assert play.same(state(again), state(whole))
    assert torch.load(saved, weights_only=True)["game"]["steps"] == {"d": 3, "g": 3}


def test_the_game_plays_with_the_bare_modules_and_optimizers() -> None:
    parts = fabric_gan.train(fabric(), X, 1, batch_size=20)
    game = parts["game"]
    assert game.g is parts["g"].module
    assert game.d is parts["d"].module
    assert game.opt_d is parts["opt_d"].optimizer
    assert game.called_d is parts["d"]


def test_penalties_are_in_full_precision_where_the_players_are_not() -> None:
    """R1 of what Fabric runs in bfloat16 is that of the same D in float32."""
    seen: list[torch.Tensor] = []

    class Looking(stabilgan.R1):
        def penalty(self, player: Any, game: stabilgan.Game) -> torch.Tensor | None:
            value = super().penalty(player, game)
            if value is not None:
                alone = game.seen["real"].x.clone().requires_grad_()
                seen.extend([value.detach(), stabilgan.tricks.r1.gradient_norm_penalty(game.d(alone), alone).detach()])
            return value

    parts = fabric_gan.train(fabric("bf16-mixed"), X, 1, [Looking(weight=1.0)], batch_size=20)
    assert parts["g"](torch.zeros(2, 64)).dtype == torch.float32  # Fabric gives float32 back
    assert torch.equal(seen[0], seen[1])
    assert seen[0].dtype == torch.float32


def test_readings_reach_fabrics_logger(tmp_path: Path) -> None:
    watch = stabilgan.Watch(every=1, family="logistic")
    fabric_gan.train(fabric(loggers=CSVLogger(tmp_path, flush_logs_every_n_steps=1)), X, 21, [watch], batch_size=20)
    (table,) = tmp_path.glob("**/metrics.csv")
    rows = [row for row in csv.DictReader(table.read_text().splitlines()) if row["step"] == "20"]
    assert rows[-1]["divergence"] == str(watch.readings()["divergence"].value)


def test_a_discriminator_that_fabric_has_wrapped_in_ddp_gets_no_new_layers() -> None:
    g, d = play.players()
    made = fabric().setup(d)
    made._forward_module = torch.nn.Module.__new__(DistributedDataParallel)  # one process has no group to make it in
    nn.Module.__init__(made._forward_module)
    made._forward_module.module = d
    with pytest.raises(ValueError, match="wrapped in DistributedDataParallel already"):
        stabilgan.attach(g, made, play.adam(g), play.adam(d), [stabilgan.Minibatch(kernels=2)])


def test_the_example_runs_and_resumes_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    framework.run(fabric_gan, monkeypatch, "--steps", 2, "--out", tmp_path)
    framework.run(fabric_gan, monkeypatch, "--steps", 3, "--out", tmp_path, "--resume")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["game"]["steps"] == {"d": 3, "g": 3}
