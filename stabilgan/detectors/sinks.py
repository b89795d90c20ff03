"""Where a watch sends what it reads: a TensorBoard writer, a JSONL file, the terminal."""

from __future__ import annotations

import json
import math
import os
import secrets
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stabilgan.detectors.base import Alarm, Reading, Response

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


class AlarmWarning(UserWarning):
    """A detector raised an alarm; `Watch(warn=True)` issues it."""


class Writer(Protocol):
    """What is asked of a TensorBoard `SummaryWriter`, or of what stands in for one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...
    def add_text(self, tag: str, text_string: str, global_step: int) -> Any: ...


class Sink:
    """Is told each reading and each alarm, on the host, when it has arrived; every default does nothing."""

    def reading(self, reading: Reading) -> None:
        """A detector has answered."""

    def alarm(self, alarm: Alarm) -> None:
        """An episode has begun; the reading that it comes from was told before."""

    def response(self, response: Response) -> None:
        """Something was done about an alarm."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Losses that the loop has recorded, and norms of gradients, at a step of G at which detectors answer."""

    def flush(self) -> None:
        """All that has arrived at this moment was told."""

    def close(self) -> None:
        """The watch has left its game."""


class ToTensorBoard(Sink):
    """Scalars `stabilgan/<detector>` over G's steps, and alarms as text under `stabilgan/alarm`.

    Raises:
        TypeError: the writer has no `add_scalar` and `add_text`.
    """

    def __init__(self, writer: Writer) -> None:
        if not (hasattr(writer, "add_scalar") and hasattr(writer, "add_text")):
            raise TypeError(
                f"watch: writer is a {type(writer).__name__}; expected one with add_scalar and add_text, such as "
                "torch.utils.tensorboard.SummaryWriter('runs/1')"
            )
        self.writer = writer

    def reading(self, reading: Reading) -> None:
        if reading.value is not None:
            self.writer.add_scalar(f"stabilgan/{reading.detector}", reading.value, reading.step)

    def alarm(self, alarm: Alarm) -> None:
        self.writer.add_text("stabilgan/alarm", str(alarm), alarm.step)

    def response(self, response: Response) -> None:
        self.writer.add_text("stabilgan/response", str(response), response.step)


class ToFile(Sink):
    """Appends a JSON line for each reading, alarm and response and for the losses, each in one write.

    So no line is lost or cut by another. `stabilgan diagnose log` reads the file.

    `{"run": ..., "kind": "reading", "detector": ..., "step": ..., "value": ..., "threshold": ..., "state": ...,
    "text": ...}`, an alarm with `reading` and `meaning`, a response with `action`; numbers that are not finite are
    null. Losses: `{"run": ..., "kind": "numbers", "step": ..., "d_loss": ..., "g_loss": ..., "d_grad": ...,
    "g_grad": ...}`, as far as they were seen; there what is not finite is "nan", "inf" or "-inf". `run` tells the runs
    in one file apart. A run that is taken up again from a state keeps its own, and writes no line that is there
    already.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.run = secrets.token_hex(4)
        self._there: set[str] = set()

    def reading(self, reading: Reading) -> None:
        self._write("reading", asdict(reading))

    def alarm(self, alarm: Alarm) -> None:
        self._write("alarm", asdict(alarm))

    def response(self, response: Response) -> None:
        self._write("response", asdict(response))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._write("numbers", {"step": step} | {k: v if math.isfinite(v) else str(v) for k, v in values.items()})

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        line = json.dumps({"run": self.run, "kind": kind, **finite}, ensure_ascii=False)
        if line in self._there:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(end - 1, 0))
            cut = end > 0 and file.read(1) != b"\n"  # a run was stopped while it wrote
            file.write(b"\n" * cut + line.encode() + b"\n")

    def state_dict(self) -> dict[str, Any]:
        return {"run": self.run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.run = state["run"]
        mark = json.dumps({"run": self.run})[:-1]
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []
        self._there = {line for line in lines if line.startswith(mark)}


class ToTerminal(Sink):
    """A table of the latest readings that stays at the bottom of the terminal; nothing where there is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._latest: dict[str, Reading] = {}
        self._alarms: deque[Alarm] = deque(maxlen=3)
        self._live: Live | None = None

    def reading(self, reading: Reading) -> None:
        self._latest[reading.detector] = reading

    def alarm(self, alarm: Alarm) -> None:
        self._alarms.append(alarm)

    def flush(self) -> None:
        import rich
        from rich.live import Live

        console = self._console or rich.get_console()
        if not console.is_terminal:
            return
        if self._live is None:
            live = Live(console=console, auto_refresh=False)  # no thread of its own
            live.start()
            self._live = live
            weakref.finalize(self, live.stop)  # which gives the cursor back, at the end of the process at the latest
        self._live.update(self.view(), refresh=True)

    def view(self) -> RenderableType:
        """The table, and the latest alarms below it."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        step = max((r.step for r in self._latest.values()), default=0)
        table = Table("detector", "reading", "threshold", "state", "what it says", title=f"stabilgan, step {step}")
        styles = {"ok": "green", "alarm": "bold red", "unknown": "dim"}
        for r in self._latest.values():
            value = "" if r.value is None else f"{r.value:.4g}"
            threshold = "" if math.isnan(r.threshold) else f"{r.threshold:.4g}"
            table.add_row(r.detector, value, threshold, Text(r.state, styles[r.state]), Text(r.text))
        return Group(table, *(Text(str(alarm), "red") for alarm in self._alarms))

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
