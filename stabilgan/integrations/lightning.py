"""Lightning: games in the Trainer's checkpoints, their readings in its loggers, tricks attached at the right moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch.nn.parallel import DistributedDataParallel

from stabilgan import host
from stabilgan.detectors import Watch
from stabilgan.game import Game


def games_of(module: LightningModule) -> dict[str, Game]:
    """The games that a LightningModule has as attributes, alone or in a list, tuple or dict, by name.

    `self.game = stabilgan.attach(...)` is "game"; `self.games = {"a": ..., "b": ...}` are "games.a" and "games.b".
    """

    def found(name: str, value: Any) -> Iterator[tuple[str, Game]]:
        if isinstance(value, Game):
            yield name, value
        elif isinstance(value, (list, tuple)):
            yield from ((f"{name}.{i}", part) for i, part in enumerate(value) if isinstance(part, Game))
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", part) for key, part in value.items() if isinstance(part, Game))

    return dict(pair for name, value in vars(module).items() for pair in found(name, value))


class GameCallback(Callback):
    """Saves the games of a LightningModule with its checkpoints, takes them up again, and logs their readings.

    Attach in `configure_optimizers` and put one into the Trainer:

        def configure_optimizers(self):
            opt_g, opt_d = ...
            self.game = stabilgan.attach(self.generator, self.discriminator, opt_g, opt_d, [Replay(), R1(10)])
            return opt_g, opt_d

        trainer = Trainer(callbacks=[GameCallback()])

    Lightning restores a module's weights and wraps it in DDP before it asks for optimizers: too late for tricks that
    add layers to D. So the callback asks first, with the module on its device, and Lightning is then given the same
    ones; a second `fit` of the module goes on with them too. A module that has no parameters yet at that time (it
    builds its networks in `setup` or `configure_model`) is left to attach by itself, there if tricks add layers.

    Every rank's state is saved (replay pools differ by rank), and each takes back its own. Floats of
    `game.readings()` go to the module's loggers at every `log_every_n_steps`-th batch, as "name/reading" where there
    are several games; so does the number of alarms, whose texts go to TensorBoard. As logged values they can be what
    `ModelCheckpoint(monitor=...)` and `EarlyStopping` look at.

    Args:
        log: whether readings go to the loggers.
        prog_bar: whether to show them in the progress bar, too.

    Raises:
        ValueError: the module has no game when `fit` starts; the strategy shards its parameters (FSDP, DeepSpeed), of
            which penalties could see only a part; a trick has added parameters after DDP had wrapped the module.
    """

    def __init__(self, *, log: bool = True, prog_bar: bool = False) -> None:
        self.log, self.prog_bar = log, prog_bar
        self._waiting: dict[str, list[dict[str, Any]]] = {}
        self._games: dict[str, Game] = {}
        self._told: dict[str, int] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            raise ValueError(
                f"the Trainer's strategy is {type(trainer.strategy).__name__}, which shards parameters; games need "
                "whole ones: use strategy='ddp' or a single device"
            )
        if not games_of(pl_module) and any(True for _ in pl_module.parameters()):
            _attach_in_time(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_back(pl_module)
        if not self._games:
            raise ValueError(
                f"{type(pl_module).__name__} has no game; write in its configure_optimizers: "
                "self.game = stabilgan.attach(self.generator, self.discriminator, opt_g, opt_d, [...])"
            )
        for name, game in self._games.items():
            _refuse_unsynchronised(trainer, name, game)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_back(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_back(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._take_back(pl_module)

    def _take_back(self, pl_module: LightningModule) -> None:
        """Finds the games, and gives them what a checkpoint has brought for them."""
        self._games = games_of(pl_module)
        for name, game in self._games.items():
            if (of_ranks := self._waiting.pop(name, None)) is not None:
                game.load_state_dict(of_ranks[host.rank() % len(of_ranks)])
            self._told[name] = len(_alarms(game))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.log or (trainer.fit_loop.total_batch_idx + 1) % cast(Any, trainer).log_every_n_steps:
            return
        for name, game in self._games.items():
            prefix = f"{name}/" if len(self._games) > 1 else ""
            values = {f"{prefix}{k}": float(v) for k, v in game.readings().items() if not isinstance(v, str)}
            alarms = _alarms(game)
            values[f"{prefix}alarms"] = float(len(alarms))
            pl_module.log_dict(values, on_step=True, prog_bar=self.prog_bar)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    for text in alarms[self._told[name] :]:
                        logger.experiment.add_text(f"{prefix}alarm", text, trainer.fit_loop.total_batch_idx)
            self._told[name] = len(alarms)

    def state_dict(self) -> dict[str, Any]:
        """Every game's state on every rank; all ranks have to call it, as Lightning does."""
        own = {name: game.state_dict() for name, game in self._games.items()}
        of_ranks: list[Any] = [own]
        if host.ranks() > 1:
            of_ranks = [None] * host.ranks()
            torch.distributed.all_gather_object(of_ranks, own)
        return {"games": {name: [states[name] for states in of_ranks] for name in own}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._waiting = dict(state_dict["games"])


def _attach_in_time(trainer: Trainer, pl_module: LightningModule) -> None:
    """Has the module make its optimizers now, where it will train, and Lightning get the same ones later."""
    pl_module.to(trainer.strategy.root_device)
    trainer.precision_plugin.convert_module(pl_module)
    if host.ranks() > 1:  # as DDP will do; averages of the weights start from the same ones then
        for tensor in (*pl_module.parameters(), *pl_module.buffers()):
            torch.distributed.broadcast(tensor.detach(), 0)
    made = pl_module.configure_optimizers()
    vars(pl_module)["configure_optimizers"] = lambda: made


def _refuse_unsynchronised(trainer: Trainer, name: str, game: Game) -> None:
    wrapped = trainer.strategy.model
    if not isinstance(wrapped, DistributedDataParallel):
        return
    synchronised = {id(p) for p in wrapped._module_parameters}
    late = [n for n, p in game.d.named_parameters() if p.requires_grad and id(p) not in synchronised]
    if late:
        raise ValueError(
            f"{name}: tricks have added parameters to D ({late[0]}) after DDP had wrapped the module, which would not "
            "synchronise them. Build the networks in __init__, or make the optimizers and attach in configure_model"
        )


def _alarms(game: Game) -> list[str]:
    return [str(alarm) for trick in game.tricks if isinstance(trick, Watch) for alarm in trick.alarms]
