"""A generator against data: its samples judged, and what only a generator, and its discriminator, can show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stabilgan.diagnosis import probes, scores
from stabilgan.diagnosis.findings import Diagnosis, Evidence, Finding, InputError
from stabilgan.diagnosis.inputs import Samples, matched
from stabilgan.diagnosis.models import Discriminator, Generator
from stabilgan.diagnosis.samples import Progress, diagnose_samples

DRAWN = 2500
IGNORED = 0.02
"""The latent is ignored where its outputs differ by less than this share of what reals do; 0.1 and more is healthy."""
GROWN = 10.0
"""Samples that are so many times as far from the data's middle as the data are have diverged."""
EXPLAINED = 0.05
"""It is ignored, too, where it explains less of the variance than this, and something else explains it."""


def diagnose_model(
    generator: Generator,
    data: Samples,
    *,
    discriminator: Discriminator | None = None,
    train: Samples | None = None,
    loss: str | None = None,
    n: int = DRAWN,
    features: str = "auto",
    weights_dir: Path | None = None,
    device: str | torch.device = "cpu",
    strict: bool = False,
    seed: int = 0,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Draws samples and judges them against data, then asks the generator itself, and its discriminator.

    Args:
        generator, discriminator: from `stabilgan.diagnosis.models`.
        data: held-out real samples. train: what it was trained on.
        loss: the family of the losses, a name in `stabilgan.losses`; None takes a logistic one for granted where
            nothing speaks against it.
        n: samples to draw. seed: of the latents and of all else that is drawn.
        features, weights_dir, device, strict, data_dir, progress: as in `diagnose_samples`.

    Raises:
        InputError: what the generator puts out can't be compared with the data, or the players don't fit together.
    """
    fake = generator.samples(n, seed, like=data, progress=progress)
    found = diagnose_samples(
        data,
        fake,
        train=train,
        features=features,
        weights_dir=weights_dir,
        device=device,
        strict=strict,
        seed=seed,
        data_dir=data_dir,
        progress=progress,
    )
    findings, evidence, notes = list(found.findings), list(found.evidence), list(found.notes)
    figures: dict[str, Any] = dict(found.figures)
    real, fake = matched(data, fake, strict=strict)
    rows, ours = real.x.flatten(1), fake.x.flatten(1)
    if grown := _grown(rows, ours):
        findings.append(grown)
    if bool(ours.isfinite().all()):
        asked, told, more = _probed(generator, rows, ours, fake, seed)
        findings += asked
        evidence += told
        figures |= more
    if discriminator is not None and bool(ours.isfinite().all()):
        raw = generator.draw(min(n, 2000), seed)
        there = _as_put_out(real.x[:2000], raw, fake.scale)
        heard = scores.listen(discriminator, generator, there, raw, loss, seed=seed)
        judged, told, note = scores.judge(heard, loss)
        findings += judged
        evidence += told
        notes += [f"discriminator: {line}" for line in discriminator.notes] + ([note] if note else [])
        figures |= {"scores": (heard.real, heard.fake)}
    findings.sort(key=lambda f: -f.severity)
    return replace(
        found,
        subject="the generator",
        source="model",
        findings=tuple(findings),
        evidence=tuple(evidence),
        notes=tuple(dict.fromkeys(notes)),
        undecided="" if findings else found.undecided,
        figures=figures,
    )


def _grown(rows: Tensor, ours: Tensor) -> Finding | None:
    middle = rows.double().mean(0)
    real, fake = ((part.double() - middle).square().sum(1).median().sqrt().item() for part in (rows, ours))
    if not fake > GROWN * real:
        return None
    text = f"samples lie {fake / real:.3g} times as far from the middle of the data as the data do (median)"
    told = Evidence("size of samples", fake / real, text, 1.0, (0.0, GROWN), f"{len(ours)} samples")
    return Finding("divergence", min(1.0, 0.5 + fake / real / 200), 0.8, (told,))


def _probed(
    generator: Generator, rows: Tensor, ours: Tensor, fake: Samples, seed: int
) -> tuple[list[Finding], list[Evidence], dict[str, Any]]:
    span = 1.0 if fake.scale is None else fake.scale[1] - fake.scale[0]
    some = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:500]]
    scale = torch.nn.functional.pdist(some).mean().item() * span
    latent, path = probes.latent(generator, scale, seed=seed), probes.path(generator, scale, seed=seed)
    still = probes.dead(ours, rows)
    varied = f"{probes.LATENTS} latents, labels and the generator's own noise held still"
    over = Evidence(
        "over latents",
        latent.over_latents,
        f"outputs of different latents differ by {latent.over_latents:.2g} of what reals do, and one latent's outputs "
        f"by {latent.over_noise:.2g}",
        1.0,
        (IGNORED, 2.0),
        varied,
    )
    explained = Evidence(
        "explained by the latent",
        latent.share,
        f"the latent explains {latent.share:.1%} of what varies" if latent.share == latent.share else "nothing varies",
        1.0,
        (EXPLAINED, 1.0),
        "variance over latents against that over noise and labels",
    )
    moving = Evidence(
        "interpolation",
        path.jump,
        f"from latent to latent the output goes a way of {path.moved:.2g} times the distance between reals, "
        f"{path.jump:.0%} of it in the largest of {probes.STEPS - 1} steps",
        1 / (probes.STEPS - 1),
        None,
        f"{probes.PATHS} paths",
    )
    quiet = Evidence(
        "dead outputs",
        still.double().mean().item(),
        f"{int(still.sum())} of {len(still)} outputs never change, though the data's do",
        0.0,
        None,
        f"{len(ours)} samples",
    )
    findings = []
    ignored = latent.over_latents < IGNORED or (latent.share < EXPLAINED and generator.classes is None)
    if ignored:
        least = min(latent.over_latents / IGNORED, latent.share / EXPLAINED if latent.share == latent.share else 1.0)
        sure = 0.6 + 0.39 * (1 - min(1.0, least))
        findings.append(Finding("latent_ignored", max(0.5, 1 - latent.over_latents), sure, (over, explained)))
    strips = path.strips if fake.kind == "images" else None
    return findings, [over, explained, moving, quiet], {"dead": still, "paths": strips, "shape": fake.x.shape[1:]}


def _as_put_out(real: Tensor, raw: Tensor, scale: tuple[float, float] | None) -> Tensor:
    """Reals in the range and the shape of what the generator puts out."""
    low, high = scale if scale is not None else (0.0, 1.0)
    there = real * (high - low) + low
    if there.shape[1:].numel() != raw.shape[1:].numel():
        raise InputError(
            f"the generator puts out {tuple(raw.shape[1:])} and the reals are {tuple(real.shape[1:])}, so that the "
            "discriminator can't be asked about both; give data of the generator's size"
        )
    return there.reshape(len(there), *raw.shape[1:]).to(raw.dtype)
