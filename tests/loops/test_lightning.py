"""Lightning's usual GAN module with the hooks: its checkpoints, its loggers, its precision, its DDP."""

from __future__ import annotations

import csv
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import framework
import lightning_gan
import play
import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from torch import nn

import stabilgan
from stabilgan.integrations.lightning import GameCallback, games_of

pytestmark = [
    # Lightning's own, about torch's internals.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 2,
}
QUIET_ALONE = {key: value for key, value in QUIET.items() if key != "log_every_n_steps"}
X = framework.patterns()  # with batches of 20, an epoch is 6 steps


def gan(tricks: list[stabilgan.Trick] | None = None, kind: type[nn.Module] = lightning_gan.GAN) -> Any:
    torch.manual_seed(0)
    return kind(X, tricks or [], batch_size=20)


def fit(module: Any, out: Path, steps: int, every: int = 100, resume: Path | None = None, **options: Any) -> Any:
    trainer = lightning_gan.trainer(out, steps, every, **{**QUIET, "devices": 1, **options})
    torch.manual_seed(99)  # nothing may hang on torch's global generator
    trainer.fit(module, ckpt_path=resume, weights_only=None if resume is None else True)
    return module


def state(module: Any) -> list[Any]:
    optimizers = [o.state_dict() for o in module.trainer.optimizers]
    return [module.state_dict(), optimizers, module.game.state_dict()]


def test_without_tricks_it_is_lightnings_own_loop_bit_for_bit(tmp_path: Path) -> None:
    before = framework.before("lightning_gan")
    raw = gan(kind=before.GAN)
    before.trainer(tmp_path / "raw", 7, 100, **QUIET).fit(raw)
    ours = fit(gan(), tmp_path / "ours", 7)
    assert play.same(raw, ours)
    assert play.same(*([o.state_dict() for o in m.trainer.optimizers] for m in (raw, ours)))
    assert not play.same(raw, gan(kind=before.GAN))


def test_four_lines_make_the_difference() -> None:
    words = ["self.game.critic(", "self.game.real(", "self.game.fake("]
    assert [w for line, w in zip(framework.changed_lines("lightning_gan"), words, strict=True) if w in line] == words


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("whole")
    return fit(gan(framework.tricks()), out, 11), out


@pytest.mark.parametrize("stop", [3, 7])
def test_resumed_at_an_odd_step_it_equals_the_uninterrupted_run(
    stop: int, whole: tuple[Any, Path], tmp_path: Path
) -> None:
    fit(gan(framework.tricks()), tmp_path, stop, every=stop)
    saved = tmp_path / "checkpoints" / "last.ckpt"
    again = fit(gan(framework.tricks()), tmp_path, 11, every=stop, resume=saved)
    assert again.trainer.global_step == 22
    assert play.same(state(again), state(whole[0]))


def test_a_run_that_forgets_the_game_is_another_one(whole: tuple[Any, Path], tmp_path: Path) -> None:
    """What the test above would see if the callback's state went missing."""
    fit(gan(framework.tricks()), tmp_path, 3, every=3)
    saved = tmp_path / "checkpoints" / "last.ckpt"
    kept = torch.load(saved, weights_only=True)
    del kept["callbacks"]["GameCallback"]
    torch.save(kept, saved)
    again = fit(gan(framework.tricks()), tmp_path, 11, every=3, resume=saved)
    assert not play.same(again, whole[0])


def test_readings_and_alarms_reach_the_loggers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Shouting(stabilgan.Collapse):
        """Raises an alarm at once."""

        def missing(self) -> str | None:
            return None

        def measure(self) -> torch.Tensor:
            return torch.zeros(len(self.statistics))

        def judge(self, values: Any, step: int) -> stabilgan.Reading:
            return stabilgan.Reading(self.name, step, 0.25, 0.5, "alarm", "the fakes are all alike")

    fit(gan([stabilgan.Watch([Shouting(patience=1)], every=1)]), tmp_path, 4)
    (table,) = tmp_path.glob("lightning_logs/*/metrics.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["collapse"], row["alarms"]) for row in rows] == [("0.25", "1.0")] * 2
    (events,) = tmp_path.glob("lightning_logs/*/events*")
    board = EventAccumulator(str(events))
    board.Reload()
    assert [e.value for e in board.Scalars("collapse")] == [0.25, 0.25]
    (text,) = board.Tensors("alarm/text_summary")
    assert b"the fakes are all alike" in text.tensor_proto.string_val[0]


def test_readings_can_be_what_a_checkpoint_looks_at(tmp_path: Path) -> None:
    module = gan(framework.tricks(structure=False))
    trainer = lightning_gan.trainer(tmp_path, 4, 100, **QUIET)
    trainer.callbacks.append(ModelCheckpoint(tmp_path / "best", monitor="divergence", every_n_train_steps=4))
    trainer.fit(module)
    assert trainer.callbacks[-1].best_model_score is not None


def test_it_trains_in_mixed_precision(tmp_path: Path) -> None:
    module = fit(gan(framework.tricks()), tmp_path, 3, precision="bf16-mixed")
    assert all(p.isfinite().all() for p in module.parameters())
    assert all(p.dtype == torch.float32 for p in module.parameters())


def test_a_model_in_double_precision_has_its_average_in_double_too(tmp_path: Path) -> None:
    ema = stabilgan.EMA(0.5)
    fit(gan([ema]), tmp_path, 2, precision="64-true")
    assert next(ema.average.parameters()).dtype == torch.float64


def test_a_second_fit_goes_on_with_the_same_game(tmp_path: Path) -> None:
    module = fit(gan(framework.tricks()), tmp_path / "a", 3)
    game, layers = module.game, len(list(module.modules()))
    fit(module, tmp_path / "b", 2)
    assert module.game is game
    assert game.steps == {"d": 5, "g": 5}
    assert len(list(module.modules())) == layers


def test_a_module_without_a_game_is_told_the_line(tmp_path: Path) -> None:
    before = framework.before("lightning_gan")
    with pytest.raises(ValueError, match=r"GAN has no game; write in its configure_optimizers: self.game = stabilgan"):
        fit(gan(kind=before.GAN), tmp_path, 1)


def test_a_strategy_that_shards_is_refused() -> None:
    class Trainer:
        strategy = FSDPStrategy.__new__(FSDPStrategy)

    with pytest.raises(ValueError, match="FSDPStrategy, which shards parameters; games need whole ones"):
        GameCallback().setup(Trainer(), gan(), "fit")  # type: ignore[arg-type]


def test_games_in_lists_and_dicts_are_found() -> None:
    module = lightning_gan.L.LightningModule()
    assert games_of(module) == {}
    made = []
    for seed in range(3):
        g, d = play.players(seed)
        made.append(stabilgan.attach(g, d, play.adam(g), play.adam(d)))
    module.game, module.pair, module.by_name = made[0], [made[1], None], {"a": made[2]}
    assert games_of(module) == {"game": made[0], "pair.0": made[1], "by_name.a": made[2]}


class BuiltLate(lightning_gan.GAN):
    """Networks made in configure_model, as for models too large to be made twice; it attaches there, too."""

    def __init__(self, *args: Any, attach_late: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self.networks = self.generator, self.discriminator
        del self.generator, self.discriminator
        self.attach_late = attach_late

    def configure_model(self) -> None:
        if not hasattr(self, "generator"):
            self.generator, self.discriminator = self.networks
            if not self.attach_late:
                self.made = super().configure_optimizers()

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers() if self.attach_late else self.made


def test_a_module_that_builds_its_networks_late_attaches_by_itself(whole: tuple[Any, Path], tmp_path: Path) -> None:
    fit(gan(framework.tricks(), BuiltLate), tmp_path, 3, every=3)
    saved = tmp_path / "checkpoints" / "last.ckpt"
    again = fit(gan(framework.tricks(), BuiltLate), tmp_path, 11, every=3, resume=saved)
    assert play.same(state(again), state(whole[0]))


def test_the_example_runs_and_resumes_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_gan.L, "Trainer", partial(lightning_gan.L.Trainer, **QUIET_ALONE))
    framework.run(lightning_gan, monkeypatch, "--steps", 3, "--every", 2, "--out", tmp_path, "--devices", 1)
    framework.run(lightning_gan, monkeypatch, "--steps", 4, "--every", 2, "--out", tmp_path, "--devices", 1, "--resume")
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["callbacks"]["GameCallback"]["games"]["game"][0]["steps"] == {"d": 4, "g": 4}


def _ends(module: Any) -> dict[str, Any]:
    return {"model": module.state_dict(), "game": module.game.state_dict()}


def _on_one_rank(rank: int, folder: str, port: int) -> None:
    """One of two processes of Lightning's DDP, as torchrun starts it: a run, the same resumed, one refused."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    out = Path(folder)

    def ranks_fit(module: Any, name: str, resume: Path | None = None) -> Any:
        strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")
        trainer = lightning_gan.trainer(out / name, 5, 3, **QUIET, devices=2, strategy=strategy)
        trainer.fit(module, ckpt_path=resume)
        return module

    def made(kind: type[lightning_gan.GAN] = lightning_gan.GAN, **options: Any) -> Any:
        torch.manual_seed(rank)  # DDP gives all ranks the first one's weights
        return kind(X, framework.tricks(), batch_size=20, **options)

    ends = {"whole": _ends(ranks_fit(made(), "whole"))}
    (saved,) = (out / "whole" / "checkpoints").glob("*step=6.ckpt")
    ends["again"] = _ends(ranks_fit(made(), "again", saved))
    try:
        ranks_fit(made(BuiltLate, attach_late=True), "late")
    except ValueError as error:
        ends["late"] = {"message": str(error)}
    torch.save(ends, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_on_one_rank, (str(folder), port), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_under_lightnings_ddp_stay_equal(two_ranks: list[dict[str, dict[str, Any]]]) -> None:
    first, second = (_synchronised(ends["whole"]) for ends in two_ranks)
    assert play.same(first["model"], second["model"])
    assert any(".extra." in name for name in first["model"])  # what minibatch discrimination has built
    averages, pools = ([_trick(end, name) for end in (first, second)] for name in ("ema", "replay"))
    assert play.same(*averages)
    assert not play.same(*pools)  # each rank has fakes of its own


@pytest.mark.slow
def test_each_of_two_processes_takes_up_its_own_state(two_ranks: list[dict[str, dict[str, Any]]]) -> None:
    assert play.same(two_ranks[0]["again"], two_ranks[0]["whole"])
    assert play.same(*(_synchronised(two_ranks[1][run]) for run in ("again", "whole")))


@pytest.mark.slow
def test_layers_that_ddp_would_not_synchronise_are_refused(two_ranks: list[dict[str, dict[str, Any]]]) -> None:
    for ends in two_ranks:
        assert "after DDP had wrapped the module, which would not synchronise them" in ends["late"]["message"]


def _trick(end: dict[str, Any], name: str) -> Any:
    return next(trick["state"] for trick in end["game"]["tricks"] if trick["name"] == name)


def _synchronised(tree: Any) -> Any:
    """All but BatchNorm's statistics: they are a rank's own until DDP's next pass, and Lightning saves the first's."""
    if isinstance(tree, dict):
        return {key: _synchronised(value) for key, value in tree.items() if "running_" not in str(key)}
    return [_synchronised(part) for part in tree] if isinstance(tree, list) else tree
