"""The promises of the design: every trick in the registry is held against each, and so is every pair of tricks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import checks, losses
from stabilgan.testing import PROMISES, Promise
from stabilgan.testing.promises.saving import taken_up, written
from stabilgan.tricks import TRICKS

NAMES = sorted(TRICKS)
QUICK = [promise for promise in PROMISES if not promise.slow]


@pytest.mark.parametrize("promise", QUICK, ids=lambda promise: promise.name.replace(" ", "_"))
@pytest.mark.parametrize("name", NAMES)
def test_every_trick_keeps_every_promise_or_says_that_it_can_not(name: str, promise: Promise) -> None:
    play.hold(promise, play.subject(name))


def fitting(*tricks: stabilgan.Trick) -> losses.Loss | None:
    """A pair of losses that all of them fit."""
    names = set(losses.LOSSES).intersection(*(t.fits for t in tricks if t.fits is not None))
    return losses.named("logistic" if "logistic" in names else min(names)) if names else None


@pytest.mark.parametrize("pair", list(itertools.combinations(NAMES, 2)), ids="+".join)
def test_every_two_tricks_play_ten_steps_together_and_resume_or_say_why_not(pair: tuple[str, str]) -> None:
    kind, loss = play.kind_of(*pair), fitting(*map(play.trick, pair))

    def both() -> stabilgan.Trainer:
        g, d = play.players(kind=kind)
        tricks = [play.trick(name) for name in pair]
        pair_of_losses = losses.logistic if loss is None else loss
        return stabilgan.Trainer(g, d, play.adam(g), play.adam(d), tricks, latent=4, batch_size=8, loss=pair_of_losses)

    one, other = map(play.trick, pair)
    if loss is None or checks.apart(one, other) or checks.apart(other, one):
        with pytest.raises(ValueError, match=r"can't be played together|fits the losses"):
            both()
        return
    whole = both().fit(play.data(kind), 9)
    file = written(whole.state_dict())
    whole.fit(play.data(kind), 1)
    assert all(p.isfinite().all() for net in (whole.game.g, whole.game.d) for p in net.parameters())
    assert play.same(taken_up(file, both()).fit(play.data(kind), 1).state_dict(), whole.state_dict())


def trainer(name: str | None, **options: Any) -> stabilgan.Trainer:
    g, d = play.players()
    tricks = [play.trick(name)] if name else []
    return stabilgan.Trainer(g, d, play.adam(g), play.adam(d), tricks, **({"latent": 4, "batch_size": 8} | options))


@pytest.mark.parametrize("g_first", [False, True])
def test_a_game_without_tricks_is_bit_identical_to_the_raw_loop(g_first: bool) -> None:
    with_game, raw = play.by_hand([], 5, g_first=g_first), play.by_hand(None, 5, g_first=g_first)
    assert play.same(with_game[0], raw[0])
    assert play.same(with_game[1], raw[1])


@pytest.mark.parametrize("name", NAMES)
def test_each_trick_has_effect_tests_of_its_own(name: str) -> None:
    module = TRICKS[name].__module__.rpartition(".")[2]
    assert (Path(__file__).parent / "tricks" / f"test_{module}.py").exists()


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: (x > 0).nonzero(),
        lambda x: x.__setitem__(x > 0, torch.ones(2)),
    ],
)
def test_the_guard_refuses_what_asks_the_device(ask: Any) -> None:
    with pytest.raises(AssertionError, match="makes the host wait"), play.RefuseSync():
        ask(torch.tensor([1.0, -1.0, 2.0]))


def test_penalties_look_at_every_micro_batch_of_an_accumulated_step() -> None:
    x, fake = torch.randn(8, 2), torch.randn(8, 2)

    def gradient(parts: int) -> torch.Tensor:
        g, d = play.players()
        opt_d = torch.optim.SGD(d.parameters(), lr=1.0)
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.R1(3.0), stabilgan.R2(2.0)], accumulate=parts)
        for real_part, fake_part in zip(x.chunk(parts), fake.chunk(parts), strict=True):
            (losses.logistic.d(d(game.real(real_part)), d(game.fake(fake_part))) / parts).backward()
        opt_d.step()
        return play.params(d)

    torch.testing.assert_close(gradient(4), gradient(1), rtol=1e-5, atol=1e-6)


def test_a_shorter_turn_does_not_look_at_micro_batches_of_the_last_one() -> None:
    g, d = play.players()
    opt_d = torch.optim.SGD(d.parameters(), lr=0.0)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.R1(1.0)], accumulate=4)
    first, last = torch.randn(4, 2), torch.randn(4, 2)

    def gradient(parts: list[torch.Tensor]) -> torch.Tensor:
        opt_d.zero_grad()
        for part in parts:
            d(game.real(part)).sum().mul(0).backward()
        opt_d.step()
        return torch.cat([p.grad.reshape(-1) for p in d.parameters() if p.grad is not None])

    alone = gradient([last])
    gradient([first, first, first, first])
    torch.testing.assert_close(gradient([last]), alone)


class Touchy(nn.Module):
    """A discriminator in which every careless pass leaves a trace."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.utils.parametrizations.spectral_norm(nn.Linear(2, 16))
        self.net = nn.Sequential(first, nn.BatchNorm1d(16), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_a_pass_made_only_to_measure_changes_nothing() -> None:
    torch.manual_seed(0)
    g, d = play.generator_net(), Touchy()
    game = stabilgan.attach(g, d, play.adam(g), play.adam(d))
    x = torch.randn(8, 2)
    d(game.real(x))
    buffers = {k: v.clone() for k, v in d.named_buffers()}
    rng, gradients = torch.get_rng_state(), [p.grad for p in d.parameters()]
    heard, seen = game.scores["real"].clone(), game.seen["real"]
    game.opt_d.step()  # so that the pass to come scores otherwise
    buffers = {k: v.clone() for k, v in d.named_buffers()}
    scores = game.score(seen.x, seen)  # the very tensor that the loop gave
    assert scores.requires_grad
    assert play.same(dict(d.named_buffers()), buffers)
    assert torch.equal(torch.get_rng_state(), rng)
    assert gradients == [p.grad for p in d.parameters()]
    assert torch.equal(game.scores["real"], heard)
    assert game.seen["real"] is seen


def test_sampling_leaves_training_as_it_was() -> None:
    quiet, watched = trainer("ema").fit(play.ring, 4), trainer("ema").fit(play.ring, 2)
    first = watched.sample(50, seed=3)
    watched.fit(watched._data, 2)
    assert play.same(watched.state_dict(), quiet.state_dict())
    assert first.shape == (50, 2)


def game_of(tricks: list[stabilgan.Trick], d: nn.Module | None = None, **options: Any) -> stabilgan.Game:
    g, own = play.players()
    d = d or own
    return stabilgan.attach(g, d, play.adam(g), play.adam(d), tricks, **options)


def test_swapped_optimizers_are_named() -> None:
    g, d = play.players()
    with pytest.raises(ValueError, match=r"opt_d does not hold 6 parameters of d .* g, d, opt_g, opt_d"):
        stabilgan.attach(g, d, play.adam(d), play.adam(g))


def test_a_trick_that_plays_elsewhere_is_refused() -> None:
    r1 = stabilgan.R1()
    game = game_of([r1])
    with pytest.raises(ValueError, match="r1 plays in another game already"):
        game_of([r1])
    game.detach()
    game_of([r1])


def test_a_discriminator_in_two_games_is_refused() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.adam(g), play.adam(d))
    with pytest.raises(ValueError, match="plays in another game already; call detach"):
        stabilgan.attach(g, d, play.adam(g), play.adam(d))
    game.detach()
    stabilgan.attach(g, d, play.adam(g), play.adam(d))


def test_conflicts_are_told_with_their_reason() -> None:
    class Loud(stabilgan.Trick):
        name = "loud"
        conflicts: ClassVar = {"r1": "both shout"}

    with pytest.raises(ValueError, match="loud and r1 can't be played together: both shout"):
        game_of([stabilgan.R1(), Loud()])


@pytest.mark.parametrize("name", [n for n in NAMES if TRICKS[n].needs_logits])
def test_a_logit_trick_refuses_a_discriminator_that_ends_in_a_sigmoid(name: str) -> None:
    d = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    with pytest.raises(ValueError, match="ends in a sigmoid; take the sigmoid off"):
        game_of([play.trick(name)], d, loss=losses.logistic)


def test_a_changed_loss_in_a_loop_that_owns_its_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call stabilgan.losses.relativistic there instead"):
        game_of([stabilgan.Relativistic()])


def test_what_is_not_a_trick_is_refused() -> None:
    with pytest.raises(TypeError, match=r"'r1' is not a Trick"):
        game_of(["r1"])  # type: ignore[list-item]


def test_a_failed_attach_lets_the_tricks_go() -> None:
    replay, broken = stabilgan.Replay(size=4), stabilgan.Minibatch(layer="nope")
    with pytest.raises(ValueError, match="nope") as error:
        game_of([replay, broken])
    assert error.traceback  # which, as in a notebook, still holds the game that failed
    game_of([replay])


def test_a_trick_may_be_a_dataclass() -> None:
    @dataclass
    class Scale(stabilgan.Trick):
        name: ClassVar[str] = "scale"
        by: float = 2.0

        def real(self, x: torch.Tensor, game: stabilgan.Game) -> torch.Tensor:
            return x * self.by

    assert game_of([Scale()]).real(torch.ones(1, 2)).tolist() == [[2.0, 2.0]]


def test_a_trick_without_a_name_is_refused() -> None:
    class Nameless(stabilgan.Trick):
        pass

    with pytest.raises(TypeError, match="Nameless has no name"):
        game_of([Nameless()])


def test_a_penalty_without_its_word_says_which_line_is_missing() -> None:
    g, d = play.players()
    opt_d = play.adam(d)
    stabilgan.attach(g, d, play.adam(g), opt_d, [stabilgan.R1()])
    d(torch.randn(3, 2)).sum().backward()
    with pytest.raises(RuntimeError, match=r"never called game.real; write `output = netD\(game.real\(real\)\)`"):
        opt_d.step()
