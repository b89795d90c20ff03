"""The reference loop: what a user would write with the public Game, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabilgan import host, losses, schemes, spec
from stabilgan._version import __version__
from stabilgan.data import Batch, Feed, feed
from stabilgan.game import Game, Trick, attach
from stabilgan.tricks.ema import EMA
from stabilgan.tricks.ttur import two_time_scales

Latent = int | tuple[int, ...] | Callable[[int, torch.Generator], Tensor]


class Trainer:
    """Trains one generator against one discriminator, with tricks; bit-identical to the loop written by hand.

    One step is `n_critic` steps of D, then one of G, or what `scheme` says. All draws come from generators that the
    trainer owns and saves.

    Args:
        g, d: the players, on their device. D gives raw scores (logits).
        opt_g, opt_d: their optimizers.
        tricks: see `stabilgan.tricks`.
        loss: a name from `stabilgan.losses.LOSSES`, or a pair of your own.
        latent: the length or shape of z ~ N(0, I), or a function `(n, generator) -> z` on the generator's device.
        batch_size: samples in a batch, unless data are a loader with its own.
        n_critic: D's steps before each step of G.
        ttur: what D's learning rates are multiplied by, above 0 (Heusel et al. 2017, arXiv:1706.08500).
        scheme: "alternating", each player's gradient where the other has moved; "simultaneous", both at one point; or
            "consensus", both at one point and down the length of both; see `stabilgan.schemes`.
        consensus: γ of that scheme, at least 0; the paper's is 10.
        accumulate: micro-batches to each step, gradients averaged.
        conditional: data give `(x, y)`, and the players are `g(z, y)` and `d(x, y)`.
        amp: run the players under bfloat16 autocast.
        compile: run the players under `torch.compile`.
        seed: of latents, data order and the tricks' generators. Initial weights are the caller's.

    Raises:
        ValueError, TypeError: as `attach`; or an option out of range.
    """

    def __init__(
        self,
        g: nn.Module,
        d: nn.Module,
        opt_g: Optimizer,
        opt_d: Optimizer,
        tricks: Iterable[Trick] = (),
        *,
        latent: Latent,
        loss: str | losses.Loss = "logistic",
        batch_size: int = 64,
        n_critic: int = 1,
        ttur: float = 1.0,
        scheme: schemes.Scheme = "alternating",
        consensus: float = 10.0,
        accumulate: int = 1,
        conditional: bool = False,
        amp: bool = False,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("n_critic", n_critic), ("accumulate", accumulate)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        if scheme not in schemes.SCHEMES:
            raise ValueError(spec.unknown("scheme", scheme, schemes.SCHEMES))
        if scheme != "alternating" and n_critic > 1:
            raise ValueError(
                f"n_critic is {n_critic}; expected 1 where both gradients are taken at one point ({scheme})"
            )
        if scheme == "consensus" and (accumulate > 1 or amp or host.ranks() > 1):
            raise ValueError(
                "consensus squares the gradient of a whole batch and differentiates it; expected accumulate=1, "
                "amp=False and a single process"
            )
        if consensus < 0:
            raise ValueError(f"consensus is {consensus}; expected a weight of 0 or more")
        pair = losses.named(loss) if isinstance(loss, str) else loss
        two_time_scales(host.bare_optimizer(opt_d), ttur)
        self.g = cast(nn.Module, torch.compile(g)) if compile else g
        self.d = cast(nn.Module, torch.compile(d)) if compile else d
        self.game: Game = attach(
            self.g, self.d, opt_g, opt_d, list(tricks), loss=pair, accumulate=accumulate, seed=seed
        )
        assert self.game.loss is not None
        self.loss = self.game.loss
        self.device = next(g.parameters()).device
        self.latent, self.batch_size, self.seed = latent, batch_size, seed
        self.n_critic, self.accumulate, self.conditional, self.amp = n_critic, accumulate, conditional, amp
        self.scheme, self.consensus, self._go_round = scheme, consensus, schemes.SCHEMES[scheme]
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._data: Any = None
        self._feed: Feed | None = None
        self._feed_state: Mapping[str, Any] | None = None

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return self.game.steps["g"]

    def fit(self, data: Any, steps: int, *, progress: bool = False) -> Self:
        """Makes `steps` more steps on `data` (what `stabilgan.data.feed` takes).

        With the same tensors, loader or function as before it goes on where it stopped in them; with others it begins
        anew.

        `progress=True` shows a progress bar.
        """
        stream = self._stream(data)
        if not progress:
            for _ in range(steps):
                self._step(stream)
            return self
        from rich.progress import track

        for _ in track(range(steps), description="training"):
            self._step(stream)
        return self

    def _stream(self, data: Any) -> Feed:
        if self._feed is None or not _same(data, self._data):
            self._data, self._feed = data, feed(data, self.batch_size, self.seed)
            if self._feed_state is not None:
                self._feed.load_state_dict(self._feed_state)
                self._feed_state = None
        return self._feed

    def _step(self, data: Feed) -> None:
        made = self.steps
        while self.steps == made:  # a step that only looks ahead is not counted
            self._go_round(self, data)

    def fakes(self, real: Batch) -> Tensor:
        """G's samples from new latents, as many as there are real ones and with their labels."""
        with self._autocast():
            fake: Tensor = self.g(self.draw(len(real[0])), *real[1:])
        return fake

    def d_loss(self, real: Batch, fake: Tensor) -> Tensor:
        """What D minimises, of samples that go through `game.real` and `game.fake`; both have the same labels."""
        game = self.game
        with self._autocast():
            shown_real = self._labelled(game.real(*real))
            shown_fake = self._labelled(game.fake(fake, *real[1:]))
            scores = self.d(*shown_real), self.d(*shown_fake)
            return self.loss.d(*map(host.full_precision, scores))

    def g_loss(self, real: Batch, fake: Tensor) -> Tensor:
        """What G minimises, as `game.critic` judges its samples."""
        game = self.game
        with self._autocast():
            scores = host.full_precision(game.critic(fake, *real[1:]))
            real_scores = host.full_precision(game.critic(*real, real=True)) if self.loss.needs_real else None
            return self.loss.g(scores, real_scores)

    def next_batch(self, data: Feed) -> Batch:
        """Real samples, and their labels where the game is conditional."""
        batch = tuple(t.to(self.device, non_blocking=True) for t in data.next())
        return batch if self.conditional else batch[:1]

    @staticmethod
    def _labelled(shown: Any) -> Batch:
        return shown if isinstance(shown, tuple) else (shown,)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n latents, from the trainer's generator or another on the same device."""
        generator = generator or self.generator
        if callable(self.latent):
            return self.latent(n, generator)
        shape = (self.latent,) if isinstance(self.latent, int) else self.latent
        return torch.randn(n, *shape, generator=generator, device=generator.device)

    @torch.no_grad()
    def sample(self, n: int, *labels: Tensor, seed: int = 0, ema: bool = True, batch_size: int = 1000) -> Tensor:
        """n samples from the latents of `seed`, in evaluation mode; training goes on as if none had been drawn.

        Taken from the averaged generator if the EMA trick is played and `ema` is true, else from the current one; with
        `Extragradient(form="past")` that stands at its look-ahead point.

        Returns:
            (n, ...), what G gives, on its device.
        """
        average = next((t.average for t in self.game.tricks if ema and isinstance(t, EMA)), None)
        g = average if average is not None else self.game.g
        z = self.draw(n, torch.Generator(self.device).manual_seed(seed))
        modes = [(m, m.training) for m in g.modules()]
        g.eval()
        try:
            with self._autocast(), host.drawing_from(seed, self.device):  # for a G that draws noise itself
                parts = zip(z.split(batch_size), *(y.split(batch_size) for y in labels), strict=True)
                return torch.cat([g(*part) for part in parts])
        finally:
            for module, mode in modes:
                module.training = mode

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain tensors, numbers, lists and dicts."""
        waiting = self._feed_state if self._feed_state is not None else {}
        return {
            "version": __version__,
            "g": self.game.g.state_dict(),
            "d": self.game.d.state_dict(),
            "opt_g": self.game.opt_g.state_dict(),
            "opt_d": self.game.opt_d.state_dict(),
            "game": self.game.state_dict(),
            "feed": self._feed.state_dict() if self._feed is not None else dict(waiting),
            "latents": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave; torch's global generators go back too, for modules that draw (dropout)."""
        game = self.game
        game.g.load_state_dict(state["g"])
        game.d.load_state_dict(state["d"])
        game.opt_g.load_state_dict(state["opt_g"])
        game.opt_d.load_state_dict(state["opt_d"])
        game.load_state_dict(state["game"])
        self.generator.set_state(state["latents"].cpu())
        self._feed, self._feed_state = None, state["feed"] or None  # for the data that fit is given next
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), self.device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the whole state, atomically: `path` holds the old file or the new one, never half of one."""
        path = Path(path)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            torch.save(self.state_dict(), part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Takes up a run that `save` wrote, bit for bit, in a trainer made like that one. Runs no code from it."""
        self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        return self


def _same(data: Any, before: Any) -> bool:
    """Whether these are the objects of before; a tuple may be another one of the same tensors."""
    if isinstance(data, (tuple, list)) and isinstance(before, (tuple, list)):
        return len(data) == len(before) and all(a is b for a, b in zip(data, before, strict=True))
    return data is before
