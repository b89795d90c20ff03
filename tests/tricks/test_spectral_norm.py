"""Spectral norm against a singular value decomposition."""

import play
import torch
from torch import nn

import stabilgan
from stabilgan.tricks import SpectralNorm


def test_every_layer_of_d_comes_to_spectral_norm_one() -> None:
    g, d = play.players()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [SpectralNorm()])
    for _ in range(50):
        d(game.real(torch.randn(8, 2)))
    for layer in d:
        if isinstance(layer, nn.Linear):
            torch.testing.assert_close(torch.linalg.svdvals(layer.weight)[0], torch.tensor(1.0), rtol=1e-3, atol=0)


def test_the_weights_that_the_optimizer_holds_stay_the_parameters() -> None:
    g, d = play.players()
    before = [p.clone() for p in d.parameters()]
    opt_d = play.sgd(d)
    game = stabilgan.attach(g, d, play.sgd(g), opt_d, [SpectralNorm()])
    held = {id(p) for group in opt_d.param_groups for p in group["params"]}
    assert {id(p) for p in d.parameters()} == held
    d(game.real(torch.randn(8, 2))).sum().backward()
    opt_d.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, d.parameters(), strict=True) if a.ndim == 2)


def test_a_step_is_that_of_torchs_own_parametrization() -> None:
    """From converged vectors both divide by the same singular value, and differentiate through it alike."""
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    g, _ = play.players()
    d = nn.Sequential(ours)
    stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [SpectralNorm()])
    nn.utils.parametrizations.spectral_norm(theirs, n_power_iterations=1)
    x = torch.randn(7, 5)
    with torch.no_grad():
        for _ in range(300):
            ours(x), theirs(x)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(
        ours.parametrizations.weight.original.grad, theirs.parametrizations.weight.original.grad, rtol=1e-4, atol=1e-5
    )


def test_a_transposed_convolution_is_normalised_over_its_output_channels() -> None:
    g, _ = play.players()
    d = nn.Sequential(nn.ConvTranspose2d(3, 5, 2))
    stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [SpectralNorm()])
    for _ in range(300):
        weight = d[0].weight
    matrix = weight.transpose(0, 1).flatten(1)
    torch.testing.assert_close(torch.linalg.svdvals(matrix)[0], torch.tensor(1.0), rtol=1e-4, atol=0)


def test_a_layer_that_has_it_already_is_left_alone() -> None:
    g, _ = play.players()
    d = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 4)), nn.utils.spectral_norm(nn.Linear(4, 1)))
    before = len(list(d.modules()))
    stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [SpectralNorm()])
    assert len(list(d.modules())) == before


def test_the_vectors_start_from_the_games_seed_alone() -> None:
    def start(seed: int, drawn_before: int) -> torch.Tensor:
        g, d = play.players()
        torch.manual_seed(drawn_before)
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [SpectralNorm()], seed=seed)
        return torch.cat(list(d.buffers()))

    assert torch.equal(start(0, 1), start(0, 2))
    assert not torch.equal(start(0, 1), start(1, 1))
