"""That a trick plays on a GPU's terms: nobody waits, memory stays, any dtype, autocast, a GradScaler, a compiler."""

from __future__ import annotations

import gc
import weakref
from typing import Any, cast

import torch
from torch import Tensor, nn

from stabilgan.game import PLAYERS, Game, Player
from stabilgan.testing.play import fused_sgd, params, sgd
from stabilgan.testing.promise import Broken, NotAsked, Promise, Subject
from stabilgan.testing.promises.loops import Players, finite
from stabilgan.testing.refuse_sync import RefuseSync


def makes_nobody_wait(subject: Subject) -> None:
    """With SGD, since Adam itself reads its step count on a CPU."""
    t = subject.trainer(optimizer=sgd).fit(subject.world.data, 1)
    try:
        with RefuseSync():
            t.fit(t._data, 8)
    except AssertionError as error:
        if "makes the host wait" in str(error):
            raise Broken(f"{error}; keep values in tensors (torch.where, masks by multiplication)") from error
        raise


class _Mark:
    """A hook that does nothing: the graph of the output that it is on keeps it, and nothing else does."""

    def __call__(self, gradient: Tensor) -> None: ...


def lets_go_of_graphs(subject: Subject) -> None:
    """One step's graph may be kept for a while, but not each step's."""
    trick = subject.make()
    t = subject.trainer(tricks=[trick])
    marks: list[tuple[int, weakref.ref[_Mark]]] = []

    def mark(out: Any) -> None:
        if isinstance(out, Tensor) and out.requires_grad:
            hook = _Mark()
            out.register_hook(hook)
            marks.append((t.steps, weakref.ref(hook)))

    def penalty(player: Player, game: Game) -> Tensor | None:
        value = type(trick).penalty(trick, player, game)
        mark(value)
        return value

    vars(trick)["penalty"] = penalty
    for module in (*t.game.g.modules(), *t.game.d.modules()):
        module.register_forward_hook(lambda module, args, out: mark(out))
    t.fit(subject.world.data, 8)

    def kept() -> set[int]:
        return {step for step, alive in marks if alive() is not None and step < 5}

    if len(kept()) > 1:
        gc.collect()  # circles are nobody's fault
    if len(steps := kept()) > 1:
        raise Broken(
            f"after 8 steps the graphs of {len(steps)} of the first 5 are still in memory, which grows with each step; "
            "keep detached values: value.detach()"
        )


def follows_the_players_dtype(subject: Subject) -> None:
    players = subject.by_hand(3, dtype=torch.float64)
    _all_are(torch.float64, players, "with players in float64")
    finite(players, "after 3 steps in float64")


def leaves_finite_float32_weights(subject: Subject) -> None:
    players = subject.by_hand(3, autocast=True)
    _all_are(torch.float32, players, "under autocast")
    finite(players, "after 3 steps under autocast")


def _all_are(dtype: torch.dtype, players: Players, said: str) -> None:
    for player, module in zip(("G", "D"), players, strict=True):
        if strange := [p.dtype for p in module.parameters() if p.dtype != dtype]:
            raise Broken(f"{said}, {player} has weights in {strange[0]}")


def penalises_in_float32(subject: Subject) -> None:
    t = subject.trainer(amp=True).fit(subject.world.data, 1)
    if not t.game.acting("penalty"):
        raise NotAsked("it has no penalty")
    for player in PLAYERS:
        with torch.autocast(subject.device.type, torch.bfloat16):
            value = t.game.tricks[0].penalty(player, t.game)
        if value is not None and value.dtype != torch.float32:
            raise Broken(f"penalty({player!r}) is {value.dtype} under autocast; call D through game.score")


def is_unmoved_by_a_grad_scaler(subject: Subject) -> None:
    """A power of two scales without rounding; what is left is the order of additions."""
    on_cpu = subject.device.type == "cpu"
    optimizer = sgd if on_cpu else fused_sgd  # for which the scaler itself does not wait

    def ends(enabled: bool) -> Players:
        return subject.by_hand(3, optimizer=optimizer, scaler=_scaler(subject, enabled))

    _near(ends(True), ends(False), 1e-6 if on_cpu else 1e-4, 1e-7 if on_cpu else 1e-5, "with losses scaled by 1024")


def sits_out_an_overflow(subject: Subject) -> None:
    """A fused optimizer hears of the step that its scaler leaves out, and so do tricks."""
    scaled = subject.by_hand(3, optimizer=fused_sgd, scaler=_scaler(subject), overflow=2)
    plain = subject.by_hand(2, optimizer=fused_sgd)
    _near(scaled, plain, 1e-4, 1e-5, "after two steps and one that a GradScaler leaves out for its overflow")
    finite(
        subject.by_hand(4, optimizer=fused_sgd, scaler=_scaler(subject), overflow=1, autocast=True),
        "under autocast, two steps after one that a GradScaler leaves out for its overflow",
    )


def _scaler(subject: Subject, enabled: bool = True) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(subject.device.type, init_scale=1024.0, enabled=enabled)


def plays_with_compiled_players(subject: Subject) -> None:
    """By dynamo and AOT autograd; which kernels are made of the graph is not the trick's business."""

    def ends(compiled: bool) -> Players:
        torch.compiler.reset()
        players: Any = subject.world.players()
        if compiled:
            players = tuple(cast(nn.Module, torch.compile(player, backend="aot_eager")) for player in players)
        t = subject.trainer(players=players, optimizer=sgd).fit(subject.world.data, 3)
        return t.game.g, t.game.d

    _near(ends(True), ends(False), 1e-4, 1e-5, "with compiled players")


def _near(players: Players, others: Players, relative: float, absolute: float, said: str) -> None:
    for player, a, b in zip(("G", "D"), players, others, strict=True):
        if not torch.allclose(params(a), params(b), rtol=relative, atol=absolute):
            gap = (params(a) - params(b)).abs().max()
            raise Broken(f"{said}, {player}'s weights differ by up to {gap:.2g}")


PROMISES = (
    Promise("no waiting", "No step makes the host wait for the device.", makes_nobody_wait, "no waiting"),
    Promise("lets go", "It lets the graphs of past steps go.", lets_go_of_graphs),
    Promise("float64", "Its dtype follows the players.", follows_the_players_dtype, "float64"),
    Promise("autocast", "Autocast leaves finite float32 weights.", leaves_finite_float32_weights, "autocast"),
    Promise("float32 penalty", "A penalty is computed in float32 under autocast.", penalises_in_float32, "autocast"),
    Promise("scaler", "A GradScaler changes nothing where nothing overflows.", is_unmoved_by_a_grad_scaler, "scaler"),
    Promise("overflow", "A step that a GradScaler leaves out moves no weight.", sits_out_an_overflow, "scaler"),
    Promise("compile", "Compiled players end where eager ones do.", plays_with_compiled_players, "compile", slow=True),
)
