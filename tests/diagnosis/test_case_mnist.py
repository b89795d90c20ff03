"""The first real case from end to end: the dense MNIST GAN at rate 0.002 is diagnosed, and the remedy mends it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import stabilgan
from stabilgan import Trainer, tricks, workloads
from stabilgan.diagnosis import FAILURES, Diagnosis
from stabilgan.game import Game, Player

pytestmark = [pytest.mark.data, pytest.mark.slow, pytest.mark.timeout(900)]  # three trainings and diagnoses
EPOCH = 600


class Printed(stabilgan.Trick):
    """Keeps what a user would print, every tenth step."""

    name = "printed"

    def __init__(self) -> None:
        self.lines: list[str] = []

    def after_step(self, player: Player, game: Game) -> None:
        if player == "g" and (len(self.lines) + 1) * 10 <= game.steps["g"]:
            d, g = (float(game.losses[name]) for name in ("d_loss", "g_loss"))
            self.lines.append(f"[{game.steps['g']}/{EPOCH}] d_loss: {d:.4f}, g_loss: {g:.4f}\n")


def trained(arm: str, data_dir: Path) -> tuple[Trainer, list[str]]:
    torch.manual_seed(0)
    w, printed = workloads.make("mnist", data_dir=data_dir), Printed()
    t = Trainer(w.g, w.d, w.opt_g, w.opt_d, [*tricks.parse(arm), printed], latent=w.latent, batch_size=100, seed=0)
    return t.fit(w.data, EPOCH if arm == "none" else 2 * EPOCH), printed.lines


def diagnosed(t: Trainer, data_dir: Path) -> Diagnosis:
    return stabilgan.diagnose(
        model=t.g, discriminator=t.d, data="mnist:test", latent=64, loss="logistic", limit=2500, data_dir=data_dir
    )


def test_the_failure_is_named_from_model_and_log_and_its_first_remedy_mends_it(data_dir: Path, tmp_path: Path) -> None:
    plain, lines = trained("none", data_dir)
    found = diagnosed(plain, data_dir)
    collapse = found.found("mode_collapse")
    assert collapse is not None
    assert collapse.severity > 0.8
    assert found.found("discriminator_saturated") is not None

    (tmp_path / "log.txt").write_text("".join(lines))
    told = stabilgan.diagnose(log=tmp_path / "log.txt").found("discriminator_saturated")
    assert told is not None
    assert told.onset is not None
    assert 0 < told.onset <= EPOCH

    mended, _ = trained(FAILURES["mode_collapse"].tricks[0], data_dir)
    after = diagnosed(mended, data_dir)
    assert after.found("mode_collapse") is None
    assert after.found("mode_dropping") is None
