"""The game: what it hears, what it says, what it leaves behind."""

import gc
import weakref
from typing import Any

import play
import pytest
import torch
from torch import nn

import stabilgan
from stabilgan import losses
from stabilgan.spec import SpecError
from stabilgan.tricks import check


def loop(game: stabilgan.Game, g: nn.Module, d: nn.Module, steps: int = 1) -> None:
    for _ in range(steps):
        x, fake = torch.randn(8, 2), g(torch.randn(8, 4))
        game.opt_d.zero_grad()
        losses.logistic.d(d(game.real(x)), d(game.fake(fake.detach()))).backward()
        game.opt_d.step()
        game.opt_g.zero_grad()
        losses.logistic.g(game.critic(fake), None).backward()
        game.opt_g.step()


def new_game(*tricks: stabilgan.Trick) -> tuple[stabilgan.Game, nn.Module, nn.Module]:
    g, d = play.players()
    return stabilgan.attach(g, d, play.adam(g), play.adam(d), tricks), g, d


def test_it_hears_ds_scores_by_recognising_its_own_tensors() -> None:
    game, _, d = new_game()
    x = torch.randn(8, 2)
    out = d(game.real(x))
    assert torch.equal(game.scores["real"], out)
    assert not game.scores["real"].requires_grad
    d(torch.randn(8, 2))  # the loop's own business, such as interpolates
    assert torch.equal(game.scores["real"], out)
    assert "fake" not in game.scores


def test_it_hears_a_call_by_keyword_and_repeats_it_in_a_penalty() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 1)

        def forward(self, *, image: torch.Tensor, scale: float) -> torch.Tensor:
            return self.net(image) * scale

    g, d = play.generator_net(), Named()
    game = stabilgan.attach(g, d, play.adam(g), play.adam(d), [stabilgan.R1()])
    out = d(image=game.real(torch.randn(8, 2)), scale=3.0)
    assert torch.equal(game.scores["real"], out)
    point = torch.randn(8, 2)
    torch.testing.assert_close(game.score(point, game.seen["real"]), d(image=point, scale=3.0))


def test_labels_ride_along_and_move_with_their_samples() -> None:
    class Reverse(stabilgan.Trick):
        name = "reverse"

        def fake(self, x: torch.Tensor, game: stabilgan.Game) -> torch.Tensor:
            game.labels = tuple(y.flip(0) for y in game.labels)
            return x.flip(0)

    game, _, _ = new_game(Reverse())
    x, y = game.fake(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), torch.tensor([1, 2]))
    assert y.tolist() == x[:, 0].tolist() == [2, 1]


def test_tricks_act_in_their_order_then_in_list_order() -> None:
    called = []

    def named(title: str, when: int) -> stabilgan.Trick:
        class Noted(stabilgan.Trick):
            name, order = title, when

            def real(self, x: torch.Tensor, game: stabilgan.Game) -> torch.Tensor:
                called.append(title)
                return x

        return Noted()

    tricks = [named("step", stabilgan.STEP), named("b", stabilgan.CHANGE), named("a", stabilgan.CHANGE)]
    game, _, _ = new_game(*tricks, named("select", stabilgan.SELECT))
    game.real(torch.zeros(1, 2))
    assert called == ["select", "b", "a", "step"]


def test_the_plan_says_what_runs_where() -> None:
    game, _, _ = new_game(stabilgan.EMA(), stabilgan.R1(weight=5.0))
    plan = game.plan().splitlines()
    assert plan[0] == "Sequential against Sequential"
    assert any("added to the loss: R1(weight=5.0, every=1)" in line for line in plan)
    assert any("weights have moved: EMA(decay=0.999)" in line for line in plan)
    assert "no tricks" in new_game()[0].plan()


def test_gs_graph_is_let_go_after_its_step() -> None:
    game, g, d = new_game()
    loop(game, g, d)
    fake = g(torch.randn(8, 4))
    node = weakref.ref(fake)
    game.opt_g.zero_grad()
    losses.logistic.g(game.critic(fake), None).backward()
    game.opt_g.step()
    del fake
    gc.collect()
    assert node() is None
    assert game.seen["critic"].x.grad_fn is None


def test_interpolates_of_the_loops_own_penalty_are_not_taken_for_samples() -> None:
    game, g, d = new_game(stabilgan.R1())
    x, fake = game.real(torch.randn(8, 2)), game.fake(g(torch.randn(8, 4)).detach())
    d(x), d(fake)
    mixed = (0.3 * x + 0.7 * fake).requires_grad_()
    d(mixed)
    assert game.seen["real"].x is x
    assert game.seen["fake"].x is fake


def test_a_discriminator_with_several_outputs_is_read_by_the_given_function() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.net(x), x

    g, d = play.generator_net(), Two()
    game = stabilgan.attach(g, d, play.adam(g), play.adam(d), [stabilgan.R1()], score=lambda out: out[0])
    d(game.real(torch.randn(4, 2)))[0].sum().backward()
    game.opt_d.step()
    assert game.scores["real"].shape == (4, 1)


def test_two_games_may_share_their_optimizers_as_in_cyclegan() -> None:
    nets = [play.players(seed) for seed in (0, 1)]
    opt_g = torch.optim.Adam([p for g, _ in nets for p in g.parameters()])
    opt_d = torch.optim.Adam([p for _, d in nets for p in d.parameters()])
    games = [stabilgan.attach(g, d, opt_g, opt_d, [stabilgan.R1(1.0)]) for g, d in nets]
    for _ in range(2):
        fakes = [g(torch.randn(8, 4)) for g, _ in nets]
        opt_d.zero_grad()
        for game, (_, d), fake in zip(games, nets, fakes, strict=True):
            losses.logistic.d(d(game.real(torch.randn(8, 2))), d(game.fake(fake.detach()))).backward()
        opt_d.step()
        opt_g.zero_grad()
        for game, fake in zip(games, fakes, strict=True):
            losses.logistic.g(game.critic(fake), None).backward()
        opt_g.step()
    assert [game.steps for game in games] == [{"d": 2, "g": 2}] * 2


class _AsksG(stabilgan.Trick):
    """Keeps what the game can tell of G's calls and of D's last layer."""

    name = "asks_g"
    needs_latents = True

    def __init__(self) -> None:
        self._heard: list[tuple[torch.Tensor, torch.Tensor]] = []

    def penalty(self, player: stabilgan.game.Player, game: stabilgan.Game) -> torch.Tensor | None:
        verb = "fake" if player == "d" else "critic"
        made_by = game.latents(verb, self)
        self._heard.append((made_by.x, game.generate(made_by).detach()))
        return None


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_trick_is_told_with_which_latents_g_made_each_batch(accumulate: int) -> None:
    g, d = play.players()
    trick = _AsksG()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick], accumulate=accumulate)
    drawn, made = [], []
    for turn in ("d", "g"):
        for _ in range(accumulate):
            drawn.append(torch.randn(6, 4))
            made.append(g(drawn[-1]))
            scores = d(game.fake(made[-1].detach())) if turn == "d" else game.critic(made[-1])
            scores.sum().backward()
        game.optimizer(turn).step()
    norm = g[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 2 * accumulate
    for (z, again), own, own_samples in zip(trick._heard, drawn, made, strict=True):
        torch.testing.assert_close(z, own)
        torch.testing.assert_close(again, own_samples.detach())


def test_features_are_what_ds_last_layer_is_given() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d))
    x = torch.randn(5, 2)
    d(game.real(x))
    torch.testing.assert_close(game.features(x, game.seen["real"]), d[:-1](x))
    torch.testing.assert_close(game.features(x, game.seen["real"], layer="2"), d[:2](x))


def test_a_step_that_only_looks_ahead_is_not_counted() -> None:
    class Peek(stabilgan.Trick):
        name = "peek"

        def __init__(self) -> None:
            self.looked, self.moved = False, 0

        def before_step(self, player: stabilgan.game.Player, game: stabilgan.Game) -> None:
            if not self.looked:
                game.looking_ahead.add(player)
                self.looked = True

        def after_step(self, player: stabilgan.game.Player, game: stabilgan.Game) -> None:
            self.moved += 1

    g, d = play.players()
    trick = Peek()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    for _ in range(3):
        d(game.real(torch.randn(5, 2))).sum().backward()
        game.opt_d.step()
    assert game.steps == {"d": 2, "g": 0}
    assert trick.moved == 2


def test_a_trick_that_fits_one_loss_refuses_another() -> None:
    class Only(stabilgan.Trick):
        name = "only"
        fits = frozenset({"hinge"})

    g, d = play.players()
    with pytest.raises(ValueError, match="only fits the losses hinge alone; this game's loss is logistic"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [Only()], loss=stabilgan.losses.logistic)


def test_an_option_that_is_no_number_is_refused_at_attach() -> None:
    g, d = play.players()
    with pytest.raises(ValueError, match="r1: weight is nan; expected a number"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [stabilgan.R1(float("nan"))])


class _Returning(stabilgan.Trick):
    """Returns from each of its methods what it was made with."""

    name = "returning"

    def __init__(self, value: Any) -> None:
        self.value = value


class _Real(_Returning):
    def real(self, x: torch.Tensor, game: stabilgan.Game) -> Any:
        return self.value


class _Fake(_Returning):
    def fake(self, x: torch.Tensor, game: stabilgan.Game) -> Any:
        return self.value


class _Critic(_Returning):
    def critic(self, d: Any, game: stabilgan.Game) -> Any:
        return self.value


class _Penalty(_Returning):
    def penalty(self, player: stabilgan.game.Player, game: stabilgan.Game) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("trick", "said"),
    [
        (_Real(None), "returning.real returned None; expected the tensor that D is to see. End it with `return x`"),
        (_Fake((torch.ones(8, 2),)), "returning.fake returned a tuple; expected the tensor that D is to see"),
        (_Critic(None), "returning.critic returned None; expected what G is judged by. End it with `return d`"),
        (_Critic(torch.ones(8, 1)), "returning.critic returned a Tensor; expected what G is judged by"),
        (_Penalty(0.5), "returning.penalty('d') returned a float; expected a tensor of one number, or None"),
        (
            _Penalty(torch.ones(8, 1)),
            "returning.penalty('d') returned a tensor of shape (8, 1); expected a tensor of one number, or None. Take "
            "the mean over the batch",
        ),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, stabilgan.Trick) else "",
)
def test_a_method_that_returns_the_wrong_thing_is_named_with_its_trick(trick: stabilgan.Trick, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        loop(*new_game(trick))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, torch.ones(8, 1).mean(), torch.ones(1)])
def test_a_penalty_may_be_none_or_one_number_in_any_shape(value: torch.Tensor | None) -> None:
    game, g, d = new_game(_Penalty(value if value is None else value.requires_grad_()))
    loop(game, g, d)
    assert game.steps == {"d": 1, "g": 1}


@pytest.mark.parametrize("said", ["conflicts", "limits"])
def test_a_trick_that_lists_conflicts_or_limits_without_a_reason_is_refused_in_one_line(said: str) -> None:
    trick = type("Lists", (stabilgan.Trick,), {"name": "lists", said: ["r1"]})()
    why = rf"^lists: {said} is \['r1'\]; expected each name with what goes wrong: {said} = .*$"
    with pytest.raises(TypeError, match=why):
        new_game(trick, stabilgan.R1())
    with pytest.raises(SpecError, match=why):
        check([trick, stabilgan.R1()])
