"""Two DDP ranks stay equal, and compiled players play, with every trick in the registry."""

from __future__ import annotations

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
            (x,), fake = subject.world.batch(8, data), ddp_g(torch.randn(8, 4, generator=data))
            opt_d.zero_grad()
            game.loss.d(ddp_d(game.real(x)), ddp_d(game.fake(fake.detach()))).backward()
            opt_d.step()
            opt_g.zero_grad()
            game.loss.g(game.critic(fake), game.critic(x, real=True)).backward()
            opt_g.step()
        ends[name] = torch.cat([play.params(g), play.params(d)])
    g, d = play.players()
    half = slice(8 * rank, 8 * rank + 8)
    ends["half of the batch"] = _discriminator_steps(d, DistributedDataParallel(d), half)
    torch.save(ends, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_play_on_one_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


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
