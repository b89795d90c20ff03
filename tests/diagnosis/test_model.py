"""What only a generator and its discriminator can show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import stabilgan
from stabilgan.diagnosis import Diagnosis, InputError, probes, scores
from stabilgan.diagnosis.models import load_discriminator, load_generator


def data(n: int = 400, seed: int = 11) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """The data's own distribution: the latent as it is."""

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        with torch.no_grad():
            self.layer.weight.copy_(scale * torch.eye(2))
            self.layer.bias.fill_(shift)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.layer(z)
        return out


class Noisy(Plain):
    """Noise of its own, and next to nothing of the latent."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.randn(len(z), 2) + 1e-3 * self.layer(z)


class Scored(nn.Module):
    """D as a function of the first coordinate."""

    def __init__(self, slope: float, offset: float = 0.0, sigmoid: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[slope, 0.0]]))
            self.layer.bias.fill_(offset)
        self.end = nn.Sigmoid() if sigmoid else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.layer(x))
        return out


def diagnosed(model: nn.Module, discriminator: nn.Module | None = None, **options: object) -> Diagnosis:
    settings = {"n": 400, "features": "identity", "latent": 2} | options
    return stabilgan.diagnose(model=model, data=data(), discriminator=discriminator, **settings)  # type: ignore[arg-type]


def names(found: Diagnosis) -> set[str]:
    return {f.failure for f in found.findings}


def test_a_generator_of_the_datas_own_distribution_is_healthy() -> None:
    found = diagnosed(Plain(), Scored(0.1), loss="logistic")
    assert found.verdict == "healthy"
    assert found.source == "model"


def test_a_constant_generator_has_collapsed_and_ignores_its_latent() -> None:
    assert names(diagnosed(Plain(0.0, 1.0))) == {"mode_collapse", "latent_ignored"}


def test_noise_in_place_of_the_latent_is_told_from_collapse() -> None:
    found = diagnosed(Noisy())
    assert names(found) == {"latent_ignored"}
    explained = next(e for e in found.evidence if e.name == "explained by the latent")
    assert explained.value < 1e-4


def test_nan_and_infinity_are_divergence_and_nothing_else_is_asked() -> None:
    found = diagnosed(Plain(float("nan")))
    assert names(found) == {"divergence"}
    assert found.to_json()["verdict"] == "problem"


def test_samples_that_have_grown_beyond_bounds_are_divergence() -> None:
    assert "divergence" in names(diagnosed(Plain(1e4)))


@pytest.mark.parametrize(
    ("d", "loss", "expected"),
    [
        (Scored(-50.0, 150.0), "logistic", {"discriminator_saturated", "mode_dropping"}),
        (Scored(0.0, 0.3), None, {"discriminator_dead", "vanishing_gradient"}),
        (Scored(-50.0, 150.0), "wasserstein", {"mode_dropping"}),
        (Scored(-50.0, 150.0), "saturating", {"discriminator_saturated", "vanishing_gradient", "mode_dropping"}),
    ],
)
def test_scores_are_judged_by_the_loss_family(d: nn.Module, loss: str | None, expected: set[str]) -> None:
    shift = 6.0 if "mode_dropping" in expected else 0.0
    found = names(diagnosed(Plain(1.0, shift), d, loss=loss))
    assert found - {"mode_collapse", "mode_dropping"} == expected - {"mode_dropping"}


def test_a_critic_of_slope_one_is_not_called_saturated_where_nobody_named_the_loss() -> None:
    found = diagnosed(Plain(1.0, 30.0), Scored(-1.0, 15.0))
    assert "discriminator_saturated" not in names(found)
    assert any("critic" in note for note in found.notes)


def test_the_gradient_that_reaches_g_is_the_factor_of_its_loss() -> None:
    g = load_generator(Plain(0.0, 1.0), latent=2)
    for loss, factor in (
        ("saturating", 2 * torch.tensor(3.0).sigmoid()),
        ("logistic", 2 * torch.tensor(-3.0).sigmoid()),
    ):
        d = load_discriminator(Scored(3.0))
        heard = scores.listen(d, g, data(50), torch.ones(50, 2), loss)
        assert heard.reaching == pytest.approx(float(factor), rel=1e-4)
        assert heard.slope == pytest.approx(3.0)


def test_a_discriminators_sigmoid_does_not_hide_the_gradient() -> None:
    g = load_generator(Plain(0.0, 1.0), latent=2)
    heard = scores.listen(load_discriminator(Scored(3.0, sigmoid=True)), g, data(50), torch.ones(50, 2), "saturating")
    assert heard.probabilities
    assert heard.reaching == pytest.approx(2 * float(torch.tensor(3.0).sigmoid()), rel=1e-3)


def test_asking_leaves_weights_and_their_gradients_alone() -> None:
    model, d = Plain(), Scored(1.0)
    model.layer.weight.requires_grad_(False)
    before = [p.clone() for p in (*model.parameters(), *d.parameters())]
    diagnosed(model, d)
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *d.parameters()), strict=True))
    assert all(p.grad is None for p in (*model.parameters(), *d.parameters()))
    assert not model.layer.weight.requires_grad


def test_the_way_between_latents_is_even_for_a_linear_generator_and_a_jump_for_a_step() -> None:
    smooth = probes.path(load_generator(Plain(), latent=2), 1.77)
    step = probes.path(load_generator(lambda z: z.sign(), latent=2), 1.77)
    assert smooth.jump < 0.1
    assert step.jump >= 0.5


def test_a_discriminator_of_another_size_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="discriminator"):
        diagnosed(Plain(), nn.Linear(5, 1))


def test_the_same_seed_gives_the_same_diagnosis() -> None:
    assert diagnosed(Plain(), seed=3).to_json() == diagnosed(Plain(), seed=3).to_json()
