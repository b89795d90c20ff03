"""What a discriminator says of reals and fakes, and what the generator gets from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from stabilgan.detectors.saturation import FAMILIES, Saturation, wrongness
from stabilgan.diagnosis.findings import Evidence, Finding
from stabilgan.diagnosis.models import Discriminator, Generator

WRONG = Saturation().threshold
SAME = 1e-3
"""Scores of reals, fakes and noise that differ by less than this (standard deviation) are one answer."""
VANISHED = 0.01
"""Of the gradient at chance: below it G hardly moves."""
UNIT = (0.5, 1.6)
"""Where D's slope lies between reals and fakes if a gradient penalty holds it at 1: then it is a critic."""
ASKED = 256


@dataclass(frozen=True)
class Scores:
    """What D was heard to say.

    Attributes:
        real, fake, noise: (n,) of held-out reals, of fakes, and of noise with the reals' mean and spread.
        slope: the median norm of D's gradient halfway between reals and fakes; nan without a module.
        reaching: G's gradient over what it would be if D were at chance, 0..1; nan where it can't be had.
        flat: D has no gradient on the fakes at all.
        probabilities: they have passed a sigmoid.
    """

    real: Tensor
    fake: Tensor
    noise: Tensor
    slope: float
    reaching: float
    flat: bool
    probabilities: bool


def listen(
    discriminator: Discriminator, generator: Generator, real: Tensor, fake: Tensor, loss: str | None, *, seed: int = 0
) -> Scores:
    """Asks D about reals, fakes and noise, and G about the gradient that it gets.

    Args:
        real, fake: (n, ...) in the range and the shape that the generator puts out.
        loss: the family, a name in `stabilgan.losses`; None takes the non-saturating logistic one for G.
    """
    generated = torch.Generator().manual_seed(seed)
    noise = real.mean(0) + real.std(0) * torch.randn(fake.shape, generator=generated)
    reals, fakes, noises = (discriminator.score(x) for x in (real, fake, noise))
    probabilities = bool(discriminator.probabilities)
    slope = _slope(discriminator, real, fake)
    reaching, flat = _reaching(discriminator, generator, loss, probabilities, seed, real.float().std().item())
    return Scores(reals, fakes, noises, slope, reaching, flat, probabilities)


def _slope(discriminator: Discriminator, real: Tensor, fake: Tensor) -> float:
    n = min(len(real), len(fake), ASKED)
    middle = ((real[:n] + fake[:n]) / 2).to(discriminator.device).requires_grad_()
    with torch.enable_grad():
        score = discriminator.judge(middle)
    if not score.requires_grad:
        return float("nan")
    (grad,) = torch.autograd.grad(score.sum(), middle)
    return float(torch.linalg.vector_norm(grad.flatten(1), dim=1).median())


def _reaching(
    discriminator: Discriminator, generator: Generator, loss: str | None, probabilities: bool, seed: int, scale: float
) -> tuple[float, bool]:
    """G's gradient over that of the same scores with the slope that its loss has at chance."""
    if generator.module is None or discriminator.module is None:
        return float("nan"), False
    weights = [p for p in generator.module.parameters() if p.is_floating_point()]
    asked = [p.requires_grad for p in weights]
    for p in weights:
        p.requires_grad_(True)
    try:
        with torch.enable_grad():
            fake = generator.generate(generator.latents(ASKED, seed), generator.labels(ASKED, seed), seed=seed)
            score = discriminator.judge(fake).float()
            if not weights or not score.requires_grad:
                return float("nan"), not score.requires_grad
            if probabilities:
                score = torch.logit(score.double().clamp(1e-300, 1 - 1e-16)).float()
            plain = torch.autograd.grad(score.mean(), [fake, *weights], retain_graph=True, allow_unused=True)
            pull = _generators_loss(score, loss)
            real = torch.autograd.grad(pull, weights, allow_unused=True)
    finally:
        for p, was in zip(weights, asked, strict=True):
            p.requires_grad_(was)
    on_output = 0.0 if plain[0] is None else torch.linalg.vector_norm(plain[0]).item() * len(fake) ** 0.5
    at_chance = _norm(plain[1:]) * CHANCE_SLOPE.get(loss or "logistic", 1.0)
    return (_norm(real) / at_chance if at_chance else 0.0), on_output * scale < 1e-6


CHANCE_SLOPE = {"logistic": 0.5, "saturating": 0.5, "least_squares": 0.5, "relativistic": 0.5}


def _generators_loss(score: Tensor, loss: str | None) -> Tensor:
    if loss in (None, "logistic"):
        return softplus(-score).mean()
    if loss == "saturating":
        return -softplus(score).mean()
    if loss == "least_squares":
        return (score - 1).square().mean() / 2
    return -score.mean()


def _norm(grads: tuple[Tensor | None, ...]) -> float:
    return float(sum(g.double().square().sum().item() for g in grads if g is not None) ** 0.5)


def judge(scores: Scores, loss: str | None) -> tuple[list[Finding], list[Evidence], str]:
    """Findings, evidence and a note on what was taken for granted."""
    if not all(part.isfinite().all() for part in (scores.real, scores.fake)):
        told = Evidence("D's scores", float("nan"), "D's scores of reals or fakes are nan or infinite")
        return [Finding("divergence", 1.0, 0.95, (told,))], [told], ""
    everything = torch.cat([scores.real, scores.fake, scores.noise]).double()
    spread, gap = everything.std().item(), (scores.real.mean() - scores.fake.mean()).item()
    kind = "probabilities" if scores.probabilities else "raw scores"
    evidence = [
        Evidence("D(real)", scores.real.mean().item(), f"D gives reals {scores.real.mean():.3g} on average ({kind})"),
        Evidence("D(fake)", scores.fake.mean().item(), f"D gives fakes {scores.fake.mean():.3g} on average ({kind})"),
    ]
    findings, note = [], ""
    if spread < SAME or (scores.flat and spread < 20 * SAME):
        text = f"D's scores of reals, fakes and noise differ by {spread:.2g} (standard deviation): one answer for all"
        told = Evidence("spread of scores", spread, text, None, (SAME, float("inf")), "reals, fakes and noise")
        dead = [Finding("discriminator_dead", 1.0, 0.95, (told,))]
        if scores.flat:
            still = Evidence("gradient reaching G", 0.0, "D has no gradient on the fakes, so none reaches G", 1.0)
            dead.append(Finding("vanishing_gradient", 1.0, 0.9, (still, told)))
        return dead, [told, *evidence], note
    critic = loss is None and not scores.probabilities and UNIT[0] <= scores.slope <= UNIT[1]
    family = loss or "logistic"
    if critic:
        note = (
            f"D's slope between reals and fakes is {scores.slope:.2f}, as a gradient penalty makes it, so it was taken "
            "for a critic, whose scores have no scale; give the loss family (--loss) if it is another"
        )
    elif family in FAMILIES and not (family == "relativistic" and scores.probabilities):
        wrong = wrongness(scores.real, scores.fake, loss=family, probabilities=scores.probabilities).item()
        text = (
            f"D's judgement is {wrong:.2g} wrong, where 0.5 is chance and below {WRONG} nothing is left to learn from"
        )
        told = Evidence("wrongness", wrong, text, 0.5, (WRONG, 1.0), f"{len(scores.real)} reals, loss {family}")
        evidence.insert(0, told)
        if wrong < WRONG:
            sure = 0.95 if loss or scores.probabilities else 0.75
            findings.append(Finding("discriminator_saturated", 1 - wrong / WRONG / 2, sure, (told, *evidence[1:3])))
        if loss is None:
            note = "the loss family was not given (--loss); the logistic one was taken"
    if scores.reaching == scores.reaching:
        text = f"G's gradient is {scores.reaching:.2g} of what it would be with D at chance; the gap is {gap:.3g}"
        told = Evidence("gradient reaching G", scores.reaching, text, 1.0, (VANISHED, float("inf")), f"loss {family}")
        evidence.append(told)
        if scores.reaching < VANISHED or scores.flat:
            severity = 1.0 if scores.flat else 1 - scores.reaching / VANISHED / 2
            findings.append(Finding("vanishing_gradient", severity, 0.9, (told,)))
    return findings, evidence, note
