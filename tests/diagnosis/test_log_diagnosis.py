"""Whole logs, from the file to the finding; and what is wrong with a file is said in one line."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch

from stabilgan import Trainer, workloads
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.log import diagnose_log
from stabilgan.diagnosis.log.read import read_log
from stabilgan.diagnosis.log.store import Column

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import logs as posted  # benchmarks/logs.py


def lines(n: int, *, start: int = 0, d: float = 1.2, g: float = 0.9, jitter: float = 0.2, seed: int = 0) -> str:
    rng = random.Random(seed)
    return "".join(
        f"step {start + i} d_loss: {d + rng.uniform(-jitter, jitter):.4f} g_loss: "
        f"{g + rng.uniform(-jitter, jitter):.4f}\n"
        for i in range(n)
    )


def test_a_clean_log_of_a_known_loss_is_healthy() -> None:
    diagnosis = diagnose_log(io.StringIO(lines(200)), loss="bce")
    assert diagnosis.verdict == "healthy"
    assert any("D's loss" in note and "d_loss" in note for note in diagnosis.notes)


def test_a_short_excerpt_is_not_told() -> None:
    assert diagnose_log(io.StringIO(lines(5)), loss="bce").verdict == "cannot tell"


def test_one_line_in_which_both_losses_settle_it_is_enough() -> None:
    diagnosis = diagnose_log(io.StringIO("Loss_D: 0.0000 Loss_G: 57.0000 D(x): 1.0000 D(G(z)): 0.0000 / 0.0000"))
    assert diagnosis.found("discriminator_saturated") is not None


def test_of_several_discriminators_the_bad_one_is_named() -> None:
    rng = random.Random(0)
    text = "".join(
        f"(epoch: 1, iters: {i}, time: 0.1, data: 0.2) D_A: {0.2 + rng.uniform(-0.1, 0.1):.3f} G_A: "
        f"{0.4 + rng.uniform(-0.1, 0.1):.3f} cycle_A: 1.1 D_B: 0.000 G_B: {0.98 + rng.uniform(-0.01, 0.01):.3f} \n"
        for i in range(100, 5000, 100)
    )
    found = diagnose_log(io.StringIO(text), loss="lsgan")
    assert found.findings == () or all("D B" in e.text for f in found.findings for e in f.evidence)
    assert any("D_B" in note for note in found.notes)


def test_a_mapping_overrides_what_names_say() -> None:
    text = "".join(f"step {i} first: {1.2 + i % 7 / 50} second: {0.9 + i % 5 / 50} d_loss: 0.0\n" for i in range(60))
    diagnosis = diagnose_log(io.StringIO(text), mapping={"d_loss": "first", "g_loss": "second"}, loss="bce")
    assert any(note.startswith("first was taken for D's loss") for note in diagnosis.notes)
    assert diagnosis.found("discriminator_saturated") is None


def test_a_mapped_name_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'd_loss'"):
        diagnose_log(io.StringIO(lines(9)), mapping={"d_loss": "d_los"})
    with pytest.raises(InputError, match="did you mean 'd_loss'"):
        diagnose_log(io.StringIO(lines(9)), mapping={"dloss": "d_loss"})


def test_a_mistyped_loss_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean"):
        diagnose_log(io.StringIO(lines(9)), loss="lsgann")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n\n   \n", "nothing in it"),
        (b"hello\nworld\n", "no number with a name"),
        (b"1\n2\n3\n", "no number with a name"),
        (bytes(range(256)) * 20, "not text"),
        (b"\x1f\x8b\x08\x00damaged", "gzip"),
        (b"\n<!DOCTYPE html>\n<html><body>404 after 0.2 s</body></html>", "an HTML page, not a log"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        diagnose_log(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_empty_folder_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        diagnose_log(tmp_path / "nothing.txt")
    with pytest.raises(InputError, match="without event files"):
        diagnose_log(tmp_path)


def test_numbers_without_losses_are_not_told_and_the_mapping_is_named() -> None:
    diagnosis = diagnose_log(io.StringIO("speed: 3.5\nspeed: 3.6\n"))
    assert diagnosis.verdict == "cannot tell"
    assert "mapping=" in diagnosis.undecided


def test_gzip_and_open_streams_read_the_same(tmp_path: Path) -> None:
    text = lines(50)
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(text.encode()))
    said = {diagnose_log(x).evidence for x in (path, io.StringIO(text), io.BytesIO(text.encode()))}
    assert len(said) == 1


def test_rows_that_can_not_be_read_are_listed_and_strict_refuses_them() -> None:
    text = "step,d_loss,g_loss\n" + "".join(f"{i},1.{i % 10},0.9\n" for i in range(30)) + "7,8\n"
    assert diagnose_log(io.StringIO(text)).skipped == (("row 32", "2 cells, where the header has 3"),)
    with pytest.raises(InputError, match="row 32"):
        diagnose_log(io.StringIO(text), strict=True)


def test_a_run_that_was_started_anew_is_judged_by_itself() -> None:
    broken = lines(100) + "".join(f"step {100 + i} d_loss: nan g_loss: nan\n" for i in range(20))
    diagnosis = diagnose_log(io.StringIO(broken + lines(200, seed=1)), loss="bce")
    assert diagnosis.verdict == "healthy"
    assert any("goes back 1 times" in note for note in diagnosis.notes)


def test_two_processes_in_one_file_are_told_apart() -> None:
    a, b = lines(60).splitlines(), lines(60, d=0.0, g=60.0, jitter=0.0).splitlines()
    text = "\n".join(line for pair in zip(a, b, strict=True) for line in pair)
    diagnosis = diagnose_log(io.StringIO(text), loss="bce")
    assert any("same time" in note for note in diagnosis.notes)
    assert diagnosis.found("discriminator_saturated") is not None


def test_runs_that_can_not_be_told_apart_get_no_clean_bill() -> None:
    a, b = lines(60).splitlines(), lines(60, d=0.0, g=60.0, jitter=0.0).splitlines()
    late = [line.replace("step ", "step 9", 1) for line in b]
    text = "\n".join(line for pair in zip(a, late, strict=True) for line in pair)
    diagnosis = diagnose_log(io.StringIO(text), loss="bce")
    assert diagnosis.verdict == "cannot tell"
    assert "give each run a file of its own" in diagnosis.undecided


def test_thinning_keeps_extremes_and_the_first_nan() -> None:
    column = Column()
    for i in range(300_000):
        column.push(i, 1e9 if i == 123_457 else float("nan") if i == 234_567 else 1.0)
    series = column.series("x")
    assert len(series) < 70_000
    assert series.seen == 300_000
    assert series.first_bad == 234_567
    assert series.step[series.value == 1e9].tolist() == [123_457]


def big(path: Path, megabytes: float) -> None:
    with path.open("w") as file:
        rng, i = random.Random(0), 0
        while file.tell() < megabytes * 1e6:
            for _ in range(1000):
                i += 1
                late = i > 150_000
                d, g = (0.00001, 60.0) if late else (1.2 + rng.random() / 5, 0.9 + rng.random() / 5)
                file.write(f"[{i // 1500}/900][{i % 1500}/1500]\tLoss_D: {d:.4f}\tLoss_G: {g:.4f}\n")


def _grown(path: Path) -> float:
    tracemalloc.start()
    diagnosis = diagnose_log(path, loss="bce")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = diagnosis.found("discriminator_saturated")
    assert found is not None
    assert found.onset == pytest.approx(150_000, rel=0.01)
    return peak / 1e6


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    big(tmp_path / "log.txt", 14)
    assert _grown(tmp_path / "log.txt") < 40


@pytest.mark.slow
def test_memory_does_not_grow_with_a_large_file(tmp_path: Path) -> None:
    big(tmp_path / "log.txt", 150)
    assert _grown(tmp_path / "log.txt") < 40


STREAM = """
import io, random, resource
from stabilgan.diagnosis.log import diagnose_log


class Printed(io.TextIOBase):
    def __init__(self, megabytes):
        rng = random.Random(0)
        rows = (f"Loss_D: {1.2 + rng.random() / 5:.4f} Loss_G: {0.9 + rng.random() / 5:.4f}" for _ in range(5000))
        self.block = chr(10).join(rows) + chr(10)
        self.left = int(megabytes * 1e6 / len(self.block))

    def read(self, size=-1):
        self.left -= size != 0
        return self.block if size and self.left >= 0 else ""


for megabytes in (30, 120):
    diagnose_log(Printed(megabytes), loss="bce")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_the_memory_of_the_process_does_not_grow_with_a_stream() -> None:
    done = subprocess.run([sys.executable, "-c", STREAM], capture_output=True, text=True, check=True)
    small, large = (int(peak) * (1 if sys.platform == "darwin" else 1024) / 1e6 for peak in done.stdout.split())
    assert large - small < 20  # of 90 more megabytes; the rows as numbers alone would be 50


def test_event_files_of_tensorboard_are_read(tmp_path: Path) -> None:
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    out = writer.EventFileWriter(str(tmp_path))
    for i in range(60):
        for tag, value in (("Loss/D", 0.0), ("Loss/G", 40.0 + i % 3)):
            out.add_event(Event(step=i * 10, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    out.close()
    found = diagnose_log(tmp_path, loss="bce").found("discriminator_saturated")
    assert found is not None
    assert found.onset == 0


def test_without_tensorboard_event_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        diagnose_log(tmp_path)


def test_the_report_is_plain_json() -> None:
    json.dumps(diagnose_log(io.StringIO(lines(30))).to_json(), allow_nan=False)


def test_progress_is_told_bytes(tmp_path: Path) -> None:
    path, told = tmp_path / "log.txt", list[tuple[int, int | None]]()
    path.write_text(lines(2000))
    read_log(path, progress=lambda done, size: told.append((done, size)))
    assert told[-1] == (path.stat().st_size, path.stat().st_size)


@pytest.mark.data
def test_of_logs_that_people_posted_none_is_diagnosed_wrongly_and_most_rightly() -> None:
    root = os.environ.get("STABILGAN_DATA")
    path = Path(root or "nowhere").parent / "cases" / "logs.jsonl"
    if root is None or not path.is_file():
        pytest.skip("the posted logs are not here")
    told = posted.accuracy([posted.judge(case, infer=False) for case in posted.load(path)])
    assert told["wrong"] == 0
    assert told["right_of_all"] >= 0.8
    inferred = posted.accuracy([posted.judge(case, infer=True) for case in posted.load(path)])
    assert inferred["wrong"] <= 1


@pytest.mark.data
@pytest.mark.slow
def test_the_dense_mnist_gan_is_found_saturated_within_its_first_epoch_by_what_it_prints(data_dir: Path) -> None:
    torch.manual_seed(0)
    w = workloads.make("mnist", data_dir=data_dir)
    trainer = Trainer(w.g, w.d, w.opt_g, w.opt_d, [], latent=w.latent, batch_size=w.batch_size, seed=0)
    printed = []
    for step in range(50, 601, 50):
        trainer.fit(w.data, 50)
        with torch.no_grad():
            real = w.d(w.data[:500]).sigmoid().mean()
            fake = w.d(trainer.sample(500)).sigmoid().mean()
        losses = trainer.game.losses
        printed.append(
            f"step {step}, d_loss: {losses['d_loss']:.4f}, g_loss: {losses['g_loss']:.2f}, D(x): {real:.2f}, "
            f"D(G(z)): {fake:.2f}"
        )
    found = diagnose_log(io.StringIO("\n".join(printed))).found("discriminator_saturated")
    assert found is not None, printed
    assert found.onset is not None
    assert found.onset <= 600


def test_a_run_that_is_resumed_without_a_number_is_no_clean_bill() -> None:
    resumed = "".join(f"step {200 + i} d_loss: nan g_loss: nan\n" for i in range(8))
    found = diagnose_log(io.StringIO(lines(300) + resumed), loss="bce").found("divergence")
    assert found is not None
    assert diagnose_log(io.StringIO(lines(300) + lines(8, start=200)), loss="bce").verdict == "healthy"
