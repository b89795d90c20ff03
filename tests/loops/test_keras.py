"""Keras models and optimizers on the torch backend, in a custom training step with the hooks."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")  # before anyone imports keras

import example
import play
import pytest
import torch
from torch import Tensor

import stabilgan
from stabilgan import EMA, R1, R2, Replay, Watch, host
from stabilgan.integrations.keras import KerasOptimizer

keras = pytest.importorskip("keras")
keras_gan = example.load("keras_gan")
# Keras saves a model to copy it, and numpy 2 wishes that its variables knew one more argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
layers = keras.layers
both_models = pytest.mark.parametrize("name", ["dense", "dcgan"])
SMALL = {"dense": keras_gan.dense, "dcgan": lambda: keras_gan.dcgan(width=4)}


def new(
    name: str,
    tricks: Sequence[stabilgan.Trick] = (),
    module: ModuleType = keras_gan,
    optimizer: Callable[[float], Any] = keras.optimizers.RMSprop,
) -> Any:
    keras.utils.set_random_seed(0)
    gan = module.GAN(*SMALL[name]())
    gan.compile(optimizer(1e-3), optimizer(1e-3), tricks)
    return gan


def images(n: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, 28, 28, 1, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def played(gan: Any, steps: int, start: int = 0) -> Any:
    for step in range(start, start + steps):
        gan.train_step(images(seed=step))
    return gan


def weights(model: Any) -> list[Tensor]:
    return [v.value.detach().clone() for v in model.variables]


@both_models
def test_without_tricks_it_is_bit_identical_to_keras_alone(name: str) -> None:
    before = example.load("keras_gan", before=True)
    assert "game" not in example.source("keras_gan", before=True)
    assert play.same(weights(played(new(name), 3)), weights(played(new(name, module=before), 3)))


@both_models
def test_fit_trains_with_the_hooks(name: str) -> None:
    average, watch = EMA(0.5), Watch(every=1, family="logistic")
    gan = new(name, [Replay(), R1(1.0), R2(1.0), average, watch])
    started = weights(gan.g)
    gan.fit(images(24).numpy(), batch_size=8, epochs=2, verbose=0)
    assert gan.game.steps == {"d": 6, "g": 6}
    assert not any(torch.equal(a, b) for a, b in zip(started, weights(gan.g), strict=True) if a.is_floating_point())
    assert tuple(average.average(torch.randn(3, keras_gan.CODINGS)).shape) == (3, 28, 28, 1)
    assert watch.readings()["divergence"].step == 6


@pytest.mark.parametrize("kind", ["RMSprop", "Adam", "SGD"])
def test_the_optimizer_moves_weights_as_keras_does(kind: str) -> None:
    def model() -> Any:
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="selu"), layers.Dense(1)])

    one, two, three = model(), model(), model()
    theirs = getattr(keras.optimizers, kind)(1e-2, clipnorm=0.1)
    ours, stepping = (
        KerasOptimizer(getattr(keras.optimizers, kind)(1e-2, clipnorm=0.1), m.trainable_variables) for m in (two, three)
    )
    for seed in range(3):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        for m in (one, two, three):
            m.zero_grad()
            m(x).square().mean().backward()
        with torch.no_grad():
            theirs.apply([v.value.grad for v in one.trainable_variables], one.trainable_variables)
        ours.apply([v.value.grad for v in two.trainable_variables])
        stepping.step()
    assert play.same(weights(one), weights(two))
    assert play.same(weights(one), weights(three))
    assert not play.same(weights(one), weights(model()))


def test_a_variable_without_a_gradient_is_left_alone_and_a_closure_is_called() -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(1)])
    optimizer = KerasOptimizer(keras.optimizers.SGD(0.1), model.trainable_variables)
    before = weights(model)
    model.layers[1].kernel.value.grad = torch.ones(4, 1)
    assert optimizer.step(lambda: 7.0) == 7.0
    moved = [not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True)]
    assert moved == [v is model.layers[1].kernel for v in model.variables]


@both_models
def test_r1_reaches_the_gradients_through_keras_layers(name: str) -> None:
    """Dropout aside, which draws anew: the dcgan's discriminator is called as in inference."""

    def gradients(tricks: Sequence[stabilgan.Trick]) -> tuple[Any, Tensor, list[Tensor]]:
        gan = new(name, tricks)
        x = images()
        kept: list[Tensor] = []
        gan.d(gan.game.real(x)).mean().backward()
        gan.game.opt_d.register_step_pre_hook(lambda *_: kept.extend(v.value.grad for v in gan.d.trainable_variables))
        slope_of = [v.value.detach().clone() for v in gan.d.trainable_variables]
        gan.opt_d.step()
        return gan, x, [*kept, *slope_of]

    gan, x, plain = gradients([])
    _, _, with_r1 = gradients([R1(3.0)])
    n = len(gan.d.trainable_variables)
    for variable, value in zip(gan.d.trainable_variables, plain[n:], strict=True):
        variable.assign(value)  # back to before the step
    x.requires_grad_()
    (slope,) = torch.autograd.grad(gan.d(x).sum(), x, create_graph=True)
    penalty = 3.0 / 2 * slope.square().sum((1, 2, 3)).mean()
    parameters = [v.value for v in gan.d.trainable_variables]
    by_hand = torch.autograd.grad(penalty, parameters, allow_unused=True, materialize_grads=True)
    assert max(g.abs().max() for g in by_hand) > 1e-3
    for a, b, wanted in zip(with_r1[:n], plain[:n], by_hand, strict=True):
        torch.testing.assert_close(a - b, wanted, atol=1e-5, rtol=1e-3)


def normalised() -> Any:
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6),
            layers.BatchNormalization(),
            layers.Dropout(0.4),
            layers.Dense(1),
        ]
    )


def game_against(d: Any, tricks: Sequence[stabilgan.Trick] = ()) -> stabilgan.Game:
    g = keras.Sequential([keras.Input((2,)), layers.Dense(5)])
    opt_g, opt_d = (KerasOptimizer(keras.optimizers.RMSprop(1e-3), m.trainable_variables) for m in (g, d))
    return stabilgan.attach(g, d, opt_g, opt_d, tricks)


def test_a_pass_that_only_measures_changes_nothing_in_keras_layers() -> None:
    d = normalised()
    game = game_against(d)
    d(game.real(torch.randn(8, 5)), training=True)
    before = weights(d)
    x = torch.randn(8, 5, requires_grad=True)
    scores = game.score(x, game.seen["real"])
    assert game.seen["real"].kwargs["training"] is True
    assert play.same(weights(d), before)
    torch.autograd.grad(scores.sum(), x, create_graph=True)[0].square().sum().backward()  # the graph is whole
    d(x.detach(), training=True)
    assert not play.same(weights(d), before)  # where it is the loop's own pass, statistics and seeds move


def test_the_average_pairs_variables_by_layer_and_copies_what_is_not_trained() -> None:
    def generator() -> Any:
        return keras.Sequential(
            [keras.Input((2,)), layers.Dense(5), layers.Dropout(0.4), layers.BatchNormalization(), layers.Dense(5)]
        )

    average, g, d = EMA(0.75), generator(), normalised()
    opt_g, opt_d = (KerasOptimizer(keras.optimizers.RMSprop(1e-1), m.trainable_variables) for m in (g, d))
    game = stabilgan.attach(g, d, opt_g, opt_d, [average])
    kept: Any = average.average
    shapes = [[tuple(p.shape) for p in m.parameters()] for m in (g, kept)]
    assert shapes[0] != shapes[1]  # torch's order is by name, and a copy's names are others
    expected = weights(g)
    for _ in range(3):
        g.zero_grad()
        game.critic(g(torch.randn(8, 2), training=True), training=True).square().mean().backward()
        opt_g.step()
        expected = [
            0.75 * old + 0.25 * v.value.detach() if v.value.requires_grad else v.value.detach().clone()
            for old, v in zip(expected, g.variables, strict=True)
        ]
    for value, variable in zip(expected, kept.variables, strict=True):
        torch.testing.assert_close(variable.value, value)
    twin = generator()
    for variable, value in zip(twin.variables, expected, strict=True):
        variable.assign(value)
    z = torch.randn(4, 2)
    torch.testing.assert_close(kept(z), twin(z))


def saved(gan: Any) -> Any:
    state = {
        "weights": weights(gan),
        "opt_g": gan.opt_g.state_dict(),
        "opt_d": gan.opt_d.state_dict(),
        "game": gan.game.state_dict(),
        "latents": gan.latents.get_state(),
    }
    torch.save(state, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=True)


def restore(gan: Any, state: Any) -> Any:
    for variable, value in zip(gan.variables, state["weights"], strict=True):
        variable.assign(value)
    gan.opt_g.load_state_dict(state["opt_g"])
    gan.opt_d.load_state_dict(state["opt_d"])
    gan.game.load_state_dict(state["game"])
    gan.latents.set_state(state["latents"])
    return gan


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_equals_the_uninterrupted_one(stop: int) -> None:
    def gan() -> Any:
        return new("dcgan", [Replay(size=12), R1(1.0), EMA(0.5)], optimizer=keras.optimizers.Adam)

    whole = saved(played(gan(), 3))
    resumed = restore(gan(), saved(played(gan(), stop)))
    assert play.same(saved(played(resumed, 3 - stop, stop)), whole)


def test_a_keras_optimizer_alone_is_refused_with_the_line_to_write() -> None:
    d = normalised()
    with pytest.raises(TypeError, match=r"Keras' RMSprop.*KerasOptimizer\(optimizer, model.trainable_variables\)"):
        stabilgan.attach(d, d, keras.optimizers.RMSprop(1e-3), keras.optimizers.RMSprop(1e-3))


def test_what_can_not_be_wrapped_is_refused() -> None:
    d = normalised()
    with pytest.raises(TypeError, match="expected a Keras optimizer"):
        KerasOptimizer(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), d.trainable_variables)
    with pytest.raises(ValueError, match="without variables"):
        KerasOptimizer(keras.optimizers.SGD(0.1), [])
    with pytest.raises(ValueError, match="accumulates gradients by itself"):
        KerasOptimizer(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), d.trainable_variables)
    small = KerasOptimizer(keras.optimizers.SGD(0.1), d.trainable_variables[:1])
    large = KerasOptimizer(keras.optimizers.RMSprop(0.1), d.trainable_variables)
    with pytest.raises(ValueError, match="this one has"):
        small.load_state_dict(large.state_dict())


def test_a_sigmoid_in_the_last_keras_layer_is_found() -> None:
    d = keras.Sequential([keras.Input((5,)), layers.Dense(4), layers.Dense(1, activation="sigmoid")])
    game = game_against(d, [R1(1.0)])
    with pytest.raises(ValueError, match="sigmoid"):
        d(game.real(torch.randn(3, 5)))


def test_spectral_norm_says_that_it_finds_no_layer_of_torchs() -> None:
    with pytest.raises(ValueError, match="no layer to normalise was found in Sequential"):
        game_against(normalised(), [stabilgan.SpectralNorm()])


def test_what_a_torch_model_is_made_of_is_not_touched_by_keras_being_there() -> None:
    g, _ = play.players()
    assert host.keras_variables(g) is None
    assert [id(t) for t in host.state(g)] == [id(t) for t in (*g.parameters(), *g.buffers())]
