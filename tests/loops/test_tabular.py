"""A GAN for tables: packs, conditions that ride along, numbers and categories side by side."""

from __future__ import annotations

import example
import pytest
import torch
from torch import Tensor

import stabilgan
from stabilgan import EMA, R1, R2, Minibatch, MinibatchStddev, Replay, SpectralNorm, Watch
from stabilgan.detectors import Collapse

tabular = example.load("tabular")


def new(*played: stabilgan.Trick, rows: int = 500, seed: int = 0) -> tabular.TabularGAN:  # type: ignore[name-defined]
    torch.manual_seed(seed)
    return tabular.TabularGAN(rows, played, latent=8, seed=seed)


def test_the_mixture_of_a_column_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    mode = torch.tensor([0.25, 0.75]).multinomial(4000, replacement=True, generator=generator)
    x = torch.tensor([10.0, 100.0])[mode] + torch.tensor([2.0, 10.0])[mode] * torch.randn(4000, generator=generator)
    found = tabular.Modes.fit(x, 2)
    torch.testing.assert_close(found.shares, torch.tensor([0.25, 0.75]), atol=0.03, rtol=0)
    torch.testing.assert_close(found.means, torch.tensor([10.0, 100.0]), atol=1, rtol=0)
    torch.testing.assert_close(found.deviations, torch.tensor([2.0, 10.0]), atol=0.5, rtol=0)


def test_a_row_comes_back_from_its_vector() -> None:
    gan = new()
    numbers, categories = gan.columns.decode(gan.rows)
    assert torch.equal(categories, gan.categories)
    assert gan.rows.shape[1] == gan.columns.width
    again = gan.columns.encode(numbers, categories, torch.Generator().manual_seed(3))
    torch.testing.assert_close(gan.columns.decode(again)[0], numbers)


def test_the_rows_that_are_asked_for_have_what_was_asked() -> None:
    gan = new()
    condition, column, category = gan.columns.conditions(60, gan.draw, by_log=True)
    rows = gan.matching(column, category)
    _, categories = gan.columns.decode(rows)
    assert torch.equal(categories.gather(1, column[:, None])[:, 0], category)
    assert condition.sum(1).tolist() == [1.0] * 60


def test_scores_are_one_for_each_pack() -> None:
    gan = new(R1(1.0), Watch(every=1, family="logistic"))
    gan.step(40)
    game = gan.game
    assert game.scores["real"].shape == game.scores["fake"].shape == game.scores["critic"].shape == (4, 1)
    assert len(game.seen["real"].x) == 40


def test_a_stored_row_keeps_its_condition() -> None:
    gan = new(Replay(size=30, p=1.0))
    made: dict[bytes, Tensor] = {}
    old = 0
    for _ in range(4):
        state = gan.draw.get_state()
        condition, _, _ = gan.columns.conditions(20, gan.draw, by_log=True)
        gan.draw.set_state(state)
        seen: dict[str, Tensor] = {}
        hook = gan.d.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(x=args[0], y=args[1]))
        given: list[Tensor] = []
        word = gan.game.fake
        gan.game.fake = lambda x, y, given=given, word=word: (given.append(x), word(x, y))[1]
        gan.step(20)
        gan.game.fake = word
        hook.remove()
        for row, y in zip(given[0], condition, strict=True):
            made[row.numpy().tobytes()] = y
        shown = gan.game.seen["fake"]
        assert isinstance(shown.labels[0], Tensor)
        for row, y in zip(shown.x, shown.labels[0], strict=True):
            assert torch.equal(made[row.numpy().tobytes()], y)
        now = {row.numpy().tobytes() for row in given[0]}
        old += sum(row.numpy().tobytes() not in now for row in shown.x)
    assert old > 20


def test_r1_on_packs_is_the_mean_over_rows() -> None:
    weight, n = 2.0, 20
    gan, twin = new(R1(weight)), new()
    gan.d.eval()  # dropout draws anew in each pass
    twin.d.eval()
    rows, condition = gan.rows[:n], torch.eye(7)[torch.arange(n) % 7]
    gradients = []
    for one in (gan, twin):
        kept: list[Tensor] = []
        one.opt_d.register_step_pre_hook(
            lambda *_, one=one, kept=kept: kept.extend(p.grad.clone() for p in one.d.parameters())
        )
        one.d(*one.game.real(rows, condition)).mean().backward()
        if one is twin:
            x = rows.clone().requires_grad_()
            (slope,) = torch.autograd.grad(one.d(x, condition).sum(), x, create_graph=True)
            (weight / 2 * slope.square().sum() / n).backward()
        one.opt_d.step()
        gradients.append(torch.cat([g.reshape(-1) for g in kept]))
    torch.testing.assert_close(*gradients)


TOGETHER = [
    [Replay(size=50), R1(1.0), R2(1.0), EMA(0.5), Minibatch(kernels=4, dims=2), SpectralNorm()],
    [Replay(size=50, policy="half"), R1(1.0), MinibatchStddev()],
]


@pytest.mark.parametrize("tricks", TOGETHER, ids=["minibatch", "stddev"])
def test_tricks_play_together_on_a_table(tricks: list[stabilgan.Trick]) -> None:
    watch = Watch([Collapse(window=40)], every=2, family="logistic")
    gan = new(*tricks, watch)
    before = [p.detach().clone() for p in gan.d.parameters()]
    for _ in range(4):
        gan.step(40)
    assert all(p.isfinite().all() for net in (gan.g, gan.d) for p in net.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, gan.d.parameters(), strict=True))
    assert watch.readings()["collapse"].step == 4


@pytest.mark.slow
def test_a_short_training_meets_frequencies_better_than_none(capsys: pytest.CaptureFixture[str]) -> None:
    untrained = tabular.main(["--steps", "0"])
    trained = tabular.main(["--steps", "500", "--tricks", "replay:size=1000+r1:weight=1+ema:decay=0.95"])
    assert trained["country"] < untrained["country"] / 2
    assert trained["plan given country"] < untrained["plan given country"] / 2
    assert "country D" in capsys.readouterr().out
