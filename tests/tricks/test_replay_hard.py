"""Replay by score against a pool written as a list."""

from __future__ import annotations

import passes
import play
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import stabilgan
from stabilgan import losses
from stabilgan.tricks import ReplayHard
from stabilgan.tricks.replay_hard import keep_highest


class Linear(nn.Module):
    """D(x) = w x, whose scores a test can set by setting w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.w * x


def new_game(trick: ReplayHard, **options: object) -> tuple[stabilgan.Game, Linear]:
    g, d = nn.Linear(1, 1), Linear()
    return stabilgan.attach(g, d, play.sgd(g), torch.optim.SGD(d.parameters(), 0.0), [trick], **options), d


def step(game: stabilgan.Game, x: Tensor) -> Tensor:
    """D's turn, in which its weight stays what it is; returns what it was shown."""
    game.d(game.real(torch.zeros_like(x)))
    shown = game.fake(x)
    game.d(shown).sum().backward()
    game.opt_d.step()
    return shown


def column(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1)


def pool_of(trick: ReplayHard) -> dict[float, float]:
    """Scores by sample, of a pool whose samples differ."""
    scores, samples = trick.state_dict()["pool"][:2]
    return dict(zip(samples.flatten().tolist(), scores.tolist(), strict=True))


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=9, unique=False),
    st.lists(st.integers(0, 6), min_size=0, max_size=9),
    st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_what_is_kept_is_the_highest_of_both(stored: list[int], fresh: list[int], free: int) -> None:
    pool = torch.tensor([float(s) for s in stored] + [-torch.inf] * free)
    new = torch.tensor([float(f) for f in fresh])
    slots, rows, better = keep_highest(pool, new)
    pool[slots[better]] = new[rows[better]]
    expected = sorted([*stored, *fresh], reverse=True)[: len(pool)]
    assert [s for s in pool.sort(descending=True).values.tolist() if s > -torch.inf] == expected
    assert (pool[: min(len(pool), len(stored) + len(fresh))] > -torch.inf).all()  # the free slots are the last


def test_the_pool_is_that_of_a_list_which_is_sorted_after_each_step() -> None:
    trick = ReplayHard(size=5, share=0.4)
    game, d = new_game(trick)
    draw, pool = torch.Generator().manual_seed(0), dict[float, float]()
    for n in (2, 3, 4, 9, 1, 4, 4):
        with torch.no_grad():
            d.w.copy_(torch.randn((), generator=draw))
        x = torch.randn(n, 1, generator=draw)
        shown = step(game, x)
        fresh = [row for row in shown.flatten().tolist() if row in x.flatten().tolist()]
        old = [row for row in shown.flatten().tolist() if row not in fresh]
        assert set(old) <= set(pool)
        assert shown.flatten().tolist() == x.flatten().tolist()[: len(fresh)] + old
        pool |= {row: d(column(row)).item() for row in [*fresh, *old]}
        pool = dict(sorted(pool.items(), key=lambda item: -item[1])[:5])
        assert pool_of(trick) == pytest.approx(pool)


def test_the_share_holds_on_average_and_no_sample_is_shown_twice() -> None:
    trick = ReplayHard(size=50, share=0.3)
    game, _ = new_game(trick)
    step(game, torch.arange(-50.0, 0.0).view(-1, 1))
    counts = []
    for _ in range(400):
        shown = step(game, torch.full((5, 1), -1000.0)).flatten()
        old = shown[shown > -1000].tolist()
        assert len(set(old)) == len(old)
        counts.append(len(old))
    assert set(counts) == {1, 2}
    assert sum(counts) / 400 == pytest.approx(1.5, abs=0.1)


def test_a_fake_that_d_has_learned_leaves_when_it_was_shown() -> None:
    trick = ReplayHard(size=2, share=0.5)
    game, d = new_game(trick)
    step(game, column(3.0, 5.0))
    assert pool_of(trick) == {3.0: 3.0, 5.0: 5.0}
    with torch.no_grad():
        d.w.neg_()
    (_, old) = step(game, column(1.0, 2.0)).flatten().tolist()
    assert old in (3.0, 5.0)
    kept = ({3.0, 5.0} - {old}).pop()
    assert pool_of(trick) == {kept: kept, 1.0: -1.0}  # the one not shown keeps its score of before


def test_labels_move_with_their_samples() -> None:
    trick = ReplayHard(size=8, share=0.5)
    game, d = new_game(trick)
    for first in range(0, 80, 8):
        x = torch.randperm(8).add(first).float().view(-1, 1)
        shown, y = game.fake(x, {"class": x.flatten().long(), "soft": 2 * x})
        d(shown, y).sum().backward()
        game.opt_d.step()
        assert y["class"].tolist() == shown.flatten().tolist()
        assert torch.equal(y["soft"], 2 * shown)
    assert len(set(shown.flatten().tolist())) == 8


def test_each_micro_batch_is_scored_by_its_own_call() -> None:
    trick = ReplayHard(size=4, share=0.0625)
    game, d = new_game(trick, accumulate=2)
    for x in (column(1.0, 7.0), column(2.0, 9.0)):
        d(game.fake(x)).sum().backward()
    game.opt_d.step()
    assert pool_of(trick) == {1.0: 1.0, 7.0: 7.0, 2.0: 2.0, 9.0: 9.0}


def test_patches_count_with_their_mean_and_no_number_as_the_worst() -> None:
    class Patches(Linear):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return torch.cat([x, x + 2, x + 4], 1)[:, None] * self.w

    g, d, trick = nn.Linear(1, 1), Patches(), ReplayHard(size=3, share=0.1)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    step(game, column(1.0, float("nan"), -5.0, 0.0))
    scores, _ = trick.state_dict()["pool"]
    assert sorted(scores.tolist()) == [-3.0, 2.0, 3.0]


def test_the_step_is_that_of_the_batch_with_the_old_fake_in_it() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second, real = (torch.randn(4, 2, dtype=torch.float64, generator=draw) for _ in range(3))

    def run(in_game: bool) -> Tensor:
        g, d = play.players(dtype=torch.float64)
        opt_d = torch.optim.SGD(d.parameters(), lr=0.1)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [ReplayHard(size=1, share=0.25)]) if in_game else None
        best = torch.empty(0)
        for fakes in (first, second):
            opt_d.zero_grad()
            shown = game.fake(fakes) if game else fakes if fakes is first else torch.cat([second[:3], best])
            losses.logistic.d(d(game.real(real) if game else real), d(shown)).backward()
            best = first[d(first).argmax()][None]
            opt_d.step()
        return play.params(d)

    torch.testing.assert_close(run(True), run(False), rtol=1e-10, atol=1e-12)


def test_a_loop_in_which_d_never_scores_the_fakes_is_told() -> None:
    trick = ReplayHard()
    game, d = new_game(trick)
    d(game.fake(column(1.0, 2.0)) + 0.1).sum().backward()
    with pytest.raises(RuntimeError, match=r"write `output = netD\(game.fake\(fake.detach\(\)\)\)`"):
        game.opt_d.step()


def test_samples_of_another_shape_and_states_of_another_size_are_refused() -> None:
    trick = ReplayHard(size=4)
    game, _ = new_game(trick)
    step(game, column(1.0, 2.0))
    with pytest.raises(ValueError, match=r"holds samples of shapes \[\(1,\)\], but was given \[\(2,\)\]"):
        game.fake(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="this state is of size=4, but this trick has size=5"):
        ReplayHard(size=5).load_state_dict(trick.state_dict())


def test_it_is_not_played_with_replay() -> None:
    g, d = play.players()
    with pytest.raises(ValueError, match="replay_hard and replay can't be played together: both put old fakes"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [stabilgan.Replay(), ReplayHard()])


def test_it_costs_no_pass() -> None:
    assert stabilgan.Cost(**passes.extra(play.trick("replay_hard"))) == ReplayHard().cost


@pytest.mark.parametrize("options", [{"size": 0}, {"share": -0.1}, {"share": 1.0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ReplayHard(**options)  # type: ignore[arg-type]
