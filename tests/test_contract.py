"""The promises of the design, each a test over every trick in the registry."""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import losses
from stabilgan.tricks import TRICKS

NAMES = sorted(TRICKS)
WITH_OFF = [n for n in NAMES if TRICKS[n].off is not None]
every_trick = pytest.mark.parametrize("name", NAMES)


def trainer(name: str | None, **options: Any) -> stabilgan.Trainer:
    g, d = play.players(kind=play.kind_of(name or ""))
    make = options.pop("optimizer", play.adam)
    tricks = [play.trick(name)] if name else []
    return stabilgan.Trainer(g, d, make(g), make(d), tricks, **({"latent": 4, "batch_size": 8} | options))


# 1 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("g_first", [False, True])
def test_a_game_without_tricks_is_bit_identical_to_the_raw_loop(g_first: bool) -> None:
    with_game, raw = play.by_hand([], 5, g_first=g_first), play.by_hand(None, 5, g_first=g_first)
    assert play.same(with_game[0], raw[0])
    assert play.same(with_game[1], raw[1])


@pytest.mark.parametrize("name", WITH_OFF)
def test_a_trick_at_zero_strength_is_bit_identical_to_its_absence(name: str) -> None:
    trick = play.off(name)
    assert trick is not None
    for with_trick, without in zip(play.by_hand([trick], 5), play.by_hand([], 5), strict=True):
        assert play.same(with_trick, without)


@every_trick
def test_a_trick_that_is_on_changes_training_or_keeps_something(name: str) -> None:
    trick = play.trick(name)
    g, _ = play.by_hand([trick], 5)
    raw_g, _ = play.by_hand([], 5)
    assert not torch.equal(play.params(g), play.params(raw_g)) or trick.state_dict()


@every_trick
def test_a_watch_beside_it_changes_nothing(name: str) -> None:
    watched = play.by_hand([play.trick(name), stabilgan.Watch(every=1)], 5)
    assert all(map(play.same, play.by_hand([play.trick(name)], 5), watched))


@pytest.mark.parametrize("pair", list(itertools.combinations(NAMES, 2)), ids="+".join)
def test_every_two_tricks_play_together_and_resume(pair: tuple[str, str], tmp_path: Path) -> None:
    def both() -> stabilgan.Trainer:
        g, d = play.players()
        tricks = [play.trick(name) for name in pair]
        return stabilgan.Trainer(g, d, play.adam(g), play.adam(d), tricks, latent=4, batch_size=8)

    whole = both().fit(play.ring, 4)
    assert all(p.isfinite().all() for net in (whole.game.g, whole.game.d) for p in net.parameters())
    both().fit(play.ring, 3).save(tmp_path / "run.pt")
    assert play.same(both().load(tmp_path / "run.pt").fit(play.ring, 1).state_dict(), whole.state_dict())


# 2 ---------------------------------------------------------------------------------------------------------------


@every_trick
def test_the_trainer_is_bit_identical_to_the_loop_written_by_hand(name: str) -> None:
    t = trainer(name, seed=0)
    t.generator.manual_seed(2)  # where the hand-written loop's latents start
    data = torch.Generator().manual_seed(1)
    t.fit(lambda n, _: play.ring(n, data), 5)
    g, d = play.by_hand([play.trick(name)], 5)
    assert play.same(t.game.g, g)
    assert play.same(t.game.d, d)


# 3 ---------------------------------------------------------------------------------------------------------------


@every_trick
def test_each_trick_has_effect_tests_of_its_own(name: str) -> None:
    module = TRICKS[name].__module__.rpartition(".")[2]
    assert (Path(__file__).parent / "tricks" / f"test_{module}.py").exists()


# 4 ---------------------------------------------------------------------------------------------------------------


@every_trick
def test_stop_and_resume_at_every_step_equals_the_uninterrupted_run(name: str, tmp_path: Path) -> None:
    steps = 5
    data = play.ring(20, torch.Generator().manual_seed(0))  # 20 by 8: the last batch of an epoch is smaller
    whole = trainer(name, n_critic=2).fit(data, steps).state_dict()
    for stop in range(1, steps):
        trainer(name, n_critic=2).fit(data, stop).save(tmp_path / "run.pt")
        torch.manual_seed(99)
        again = trainer(name, n_critic=2).load(tmp_path / "run.pt").fit(data, steps - stop)
        assert play.same(again.state_dict(), whole), f"resumed at step {stop}"


@every_trick
def test_a_game_in_a_strangers_loop_is_saved_and_loaded_without_running_code(name: str) -> None:
    t = trainer(name).fit(play.ring, 3)
    file = io.BytesIO()
    torch.save(t.game.state_dict(), file)
    file.seek(0)
    t2 = trainer(name)
    t2.game.load_state_dict(torch.load(file, weights_only=True))
    assert play.same(t2.game.state_dict(), t.game.state_dict())


# 5 ---------------------------------------------------------------------------------------------------------------


@every_trick
def test_a_trick_never_draws_from_the_global_generator(name: str) -> None:
    t = trainer(name)
    before = torch.get_rng_state()
    t.fit(play.ring, 4)
    assert torch.equal(torch.get_rng_state(), before)


@every_trick
def test_arms_of_one_seed_see_the_same_weights_data_and_latents(name: str) -> None:
    def seen(arm: str | None) -> tuple[Any, ...]:
        drawn: list[torch.Tensor] = []

        def draw(n: int, generator: torch.Generator) -> torch.Tensor:
            drawn.append(play.ring(n, generator))
            return drawn[-1]

        t = trainer(arm)
        start = {k: v.clone() for k, v in t.game.g.state_dict().items()}
        t.fit(draw, 4)
        return drawn, t.generator.get_state(), start

    assert play.same(seen(name), seen(None))


# 6 ---------------------------------------------------------------------------------------------------------------


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
def test_the_guard_of_the_next_test_refuses_what_asks_the_device(ask: Any) -> None:
    with pytest.raises(AssertionError, match="makes the host wait"), play.RefuseSync():
        ask(torch.tensor([1.0, -1.0, 2.0]))


@every_trick
def test_no_step_makes_the_host_wait_for_the_device(name: str) -> None:
    # SGD, since Adam itself reads its step count on a CPU.
    t = trainer(name, optimizer=play.sgd).fit(play.ring, 1)
    with play.RefuseSync():
        t.fit(t._data, 4)


# 7 ---------------------------------------------------------------------------------------------------------------


@every_trick
def test_dtype_follows_the_players(name: str) -> None:
    for player in play.by_hand([play.trick(name)], 3, dtype=torch.float64):
        assert all(p.dtype == torch.float64 and p.isfinite().all() for p in player.parameters())


@every_trick
def test_autocast_leaves_finite_float32_weights(name: str) -> None:
    for player in play.by_hand([play.trick(name)], 3, autocast=True):
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in player.parameters())


@every_trick
def test_a_penalty_is_computed_in_float32_under_autocast(name: str) -> None:
    t = trainer(name).fit(play.ring, 1)
    found: list[torch.Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        for player in ("d", "g"):
            value = t.game.tricks[0].penalty(player, t.game)
            found += [value] if value is not None else []
    assert all(value.dtype == torch.float32 for value in found)


@every_trick
def test_a_grad_scaler_changes_nothing_where_nothing_overflows(name: str) -> None:
    def run(scaled: bool) -> nn.Module:
        g, d = play.players()
        opt_g, opt_d = play.sgd(g), play.sgd(d)
        game = stabilgan.attach(g, d, opt_g, opt_d, [play.trick(name)], loss=losses.logistic)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        data = torch.Generator().manual_seed(1)
        for _ in range(3):
            x, fake = play.ring(8, data), g(torch.randn(8, 4, generator=data))
            loss = game.loss.d(d(game.real(x)), d(game.fake(fake.detach())))
            opt_d.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(opt_d)
            loss = game.loss.g(game.critic(fake), game.critic(x, real=True))
            opt_g.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(opt_g)
            scaler.update()
        return d

    # A power of two scales without rounding; what is left is the order of additions.
    torch.testing.assert_close(play.params(run(True)), play.params(run(False)), rtol=1e-6, atol=1e-7)


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


@every_trick
def test_accumulation_runs_and_resumes(name: str, tmp_path: Path) -> None:
    whole = trainer(name, accumulate=2).fit(play.ring, 4).state_dict()
    trainer(name, accumulate=2).fit(play.ring, 3).save(tmp_path / "run.pt")
    assert play.same(trainer(name, accumulate=2).load(tmp_path / "run.pt").fit(play.ring, 1).state_dict(), whole)


# 8 ---------------------------------------------------------------------------------------------------------------


@every_trick
def test_g_may_move_first(name: str) -> None:
    for player in play.by_hand([play.trick(name)], 4, g_first=True):
        assert play.params(player).isfinite().all()


@every_trick
def test_d_may_be_frozen_during_gs_turn(name: str) -> None:
    frozen, free = play.by_hand([play.trick(name)], 4, freeze=True), play.by_hand([play.trick(name)], 4)
    assert play.same(frozen[0], free[0])
    assert play.same(frozen[1], free[1])


@every_trick
def test_a_batch_may_be_smaller_or_larger_than_the_last(name: str) -> None:
    for player in play.by_hand([play.trick(name)], 6, sizes={1: 3, 2: 2, 4: 13}):
        assert play.params(player).isfinite().all()


@every_trick
def test_the_optimizer_may_be_given_a_closure(name: str) -> None:
    def run(closed: bool) -> nn.Module:
        g, d = play.players()
        opt_g, opt_d = play.adam(g), play.adam(d)
        game = stabilgan.attach(g, d, opt_g, opt_d, [play.trick(name)], loss=losses.logistic)
        data = torch.Generator().manual_seed(1)
        for _ in range(3):
            x, fake = play.ring(8, data), g(torch.randn(8, 4, generator=data))

            def turn(x: torch.Tensor = x, fake: torch.Tensor = fake) -> torch.Tensor:
                opt_d.zero_grad()
                loss = game.loss.d(d(game.real(x)), d(game.fake(fake.detach())))
                loss.backward()
                return loss

            if closed:
                opt_d.step(turn)
            else:
                turn()
                opt_d.step()
            opt_g.zero_grad()
            game.loss.g(game.critic(fake), game.critic(x, real=True)).backward()
            opt_g.step()
        return d

    assert play.same(run(True), run(False))


class Wrapped:
    """The shape of Lightning's and Fabric's optimizer wrappers."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


@every_trick
def test_the_optimizer_may_be_wrapped(name: str) -> None:
    wrapped = play.by_hand([play.trick(name)], 3, wrap=lambda o: Wrapped(Wrapped(o)))
    assert play.same(wrapped[1], play.by_hand([play.trick(name)], 3)[1])


# 9 ---------------------------------------------------------------------------------------------------------------


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


@every_trick
def test_the_loops_own_passes_are_the_only_ones_that_d_notices(name: str) -> None:
    """BatchNorm counts the batches that it learns from: three for each step of this loop."""
    torch.manual_seed(0)
    g = play.generator_net()
    d = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    t = stabilgan.Trainer(g, d, play.adam(g), play.adam(d), [play.trick(name)], latent=4, batch_size=8)
    t.fit(play.ring, 3)
    norm = d[1]
    assert isinstance(norm, nn.BatchNorm1d)
    passes = 4 if t.loss.needs_real else 3  # a relativistic G looks at real samples too
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 3 * passes


def test_sampling_leaves_training_as_it_was() -> None:
    quiet, watched = trainer("ema").fit(play.ring, 4), trainer("ema").fit(play.ring, 2)
    first = watched.sample(50, seed=3)
    watched.fit(watched._data, 2)
    assert play.same(watched.state_dict(), quiet.state_dict())
    assert first.shape == (50, 2)


# 10 --------------------------------------------------------------------------------------------------------------


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
