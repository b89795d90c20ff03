"""Trains one run of the calibration in a plain loop, as a user would write it, and keeps all that can be seen of it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

import stabilgan
from calibrating import nets, truth
from calibrating.plan import Run
from stabilgan import losses, tricks
from stabilgan.detectors import DETECTORS, Detector, View
from stabilgan.detectors.saturation import wrongness

CHECKPOINTS = 20
JUDGED = {"ring": 2000, "grid": 2000, "mnist": 600}
"""Samples that a checkpoint judges; the last one judges 2,000."""
EVERY = 5
"""Steps between two lines of a log."""
COLUMNS = ("d_loss", "g_loss", "d_real", "d_fake", "d_fake_after", "d_grad", "g_grad", "lr_d", "lr_g")


class Norms(Detector):
    """Keeps the norms that the watch takes of each player's gradient, penalties included; raises no alarm."""

    name = "norms"

    def __init__(self) -> None:
        self.d = self.g = torch.tensor(math.nan)

    def update(self, view: View) -> None:
        if view.d_grad is not None:
            self.d = view.d_grad
        if view.g_grad is not None:
            self.g = view.g_grad

    def missing(self) -> str | None:
        return "it only keeps gradients"


def gradient_penalty(d: nn.Module, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
    """E(‖∇D‖ - 1)² between reals and fakes (Gulrajani et al. 2017, arXiv:1704.00028, Eq. 3), as users write it."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), generator=generator)
    x = (share * real + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(d(x).sum(), x, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def optimizer(name: str, module: nn.Module, rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(module.parameters(), rate, betas, fused=True)
    if name == "sgd":
        return torch.optim.SGD(module.parameters(), rate, momentum=betas[0])
    return torch.optim.RMSprop(module.parameters(), rate)


def rate_at(run: Run, step: int) -> float:
    """What both learning rates are multiplied with at a step."""
    kind, _, value = run.schedule.partition(":")
    if kind == "linear":
        return 1 - step / run.steps
    return float(value) ** step if kind == "exp" else 1.0


def shown(run: Run, scores: Tensor) -> Tensor:
    """D's mean answer as the run's log prints it: a probability where the loss makes it one."""
    scores = scores.detach()
    return scores.sigmoid().mean() if run.family in ("logistic", "saturating") else scores.mean()


def train(run: Run, on_step: Callable[[int], object] = lambda _: None, *, judged: bool = True) -> dict[str, Any]:
    """Plays the whole run.

    Args:
        on_step: called with each step.
        judged: take the checkpoints and the path. The game is the same without, bit for bit.

    Returns:
        `columns`, name -> (steps,) array; `checkpoints`, a list of exact readings; `path`, (n, 3) of step and a mean of
        G's samples in two directions; `alarms`; `readings`; `g`, what one would sample from; `d`; `data`.
    """
    torch.manual_seed(run.seed)
    g, d = nets.players(run)
    if run.zero_d:
        with torch.no_grad():
            for layer in [m for m in d.modules() if isinstance(m, nn.Linear)]:
                layer.weight.zero_()
                layer.bias.fill_(-0.5)  # with a slope of 0, no weight ever gets a gradient again
    if run.shift:
        with torch.no_grad():
            list(g.body.children())[-1].bias.add_(run.shift)
    betas = (run.beta1, run.beta2)
    opt_g = optimizer(run.optimizer, g, run.lr_g, betas)
    opt_d = optimizer(run.optimizer, d, run.lr_d, betas)
    norms = Norms()
    watch = stabilgan.Watch([*(kind() for kind in DETECTORS.values()), norms], family=run.family)
    made = tricks.parse(run.tricks) if run.tricks else []
    game = stabilgan.attach(g, d, opt_g, opt_d, [*made, watch], seed=run.seed)
    loss, data = losses.named(run.family), nets.Data(run.workload, run.keep, run.train_size, run.seed)
    latents, chance = torch.Generator().manual_seed(run.seed + 1), torch.Generator().manual_seed(run.seed + 2)
    average = next((t for t in made if isinstance(t, stabilgan.EMA)), None)
    seen: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    checkpoints: list[dict[str, Any]] = []
    path: list[list[float]] = []
    alarms: list[dict[str, Any]] = []
    exam = Exam(run, data)
    due = {round(run.steps * (i + 1) / CHECKPOINTS) for i in range(CHECKPOINTS)}
    first = {name: size(net) for name, net in (("g", g), ("d", d))}

    def z(n: int) -> Tensor:
        return torch.randn(n, nets.LATENT, generator=latents)

    if judged:
        checkpoints.append(exam.sit(0, g, g, d))
    for step in range(1, run.steps + 1):
        factor = rate_at(run, step)
        for opt, rate in ((opt_g, run.lr_g), (opt_d, run.lr_d)):
            opt.param_groups[0]["lr"] = rate * factor
        if run.inject == "weights" and step == run.inject_at:
            with torch.no_grad():
                next(g.parameters()).view(-1)[0] = math.nan
        for _ in range(run.d_steps):
            real = data.draw(run.batch)
            if run.inject == "batch" and step == run.inject_at:
                real.view(-1)[0] = math.nan
            with torch.no_grad():
                fake = g(z(run.batch))
            of_real, of_fake = d(game.real(real)), d(game.fake(fake))
            d_loss = loss.d(of_real, of_fake)
            if run.penalty:
                d_loss = d_loss + run.penalty * gradient_penalty(d, real, fake, chance)
            opt_d.zero_grad()
            d_loss.backward()
            opt_d.step()
            if run.clip:
                with torch.no_grad():
                    for p in d.parameters():
                        p.clamp_(-run.clip, run.clip)
        for _ in range(run.g_steps):
            scores = game.critic(g(z(run.batch)))
            real_scores = game.critic(real, real=True) if loss.needs_real else None
            g_loss = loss.g(scores, real_scores)
            game.record(d_loss=d_loss, g_loss=g_loss)
            opt_g.zero_grad()
            g_loss.backward()
            opt_g.step()
        row = (d_loss.detach(), g_loss.detach(), shown(run, of_real), shown(run, of_fake), shown(run, scores))
        for name, value in zip(COLUMNS, (*row, norms.d, norms.g), strict=False):
            seen[name].append(value)
        seen["lr_d"].append(opt_d.param_groups[0]["lr"])
        seen["lr_g"].append(opt_g.param_groups[0]["lr"])
        alarms += [dataclasses.asdict(a) | {"iteration": step} for a in watch.alarms[len(alarms) :]]
        if judged and step % exam.stride == 0:
            path.append([step, *exam.where(g)])
        if judged and step in due:
            checkpoints.append(exam.sit(step, average.average if average else g, g, d))
        on_step(step)
    for name, value in first.items() if judged else ():
        checkpoints[0][f"size_{name}"] = value
    return {
        "columns": {k: np.array([float(v) for v in values], dtype=np.float64) for k, values in seen.items()},
        "checkpoints": checkpoints,
        "path": np.array(path),
        "alarms": alarms,
        "readings": {k: dataclasses.asdict(r) for k, r in watch.readings().items() if k != "norms"},
        "g": average.average if average else g,
        "d": d,
        "data": data,
    }


def size(net: nn.Module) -> float:
    """The norm of all weights."""
    with torch.no_grad():
        return float(get_total_norm(list(net.parameters())))


class Exam:
    """Measures exactly what a checkpoint needs to know, with latents of its own and reals that no run trains on."""

    def __init__(self, run: Run, data: nets.Data) -> None:
        self.run, self.data = run, data
        own = torch.Generator().manual_seed(0)
        self.z = torch.randn(2000, nets.LATENT, generator=own)
        self.own = torch.randn(2000, run.noise, generator=own)
        self.real = nets.held_out(run.workload)
        mean = self.real.flatten(1).mean(0)
        self.spread = (self.real.flatten(1) - mean).square().sum(1).mean().sqrt().item()
        self.noise = torch.rand(500, *self.real.shape[1:], generator=own) * 8 - 4
        self.stride = max(1, run.steps // 160)
        self.view = torch.eye(2)
        if run.workload == "mnist":  # the two directions in which digits vary most
            self.view = torch.linalg.svd(self.real.flatten(1)[:500] - mean, full_matrices=False)[2][:2].T
        self.before: dict[str, Tensor] = {}

    @torch.no_grad()
    def where(self, g: nets.Generator) -> list[float]:
        """The mean of G's samples, in two directions, in units of the data's spread."""
        x = g(self.z[:64], self.own[:64]).flatten(1) @ self.view
        where: list[float] = (x.mean(0) / self.spread).tolist()
        return where

    def sit(self, step: int, judged: nets.Generator, g: nets.Generator, d: nn.Module) -> dict[str, Any]:
        """The readings at a step: modes of `judged`, D's answers, G's gradient, how far the weights moved."""
        n = 2000 if step in (0, self.run.steps) else JUDGED[self.run.workload]
        with torch.no_grad():
            x = judged(self.z[:n], self.own[:n])
            found = nets.modes(self.run.workload, x)
            flat = x.flatten(1)
            fixed = judged(self.z[:200], self.own[:1].expand(200, -1)).flatten(1)
            real, fake = d(self.real[:1000]).flatten(), d(g(self.z[:1000], self.own[:1000])).flatten()
            noise = d(self.noise).flatten()
        reading: dict[str, Any] = {
            "step": step,
            "n": n,
            "counts": list(found.counts),
            "nearest": list(found.nearest),
            "high_quality": found.high_quality,
            "finite": bool(flat.isfinite().all()),
            "spread": rms(flat - flat.mean(0)) / self.spread,
            "over_latents": rms(fixed - fixed.mean(0)) / self.spread,
            "size_samples": rms(flat) / rms(self.real.flatten(1)),
            "score_real": real.mean().item(),
            "score_fake": fake.mean().item(),
            "score_spread": torch.cat([real, fake, noise]).std().item(),
            "accuracy": truth.accuracy(real, fake, self.run.family),
            "wrong": wrongness(real, fake, loss=self.run.family).item()
            if self.run.family != "wasserstein"
            else math.nan,
            "g_gradient": self._gradient(g, d),
        }
        for name, net in (("g", g), ("d", d)):
            now = torch.cat([p.detach().flatten() for p in net.parameters()]).clone()
            reading[f"size_{name}"] = now.norm().item()
            if name in self.before:
                reading[f"moved_{name}"] = (now - self.before[name]).norm().item() / max(now.norm().item(), 1e-12)
            self.before[name] = now
        if judged is not g:  # what a live watch sees is G itself, not its average
            with torch.no_grad():
                reading["nearest_of_g"] = list(nets.modes(self.run.workload, g(self.z[:n], self.own[:n])).nearest)
        if self.data.train is not None:
            reading |= truth.nearness(self.data.train, self.real, x)
        return reading

    def _gradient(self, g: nets.Generator, d: nn.Module) -> float:
        loss = losses.named(self.run.family)
        scores = d(g(self.z[:256], self.own[:256]))
        real = d(self.real[:256]) if loss.needs_real else None
        parameters = [p for p in g.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss.g(scores, real), parameters, allow_unused=True)
        return float(get_total_norm([x for x in grads if x is not None]))


def rms(x: Tensor) -> float:
    """The root of the mean squared length of rows."""
    return x.double().square().sum(1).mean().sqrt().item()


# --- what is kept --------------------------------------------------------------------------------------------------


def text_log(run: Run, columns: dict[str, np.ndarray]) -> str:
    """The log as the DCGAN example prints it, a line every five steps; a run with a schedule prints its rate too."""
    lines, per_epoch = [], max(run.steps // 5, 1)
    every = EVERY
    for i in range(0, run.steps, every):
        c = {name: values[i] for name, values in columns.items()}
        line = (
            f"[{i // per_epoch}/5][{i % per_epoch}/{per_epoch}]\tLoss_D: {c['d_loss']:.4f}\tLoss_G: {c['g_loss']:.4f}"
            f"\tD(x): {c['d_real']:.4f}\tD(G(z)): {c['d_fake']:.4f} / {c['d_fake_after']:.4f}"
        )
        lines.append(line + (f"\tlr: {c['lr_g']:.3e}" if run.schedule else ""))
    return "\n".join(lines) + "\n"


def as_saved(x: Tensor) -> np.ndarray:
    """Images as bytes, as users save them, where they are finite; all else as float32."""
    if x.ndim == 4 and bool(x.isfinite().all()):
        return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    return x.float().numpy()


def keep(run: Run, found: dict[str, Any], folder: Path) -> None:
    """Writes all of a run under folder/<id>, which appears only when it is complete."""
    part = folder / f".{run.id}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    g, d, data = found["g"], found["d"], found["data"]
    z = torch.randn(2000, nets.LATENT, generator=torch.Generator().manual_seed(run.seed + 3))
    own = torch.randn(2000, run.noise, generator=torch.Generator().manual_seed(run.seed + 4))
    with torch.no_grad():
        np.savez_compressed(part / "samples.npz", x=as_saved(g(z, own)))
    if data.train is not None:
        np.savez_compressed(part / "train.npz", x=as_saved(data.train))
    np.savez_compressed(
        part / "log.npz",
        step=np.arange(1, run.steps + 1),
        **{k: v.astype(np.float32) for k, v in found["columns"].items()},
    )
    (part / "log.txt").write_text(text_log(run, found["columns"]))
    np.savez_compressed(part / "path.npz", path=found["path"])
    for name, net in (("generator", g), ("discriminator", d)):
        plain = {k.replace("parametrizations.", "").replace(".original", ""): v for k, v in bare(net).items()}
        save_file(plain, part / f"{name}.safetensors")
    keep_watch(found, part)
    record = {
        "id": run.id,
        "run": dataclasses.asdict(run),
        "checkpoints": found["checkpoints"],
        "non_finite_at": first_non_finite(found["columns"]),
    }
    (part / "run.json").write_text(json.dumps(record))
    os.replace(part, folder / run.id)


def keep_watch(found: dict[str, Any], folder: Path) -> None:
    """Writes what the watch said, and which detectors it had."""
    said = {"detectors": detectors(), "alarms": found["alarms"], "readings": found["readings"]}
    (folder / "watch.json").write_text(json.dumps(said, indent=1))


@functools.cache
def detectors() -> str:
    """A hash of the code of the detectors, by which it is known whether a run was watched by them."""
    files = sorted(Path(stabilgan.detectors.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def watch_again(run: Run, folder: Path) -> None:
    """Plays a finished run once more, under the detectors as they are now, and writes what they say; unless it was
    watched by these already.

    Raises:
        RuntimeError: the losses are not those of the first time, bit for bit: another machine, or another torch.
    """
    if json.loads((folder / "watch.json").read_text()).get("detectors") == detectors():
        return
    found = train(run, judged=False)
    kept = np.load(folder / "log.npz")
    for name in ("d_loss", "g_loss"):
        if not np.array_equal(found["columns"][name].astype(np.float32), kept[name], equal_nan=True):
            raise RuntimeError(f"{run.id} takes another course than before ({name} differs); train all runs again here")
    keep_watch(found, folder)


def bare(net: nn.Module) -> dict[str, Tensor]:
    """The weights as they act, without parametrizations."""
    from torch.nn.utils import parametrize

    for module in net.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    return {k: v.contiguous() for k, v in net.state_dict().items()}


def first_non_finite(columns: dict[str, np.ndarray]) -> int | None:
    """The first step at which a loss, an answer of D or a gradient is not finite."""
    bad = ~np.isfinite(np.stack([columns[c] for c in COLUMNS])).all(0)
    return int(bad.argmax()) + 1 if bad.any() else None
