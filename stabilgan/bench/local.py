"""Cases in parallel processes on this machine, one process for each, so that no case sees what another left behind."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from stabilgan.bench.plan import Case, Folder

GRACE_SECONDS = 30.0


@dataclass
class Progress:
    """What the display is told: a case has begun, has been judged, or has ended (with its record)."""

    case: Case
    event: str
    done: int = 0
    total: int = 0
    readings: Mapping[str, float | None] | None = None
    record: Mapping[str, Any] | None = None


def jobs_for(device: str, threads: int) -> int:
    """Cases at a time: as many as the cores have room for, or four on a GPU, which small networks leave mostly idle."""
    if device.startswith("cuda"):
        return 4
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def run_all(
    cases: Iterable[Case],
    folder: Folder,
    *,
    jobs: int,
    device: str = "cpu",
    data_dir: Path | None = None,
    save_every: float = 20.0,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Runs the cases that have no record yet; each becomes a record, whatever happens to its process.

    On KeyboardInterrupt the running cases keep what they have done and stop; the exception goes on. A second one
    ends them at once.
    """
    context = clean_processes()
    waiting = [case for case in cases if not folder.record(case).exists()]
    running: dict[Connection, tuple[Case, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                case = waiting.pop(0)
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(case, folder, device, data_dir, save_every, theirs), daemon=True
                )
                process.start()
                theirs.close()
                running[ours] = (case, process)
                tell(Progress(case, "begun"))
            for connection in cast(list[Connection], wait(list(running))):
                case, process = running[connection]
                try:
                    tell(connection.recv())
                except (EOFError, ConnectionResetError):
                    process.join()
                    del running[connection]
                    connection.close()
                    tell(Progress(case, "ended", record=_outcome(case, folder, process.exitcode, device)))
    except BaseException:
        _wind_down(running)
        raise


def clean_processes() -> SpawnContext | ForkServerContext:
    """A fork server imports torch once, before any thread or GPU is started, and forks a process for a case."""
    if "forkserver" not in mp.get_all_start_methods() or sys.platform == "darwin":  # Apple's frameworks don't fork
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["stabilgan.bench.run"])
    return context


def _outcome(case: Case, folder: Folder, exitcode: int | None, device: str) -> Mapping[str, Any]:
    import json

    import torch

    from stabilgan.bench.run import died

    path = folder.record(case)
    if path.exists():
        found: Mapping[str, Any] = json.loads(path.read_text())
        return found
    how = (
        f"signal {signal.Signals(-exitcode).name}" if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"
    )
    hint = "; out of memory? try fewer --jobs" if exitcode == -9 else ""
    return died(case, folder, f"its process ended with {how}{hint}", torch.device(device))


def _wind_down(running: Mapping[Connection, tuple[Case, Any]]) -> None:
    """Asks the running cases to keep what they have and stop."""
    try:
        for connection in running:
            try:
                connection.send("stop")
            except OSError:
                continue
        deadline = time.monotonic() + GRACE_SECONDS
        for _, process in running.values():
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for _, process in running.values():
            process.kill()


def _end_with(above: BaseProcess) -> None:
    """Not to outlive a bench that was killed."""
    above.join()
    os._exit(1)


def _work(
    case: Case, folder: Folder, device: str, data_dir: Path | None, save_every: float, parent: Connection
) -> None:
    """In the case's own process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to stop
    above = mp.parent_process()
    assert above is not None
    logging.getLogger("stabilgan").setLevel(logging.ERROR)  # alarms go into the record
    threading.Thread(target=_end_with, args=(above,), daemon=True).start()

    import torch

    from stabilgan.bench.run import Stopped, run

    def tell(done: int, total: int, readings: Mapping[str, float | None]) -> None:
        with contextlib.suppress(OSError):  # the bench is gone; poll says so too, and the case is kept
            parent.send(Progress(case, "judged", done, total, readings))

    try:
        run(
            case,
            folder,
            device=torch.device(device),
            data_dir=data_dir,
            save_every=save_every,
            tell=tell,
            stop=parent.poll,
        )
    except Stopped:
        return
