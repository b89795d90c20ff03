"""Running one case: train, judge, read the dynamics, and write one record."""

from __future__ import annotations

import itertools
import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stabilgan import host, tricks, workloads
from stabilgan._version import __version__
from stabilgan.bench.plan import SCHEMA, Case, Folder, write_json
from stabilgan.detectors import Watch
from stabilgan.metrics import series
from stabilgan.passes import counting
from stabilgan.trainer import Trainer
from stabilgan.tricks.respond import Respond
from stabilgan.workloads.base import BETTER, Workload, judge_of

KEEP = 200  # points of a loss curve in a record
SHOWN = {"points": 500, "images": 36, "other": 0}  # samples kept for the pictures, at each of PICTURES times
PICTURES = 5
COUNTED = 8  # first steps, in which passes are counted and which are not timed

Tell = Callable[[int, int, Mapping[str, float | None]], None]
"""Called with steps made, steps in all, and the latest readings."""


class Stopped(Exception):  # noqa: N818 - not an error
    """The case was asked to stop; what it had done is kept."""


def run(
    case: Case,
    folder: Folder,
    *,
    device: torch.device,
    data_dir: Path | None = None,
    save_every: float = 20.0,
    tell: Tell = lambda done, total, readings: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Runs a case, or takes it up where it was interrupted, and writes its record.

    Every `save_every` seconds the run is kept so that it can be taken up bit for bit. A failure
    becomes a record with its traceback. Raises Stopped where `stop()` came true: the run is kept then.
    """
    began = time.perf_counter()
    try:
        record = _Run(case, folder, device, data_dir).finish(tell, stop, save_every)
        write_json(folder.record(case), record)
    except Stopped:
        raise
    except Exception as error:  # whatever a user's networks, data or tricks raise is this case's result
        lines = traceback.format_exc().strip()
        record = _frame(case, device) | {
            "status": "failed",
            "reason": f"{type(error).__name__}: {error}",
            "traceback": lines,
        }
        record["cost"]["wall_s"] = round(time.perf_counter() - began, 3)
        write_json(folder.record(case), record)
    folder.unfinished(case).unlink(missing_ok=True)
    return record


def died(case: Case, folder: Folder, reason: str, device: torch.device) -> dict[str, Any]:
    """The record of a case whose process was lost."""
    record = _frame(case, device) | {"status": "failed", "reason": reason}
    write_json(folder.record(case), record)
    folder.unfinished(case).unlink(missing_ok=True)
    return record


class _Run:
    """One case under way: the trainer, and what was read so far."""

    def __init__(self, case: Case, folder: Folder, device: torch.device, data_dir: Path | None) -> None:
        self.case, self.folder, self.device = case, folder, device
        torch.set_num_threads(case.threads)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.memory_before = _reset_peak_memory()
        torch.manual_seed(case.seed)
        self.workload: Workload = workloads.make(case.workload, data_dir=data_dir)
        w = self.workload
        self.watch = Watch()
        self.trainer = Trainer(
            w.g.to(device),
            w.d.to(device),
            w.opt_g,
            w.opt_d,
            [*tricks.parse(case.arm), self.watch],
            latent=w.latent,
            loss=w.loss,
            batch_size=w.batch_size,
            n_critic=w.n_critic,
            scheme=w.scheme,
            amp=case.amp,
            seed=case.seed,
        )
        self.judge = judge_of(w)
        self.data = w.data.to(device) if isinstance(w.data, Tensor) and device.type != "cpu" else w.data
        self.steps = case.steps or w.steps
        self.readings: dict[str, list[float]] = {"step": []}
        self.losses: dict[str, Tensor] = {"d_loss": torch.empty(0), "g_loss": torch.empty(0)}
        self.shown: list[tuple[int, Tensor]] = []
        self.spent, self.step_ms, self.wall = 0.0, list[float](), 0.0
        self.passes: dict[str, float] = {}
        self.went_wrong = ""
        self.began = self.written = time.perf_counter()
        self._take_up()

    # --- the run ---------------------------------------------------------------------------------------------

    def finish(self, tell: Tell, stop: Callable[[], bool], save_every: float) -> dict[str, Any]:
        while not self._over():
            try:
                self._train(stop, save_every)
            except Stopped:
                self._keep()
                raise
            self._evaluate()
            tell(self.trainer.steps, self.steps, self._latest())
        return self._record()

    def _wall(self) -> float:
        """Seconds that the case has run, earlier attempts included."""
        return self.wall + time.perf_counter() - self.began

    def _over(self) -> bool:
        if self.went_wrong:
            return True
        if self.case.seconds is not None:
            return self.spent >= self.case.seconds
        return self.trainer.steps >= self.steps

    def _train(self, stop: Callable[[], bool], save_every: float) -> None:
        """Up to the next evaluation, in stretches after each of which the run may stop."""
        done, count = self.trainer.steps, self.case.evaluations
        at, due, stretch = sys.maxsize, math.inf, 50
        if self.case.seconds is None:
            at = next(s for k in range(1, count + 1) if (s := math.ceil(self.steps * k / count)) > done)
        else:
            part = self.case.seconds / count
            due, stretch = part * (math.floor(self.spent / part) + 1), 10
        if not self.passes:
            self._count_passes(min(COUNTED, at - done))
        while self.trainer.steps < at and self.spent < due:
            if stop():
                raise Stopped
            # Here and not after the stretch, so that a kept run never stands at an evaluation that is still to be made.
            if time.perf_counter() - self.written > save_every:
                self._keep()
            # Not longer than about two seconds, so that a stop is heard in time.
            patient = max(1, int(2000 / self.step_ms[-1])) if self.step_ms else 1
            self._stretch(min(stretch, patient, at - self.trainer.steps))

    def _stretch(self, steps: int, *, timed: bool = True) -> None:
        """Steps whose losses stay on the device until they are all made."""
        kept: dict[str, list[Tensor]] = {name: [] for name in self.losses}
        with _timer(self.device) as seconds:
            for _ in range(steps):
                self.trainer.fit(self.data, 1)
                for name, values in kept.items():
                    values.append(self.trainer.game.losses[name])
        for name, values in kept.items():
            self.losses[name] = torch.cat([self.losses[name], torch.stack(values).float().cpu()])
        self.spent += seconds()
        if timed:
            self.step_ms.append(1000 * seconds() / steps)

    def _count_passes(self, steps: int) -> None:
        with counting(self.trainer.game) as counts:
            self._stretch(steps, timed=False)
        self.passes = {name: count / steps for name, count in counts.items()}

    def _evaluate(self) -> None:
        samples = self.trainer.sample(self.workload.samples)
        with host.drawing_from(self.case.seed, self.device):  # a judge may draw; training must not notice
            found = self.judge(samples)
        self.readings["step"].append(float(self.trainer.steps))
        for name, value in found.items():
            self.readings.setdefault(name, []).append(float(value))
        lengths = {len(v) for v in self.readings.values()}
        if len(lengths) > 1:
            raise ValueError(
                f"the judge gave {sorted(found)}, at an earlier time other readings; expected the same each time"
            )
        if self.workload.primary not in self.readings:
            raise ValueError(
                f"the judge gave {sorted(found)} without the primary reading {self.workload.primary!r}; name one of "
                "them with Workload(primary=...)"
            )
        self._show(samples)
        if self._may_go_back():
            return
        back = max((r.step for t in self._responders() for r in t.responses if r.action == "rollback"), default=0)
        for name, values in self.losses.items():
            if not bool((fine := values[back:].isfinite()).all()):
                self.went_wrong = f"{name} is not finite from step {back + int((~fine).nonzero()[0, 0]) + 1} on"
        if not self.went_wrong and not all(bool(p.isfinite().all()) for p in self.trainer.game.g.parameters()):
            self.went_wrong = f"weights of G are not finite at step {self.trainer.steps}"

    def _responders(self) -> list[Respond]:
        return [t for t in self.trainer.game.tricks if isinstance(t, Respond)]

    def _may_go_back(self) -> bool:
        """Whether a trick may still take the run back from where it diverged."""
        return self.trainer.steps < self.steps and any(t.do == "rollback" and t.left for t in self._responders())

    def _show(self, samples: Tensor) -> None:
        """Keeps a few samples for the pictures: first, last, and evenly between."""
        count, many = len(self.readings["step"]), SHOWN[self.workload.kind]
        wanted = {max(1, round(self.case.evaluations * k / PICTURES)) for k in range(1, PICTURES + 1)} | {1}
        if many and (count in wanted):
            few = samples[:many].cpu()
            self.shown.append((self.trainer.steps, _picture(few, self.workload.kind)))

    # --- what is written -------------------------------------------------------------------------------------

    def _record(self) -> dict[str, Any]:
        w = self.workload
        record = _frame(self.case, self.device)
        self.watch.readings()
        budget = asdict(self.case) | ({} if self.case.seconds is not None else {"steps": self.steps})
        if self.shown and w.reference is not None:
            self._write_samples(w.reference)
        record |= {
            "case": budget,
            "status": "diverged" if self.went_wrong else "ok",
            "reason": self.went_wrong,
            "workload": {
                "kind": w.kind,
                "primary": w.primary,
                "target": w.target,
                "better": dict(BETTER) | dict(w.better),
                "notes": dict(w.notes),
            },
            "cost": {
                "wall_s": round(self._wall(), 3),
                "step_ms": _number(float(np.median(self.step_ms)) if self.step_ms else math.nan),
                "peak_mb": _peak_memory(self.device, self.memory_before),
                "passes": self.passes,
            },
            "readings": {name: [_number(v) for v in values] for name, values in self.readings.items()},
            "series": self._curves(),
            "final": self._final(),
            "alarms": [
                {
                    "detector": a.detector,
                    "step": a.step,
                    "reading": _number(a.reading),
                    "threshold": _number(a.threshold),
                    "meaning": a.meaning,
                }
                for a in self.watch.alarms
            ],
            "responses": [asdict(r) for t in self._responders() for r in t.responses],
        }
        return record

    def _final(self) -> dict[str, Any]:
        """The last readings, the oscillation readings, and whether the target was reached and held."""
        w, primary = self.workload, self.readings[self.workload.primary]
        below = (dict(BETTER) | dict(w.better)).get(w.primary) == "lower"
        fifth = self.losses["d_loss"][-max(4, math.ceil(len(self.losses["d_loss"]) / 5)) :]
        last = primary[-math.ceil(len(primary) / 5) :]
        found = {name: values[-1] for name, values in self.readings.items() if name != "step"}
        found |= {
            "d_loss_rms": series.detrended_rms(self.losses["d_loss"]),
            "g_loss_rms": series.detrended_rms(self.losses["g_loss"]),
            "dominant_share": series.dominant_share(fifth) if len(fifth) >= 4 else math.nan,
            "forgetting": series.forgetting([-v for v in primary] if below else primary),
            "held": series.held_share(primary, w.target, below=below),
        }
        record: dict[str, Any] = {name: _number(v) for name, v in found.items()}
        record["reached"] = series.reached(primary, w.target, below=below)
        held_to_the_end = all(v <= w.target if below else v >= w.target for v in last)
        record["success"] = not self.went_wrong and held_to_the_end
        return record

    def _curves(self) -> dict[str, list[float | None]]:
        """The losses as at most KEEP means over neighbouring steps."""
        count = len(self.losses["d_loss"])
        edges = np.linspace(0, count, min(KEEP, count) + 1).round().astype(int)
        curves: dict[str, list[float | None]] = {"step": [float(e) for e in edges[1:]]}
        for name, values in self.losses.items():
            numbers = values.double().numpy()
            curves[name] = [_number(numbers[a:b].mean()) for a, b in itertools.pairwise(edges)]
        return curves

    def _latest(self) -> dict[str, float | None]:
        return {name: _number(values[-1]) for name, values in self.readings.items() if name != "step"}

    def _write_samples(self, reference: Tensor) -> None:
        real = _picture(reference[: SHOWN[self.workload.kind]].cpu(), self.workload.kind)
        path = self.folder.samples(self.case)
        part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
        steps, samples = zip(*self.shown, strict=True)
        np.savez_compressed(part, step=np.array(steps), samples=torch.stack(samples).numpy(), real=real.numpy())
        os.replace(part, path)

    # --- interruption ----------------------------------------------------------------------------------------

    def _keep(self) -> None:
        path = self.folder.unfinished(self.case)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        state = {name: getattr(self, name) for name in self._KEPT} | {"wall": self._wall()}
        torch.save({"trainer": self.trainer.state_dict(), "run": state}, part)
        os.replace(part, path)
        self.written = time.perf_counter()

    _KEPT = ("readings", "losses", "shown", "spent", "step_ms", "wall", "passes")

    def _take_up(self) -> None:
        path = self.folder.unfinished(self.case)
        if not path.exists():
            return
        kept = torch.load(path, map_location="cpu", weights_only=True)
        self.trainer.load_state_dict(kept["trainer"])
        for name in self._KEPT:
            setattr(self, name, kept["run"][name])


def _frame(case: Case, device: torch.device) -> dict[str, Any]:
    """A record with nothing found yet."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "hash": case.hash,
        "case": asdict(case),
        "status": "failed",
        "reason": "",
        "traceback": "",
        "environment": environment(device)
        | {"dtype": "bfloat16 autocast" if case.amp else "float32", "threads": case.threads},
        "workload": {"kind": "other", "primary": None, "target": None, "better": {}, "notes": {}},
        "cost": {"wall_s": None, "step_ms": None, "peak_mb": None, "passes": {}},
        "readings": {},
        "series": {},
        "final": {},
        "alarms": [],
        "responses": [],
    }


@cache
def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers were made with."""
    on_gpu = device.type == "cuda"
    return {
        "stabilgan": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "tf32": bool(on_gpu and torch.backends.cuda.matmul.allow_tf32),
        "tf32_convolutions": bool(on_gpu and torch.backends.cudnn.allow_tf32),
    }


def _commit() -> str:
    """The commit of the checkout that the package runs from, or nothing where it is installed elsewhere."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@contextmanager
def _timer(device: torch.device) -> Iterator[Callable[[], float]]:
    """Yields what tells, afterwards, the seconds spent inside: by events on a GPU, which is waited for then."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record(torch.cuda.current_stream(device))

        def elapsed() -> float:
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000

        yield elapsed
        end.record(torch.cuda.current_stream(device))
    else:
        times = [time.perf_counter()]
        yield lambda: times[1] - times[0]
        times.append(time.perf_counter())


def _reset_peak_memory() -> float | None:
    """Sets this process's peak back to what it holds now (Linux), and returns that, in MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _peak_memory(device: torch.device, before: float | None) -> float | None:
    """MB: on a GPU the allocator's peak; on a CPU how far the process grew over what it held before the case."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    peak = _status("VmHWM")
    return None if before is None or peak is None else round(max(0.0, peak - before), 1)


def _status(name: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:")), None)


def _picture(x: Tensor, kind: str) -> Tensor:
    """Samples as they are kept: points in float32, images (n, H, W) or (n, C, H, W) in uint8."""
    if kind == "points":
        return x.float()
    if x.ndim == 2:
        side = math.isqrt(x.shape[1])
        x = x.view(-1, side, side)
    elif x.ndim == 4 and x.shape[1] == 1:
        x = x[:, 0]
    return x.float().nan_to_num(0, 0, 0).add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8)


def _number(value: float) -> float | None:
    """Six digits, or None where there is no number."""
    value = float(value)
    return float(f"{value:.6g}") if math.isfinite(value) else None
