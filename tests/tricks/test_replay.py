"""Experience replay: what D is shown, what is kept, and what it costs."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stabilgan import host
from stabilgan.game import Game, attach
from stabilgan.tricks.replay import POLICIES, One, Pool, Replay, half_plan, reservoir_plan, swap_plan


def numbers(seed: int) -> Iterator[float]:
    """One number at a time from torch's own generator: what a pool written as a loop would draw."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.rand((), dtype=torch.float64, generator=generator).item()


class ImagePool:
    """CycleGAN's image pool as its description reads: images one by one, in a list of tensors."""

    def __init__(self, size: int, p: float, draw: Iterator[float]) -> None:
        self.size, self.p, self.draw = size, p, draw
        self.images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        shown = []
        for image in images:
            if len(self.images) < self.size:
                self.images.append(image.clone())
                shown.append(image)
                continue
            coin, slot = next(self.draw), int(next(self.draw) * self.size)
            if coin < self.p:
                shown.append(self.images[slot].clone())
                self.images[slot] = image.clone()
            else:
                shown.append(image)
        return torch.stack(shown) if shown else images


class Vitter:
    """Algorithm R, item by item."""

    def __init__(self, size: int, draw: Iterator[float]) -> None:
        self.size, self.draw, self.t = size, draw, 0
        self.items: list[float] = []

    def offer(self, item: float) -> None:
        self.t += 1
        if self.t <= self.size:
            self.items.append(item)
        elif (slot := int(next(self.draw) * self.t)) < self.size:
            self.items[slot] = item


def stream(seed: int) -> Callable[[int], np.ndarray]:
    draw = numbers(seed)
    return lambda k: np.array(list(itertools.islice(draw, k)), dtype=np.float64)


def play(trick: Replay, seed: int = 0) -> Game:
    """A game between two single layers, with the trick alone."""
    g, d = nn.Linear(1, 1), nn.Linear(1, 1)
    return attach(g, d, torch.optim.SGD(g.parameters(), 0.1), torch.optim.SGD(d.parameters(), 0.1), [trick], seed=seed)


def numbered(sizes: list[int]) -> Iterator[Tensor]:
    """Batches whose images carry running numbers, so that each can be recognised."""
    first = 0
    for n in sizes:
        yield torch.arange(first, first + n, dtype=torch.float32).view(n, 1, 1).expand(n, 2, 3).contiguous()
        first += n


def ids(x: Tensor) -> list[int]:
    assert (x == x[:, :1, :1]).all()
    return [int(i) for i in x[:, 0, 0].tolist()]


def without_replacement(counts: np.ndarray, share: float) -> float:
    """P(χ² this large) for counts of items, a share of which was chosen in each run, none twice.

    The covariance of the indicators is share (1 - share) n/(n - 1) times the projection off the mean.
    """
    n = len(counts)
    return float(stats.chi2.sf(stats.chisquare(counts).statistic / (1 - share) * (n - 1) / n, n - 1))


batch_sizes = st.lists(st.integers(0, 12), min_size=1, max_size=12)


@given(batch_sizes, st.integers(1, 9), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_swap_is_the_image_pool_one_by_one(sizes: list[int], size: int, p: float, seed: int) -> None:
    theirs = ImagePool(size, p, numbers(seed))
    ours = Pool(size)
    draw = stream(seed)
    for x in numbered(sizes):
        (shown,) = ours.exchange([x], swap_plan(len(x), ours.filled, size, p, draw))
        assert ids(shown) == ids(theirs.query(x))
        assert ids(ours.storages[0][: ours.filled]) == [int(i[0, 0]) for i in theirs.images]


def test_the_trick_in_a_game_draws_what_the_image_pool_would() -> None:
    trick = Replay(size=5, p=0.7)
    game = play(trick, seed=3)
    theirs = ImagePool(5, 0.7, numbers(game.generator(trick).initial_seed()))
    for x in numbered([3, 8, 1, 1, 200, 1, 7, 400, 2]):  # past the numbers drawn ahead, too
        assert ids(game.fake(x)) == ids(theirs.query(x))


def test_one_batch_of_eight_swaps_as_eight_batches_of_one() -> None:
    together, apart = play(Replay(size=4)), play(Replay(size=4))
    for x in numbered([8] * 10):
        assert ids(together.fake(x)) == [ids(apart.fake(image))[0] for image in x.split(1)]


@given(batch_sizes, st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_reservoir_keeps_what_algorithm_r_keeps(sizes: list[int], size: int, seed: int) -> None:
    theirs = Vitter(size, numbers(seed))
    ours, draw, offered = Pool(size), stream(seed), 0
    for x in numbered(sizes):
        ours.exchange([x], reservoir_plan(len(x), offered, size, 0.0, draw))
        offered += len(x)
        next(theirs.draw)  # each batch rounds its share; at share 0 it shows nothing
        for i in ids(x):
            theirs.offer(i)
        assert ids(ours.storages[0][: ours.filled]) == theirs.items


def test_reservoir_is_uniform_over_all_history() -> None:
    history, size, runs = 40, 8, 3000
    kept, shown = np.zeros(history), np.zeros(history)
    for seed in range(runs):
        pool, offered = Pool(size), 0
        draw = np.random.default_rng(seed).random
        for n in (7, 16, 1, 1, 15):
            x = torch.arange(offered, offered + n).view(n, 1)
            pool.exchange([x], reservoir_plan(n, offered, size, 0.0, draw))
            offered += n
        kept[pool.storages[0].flatten().numpy()] += 1
        # 4 distinct ones of the 8, shown to a batch that asks for half
        old = pool.exchange([torch.full((8, 1), -1)], reservoir_plan(8, offered, size, 0.5, draw))[0].flatten()
        shown[old[old >= 0].numpy()] += 1
    assert kept.sum() == runs * size
    assert shown.sum() == runs * size / 2
    assert 0.001 < without_replacement(kept, size / history) < 0.999
    assert 0.001 < without_replacement(shown, size / 2 / history) < 0.999


def test_swap_shows_and_keeps_evenly_over_slots() -> None:
    draw = np.random.default_rng(0).random
    slots = np.concatenate([swap_plan(64, 20, 20, 0.5, draw).slots for _ in range(400)])
    singles = [one.slot for _ in range(8000) if (one := swap_plan(1, 20, 20, 0.5, draw)).slot is not None]
    assert abs(len(singles) - 4000) < 4 * np.sqrt(2000)
    for chosen in (slots, np.array(singles)):
        assert stats.chisquare(np.bincount(chosen, minlength=20)).pvalue > 0.001


def test_half_chooses_every_slot_as_often() -> None:
    draw = np.random.default_rng(0).random
    shown, over = np.zeros(10), np.zeros(10)
    for _ in range(4000):
        plan = half_plan(6, 10, 10, 0.5, draw)
        assert len(set(plan.slots)) == len(set(plan.places)) == 3
        shown[plan.slots] += 1
        over[plan.places] += 1
    assert without_replacement(shown, 0.3) > 0.001
    assert without_replacement(over, 0.3) > 0.001


def test_half_shows_a_share_of_old_ones_and_overwrites_as_many() -> None:
    game = play(trick := Replay(size=12, policy="half"))
    batches = list(numbered([8, 8, 8, 8, 8, 3]))
    assert ids(game.fake(batches[0])) == list(range(8))  # nothing is old yet
    assert ids(trick._pool.storages[0][:4]) == [4, 5, 6, 7]
    for i, x in enumerate(batches[1:5], 1):
        before = ids(trick._pool.storages[0][: trick._pool.filled])
        shown = ids(game.fake(x))
        after = ids(trick._pool.storages[0][: trick._pool.filled])
        assert shown[:4] == ids(x)[:4]
        assert len(set(shown[4:])) == 4
        assert set(shown[4:]) <= set(before)
        assert set(after) - set(before) == set(ids(x)[4:])
        assert len(after) == min(12, 4 * (i + 1))
    shown = ids(game.fake(batches[5]))
    assert sum(i < 40 for i in shown) in (1, 2)  # 1.5 on average


@pytest.mark.parametrize("policy", ["half", "reservoir"])
@pytest.mark.parametrize(("n", "share"), [(1, 0.5), (1, 0.2), (5, 0.3)])
def test_the_share_holds_on_average_where_it_is_not_whole(policy: str, n: int, share: float) -> None:
    game = play(Replay(size=10, policy=policy, share=share))
    old = total = 0
    for i, x in enumerate(numbered([n] * 3000)):
        if i >= 100:
            old += sum(k < i * n for k in ids(game.fake(x)))
            total += n
        else:
            game.fake(x)
    # Each batch rounds once: its variance is at most ¼.
    assert abs(old - share * total) < 4 * np.sqrt(2900 / 4)


@pytest.mark.parametrize("policy", POLICIES)
@given(batch_sizes, st.integers(1, 9), st.sampled_from([0.3, 0.5, 1.0]), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_only_what_has_been_made_is_shown_whatever_the_sizes(
    policy: str, sizes: list[int], size: int, strength: float, seed: int
) -> None:
    trick = Replay(size=size, policy=policy, p=strength, share=strength)
    game = play(trick, seed=seed)
    made = 0
    for x in numbered(sizes):
        before = set(ids(trick._pool.storages[0][: trick._pool.filled])) if made else set()
        shown = ids(game.fake(x))
        made += len(x)
        assert len(shown) == len(x)
        assert all(i in before or made - len(x) <= i < made for i in shown)
        if trick._pool.storages:
            held = ids(trick._pool.storages[0][: trick._pool.filled])
            assert len(set(held)) == len(held) <= min(size, made)  # nothing twice, nothing that was never written
            assert set(held) <= before | set(ids(x))


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n", [1, 6])
def test_labels_and_nested_tensors_travel_with_their_samples(policy: str, n: int) -> None:
    game = play(Replay(size=7, policy=policy))
    old = 0
    for i, x in enumerate(numbered([n] * 60)):
        number = x[:, 0, 0]
        y = number.long()
        nest = {"mask": number[:, None] > 3, "pair": Pair(-number, [number.double(), None])}
        x, y, nest = game.fake(x, y, nest)
        number = x[:, 0, 0]
        old += int((number < i * n).sum())
        assert torch.equal(y, number.long())
        assert torch.equal(nest["mask"], number[:, None] > 3)
        assert isinstance(nest["pair"], Pair)
        assert torch.equal(nest["pair"].a, -number)
        assert torch.equal(nest["pair"].b[0], number.double())
        assert nest["pair"].b[1] is None
    assert old > 10


@pytest.mark.parametrize("policy", POLICIES)
def test_off_means_that_x_itself_comes_back(policy: str) -> None:
    trick = Replay(size=4, policy=policy, **Replay.off)
    game = play(trick)
    for _ in range(3):
        x, y = torch.randn(5, 2, requires_grad=True), torch.arange(5)
        shown, label = game.fake(x, y)
        assert shown is x
        assert label is y
    assert not trick._pool.storages


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n", [1, 6])
def test_what_is_shown_never_shares_memory_with_the_pool_and_has_no_gradient(policy: str, n: int) -> None:
    game = play(trick := Replay(size=5, policy=policy))
    for _ in range(40):
        x = torch.randn(n, 3, requires_grad=True)
        before = x.detach().clone()
        shown, label = game.fake(x, torch.randn(n, requires_grad=True))
        held = trick._pool.storages[0][: trick._pool.filled]
        before_too = held.clone()
        assert not shown.requires_grad
        assert not label.requires_grad
        assert torch.equal(x, before)
        with torch.no_grad():
            shown.zero_()
            x.zero_()
        assert torch.equal(held, before_too)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_layout_that_is_not_contiguous_changes_nothing_but_the_way(policy: str) -> None:
    plain, permuted = play(Replay(size=9, policy=policy)), play(Replay(size=9, policy=policy))
    for n in [4, 6, 16, 1, 6, 6, 3, 20, 6]:
        x = torch.randn(n, 3, 4, 5)
        other = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(plain.fake(x), shown := permuted.fake(other))
        if n > 1:
            assert shown.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.bool, torch.complex64]
)
def test_dtype_follows_the_input(policy: str, dtype: torch.dtype) -> None:
    game, reference = play(Replay(size=4, policy=policy)), play(Replay(size=4, policy=policy))
    for _ in range(10):
        x = (torch.rand(6, 3) * 100).to(dtype)
        shown = game.fake(x)
        assert shown.dtype == dtype
        assert torch.equal(torch.view_as_real(shown) if shown.is_complex() else shown.double(), _wide(reference, x))


def _wide(game: Game, x: Tensor) -> Tensor:
    return game.fake(torch.view_as_real(x) if x.is_complex() else x.double())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 6])
def test_storage_in_half_precision_rounds_once_and_halves_the_memory(policy: str, dtype: str, n: int) -> None:
    narrow = Replay(size=9, policy=policy, dtype=dtype)
    game, wide = play(narrow), play(Replay(size=9, policy=policy))
    rounded = 0
    for _ in range(60 // n):
        x, y = torch.randn(n, 8), torch.randint(1 << 40, (n,))
        (shown, label), (full, expected) = game.fake(x, y), wide.fake(x, y)
        assert shown.dtype == torch.float32
        assert torch.equal(label, expected)
        for row, whole in zip(shown, full, strict=True):  # either of this batch, or as it was stored
            is_rounded = torch.equal(row, whole.to(getattr(torch, dtype)).float())
            assert is_rounded or torch.equal(row, whole)
            rounded += is_rounded
    assert rounded > 5
    assert narrow._pool.storages[0].nbytes == 9 * 8 * 2


def test_a_thousand_images_hold_49_megabytes() -> None:
    trick = Replay(size=1000)
    play(trick).fake(torch.zeros(2, 3, 64, 64))
    assert sum(s.nbytes for s in trick._pool.storages) == 49_152_000


GROWTH = """
import ctypes, gc, os, torch
from torch import nn
from stabilgan.game import attach
from stabilgan.tricks.replay import Replay
def resident():
    gc.collect(); ctypes.CDLL(None).malloc_trim(0)
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
torch.set_num_threads(1)
g, d = nn.Linear(1, 1), nn.Linear(1, 1)
game = attach(g, d, torch.optim.SGD(g.parameters()), torch.optim.SGD(d.parameters()), [Replay(size=1000)])
torch.randn(256, 3, 64, 64)
before = resident()
for _ in range(8):
    game.fake(torch.randn(256, 3, 64, 64))
print((resident() - before) / 1e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_grows_by_the_pool_and_by_no_batch() -> None:
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    # A batch is 12.6 MB and game.seen keeps the latest; one image each of the last batches would pin 600 MB.
    assert 49 < float(done.stdout) < 49.2 + 2 * 12.6


def _step(game: Game, x: Tensor) -> list[Tensor]:
    y = x[:, 0, 0].long()
    return list(game.fake(x, y))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("n", [1, 5])
def test_interrupted_is_uninterrupted_at_every_step(policy: str, n: int) -> None:
    options: dict[str, Any] = {"size": 6, "policy": policy}
    batches = list(numbered([n] * 11 + [max(1, n - 2)]))
    whole = play(Replay(**options))
    expected, saved = [], []
    for x in batches:
        file = io.BytesIO()
        torch.save(whole.state_dict(), file)
        saved.append(file)
        expected.append(_step(whole, x))
    for at, file in enumerate(saved):
        file.seek(0)
        resumed = play(Replay(**options), seed=99)  # its own draws must not matter
        if at % 2:
            _step(resumed, torch.randn(n, 2, 3).round())  # nor what it held before
        resumed.load_state_dict(torch.load(file, weights_only=True))
        for x, want in zip(batches[at:], expected[at:], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(_step(resumed, x), want, strict=True))


def test_a_saved_state_does_not_change_when_the_run_goes_on() -> None:
    game = play(Replay(size=4, p=1.0))
    game.fake(torch.zeros(4, 2))
    state = game.state_dict()
    game.fake(torch.ones(8, 2))
    (samples,) = state["tricks"][0]["state"]["pool"]["samples"]
    assert torch.equal(samples, torch.zeros(4, 2))


def test_state_holds_the_filled_part_alone() -> None:
    game = play(Replay(size=1000))
    game.fake(torch.zeros(4, 2))
    (samples,) = game.state_dict()["tricks"][0]["state"]["pool"]["samples"]
    assert samples.shape == (4, 2)
    assert samples.untyped_storage().nbytes() == 4 * 2 * 4


@pytest.mark.parametrize("other", [{"size": 5}, {"policy": "half"}])
def test_a_state_of_another_pool_is_refused(other: dict[str, Any]) -> None:
    state = play(Replay(size=4)).state_dict()
    with pytest.raises(ValueError, match=f"{next(iter(other))}="):
        play(Replay(**{"size": 4, **other})).load_state_dict(state)


def test_ranks_draw_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    for rank in (0, 1):
        monkeypatch.setattr(host, "rank", lambda rank=rank: rank)
        game = play(Replay(size=8))
        shown.append([ids(game.fake(x)) for x in numbered([8] * 5)])
    assert shown[0][0] == shown[1][0]
    assert shown[0] != shown[1]


def test_the_global_generators_are_left_alone() -> None:
    game = play(Replay(size=4))
    torch.manual_seed(0)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for x in numbered([6] * 5):
        game.fake(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpys)  # noqa: NPY002


class NoSync(TorchDispatchMode):
    """Refuses what would wait for a device, and counts the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name
        assert name not in ("aten::_local_scalar_dense", "aten::nonzero"), name
        self.calls.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("permuted", [False, True])
def test_no_step_waits_for_a_device(policy: str, permuted: bool) -> None:
    g, d = nn.Linear(4, 6), nn.Linear(6, 1)
    opt_g, opt_d = torch.optim.SGD(g.parameters(), 0.1), torch.optim.SGD(d.parameters(), 0.1)
    game = attach(g, d, opt_g, opt_d, [Replay(size=20, policy=policy)])
    with NoSync():
        for n in (8, 8, 8, 8, 1, 1, 3, 64):
            fake = g(torch.randn(n, 4))
            seen = fake.detach().t().contiguous().t() if permuted else fake.detach()
            seen, label = game.fake(seen, torch.arange(n))
            opt_d.zero_grad()
            (d(seen).mean() - d(game.real(torch.randn(n, 6))).mean() + 0 * label.sum()).backward()
            opt_d.step()
            opt_g.zero_grad()
            (-game.critic(fake).mean()).backward()
            opt_g.step()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_of_256_takes_no_more_launches_than_one_of_8(policy: str) -> None:
    counts = {}
    for n in (8, 256):
        game = play(Replay(size=4 * n, policy=policy))
        # A permuted batch takes the way that a GPU takes.
        batches = [torch.randn(3, n).t() for _ in range(20)]
        for x in batches[:-1]:
            game.fake(x)
        with NoSync() as mode:
            game.fake(batches[-1])
        counts[n] = sum(name in ("aten::index_select", "aten::index_copy_", "aten::clone") for name in mode.calls)
    assert counts[256] <= 7
    assert counts[8] <= 7


def test_the_step_is_the_hand_written_one_with_the_same_draws() -> None:
    torch.manual_seed(0)
    g = nn.Linear(2, 4).double()
    d, by_hand = nn.Linear(4, 1).double(), nn.Linear(4, 1).double()
    by_hand.load_state_dict(d.state_dict())
    opt_g, opt_d = torch.optim.SGD(g.parameters(), 0.05), torch.optim.SGD(d.parameters(), 0.1)
    game = attach(g, d, opt_g, opt_d, [trick := Replay(size=6)])
    pool = ImagePool(6, 0.5, numbers(game.generator(trick).initial_seed()))
    bce = nn.functional.binary_cross_entropy_with_logits
    apart = 0.0
    for _ in range(12):
        real, fake = torch.randn(5, 4).double(), g(torch.randn(5, 2).double())

        old = pool.query(fake.detach())
        w, b = by_hand.weight.detach(), by_hand.bias.detach()
        # d/ds softplus(-s) = -σ(-s) on reals, d/ds softplus(s) = σ(s) on fakes
        up, down = -torch.sigmoid(-(real @ w.t() + b)) / 5, torch.sigmoid(old @ w.t() + b) / 5
        with torch.no_grad():
            by_hand.weight -= 0.1 * (up.t() @ real + down.t() @ old)
            by_hand.bias -= 0.1 * (up.sum() + down.sum())
        apart += (old - fake.detach()).abs().sum().item()

        opt_d.zero_grad()
        scores, ones = d(game.real(real)), torch.ones(5, 1).double()
        (bce(scores, ones) + bce(d(game.fake(fake.detach())), 0 * ones)).backward()
        opt_d.step()
        opt_g.zero_grad()
        bce(game.critic(fake), ones).backward()
        opt_g.step()
        torch.testing.assert_close(d.weight, by_hand.weight, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(d.bias, by_hand.bias, rtol=1e-12, atol=1e-14)
    assert apart > 1  # D did see old ones


def test_a_pool_made_in_inference_mode_can_be_written_outside() -> None:
    game = play(Replay(size=3, p=1.0))
    with torch.inference_mode():
        game.fake(torch.zeros(3, 2))
    assert torch.equal(game.fake(torch.ones(1, 2)), torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, "size is 0; expected 1"),
        ({"policy": "ring"}, "policy is 'ring'; expected one of swap, half, reservoir"),
        ({"p": 1.5}, "p is 1.5; expected"),
        ({"share": -0.1}, "share is -0.1; expected"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of float16, bfloat16, float32"),
        ({"device": "cuda"}, "device is 'cuda'; expected 'input' or 'cpu'"),
    ],
)
def test_an_option_outside_its_range_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Replay(**options)


def test_samples_that_change_their_shape_are_refused() -> None:
    game = play(Replay())
    game.fake(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"holds samples of shapes \[\(2,\)\], but was given \[\(3,\)\]"):
        game.fake(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"labels count"):
        game.fake(torch.zeros(4, 2), torch.zeros(4))


def test_labels_that_cannot_travel_are_refused() -> None:
    game = play(Replay())
    with pytest.raises(ValueError, match=r"shape \(3,\) rides along with 4 samples"):
        game.fake(torch.zeros(4, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(\)"):
        game.fake(torch.zeros(4, 2), torch.tensor(1.0))
    with pytest.raises(TypeError, match="a label is a str"):
        game.fake(torch.zeros(4, 2), ["a", "b", "c", "d"])


def test_a_plan_for_one_says_where() -> None:
    assert swap_plan(1, 2, 4, 0.5, np.zeros) == One(None, 2)
    assert swap_plan(1, 4, 4, 0.5, lambda k: np.array([0.4, 0.6])) == One(2, 2)
    assert swap_plan(1, 4, 4, 0.5, lambda k: np.array([0.6, 0.6])) == One(None, None)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_on_a_gpu_nothing_waits_and_the_same_is_shown(policy: str, dtype: str | None) -> None:
    there, here = (play(Replay(size=50, policy=policy, dtype=dtype)) for _ in range(2))
    batches = [torch.randn(n, 3, 8, 8) for n in (16, 16, 16, 16, 1, 1, 1, 64, 5, 200)]
    labels = [torch.randint(10, (len(x),)) for x in batches]
    on_gpu = [(x.cuda(), y.cuda()) for x, y in zip(batches, labels, strict=True)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        shown = [there.fake(x, y) for x, y in on_gpu]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for (x, y), x_here, y_here in zip(shown, batches, labels, strict=True):
        assert x.is_cuda
        want, label = here.fake(x_here, y_here)
        assert torch.equal(x.cpu(), want)
        assert torch.equal(y.cpu(), label)


@pytest.mark.gpu
@pytest.mark.parametrize("policy", POLICIES)
def test_a_pool_in_host_memory_takes_none_of_the_gpus(policy: str) -> None:
    trick = Replay(size=50, policy=policy, device="cpu")
    there, here = play(trick), play(Replay(size=50, policy=policy))
    for n in (16, 16, 16, 16, 1, 1, 64, 5):
        x, y = torch.randn(n, 3, 8, 8), torch.randint(10, (n,))
        shown, label = there.fake(x.cuda(), y.cuda())
        want, expected = here.fake(x, y)
        assert shown.is_cuda
        assert torch.equal(shown.cpu(), want)
        assert torch.equal(label.cpu(), expected)
    assert all(s.device.type == "cpu" for s in trick._pool.storages)


@pytest.mark.gpu
def test_a_state_from_a_gpu_goes_on_on_the_cpu_and_back() -> None:
    gpu, cpu = play(Replay(size=8)), play(Replay(size=8), seed=1)
    for _ in range(4):
        gpu.fake(torch.randn(6, 2).cuda())
    file = io.BytesIO()
    torch.save(gpu.state_dict(), file)
    file.seek(0)
    cpu.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    for _ in range(4):
        x = torch.randn(6, 2)
        assert torch.equal(cpu.fake(x), gpu.fake(x.cuda()).cpu())
