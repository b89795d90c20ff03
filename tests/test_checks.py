"""What is refused at attach, what is told in the loop, and what detach leaves behind."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import play
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

import stabilgan
from stabilgan import losses, surgery
from stabilgan.checks import Reminder

Loop = Callable[[stabilgan.Game, nn.Module, nn.Module], None]


# --- refused at attach -------------------------------------------------------------------------------------------


class Gated(nn.Module):
    """Ends in a linear layer; a gate's sigmoid is registered after it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.gate = nn.Linear(2, 1), nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x) * self.gate(x)
        return out


class Hidden(nn.Module):
    """Ends in a sigmoid that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.head(x)).view(-1)


class Wrapped(nn.Module):
    """The usual shape of a discriminator class."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid(), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x)
        return out


def attach(d: nn.Module, tricks: Any = (), **options: Any) -> stabilgan.Game:
    g = play.generator_net()
    return stabilgan.attach(g, d, play.sgd(g), play.sgd(d), tricks, **options)


@pytest.mark.parametrize("d", [Wrapped(), nn.Sequential(nn.Linear(2, 1), nn.Sequential(nn.Sigmoid()), nn.Identity())])
def test_a_sigmoid_that_surely_is_ds_last_layer_is_refused_at_attach(d: nn.Module) -> None:
    with pytest.raises(ValueError, match="r1 works on logits, but this discriminator ends in a sigmoid"):
        attach(d, [stabilgan.R1()])
    assert not d._forward_hooks


def test_a_gates_sigmoid_is_not_taken_for_ds_end() -> None:
    d = Gated()
    game = attach(d, [stabilgan.R1(1.0)])
    d(game.real(torch.randn(4, 2))).sum().backward()
    game.opt_d.step()
    assert not game.probabilities


def test_a_sigmoid_called_as_a_function_is_refused_at_ds_first_call_before_any_step() -> None:
    d = Hidden()
    game = attach(d, [stabilgan.R1()])
    with pytest.raises(ValueError, match="r1 works on logits, but this discriminator ends in a sigmoid"):
        d(game.real(torch.randn(4, 2)))
    assert not d._forward_hooks  # and the next attach finds a clean loop
    game = attach(d, [stabilgan.EMA()])
    d(game.real(torch.randn(4, 2)))
    assert game.probabilities


def test_what_score_reads_is_what_has_to_be_logits() -> None:
    d = Wrapped()
    game = attach(d, [stabilgan.R1()], score=torch.logit)
    d(game.real(torch.randn(4, 2))).sum().backward()
    game.opt_d.step()
    assert not game.probabilities


def test_a_pass_without_gradients_leaves_the_question_open() -> None:
    d = Hidden()
    game = attach(d)
    with torch.no_grad():
        d(game.real(torch.randn(4, 2)))
    assert not game.probabilities
    d(game.real(torch.randn(4, 2)))
    assert game.probabilities


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (lambda h: h.sigmoid().squeeze(1).view(-1, 1).mean(), True),
        (lambda h: torch.cat([h.sigmoid(), h]), True),
        (lambda h: h.sigmoid().bfloat16(), True),
        (lambda h: h.sigmoid() * h, False),
        (lambda h: h.sigmoid().log(), False),
        (lambda h: nn.functional.logsigmoid(h), False),
        (lambda h: h, False),
        (lambda h: h.detach(), None),
    ],
)
def test_a_graph_shows_whether_its_last_computation_is_a_sigmoid(last: Any, expected: bool | None) -> None:
    assert surgery.passed_sigmoid(last(nn.Linear(2, 1)(torch.randn(4, 2)))) is expected


def test_one_trick_object_twice_is_refused() -> None:
    r1 = stabilgan.R1()
    with pytest.raises(ValueError, match="this r1 is in the list of tricks twice; expected each object once"):
        attach(play.discriminator_net(), [r1, r1])


def test_a_player_that_is_both_is_refused() -> None:
    d = play.discriminator_net()
    with pytest.raises(ValueError, match="g and d are one module; expected a generator and a discriminator"):
        stabilgan.attach(d, d, play.sgd(d), play.sgd(d))


def test_less_than_one_micro_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="accumulate is 0; expected the number of micro-batches"):
        attach(play.discriminator_net(), accumulate=0)


def test_hooks_that_would_miss_a_penaltys_gradients_are_refused() -> None:
    d = play.discriminator_net()
    hook = next(d.parameters()).register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(ValueError, match=r"parameter 0.weight has a hook .* gradients that r1 adds .* Take it off"):
        attach(d, [stabilgan.R1()])
    attach(d, [stabilgan.EMA()]).detach()  # which adds none
    hook.remove()
    attach(d, [stabilgan.R1()])


@pytest.fixture
def _one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
@pytest.mark.filterwarnings("ignore")  # torch's own, about a shard of everything
@pytest.mark.parametrize("player", ["g", "d"])
@pytest.mark.parametrize("version", [1, 2])
def test_sharded_players_are_refused_with_the_reason(version: int, player: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    nets = {"g": play.generator_net(), "d": play.discriminator_net()}
    if version == 1:
        nets[player] = FullyShardedDataParallel(nets[player], device_id=torch.device("cpu"))
    else:
        fully_shard(nets[player][0], mesh=init_device_mesh("cpu", (1,)))  # type: ignore[index]
    with pytest.raises(ValueError, match=rf"^{player} is sharded \(.*\): a penalty's second derivative .* expected"):
        stabilgan.attach(nets["g"], nets["d"], play.sgd(nets["g"]), play.sgd(nets["d"]))


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 1 / (k + 1)),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 20, cycle_momentum=False),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_schedule_made_before_attach_moves_the_parameters_that_a_trick_adds(kind: str) -> None:
    g, d = play.players()
    opt_d = torch.optim.SGD([{"params": d[:2].parameters(), "lr": 0.3}, {"params": d[2:].parameters()}], lr=0.1)
    schedule = SCHEDULERS[kind](opt_d)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.Minibatch(kernels=2, dims=2)])
    added = d[4].extra.weight
    last = d[4].last.weight
    for step in range(4):
        for p in d.parameters():
            p.grad = torch.ones_like(p)
        before = added.detach().clone(), last.detach().clone()
        opt_d.step()
        moved = (before[0] - added).mean().item(), (before[1] - last).mean().item()
        assert moved[0] == pytest.approx(moved[1], rel=1e-3) == pytest.approx(opt_d.param_groups[1]["lr"], rel=1e-3)
        schedule.step(*([float(step)] if kind == "plateau" else []))
    assert opt_d.param_groups[1]["lr"] != 0.1
    assert game.steps["d"] == 4


def test_lbfgs_takes_added_parameters_before_its_first_step_and_refuses_them_afterwards() -> None:
    g, d = play.players()
    opt_d = torch.optim.LBFGS(d.parameters())
    assert opt_d._numel() > 0  # which it keeps
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.Minibatch(kernels=2, dims=2)])

    def turn() -> Tensor:
        opt_d.zero_grad()
        loss = losses.logistic.d(d(game.real(torch.ones(4, 2))), d(game.fake(torch.zeros(4, 2))))
        loss.backward()
        return loss

    opt_d.step(turn)
    game.detach()
    with pytest.raises(ValueError, match="LBFGS that has made steps already"):
        stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.Minibatch(kernels=2, dims=2)])


@pytest.mark.usefixtures("_one_process")
def test_an_optimizer_that_has_dealt_out_its_parameters_refuses_more() -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    g, d = play.players()
    opt_d = ZeroRedundancyOptimizer(d.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="dealt its parameters out to the ranks already; expected a plain optimizer"):
        stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.Minibatch(kernels=2, dims=2)])
    assert len(list(d.parameters())) == 6  # D is what it was


@pytest.mark.parametrize(
    "wrong",
    [
        lambda g, d: stabilgan.attach(g, d, play.sgd(d), play.sgd(g)),
        lambda g, d: stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [stabilgan.Relativistic()]),
        lambda g, d: stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [stabilgan.Minibatch(layer="nope")]),
    ],
)
def test_a_refusal_leaves_no_hook_and_no_mark(wrong: Callable[..., Any]) -> None:
    g, d = play.players()
    before = d.state_dict().keys()
    with pytest.raises(ValueError):
        wrong(g, d)
    assert not d._forward_hooks
    assert d.state_dict().keys() == before
    stabilgan.attach(g, d, play.sgd(g), play.sgd(d))


# --- told in the loop --------------------------------------------------------------------------------------------


class Critical(stabilgan.Trick):
    name = "critical"

    def critic(self, d: Any, game: stabilgan.Game) -> Any:
        return d


def loop(
    game: stabilgan.Game,
    g: nn.Module,
    d: nn.Module,
    *,
    real: Callable[[Tensor], Tensor] | None = None,
    fake: Callable[[Tensor], Tensor] | None = None,
    critic: Callable[[Tensor], Any] | None = None,
    steps: int = 3,
) -> None:
    """The usual loop, with words to leave out or to say wrongly."""
    real, fake, critic = real or game.real, fake or game.fake, critic or game.critic
    data = torch.ones(6, 2)  # the same tensor at every step, which is no one's mistake
    for _ in range(steps):
        samples = g(torch.randn(6, 4))
        game.opt_d.zero_grad()
        losses.logistic.d(d(real(data)), d(fake(samples.detach()))).backward()
        game.opt_d.step()
        game.opt_g.zero_grad()
        losses.logistic.g(critic(samples), None).backward()
        game.opt_g.step()


def told(tricks: list[stabilgan.Trick], run: Loop, **options: Any) -> list[str]:
    """What a loop is told, as warnings."""
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), tricks, **options)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        run(game, g, d)
    assert all(w.category is stabilgan.LoopWarning for w in found)
    assert all(Path(w.filename) == Path(__file__) for w in found)  # they point at the loop's own line
    return [str(w.message) for w in found]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reminder, "PATIENCE", 2)


def identity(x: Tensor) -> Tensor:
    return x


def test_a_loop_that_says_all_words_is_told_nothing() -> None:
    tricks = [stabilgan.Replay(4), stabilgan.R1(), stabilgan.EMA(), stabilgan.Watch(every=10), Critical()]
    assert told(tricks, lambda game, g, d: loop(game, g, d, steps=Reminder.LAST + 2)) == []


@pytest.mark.parametrize("word", ["real", "fake"])
@pytest.mark.parametrize("tricks", [[], [stabilgan.EMA]])
def test_a_forgotten_word_is_told_once_with_its_line(word: str, tricks: list[Any], soon: None) -> None:
    line = {"real": "output = netD(game.real(real))", "fake": "output = netD(game.fake(fake.detach()))"}[word]
    found = told([t() for t in tricks], lambda game, g, d: loop(game, g, d, steps=5, **{word: identity}))
    assert found == [f"D has made 2 steps, but the loop never called game.{word}; write `{line}`"]


def test_it_is_told_at_the_twentieth_step() -> None:
    def run(game: stabilgan.Game, g: nn.Module, d: nn.Module) -> None:
        loop(game, g, d, real=identity, steps=19)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loop(game, g, d, real=identity, steps=0)
        with pytest.warns(stabilgan.LoopWarning, match=r"never called game\.real"):
            loop(game, g, d, real=identity, steps=1)

    assert told([], run) == []


def test_a_loop_whose_tricks_need_no_word_may_say_none(soon: None) -> None:
    run: Loop = lambda game, g, d: loop(game, g, d, real=identity, fake=identity, critic=d)  # noqa: E731
    assert told([stabilgan.EMA()], run) == []
    (message,) = told([stabilgan.Replay()], run)  # which acts on fakes alone
    assert "never called game.fake" in message


def test_a_critic_never_asked_is_told_where_a_trick_needs_it(soon: None) -> None:
    run: Loop = lambda game, g, d: loop(game, g, d, critic=d)  # noqa: E731
    assert told([stabilgan.R1()], run) == []
    (message,) = told([Critical()], run)
    assert "never called game.critic, which critical needs" in message
    assert "`output = game.critic(fake)`" in message


def test_g_may_learn_alone_before_d_plays(soon: None) -> None:
    def run(game: stabilgan.Game, g: nn.Module, d: nn.Module) -> None:
        for _ in range(4):
            game.opt_g.zero_grad()
            g(torch.randn(6, 4)).square().mean().backward()
            game.opt_g.step()
        for _ in range(4):  # and D alone before both
            game.opt_d.zero_grad()
            losses.logistic.d(d(game.real(torch.ones(6, 2))), d(game.fake(torch.zeros(6, 2)))).backward()
            game.opt_d.step()
        loop(game, g, d)

    assert told([Critical()], run) == []


def test_a_tensor_given_to_a_word_twice_in_a_turn_is_told() -> None:
    twice = [
        lambda game: lambda x: game.real(game.real(x)),
        lambda game: lambda x: (game.real(x), game.real(x))[1],
    ]
    for word in twice:
        (message,) = told([], lambda game, g, d, word=word: loop(game, g, d, real=word(game)))
        assert "a tensor went through game.real twice in one turn of D" in message

    class Noise(stabilgan.Trick):
        name = "noise"

        def fake(self, x: Tensor, game: stabilgan.Game) -> Tensor:
            return x + 1

    (message,) = told([Noise()], lambda game, g, d: loop(game, g, d, fake=lambda x: game.fake(game.fake(x))))
    assert "a tensor went through game.fake twice" in message


def test_one_batch_may_come_again_in_a_closure_and_in_an_accumulated_turn() -> None:
    def closed(game: stabilgan.Game, g: nn.Module, d: nn.Module) -> None:
        x, fake = torch.ones(6, 2), torch.zeros(6, 2)

        def turn() -> Tensor:
            game.opt_d.zero_grad()
            loss = losses.logistic.d(d(game.real(x)), d(game.fake(fake)))
            loss.backward()
            return loss

        for _ in range(3):
            game.opt_d.step(turn)
        game.detach()
        opt_d = torch.optim.LBFGS(d.parameters())
        game = stabilgan.attach(g, d, game.opt_g, opt_d, [stabilgan.R1(1.0)])
        for _ in range(3):
            opt_d.step(turn)

    def accumulated(game: stabilgan.Game, g: nn.Module, d: nn.Module) -> None:
        x = torch.ones(6, 2)
        for _ in range(3):
            for _ in range(2):
                d(game.real(x)).sum().backward()
            game.opt_d.step()

    assert told([], closed) == []
    assert told([], accumulated, accumulate=2) == []
    assert len(told([], accumulated)) == 1


def test_a_fake_that_carries_gs_gradient_is_told() -> None:
    (message,) = told([], lambda game, g, d: loop(game, g, d, critic=lambda x: d(game.fake(x))))
    assert "game.fake was given a tensor that carries G's gradient" in message
    assert "`output = netD(game.fake(fake.detach()))` in D's turn, and `output = game.critic(fake)` in G's" in message


def test_a_changed_or_joined_tensor_is_told_since_its_scores_are_not_seen(soon: None) -> None:
    def joined(game: stabilgan.Game, g: nn.Module, d: nn.Module) -> None:
        for _ in range(3):
            game.opt_d.zero_grad()
            d(torch.cat([game.real(torch.ones(6, 2)), game.fake(torch.zeros(6, 2))])).sum().backward()
            game.opt_d.step()

    found = told([stabilgan.R1()], joined)
    assert [m.partition(", so that")[0] for m in found] == [
        f"D has made 2 steps, but never with the tensor that game.{verb} returned" for verb in ("fake", "real")
    ]
    assert "join real and fake by game.cat in the place of torch.cat" in found[0]
    assert told([stabilgan.EMA()], joined) == []  # nobody looks


def test_scores_that_nobody_can_read_are_told(soon: None) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.net(x), x

    g, d = play.generator_net(), Pair()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [stabilgan.Replay(4)])
    with pytest.warns(
        stabilgan.LoopWarning, match=r"no tensor of scores.*attach\(\.\.\., score=lambda out: out\[0\]\)"
    ):
        loop(game, g, lambda x: d(x)[0], critic=lambda x: game.critic(x)[0])  # type: ignore[arg-type]


def test_the_reminder_leaves_and_costs_nothing_afterwards() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d))
    loop(game, g, d, steps=Reminder.LAST)
    assert game._reminder is None


def test_reminding_asks_no_device_and_keeps_no_tensor() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d))
    with play.RefuseSync():
        loop(game, g, d, steps=3)
    x = torch.randn(3, 2)
    gone = weakref.ref(x)
    assert game._reminder is not None
    game._reminder.passed("real", x, x + 1)
    del x
    gc.collect()
    assert gone() is None


# --- joined for one call -----------------------------------------------------------------------------------------


def test_what_is_joined_is_heard_part_by_part() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d))
    real, fake, other = torch.randn(3, 2), torch.randn(4, 2), torch.randn(2, 2)
    out = d(game.cat([game.fake(fake), other, game.real(real)]))
    assert torch.equal(game.scores["fake"], out[:4])
    assert torch.equal(game.scores["real"], out[6:])


def test_joined_labels_and_other_tensors_of_the_call_are_cut_to_the_part() -> None:
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 1)

        def forward(self, x: Tensor, y: Tensor, *, scale: list[Tensor], power: float) -> Tensor:
            out: Tensor = self.net(x) * y[:, None] * scale[0] ** power
            return out

    g, d = play.generator_net(), Labelled()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [stabilgan.R1()])
    real, fake, scale = torch.randn(3, 2), torch.randn(4, 2), torch.rand(7, 1)
    x, y = game.cat([game.real(real, torch.tensor([1, 2, 3])), game.fake(fake, torch.tensor([4, 5, 6, 7]))])
    assert y.tolist() == [1, 2, 3, 4, 5, 6, 7]
    out = d(x, y, scale=[scale], power=2.0)
    for verb, rows, part in (("real", slice(0, 3), real), ("fake", slice(3, 7), fake)):
        torch.testing.assert_close(game.score(part, game.seen[verb]), out[rows])
        assert game.seen[verb].x is part


def test_joining_what_no_word_returned_is_refused() -> None:
    game = attach(play.discriminator_net())
    x = game.real(torch.randn(3, 2))
    with pytest.raises(ValueError, match=r"given no tensor that game\.real or game\.fake has just returned; write"):
        game.cat([x + 1, x * 2])


# --- a closure's loss --------------------------------------------------------------------------------------------


def test_lbfgs_compares_losses_that_include_the_penalty() -> None:
    """With a line search, an R1 game is LBFGS on the loss with the penalty written out."""

    def end(in_game: bool) -> Tensor:
        g, d = play.players(dtype=torch.float64)
        x, y = play.ring(8, torch.Generator().manual_seed(0)).double(), torch.zeros(8, 2, dtype=torch.float64)
        opt_d = torch.optim.LBFGS(d.parameters(), max_iter=8, line_search_fn="strong_wolfe")
        game = stabilgan.attach(g, d, play.sgd(g), opt_d, [stabilgan.R1(4.0)]) if in_game else None

        def turn() -> Tensor:
            opt_d.zero_grad()
            if game is not None:
                loss = losses.logistic.d(d(game.real(x)), d(game.fake(y)))
            else:
                point = x.clone().requires_grad_()
                (slope,) = torch.autograd.grad(d(point).sum(), point, create_graph=True)
                loss = losses.logistic.d(d(x), d(y)) + 4.0 / 2 * slope.square().sum(1).mean()
            loss.backward()
            return loss

        for _ in range(3):
            opt_d.step(turn)
        return play.params(d)

    torch.testing.assert_close(end(True), end(False), rtol=1e-6, atol=1e-9)


# --- detach ------------------------------------------------------------------------------------------------------

TABLES = {
    "module": [n for n in vars(nn.Linear(1, 1)) if n.endswith("hooks") or "hooks_" in n],
    "optimizer": [n for n in vars(play.sgd(nn.Linear(1, 1))) if "hooks" in n],
}


def tables(game: stabilgan.Game) -> list[Any]:
    modules = [m for net in (game.g, game.d) for m in net.modules()]
    found = [dict(vars(m)[n]) for m in modules for n in TABLES["module"] if isinstance(vars(m)[n], dict)]
    found += [dict(vars(o)[n]) for o in (game.opt_g, game.opt_d) for n in TABLES["optimizer"]]
    return found + [dict(p._backward_hooks or {}) for m in modules for p in m.parameters()]


def test_after_detach_all_hook_tables_are_what_they_were() -> None:
    assert len(TABLES["module"]) >= 8
    assert len(TABLES["optimizer"]) >= 4
    g, d = play.players()
    opt_g, opt_d = play.sgd(g), play.sgd(d)
    d.register_forward_hook(lambda *_: None)
    opt_d.register_step_post_hook(lambda *_: None)  # of somebody else
    bare = stabilgan.attach(g, d, opt_g, opt_d)
    attached = tables(bare)
    bare.detach()
    before = tables(bare)
    assert attached != before
    tricks = [stabilgan.Replay(4), stabilgan.R1(), stabilgan.EMA(), stabilgan.Watch(every=1)]
    game = stabilgan.attach(g, d, opt_g, opt_d, tricks)
    loop(game, g, d)
    game.detach()
    game.detach()  # a second time does nothing
    assert tables(game) == before


def test_after_detach_words_pass_values_through_and_nothing_is_kept() -> None:
    g, d = play.players()
    tricks = [stabilgan.Replay(4), stabilgan.R1(), stabilgan.Watch(every=1), Critical()]
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), tricks, loss=losses.hinge)
    loop(game, g, d)
    steps, pool = dict(game.steps), tricks[0].state_dict()
    game.detach()
    x, y = torch.randn(3, 2), torch.arange(3)
    assert game.real(x) is x
    assert game.fake(x, y)[0] is x
    assert game.fake(x, y)[1] is y
    assert torch.equal(game.critic(x), d(x))
    assert torch.equal(game.cat([x, x]), torch.cat([x, x]))
    game.record(d_loss=x.sum())
    loop(game, g, d)
    assert game.steps == steps
    assert play.same(tricks[0].state_dict(), pool)
    assert not game.seen
    assert not game.scores
    assert not game.losses
    assert game.readings() == {}
    assert game.plan().endswith("no tricks: the loop runs as if nothing were attached")
    assert game.state_dict()["steps"] == steps  # what was learned about the game can still be saved


def test_after_detach_the_loss_is_the_pair_that_was_given() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [stabilgan.Relativistic()], loss=losses.hinge)
    assert game.loss is losses.relativistic
    game.detach()
    assert game.loss is losses.hinge


def test_tricks_are_told_when_their_game_ends() -> None:
    ended = []

    class Opened(stabilgan.Trick):
        name = "opened"

        def teardown(self, game: stabilgan.Game) -> None:
            ended.append(game)

    game = attach(play.discriminator_net(), [Opened()])
    assert ended == []
    game.detach()
    game.detach()
    assert ended == [game]


def test_a_sigmoid_d_trains_with_tricks_that_need_no_logits() -> None:
    d = Wrapped()
    game = attach(d, [stabilgan.Replay(4), stabilgan.Minibatch(kernels=2, dims=2), stabilgan.Watch(every=1)])
    for _ in range(3):
        game.opt_d.zero_grad()
        binary_cross_entropy(d(game.real(torch.ones(4, 2))), torch.ones(4, 1)).backward()
        binary_cross_entropy(d(game.fake(torch.zeros(4, 2))), torch.zeros(4, 1)).backward()
        game.opt_d.step()
    assert game.probabilities
    assert all(p.isfinite().all() for p in d.parameters())


def test_readings_are_flat_numbers_and_words_of_all_tricks() -> None:
    class Says(stabilgan.Trick):
        name = "says"

        def report(self) -> dict[str, float | str]:
            return {"says": 1.5, "word": "so"}

    game = attach(play.discriminator_net(), [Says(), stabilgan.EMA()])
    assert game.readings() == {"says": 1.5, "word": "so"}
