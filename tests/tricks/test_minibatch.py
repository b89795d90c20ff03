"""Minibatch discrimination against the paper's formula, a loop over pairs, finite differences, and a game."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stabilgan.game import attach
from stabilgan.tricks import _minibatch_kernel as kernel_module
from stabilgan.tricks._minibatch_kernel import kernel_sums, nearest_distances, should_compile
from stabilgan.tricks.minibatch import Minibatch, MinibatchDiscrimination, minibatch_features
from stabilgan.tricks.r1 import R1, gradient_norm_penalty

compilers = pytest.mark.skipif(kernel_module._compiler() is None, reason="there is no C++ compiler here")


def plain(m: Tensor) -> Tensor:
    """The formula as everyone writes it, with a tensor of N x N x B x C."""
    distance = (m[:, None] - m[None]).abs().sum(3)
    others = 1 - torch.eye(len(m), dtype=m.dtype)
    return (torch.exp(-distance) * others[:, :, None]).sum(1)


def loops(x: Any, kernel: Any) -> Any:
    """Section 3.2 of the paper, word by word: M_i = x_i T, c_b(x_i, x_j), o(x_i)_b, without the sample itself."""
    inputs, kernels, dims = kernel.shape
    out = np.zeros((len(x), kernels))
    for i in range(len(x)):
        for j in range(len(x)):
            for b in range(kernels if i != j else 0):
                distance = 0.0
                for c in range(dims):
                    distance += abs(sum((x[i][a] - x[j][a]) * kernel[a, b, c] for a in range(inputs)))
                out[i, b] += math.exp(-distance)
    return out


def batch(n: int, kernels: int = 3, dims: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(n, kernels, dims, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[1 << 17, 60, 1], ids=["one block", "blocks of ten pairs", "blocks of one pair"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setitem(kernel_module.BLOCK, "cpu", request.param)
    return int(request.param)


# --- values and gradients --------------------------------------------------------------------------------------


def test_features_are_the_papers_sums_over_pairs() -> None:
    x, kernel = draw(6, 4).double(), draw(4, 3, 2, seed=1).double()
    expected = loops(x.numpy(), kernel.numpy())
    np.testing.assert_allclose(minibatch_features(x, kernel).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 37])
def test_sums_and_gradients_are_those_of_the_plain_form(n: int, block: int) -> None:
    m = batch(n).requires_grad_()
    upstream = draw(n, 3, seed=2).double()
    ours, expected = kernel_sums(m), plain(m)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
    (gradient,) = torch.autograd.grad(ours, m, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, m, upstream)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_gradients_and_their_gradients_pass_finite_differences(n: int, block: int) -> None:
    m = batch(n).requires_grad_()
    assert torch.autograd.gradcheck(kernel_sums, m)
    assert torch.autograd.gradgradcheck(kernel_sums, m)


def test_at_full_size_in_float32_gradients_equal_the_plain_form_to_1e_5() -> None:
    m = (0.3 * batch(100, 100, 5, torch.float32)).requires_grad_()
    upstream = draw(100, 100, seed=2)
    ours, expected = kernel_sums(m), plain(m)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(ours, m, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, m, upstream)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


def test_equal_samples_push_each_other_nowhere() -> None:
    m = torch.ones(4, 2, 3, requires_grad=True)
    sums = kernel_sums(m)
    assert sums.tolist() == [[3.0, 3.0]] * 4
    assert torch.autograd.grad(sums.sum(), m)[0].count_nonzero() == 0


def test_far_samples_neither_slow_nor_break_the_sums() -> None:
    m = torch.tensor([0.0, 1e4, 1e30]).view(3, 1, 1).requires_grad_()
    sums = kernel_sums(m)
    assert sums.flatten().tolist() == [0.0, 0.0, 0.0]
    assert torch.autograd.grad(sums.sum(), m)[0].flatten().tolist() == [0.0, 0.0, 0.0]


def test_nearest_distances_are_the_smallest_of_each_row(block: int) -> None:
    m = batch(9)
    distance = (m[:, None] - m[None]).abs().sum(3)
    distance[range(9), range(9)] = math.inf
    torch.testing.assert_close(nearest_distances(m), distance.amin(1))
    assert nearest_distances(m[:1]).isinf().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, kernel = draw(12, 4).to(dtype), draw(4, 3, 2, seed=1)
    expected = minibatch_features(x.float(), kernel)
    assert torch.equal(minibatch_features(x, kernel), expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(minibatch_features(x.float(), kernel), expected)


def test_the_operators_keep_torchs_contract() -> None:
    m, g = batch(4).requires_grad_(), draw(4, 3).double().requires_grad_()
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(kernel_module._sums, (m, False), test_utils=tests)
    torch.library.opcheck(kernel_module._nearest, (m.detach(),), test_utils=tests)
    torch.library.opcheck(kernel_module._backward, (m, g, False), test_utils=tests)
    torch.library.opcheck(kernel_module._double_backward, (m.detach(), g.detach(), m.detach(), False), test_utils=tests)


# --- memory ----------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes, beneath custom operators too."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if isinstance(func, torch._ops.OpOverload) and func.namespace == "stabilgan":
            with self:  # look inside
                out = func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CPU), *args, **(kwargs or {}))
        else:
            out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.untyped_storage().nbytes() // value.element_size())
        return out


def second_gradient(sums: Callable[[Tensor], Tensor], m: Tensor) -> Tensor:
    m = m.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(sums(m).square().sum(), m, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), m)
    return second


def test_no_tensor_grows_with_the_pairs_of_a_batch_even_in_gradients_of_gradients() -> None:
    n, kernels, dims = 200, 40, 2
    m = batch(n, kernels, dims, torch.float32)
    with Largest() as ours:
        second_gradient(kernel_sums, m)
    with Largest() as theirs:
        second_gradient(plain, m)
    assert theirs.numel >= n * n * kernels  # the instrument sees what there is to see
    chunk = 2 * kernel_module.BLOCK["cpu"]
    assert kernel_module.BLOCK["cpu"] / 4 < ours.numel < 2 * n * kernels * dims + chunk < n * n * kernels


# --- the compiled form -----------------------------------------------------------------------------------------


@compilers
@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 64, 65, 130])
def test_the_compiled_form_and_its_gradients_equal_the_eager_one(n: int) -> None:
    m = batch(n)
    torch.testing.assert_close(kernel_sums(m, compile=True), kernel_sums(m, compile=False))
    compiled = second_gradient(lambda m: kernel_sums(m, compile=True), m)
    torch.testing.assert_close(compiled, second_gradient(lambda m: kernel_sums(m, compile=False), m))
    assert not kernel_module._failed


@compilers
@pytest.mark.slow
def test_the_compiled_form_computes_the_same_bits_whatever_came_before() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    m = batch(130, dtype=torch.float32)
    fresh = kernel_sums(m, compile=True)
    for n in (2, 64, 300):
        kernel_sums(batch(n, dtype=torch.float32), compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # one kernel serves them all
    with torch.compiler.set_stance("force_eager"):  # as in a pass that only measures D
        assert torch.equal(kernel_sums(m, compile=True), fresh)
    torch._dynamo.reset()
    kernel_sums(batch(9, dtype=torch.float32), compile=True)
    assert torch.equal(kernel_sums(m, compile=True), fresh)


@pytest.mark.parametrize("n", [100, 128, 255])
def test_auto_never_compiles_a_batch_too_small_to_repay_it(n: int) -> None:
    assert not should_compile("auto", torch.Size((n, 100, 5)), torch.device("cpu"))


@compilers
def test_auto_compiles_large_batches_by_their_shape_alone() -> None:
    for _ in range(3):
        assert should_compile("auto", torch.Size((256, 100, 5)), torch.device("cpu"))
    assert not should_compile("auto", torch.Size((256, 99, 5)), torch.device("cpu"))
    assert not should_compile(False, torch.Size((4096, 100, 5)), torch.device("cpu"))
    assert should_compile(True, torch.Size((2, 1, 1)), torch.device("cpu"))


def test_without_a_compiler_auto_is_silent_and_true_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    m = batch(300, 100, 5, torch.float32)
    expected = kernel_sums(m, compile=False)
    monkeypatch.setattr(kernel_module, "_failed", {})

    def broken(*_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(kernel_module, "_compiled_sums", broken)
    assert torch.equal(kernel_sums(m, compile="auto"), expected)
    with pytest.warns(UserWarning, match="runs eagerly: No working C.. compiler found"):
        assert torch.equal(kernel_sums(m, compile=True), expected)


def test_a_whole_discriminator_compiles_into_one_graph_around_it() -> None:
    layer = MinibatchDiscrimination(4, kernels=3)
    d = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(3, 1))
    x = draw(8, 4)
    d(x)
    whole = torch.compile(d, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(whole(x), d(x))
    (expected,) = torch.autograd.grad(d(x).sum(), layer.kernel)
    torch.testing.assert_close(torch.autograd.grad(whole(x).sum(), layer.kernel)[0], expected)


# --- the layer -------------------------------------------------------------------------------------------------


def weight_normed(layer: MinibatchDiscrimination) -> Any:
    """exp(log scale) · kernel / ‖kernel‖, the norm over the inputs."""
    kernel, log_scale = layer.kernel.detach().double().numpy(), layer.log_scale.detach().double().numpy()
    return np.exp(log_scale) * kernel / np.sqrt((kernel**2).sum(0))


def test_the_layer_starts_as_in_the_authors_code() -> None:
    layer = MinibatchDiscrimination(200, generator=torch.Generator().manual_seed(0))
    assert layer.kernel.shape == (200, 100, 5)
    assert layer.kernel.mean().abs() < 1e-3
    assert abs(layer.kernel.std() - 0.05) < 1e-3
    assert layer.log_scale.tolist() == [[0.0] * 5] * 100
    assert layer.bias.tolist() == [-1.0] * 100


def test_before_its_first_use_in_training_the_layer_is_the_papers_with_the_bias() -> None:
    layer = MinibatchDiscrimination(4, kernels=3, dims=2).eval()
    x = draw(6, 4)
    # The sums are of order 1; less the bias they may be anything, down to float32's rounding of 1.
    expected = loops(x.numpy(), weight_normed(layer)) - 1
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-5, atol=2e-6)
    assert not layer.initialised


def test_first_use_scales_distances_by_half_the_mean_nearest_and_centres_the_features() -> None:
    layer = MinibatchDiscrimination(4, kernels=3, dims=2)
    before, x = weight_normed(layer), draw(7, 4)
    features = layer(x)
    after = weight_normed(layer)
    m = np.einsum("na,abc->nbc", x.double().numpy(), before)
    distance = np.abs(m[:, None] - m[None]).sum(3) + 1e6 * np.eye(7)[:, :, None]
    half = 0.5 * distance.min(1).mean(0)
    np.testing.assert_allclose(after, before / half[None, :, None], rtol=1e-5)
    sums = loops(x.numpy(), after)
    np.testing.assert_allclose(layer.bias.detach().numpy(), -sums.mean(0), rtol=1e-4)
    np.testing.assert_allclose(features.detach().numpy(), sums - sums.mean(0), atol=1e-5)


def test_only_the_first_use_scales() -> None:
    layer = MinibatchDiscrimination(4)
    layer(draw(7, 4))
    state = copy.deepcopy(layer.state_dict())
    layer(draw(7, 4, seed=1))
    assert all(torch.equal(v, state[k]) for k, v in layer.named_parameters())


def test_a_batch_of_one_gets_the_bias_and_leaves_the_scaling_to_the_next() -> None:
    layer = MinibatchDiscrimination(4, kernels=3)
    assert layer(draw(1, 4)).tolist() == [[-1.0] * 3]
    assert not layer.initialised
    layer(draw(1, 4)).sum().backward()
    layer(draw(2, 4))
    assert layer.initialised


def test_samples_that_are_all_the_same_leave_finite_weights() -> None:
    layer = MinibatchDiscrimination(4, kernels=3)
    assert layer(torch.ones(5, 4)).tolist() == [[0.0] * 3] * 5
    assert layer.log_scale.tolist() == [[0.0] * 5] * 3


def test_the_layers_state_survives_a_file_and_its_first_use_is_not_repeated() -> None:
    layer = MinibatchDiscrimination(4, kernels=3)
    layer(draw(7, 4))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = MinibatchDiscrimination(4, kernels=3)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = draw(9, 4, seed=1)
    assert other.initialised
    assert torch.equal(other(x), layer(x))


def test_torchgans_layer_agrees() -> None:
    torchgan = pytest.importorskip("torchgan.layers", reason="torchgan is not installed")
    theirs = torchgan.MinibatchDiscrimination1d(4, 3, 2)
    x = draw(6, 4)
    torch.testing.assert_close(minibatch_features(x, theirs.T), theirs(x)[:, 4:], rtol=1e-5, atol=1e-6)


# --- the trick -------------------------------------------------------------------------------------------------


def dense() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (2, 1, 1)), nn.Conv2d(2, 6, 1, padding=2), nn.LeakyReLU(0.2), nn.Conv2d(6, 1, 3), nn.Flatten()
    )


def play(d: nn.Module, tricks: list[Any], seed: int = 0) -> Any:
    g = nn.Linear(3, 2)
    opt_g, opt_d = (torch.optim.Adam(m.parameters(), lr) for m, lr in ((g, 1e-3), (d, 1e-2)))
    return attach(g, d, opt_g, opt_d, tricks, seed=seed)


def turn(game: Any, real: Tensor, z: Tensor) -> None:
    softplus = nn.functional.softplus
    game.opt_d.zero_grad()
    loss = softplus(-game.d(game.real(real))).mean() + softplus(game.d(game.fake(game.g(z).detach()))).mean()
    loss.backward()
    game.opt_d.step()
    game.opt_g.zero_grad()
    softplus(-game.critic(game.g(z))).mean().backward()
    game.opt_g.step()


@pytest.mark.parametrize("make", [dense, convolutional])
def test_ds_output_and_first_gradients_do_not_change_when_the_trick_is_attached(make: Any) -> None:
    d = make()
    x, before = draw(8, 2), dict(d.named_parameters())
    out = d(x)
    gradients = torch.autograd.grad(out.square().sum(), list(before.values()))
    play(d, [Minibatch(kernels=7)])
    assert torch.equal(d(x), out)
    assert all(any(p is q for q in d.parameters()) for p in before.values())
    again = torch.autograd.grad(d(x).square().sum(), list(before.values()))
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))


@pytest.mark.parametrize("make", [dense, convolutional])
def test_nothing_is_drawn_from_the_global_generator(make: Any) -> None:
    states = []
    for tricks in ([], [Minibatch(kernels=7)]):
        torch.manual_seed(0)
        game = play(make(), tricks)
        turn(game, draw(8, 2), draw(8, 3))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_linear_layer_gets_the_features_of_its_input() -> None:
    d = dense()
    play(d, [Minibatch(kernels=7, dims=3)])
    x = draw(8, 2)
    d(x)
    beside: Any = d[2]
    nn.init.normal_(beside.extra.weight)
    h = d[:2](x)
    layer = beside.features.discrimination
    features = torch.from_numpy(loops(h.detach().double().numpy(), weight_normed(layer))).float() + layer.bias
    expected = beside.last(h) + features @ beside.extra.weight.T
    torch.testing.assert_close(d(x), expected, rtol=1e-4, atol=1e-5)


def test_a_convolution_gets_the_features_of_its_mean_input_at_every_position() -> None:
    d = convolutional()
    play(d, [Minibatch(kernels=7, dims=3)])
    x = draw(8, 2)
    d(x)
    beside: Any = d[3]
    nn.init.normal_(beside.extra.weight)
    h = d[:3](x)
    layer = beside.features.discrimination
    features = loops(h.mean((2, 3)).detach().double().numpy(), weight_normed(layer))
    at_each = (torch.from_numpy(features).float() + layer.bias) @ beside.extra.weight[:, :, 0, 0].T
    torch.testing.assert_close(d(x), d[4](beside.last(h) + at_each[:, :, None, None]), rtol=1e-4, atol=1e-5)


def test_a_linear_layer_over_positions_gets_the_features_of_its_mean_input() -> None:
    d = nn.Sequential(nn.Unflatten(1, (2, 1)), nn.Linear(1, 8), nn.Linear(8, 3))
    play(d, [Minibatch(kernels=7)])
    x = draw(5, 2)
    d(x)
    beside: Any = d[2]
    nn.init.normal_(beside.extra.weight)
    h = d[:2](x)
    expected = beside.last(h) + beside.extra(beside.features.discrimination(h.mean(1)))[:, None]
    torch.testing.assert_close(d(x), expected)


def test_ds_optimizer_is_told_in_the_layers_group() -> None:
    g, d = nn.Linear(3, 2), dense()
    opt_d = torch.optim.Adam([{"params": d[0].parameters(), "lr": 0.1}, {"params": d[2].parameters(), "lr": 0.2}])
    attach(g, d, torch.optim.Adam(g.parameters()), opt_d, [Minibatch(kernels=7)])
    assert [group["lr"] for group in opt_d.param_groups] == [0.1, 0.2]
    assert len(opt_d.param_groups[0]["params"]) == 2
    new = {id(p) for p in d.parameters()} - {id(p) for p in d[0].parameters()}
    assert {id(p) for p in opt_d.param_groups[1]["params"]} == new
    assert len(new) == 6


def test_ds_first_call_in_training_is_the_layers_first_use() -> None:
    d = dense()
    play(d, [Minibatch(kernels=7)])
    layer: Any = d[2].features.discrimination  # type: ignore[union-attr]
    d.eval()(draw(8, 2))
    assert not layer.initialised
    d.train()(draw(8, 2))
    assert layer.initialised


def test_another_layer_can_be_named() -> None:
    d = dense()
    play(d, [Minibatch(kernels=7, layer="0")])
    assert type(d[0]).__name__ == "Beside"
    assert isinstance(d[2], nn.Linear)


def test_two_layers_can_stand_beside_one() -> None:
    d = dense()
    x = draw(8, 2)
    out = d(x)
    play(d, [Minibatch(kernels=7), Minibatch(kernels=5)])
    assert torch.equal(d(x), out)
    assert type(d[2].last).__name__ == "Beside"  # type: ignore[union-attr]


def test_no_kernels_leave_everything_as_it_was() -> None:
    d = dense()
    game = play(d, [Minibatch(kernels=0)])
    assert isinstance(d[2], nn.Linear)
    assert len(game.opt_d.param_groups[0]["params"]) == 4


@pytest.mark.parametrize("make", [dense, convolutional])
def test_with_r1_the_update_is_the_hand_written_one(make: Any) -> None:
    torch.manual_seed(0)
    game = play(make(), [Minibatch(kernels=7, compile=False), R1(2.0)])
    real, z = draw(16, 2), draw(16, 3, seed=1)
    for _ in range(3):  # until the features weigh something
        turn(game, real, z)
    by_hand, d = copy.deepcopy(game.d), game.d
    fake, softplus = game.g(z).detach(), nn.functional.softplus
    x = real.clone().requires_grad_()
    loss = softplus(-by_hand(real)).mean() + softplus(by_hand(fake)).mean()
    loss = loss + 2.0 * gradient_norm_penalty(by_hand(x), x)
    expected = torch.autograd.grad(loss, list(by_hand.parameters()))
    game.opt_d.zero_grad()
    (softplus(-d(game.real(real))).mean() + softplus(d(game.fake(fake))).mean()).backward()
    game.opt_d.step()
    for p, gradient in zip(d.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-5, atol=1e-6)
    assert dict(d.named_parameters())[f"{2 if make is dense else 3}.extra.weight"].abs().max() > 0


def test_the_penalty_through_the_layer_is_that_of_the_plain_form() -> None:
    layer = MinibatchDiscrimination(4, kernels=3).double()
    layer(draw(6, 4).double())
    x = draw(6, 4, seed=1).double().requires_grad_()
    readout = draw(3, seed=2).double()
    parameters = list(layer.parameters())[:2]
    ours = gradient_norm_penalty(layer(x) @ readout, x)
    m = torch.einsum("na,abc->nbc", x, layer.log_scale.exp() * layer.kernel / layer.kernel.norm(dim=0))
    theirs = gradient_norm_penalty(plain(m) @ readout, x)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(theirs, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit() -> None:
    def start() -> Any:
        torch.manual_seed(0)
        return play(dense(), [Minibatch(kernels=7), R1(1.0)])

    whole, first, second = start(), start(), start()
    batches = [(draw(9 if i % 2 else 16, 2, seed=i), draw(16, 3, seed=100 + i)) for i in range(6)]
    for pair in batches:
        turn(whole, *pair)
    for pair in batches[:3]:
        turn(first, *pair)
    file = io.BytesIO()
    torch.save(
        {k: getattr(first, k).state_dict() for k in ("g", "d", "opt_g", "opt_d")} | {"game": first.state_dict()}, file
    )
    file.seek(0)
    state = torch.load(file, weights_only=True)
    for k in ("g", "d", "opt_g", "opt_d"):
        getattr(second, k).load_state_dict(state[k])
    second.load_state_dict(state["game"])
    for pair in batches[3:]:
        turn(second, *pair)
    for a, b in zip(whole.d.parameters(), second.d.parameters(), strict=True):
        assert torch.equal(a, b)


def test_kernels_follow_the_games_seed() -> None:
    kernels = []
    for seed in (0, 0, 1):
        d = dense()
        play(d, [Minibatch(kernels=7)], seed)
        kernels.append(d[2].features.discrimination.kernel)  # type: ignore[union-attr]
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], kernels[2])


def test_a_wrapped_discriminator_is_refused_with_what_to_do() -> None:
    d = nn.DataParallel(dense())
    with pytest.raises(ValueError, match=r"wrapped in DataParallel already.*attach the game to the bare modules first"):
        play(d, [Minibatch()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": -1}, "kernels is -1; expected 0 or more"),
        ({"dims": 0}, "dims is 0; expected 1 or more"),
        ({"compile": "perhaps"}, "compile is 'perhaps'; expected 'auto', True or False"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Minibatch(**options)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no linear or convolutional layer named 'head'; it has 0, 2"):
        play(dense(), [Minibatch(layer="head")])


def _rank(rank: int, port: int, out: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    g, d = nn.Linear(3, 2), dense()
    opt_g, opt_d = torch.optim.Adam(g.parameters()), torch.optim.Adam(d.parameters())
    game = attach(g, d, opt_g, opt_d, [Minibatch(kernels=7), R1(1.0)])
    both = nn.parallel.DistributedDataParallel(d)
    for step in range(3):
        opt_d.zero_grad()
        n = 8 if rank else 1 + 4 * step  # the first batch of one rank has no distances
        x = draw(n, 2, seed=10 * step + rank)
        loss = nn.functional.softplus(-both(game.real(x))).mean()
        loss.backward()
        opt_d.step()
    out.put((rank, [p.detach().numpy().tolist() for p in d.parameters()]))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_stay_equal() -> None:
    context = torch.multiprocessing.get_context("spawn")
    out = context.Queue()
    port = 29000 + torch.randint(0, 2000, ()).item()
    processes = [context.Process(target=_rank, args=(rank, port, out)) for rank in range(2)]
    for process in processes:
        process.start()
    parameters = dict(out.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert parameters[0] == parameters[1]
