"""A plain loop with DDP around D and G, in two gloo processes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import play
import pytest
import shapes
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import stabilgan
from stabilgan.checks import Reminder
from stabilgan.detectors import Divergence, Saturation
from stabilgan.tricks import parse

pytestmark = pytest.mark.slow
TRICKS = "replay:size=12+r1:weight=2+ema+minibatch:kernels=3:dims=2"
WAYS = ("raw", "no tricks", "no tricks, given DDP", "tricks")


def loop(way: str, rank: int, folder: str) -> dict[str, Any]:
    """Five steps on this rank's own data; the game is given the bare modules, or the wrapped ones."""
    torch.manual_seed(0)
    g, d = shapes.generator(), shapes.critic_net()
    opt_g, opt_d = shapes.adam(g), shapes.adam(d)
    watch = stabilgan.Watch([Saturation(window=2), Divergence()], every=2, log=f"{folder}/run.jsonl")
    game = None
    if way in ("no tricks", "tricks"):
        game = stabilgan.attach(g, d, opt_g, opt_d, [*parse(TRICKS), watch] if way == "tricks" else [])
    ddp_g, ddp_d = DistributedDataParallel(g), DistributedDataParallel(d)
    if way == "no tricks, given DDP":
        game = stabilgan.attach(ddp_g, ddp_d, opt_g, opt_d)
    s = shapes.Stage(ddp_g, ddp_d, opt_g, opt_d, game, torch.Generator().manual_seed(10 + rank))
    shapes.joint_backward(s, 5)
    heard = game is None or all(torch.equal(game.scores[v], s.answers[v][-1]) for v in ("real", "fake"))
    end = {"end": torch.cat([play.params(g), play.params(d)]), "heard": heard}
    if way == "tricks":
        end["readings"] = {k: v for k, v in game.readings().items() if isinstance(v, float)}
    return end


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error", stabilgan.LoopWarning)
    Reminder.PATIENCE = 2
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({way: loop(way, rank, folder) for way in WAYS}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_rank, (str(where),), nprocs=2)
    return where


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("way", WAYS)
def test_ranks_stay_equal_and_their_scores_are_heard(way: str, ranks: list[dict[str, Any]]) -> None:
    assert torch.equal(ranks[0][way]["end"], ranks[1][way]["end"])
    assert ranks[0][way]["heard"]
    assert ranks[1][way]["heard"]
    assert ranks[0][way]["end"].isfinite().all()


@pytest.mark.parametrize("way", WAYS[1:3])
def test_without_tricks_the_loop_is_the_raw_one_bit_for_bit(way: str, ranks: list[dict[str, Any]]) -> None:
    assert torch.equal(ranks[0][way]["end"], ranks[0]["raw"]["end"])


def test_tricks_act(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["tricks"]["end"].shape > ranks[0]["raw"]["end"].shape
    n = sum(p.numel() for p in shapes.generator().parameters())
    assert not torch.equal(ranks[0]["tricks"]["end"][:n], ranks[0]["raw"]["end"][:n])


def test_each_rank_watches_and_only_the_first_writes(ranks: list[dict[str, Any]], folder: Path) -> None:
    assert (
        ranks[0]["tricks"]["readings"].keys() == ranks[1]["tricks"]["readings"].keys() == {"saturation", "divergence"}
    )
    lines = (folder / "run.jsonl").read_text().splitlines()
    assert len([line for line in lines if '"reading"' in line]) == 4  # two detectors, two readings each
