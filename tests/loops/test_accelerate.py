"""Accelerate's loop with the hooks: prepared players, accumulated and skipped steps, mixed precision, checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate_gan
import framework
import play
import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState

import stabilgan

X = framework.patterns()  # with batches of 20, an epoch is 6 of them


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Accelerate keeps its settings in singletons."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def train(out: Path, batches: int, tricks: Any = (), module: Any = accelerate_gan, **options: Any) -> dict[str, Any]:
    _reset()
    how = {key: options.pop(key) for key in ("accumulate", "mixed_precision") if key in options}
    accelerator = module.accelerated(out, **how)
    torch.manual_seed(99)
    parts = module.train(accelerator, X, batches, tricks, batch_size=20, **options)
    accelerator.end_training()
    return parts


def _reset() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def state(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_without_tricks_it_is_accelerates_own_loop_bit_for_bit(accumulate: int, tmp_path: Path) -> None:
    raw = train(tmp_path, 8, module=framework.before("accelerate_gan"), accumulate=accumulate)
    ours = train(tmp_path, 8, accumulate=accumulate)
    del ours["game"]
    assert play.same(state(ours), state(raw))


def test_four_lines_make_the_difference() -> None:
    assert framework.changed_lines("accelerate_gan") == [
        "real_score = d(game.real(real))",
        "fake_score = d(game.fake(fake.detach()))",
        "score = game.critic(fake)",
    ]


@pytest.mark.parametrize(
    ("accumulate", "precision", "stop"), [(1, "no", 3), (1, "bf16", 7), (2, "no", 2), (2, "no", 10)]
)
def test_saved_and_loaded_it_equals_the_uninterrupted_run(
    accumulate: int, precision: str, stop: int, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"accumulate": accumulate, "mixed_precision": precision}
    whole = train(tmp_path, 14, framework.tricks(), **options)
    train(tmp_path, stop, framework.tricks(), **options, save=tmp_path / "at")
    again = train(tmp_path, 14, framework.tricks(), **options, resume=tmp_path / "at")
    assert play.same(state(again), state(whole))
    assert all(p.isfinite().all() for p in again["g"].parameters())


def test_what_the_game_writes_is_plain(tmp_path: Path) -> None:
    train(tmp_path, 3, framework.tricks(), save=tmp_path / "at")
    kept = torch.load(tmp_path / "at" / "custom_checkpoint_1.pkl", weights_only=True)
    assert kept["steps"] == {"d": 3, "g": 3}
    assert {t["name"] for t in kept["tricks"]} == {t.name for t in framework.tricks()}


def test_only_steps_that_are_made_are_heard(tmp_path: Path) -> None:
    """Seven batches, two to a step, in an epoch of six: Accelerate steps at 2, 4 and 6."""
    heard: list[tuple[str, int]] = []

    class Listening(stabilgan.Trick):
        name = "listening"

        def after_step(self, player: Any, game: stabilgan.Game) -> None:
            heard.append((player, len(game._history["real"])))

    game = train(tmp_path, 7, [Listening()], accumulate=2)["game"]
    assert game.steps == {"d": 3, "g": 3}
    assert heard == [("d", 2), ("g", 0)] * 3


def test_an_accumulated_penalty_looks_at_every_batch_of_the_step(tmp_path: Path) -> None:
    """Without losses of its own D moves by the penalties alone: two half batches penalise as one whole does."""

    def gradient(accumulate: int) -> torch.Tensor:
        _reset()
        accelerator = accelerate_gan.accelerated(tmp_path, accumulate)
        g, d = play.players()
        g, d, opt_g, opt_d = accelerator.prepare(g, d, play.sgd(g), torch.optim.SGD(d.parameters(), 1.0))
        game = stabilgan.attach(g, d, opt_g, opt_d, [stabilgan.R1(3.0)], accumulate=accumulate)
        for real in play.ring(8, torch.Generator().manual_seed(0)).chunk(accumulate):
            with accelerator.accumulate(d):
                accelerator.backward(d(game.real(real)).sum() * 0)
                opt_d.step()
        return play.params(game.d)

    whole = gradient(1)
    torch.testing.assert_close(gradient(2), whole)
    assert not torch.equal(whole, play.params(play.players()[1]))


def test_a_step_that_the_scaler_skips_is_not_heard() -> None:
    accelerator = accelerate_gan.Accelerator(cpu=True)
    g, d = play.players()
    opt_d = AcceleratedOptimizer(play.sgd(d), scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    game = stabilgan.attach(accelerator.prepare(g), accelerator.prepare(d), play.sgd(g), opt_d, [stabilgan.R1(1.0)])
    data = torch.Generator().manual_seed(0)
    for factor in (1.0, float("inf"), 1.0):
        x = play.ring(8, data)
        opt_d.zero_grad()
        loss = opt_d.scaler.scale(d(game.real(x)).mean() * factor)
        loss.backward()
        opt_d.step()
        assert opt_d.step_was_skipped == (factor != 1.0)
    assert game.steps["d"] == 2
    assert play.params(d).isfinite().all()


def test_penalties_are_in_full_precision_where_the_players_are_not(tmp_path: Path) -> None:
    """Accelerate puts autocast into the module's own forward; R1 is that of the same D without it."""
    found: list[torch.Tensor] = []

    class Looking(stabilgan.R1):
        def penalty(self, player: Any, game: stabilgan.Game) -> torch.Tensor | None:
            value = super().penalty(player, game)
            if value is not None:
                _, alone = play.players()
                alone.load_state_dict(game.d.state_dict())
                x = game.seen["real"].x.clone().requires_grad_()
                found.extend([value.detach(), stabilgan.tricks.r1.gradient_norm_penalty(alone(x), x).detach()])
            return value

    accelerator = accelerate_gan.accelerated(tmp_path, mixed_precision="bf16")
    g, d = play.players()
    g, d, opt_g, opt_d = accelerator.prepare(g, d, play.sgd(g), play.sgd(d))
    game = stabilgan.attach(g, d, opt_g, opt_d, [Looking(weight=1.0)])
    x = play.ring(8, torch.Generator().manual_seed(0))
    rounded = d(x)
    accelerator.backward(d(game.real(x)).mean())
    opt_d.step()
    assert torch.equal(found[0], found[1])
    assert not torch.equal(rounded, play.players()[1](x))  # it was bfloat16 that D was called in
    assert torch.equal(d.forward(x), d(x))  # and still is: Accelerate's forward was put back


def test_the_averaged_generator_is_one_of_its_own(tmp_path: Path) -> None:
    """A copy of a module whose forward Accelerate has bound to the module itself."""
    ema = stabilgan.EMA(0.5)
    parts = train(tmp_path, 4, [ema], mixed_precision="bf16")
    z = torch.randn(20, 64)
    parts["g"].eval()
    assert not torch.equal(ema.average(z), parts["g"](z))
    parts["g"].load_state_dict(ema.average.state_dict())
    assert torch.equal(ema.average(z), parts["g"](z))


def test_readings_reach_accelerates_tracker(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = stabilgan.Watch(every=1, family="logistic")
    train(tmp_path, 10, [watch])
    board = EventAccumulator(str(tmp_path / "gan"))
    board.Reload()
    (event,) = board.Scalars("divergence")
    assert event.step == 10
    assert event.value == pytest.approx(watch.readings()["divergence"].value)


def test_the_example_runs_and_resumes_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    framework.run(accelerate_gan, monkeypatch, "--steps", 2, "--accumulate", 2, "--out", tmp_path)
    _reset()
    framework.run(accelerate_gan, monkeypatch, "--steps", 3, "--accumulate", 2, "--out", tmp_path, "--resume")
    kept = torch.load(tmp_path / "last" / "custom_checkpoint_1.pkl", weights_only=True)
    assert kept["steps"] == {"d": 3, "g": 3}
