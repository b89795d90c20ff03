"""Two DDP ranks stay equal, and compiled players play, with every trick in the registry."""

from __future__ import annotations

from pathlib import Path

import play
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import stabilgan
from stabilgan import losses
from stabilgan.testing import PROMISES, Promise
from stabilgan.tricks import TRICKS

pytestmark = pytest.mark.slow
ON_RANKS = sorted(name for name, trick in TRICKS.items() if "ranks" not in trick.limits)


def _discriminator_steps(d: nn.Module, called: nn.Module, rows: slice) -> torch.Tensor:
    opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
    g = play.generator_net()
    game = stabilgan.attach(g, called, play.sgd(g), opt_d, [stabilgan.R1(5.0), stabilgan.R2(3.0)])
    data = torch.Generator().manual_seed(5)
    for _ in range(3):
        x, fake = play.ring(16, data)[rows], play.ring(16, data)[rows] * 0.5
        opt_d.zero_grad()
        losses.logistic.d(called(game.real(x)), called(game.fake(fake))).backward()
        opt_d.step()
    return play.params(d)


def _answers(rank: int, do: str, folder: str) -> tuple[list[torch.Tensor], list[str]]:
    """A game whose second rank alone is in alarm, now and then: the weights after each step, and what was done."""
    g, d = play.players()
    opt_g, opt_d = play.adam(g), play.adam(d)
    respond = stabilgan.Respond(on="says", do=do, every=2, cooldown=4, budget=9, folder=folder)  # type: ignore[arg-type]
    watch = stabilgan.Watch([play.Says(*((6, 8, 11, 12) if rank else ()))], every=1)
    game = stabilgan.attach(g, d, opt_g, opt_d, [respond, watch], loss=losses.logistic)
    ddp_g, ddp_d = DistributedDataParallel(g), DistributedDataParallel(d)
    data, after = torch.Generator().manual_seed(10 + rank), list[torch.Tensor]()
    for _ in range(13):
        _turns(game, ddp_g, ddp_d, play.ring(8, data), data)
        after.append(torch.cat([play.params(g), play.params(d)]))
    return after, [str(response) for response in respond.responses]


def _turns(game: stabilgan.Game, g: nn.Module, d: nn.Module, x: torch.Tensor, data: torch.Generator) -> None:
    assert game.loss is not None
    fake = g(torch.randn(8, 4, generator=data))
    game.opt_d.zero_grad()
    game.loss.d(d(game.real(x)), d(game.fake(fake.detach()))).backward()
    game.opt_d.step()
    game.opt_g.zero_grad()
    game.loss.g(game.critic(fake), game.critic(x, real=True)).backward()
    game.opt_g.step()


def _play_on_one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    ends: dict[str, torch.Tensor] = {}
    for name in ON_RANKS:
        subject = play.subject(name)
        g, d = subject.world.players()
        opt_g, opt_d = play.adam(g), play.adam(d)
        game = stabilgan.attach(g, d, opt_g, opt_d, [play.trick(name)], loss=subject.loss)
        ddp_g, ddp_d = DistributedDataParallel(g), DistributedDataParallel(d)
        data = torch.Generator().manual_seed(10 + rank)  # each rank its own samples
        for _ in range(3):
            (x,) = subject.world.batch(8, data)
            _turns(game, ddp_g, ddp_d, x, data)
        ends[name] = torch.cat([play.params(g), play.params(d)])
    g, d = play.players()
    half = slice(8 * rank, 8 * rank + 8)
    ends["half of the batch"] = _discriminator_steps(d, DistributedDataParallel(d), half)
    for do in ("rollback", "save"):
        after, done = _answers(rank, do, folder)
        ends[do] = torch.stack(after)
        Path(folder, f"{do}{rank}.txt").write_text("\n".join(done))
    torch.save(ends, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, torch.Tensor]], Path]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_play_on_one_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)], folder


@pytest.fixture(scope="module")
def ranks(played: tuple[list[dict[str, torch.Tensor]], Path]) -> list[dict[str, torch.Tensor]]:
    return played[0]


def test_an_alarm_of_one_rank_takes_both_back_to_the_same_snapshot(
    played: tuple[list[dict[str, torch.Tensor]], Path],
) -> None:
    """The second alarm comes within the cooldown, when one rank must not trust what the other does not."""
    (first, second), folder = played
    done = [(folder / f"rollback{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert done[0] == done[1]
    assert [line.partition(",")[0] for line in done[0]] == ["rollback at step 6", "rollback at step 12"]
    assert torch.equal(first["rollback"], second["rollback"])
    assert all("the weights of step 2;" in line for line in done[0])
    after = {step: first["rollback"][step - 1] for step in range(1, 14)}
    assert torch.equal(after[6], after[2])
    assert torch.equal(after[12], after[2])
    assert not torch.equal(after[11], after[2])


def test_an_alarm_of_one_rank_is_saved_by_the_first(played: tuple[list[dict[str, torch.Tensor]], Path]) -> None:
    (first, second), folder = played
    assert torch.equal(first["save"], second["save"])
    said, told = ((folder / f"save{rank}.txt").read_text().splitlines() for rank in (0, 1))
    files = [str(folder / f"says-{step}.pt") for step in (6, 12)]
    assert sorted(map(str, folder.glob("says-*.pt"))) == sorted(files)
    for lines in (said, told):
        assert [line.rpartition(" ")[2] for line in lines] == files
    assert "the first rank saves" in told[0]
    assert "saved to" in said[0]


@pytest.mark.parametrize("name", ON_RANKS)
def test_two_ranks_stay_equal(name: str, ranks: list[dict[str, torch.Tensor]]) -> None:
    assert torch.equal(ranks[0][name], ranks[1][name])
    start = torch.cat([play.params(net) for net in play.subject(name).world.players()])
    assert ranks[0][name].shape != start.shape or not torch.equal(ranks[0][name], start)


def test_two_ranks_with_half_a_batch_each_penalise_as_one_with_the_whole(ranks: list[dict[str, torch.Tensor]]) -> None:
    _, d = play.players()
    whole = _discriminator_steps(d, d, slice(0, 16))
    torch.testing.assert_close(ranks[0]["half of the batch"], whole, rtol=1e-5, atol=1e-6)
    assert torch.equal(ranks[0]["half of the batch"], ranks[1]["half of the batch"])


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("promise", [promise for promise in PROMISES if promise.slow], ids=lambda promise: promise.name)
@pytest.mark.parametrize("name", sorted(TRICKS))
def test_every_trick_keeps_the_slow_promises_or_says_that_it_can_not(name: str, promise: Promise) -> None:
    play.hold(promise, play.subject(name))


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("name", ["minibatch", "r1", "spectral_norm"])  # kernels are made of the graph: slow
def test_players_compiled_to_kernels_give_what_eager_ones_give(name: str) -> None:
    def end(compiled: bool) -> torch.Tensor:
        torch.compiler.reset()
        g, d = play.players()
        t = stabilgan.Trainer(
            g, d, play.sgd(g), play.sgd(d), [play.trick(name)], latent=4, batch_size=8, compile=compiled
        )
        t.fit(play.ring, 3)
        return torch.cat([play.params(t.game.g), play.params(t.game.d)])

    torch.testing.assert_close(end(True), end(False), rtol=1e-4, atol=1e-5)


def test_a_game_looks_through_compile_and_ddp() -> None:
    g, d = play.players()
    game = stabilgan.attach(torch.compile(g), torch.compile(d), play.adam(g), play.adam(d))
    assert game.g is g
    assert game.d is d
    assert isinstance(game.d, nn.Module)
