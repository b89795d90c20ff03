"""Orthogonal regularisation against steps written by hand and the gradient in the paper's code."""

from __future__ import annotations

import one_step
import play
import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan import Orthogonal, SpectralNorm
from stabilgan.tricks.orthogonal import filters_of, orthogonal_penalty


def products(filters: Tensor, plain: bool) -> Tensor:
    """Pair by pair."""
    rows = list(filters)
    return torch.stack(
        [
            ((a * b).sum() - float(plain and i == j)) ** 2
            for i, a in enumerate(rows)
            for j, b in enumerate(rows)
            if plain or i != j
        ]
        or [filters.sum() * 0]
    ).sum()


@pytest.mark.parametrize("form", ["off_diagonal", "plain"])
def test_the_step_is_that_of_the_loss_with_the_penalty_written_out(form: str) -> None:
    real, fake = one_step.batches()

    def term(d: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        return 0.03 * torch.stack([products(p, form == "plain") for p in d.parameters() if p.ndim > 1]).sum()

    found = one_step.with_trick(Orthogonal(weight=0.03, form=form), real, fake)  # type: ignore[arg-type]
    torch.testing.assert_close(found, one_step.written_out(term, real, fake), rtol=1e-10, atol=1e-12)


def test_its_gradient_is_twice_that_of_the_papers_code() -> None:
    """Which writes 2 (W Wᵀ ⊙ (1 - I)) W, where the penalty's own is 4 times that product."""
    w = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(orthogonal_penalty(w), w)
    theirs = 2 * (w @ w.t() * (1 - torch.eye(5, dtype=torch.float64))) @ w
    torch.testing.assert_close(gradient, 2 * theirs)


def test_orthonormal_filters_cost_nothing_and_longer_ones_only_in_the_plain_form() -> None:
    q = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0][:5]
    assert orthogonal_penalty(q) < 1e-25
    assert orthogonal_penalty(q, "plain") < 1e-25
    assert orthogonal_penalty(3 * q) < 1e-25
    torch.testing.assert_close(orthogonal_penalty(3 * q, "plain").item(), 5 * 8.0**2)


def test_descent_makes_filters_orthogonal() -> None:
    torch.manual_seed(0)
    w = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    for _ in range(800):
        (gradient,) = torch.autograd.grad(orthogonal_penalty(w, "plain"), w)
        w = (w - 0.02 * gradient).detach().requires_grad_()
    torch.testing.assert_close(w @ w.t(), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)


def test_filters_are_a_layers_outputs() -> None:
    assert filters_of(nn.Conv2d(3, 5, 2)).shape == (5, 12)
    assert filters_of(nn.ConvTranspose2d(3, 5, 2)).shape == (5, 12)
    assert filters_of(nn.Linear(3, 5)).shape == (5, 3)


def test_parametrised_layers_are_taken_by_what_is_trained() -> None:
    ours, torchs, old = (nn.Linear(4, 3) for _ in range(3))
    d = nn.Sequential(ours)
    g, _ = play.players()
    stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [SpectralNorm()])
    nn.utils.parametrizations.spectral_norm(torchs)
    nn.utils.spectral_norm(old)
    for layer in (ours, torchs, old):
        vectors = [b.clone() for b in layer.buffers()]
        taken = filters_of(layer)
        assert any(taken.data_ptr() == p.data_ptr() for p in layer.parameters())
        assert all(torch.equal(a, b) for a, b in zip(vectors, layer.buffers(), strict=True))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    assert torch.equal(filters_of(normed), normed.weight)


def test_looking_at_weights_under_spectral_norm_moves_none_of_its_vectors() -> None:
    g, d = play.players()
    trick = Orthogonal()
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [SpectralNorm(), trick])
    nn.init.normal_(d[0].parametrizations.weight.original)  # away from where its vectors have settled
    before = [b.clone() for b in d.buffers()]
    assert trick.penalty("d", game) is not None
    assert all(map(torch.equal, before, d.buffers()))


@pytest.mark.parametrize(("players", "moved"), [("d", (True, False)), ("g", (False, True)), ("both", (True, True))])
def test_it_acts_on_the_players_that_were_named(players: str, moved: tuple[bool, bool]) -> None:
    g, d = play.players()
    trick = Orthogonal(players=players)  # type: ignore[arg-type]
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    assert (trick.penalty("d", game) is not None, trick.penalty("g", game) is not None) == moved


def test_layers_that_are_not_trained_and_shared_weights_are_not_counted_twice() -> None:
    shared, frozen = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)
    d = nn.Sequential(nn.Linear(2, 3), shared, frozen, nn.Linear(3, 3))
    d[3].weight = shared.weight
    g, trick = play.generator_net(), Orthogonal(weight=1.0)
    game = stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [trick])
    value = trick.penalty("d", game)
    assert value is not None
    torch.testing.assert_close(value, orthogonal_penalty(d[0].weight) + orthogonal_penalty(shared.weight))
    d.requires_grad_(False)
    assert trick.penalty("d", game) is None


def test_a_discriminator_without_layers_is_refused() -> None:
    g, _ = play.players()
    d = nn.Sequential(nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="orthogonal: no layer was found in Sequential; expected torch's linear"):
        stabilgan.attach(g, d, play.sgd(g), play.sgd(d), [Orthogonal()])


def test_it_makes_no_passes() -> None:
    assert one_step.counted(Orthogonal(players="both")) == Orthogonal().cost == stabilgan.Cost()


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"every": 0}, {"form": "full"}, {"players": "all"}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"orthogonal: \w+ is .*; expected"):
        Orthogonal(**options)  # type: ignore[arg-type]
