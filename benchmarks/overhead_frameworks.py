"""The loops of `overhead.py` in Lightning and Accelerate: what runs n steps of them, raw or with a game.

In a raw loop functions that return what they are given stand where the words are.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import losses

Make = Callable[[], tuple[nn.Module, nn.Module, Callable[[], Tensor], Callable[[], Tensor]]]
Tricks = Callable[[], list[stabilgan.Trick]] | None  # None is the loop without a game
Word = Callable[..., Any]


def optimizers(g: nn.Module, d: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    opt_g, opt_d = (torch.optim.Adam(net.parameters(), 1e-4, (0.8, 0.999)) for net in (g, d))
    return opt_g, opt_d


def words(game: stabilgan.Game | None, d: nn.Module) -> tuple[Word, Word, Word]:
    return (lambda x: x, lambda x: x, d) if game is None else (game.real, game.fake, game.critic)


def accelerate_loop(make: Make, tricks: Tricks, device: torch.device) -> Callable[[int], None]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu")
    g, d, real_of, latent = make()
    opt_g, opt_d = optimizers(g, d)
    g, d, opt_g, opt_d = accelerator.prepare(g, d, opt_g, opt_d)
    game = None if tricks is None else stabilgan.attach(g, d, opt_g, opt_d, tricks())
    real, fake_word, critic = words(game, d)
    x = real_of().to(device)

    def run(n: int) -> None:
        for _ in range(n):
            with accelerator.accumulate(g, d):
                fake = g(latent().to(device))
                opt_d.zero_grad()
                accelerator.backward(losses.logistic.d(d(real(x)), d(fake_word(fake.detach()))))
                opt_d.step()
                opt_g.zero_grad()
                accelerator.backward(losses.logistic.g(critic(fake), None))
                opt_g.step()

    return run


class Turns:
    """An endless iterable of one batch for a loop that runs in a thread of its own: it draws n of them, then waits."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.left = x, 0
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            if self.left == 0:
                self.done.release()
                self.go.acquire()
            self.left -= 1
            yield self.x

    def run(self, n: int) -> None:
        self.left = n
        self.go.release()
        self.done.acquire()


def lightning_loop(make: Make, tricks: Tricks, device: torch.device) -> Callable[[int], None]:
    """Lightning's usual GAN module in a Trainer without progress bar and logger; Lightning is ahead by one batch."""
    import lightning as L

    from stabilgan.integrations.lightning import GameCallback

    class GAN(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.g, self.d, real_of, self.latent = make()
            self.batches = Turns(real_of().to(device))
            self.game: stabilgan.Game | None = None

        def training_step(self, x: Tensor, batch_idx: int) -> None:
            real, fake_word, critic = words(self.game, self.d)
            opt_g, opt_d = self.optimizers()
            fake = self.g(self.latent().to(self.device))
            self.toggle_optimizer(opt_d)
            opt_d.zero_grad()
            self.manual_backward(losses.logistic.d(self.d(real(x)), self.d(fake_word(fake.detach()))))
            opt_d.step()
            self.untoggle_optimizer(opt_d)
            self.toggle_optimizer(opt_g)
            opt_g.zero_grad()
            self.manual_backward(losses.logistic.g(critic(fake), None))
            opt_g.step()
            self.untoggle_optimizer(opt_g)

        def configure_optimizers(self) -> Any:
            opt_g, opt_d = optimizers(self.g, self.d)
            if tricks is not None:
                self.game = stabilgan.attach(self.g, self.d, opt_g, opt_d, tricks())
            return [opt_g, opt_d], []

        def train_dataloader(self) -> Turns:
            return self.batches

    warnings.filterwarnings("ignore", module="lightning")
    gan = GAN()
    trainer = L.Trainer(
        max_epochs=-1,
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1,
        callbacks=[] if tricks is None else [GameCallback()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    threading.Thread(target=trainer.fit, args=(gan,), daemon=True).start()
    gan.batches.done.acquire()
    return gan.batches.run
