"""`stabilgan.diagnose`: one function for three ways in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from stabilgan import spec
from stabilgan.diagnosis.findings import Diagnosis, InputError
from stabilgan.diagnosis.inputs import Progress, Samples

Way = Literal["samples", "model", "log"]
NEEDED = {"samples": ("real", "fake"), "model": ("model", "data"), "log": ("log",)}


def diagnose(
    way: Way | None = None,
    /,
    *,
    real: Any = None,
    fake: Any = None,
    train: Any = None,
    model: Any = None,
    target: Any = None,
    weights: str | os.PathLike[str] | None = None,
    data: Any = None,
    discriminator: Any = None,
    discriminator_weights: str | os.PathLike[str] | None = None,
    latent: int | Sequence[int] | None = None,
    n: int | None = None,
    log: Any = None,
    mapping: Mapping[str, str] | None = None,
    loss: str | None = None,
    features: str = "auto",
    weights_dir: str | os.PathLike[str] | None = None,
    save_features: str | os.PathLike[str] | None = None,
    labels: Any = None,
    limit: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    strict: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Finds out whether a GAN has failed, and how, from its samples, its model or its log.

    Args:
        way: "samples", "model" or "log"; found from what is given.
        real, fake: samples: tensors, arrays, paths (folders of images, .npy, .npz, .pt, .safetensors, CSV, Parquet), or
            the names of known data sets. Best held out: real samples that training did not see.
        train: what the generator was trained on, to look for copies of it.
        model (or target): a generator: a module, a function of latents, `package.module:callable`, `file.py:callable`,
            or a TorchScript, torch.export or ONNX file. weights: its state dict. data: real samples, as `real`.
        discriminator, discriminator_weights: the same of D.
        latent: the length or shape of a latent, where it isn't found. n: how many samples to draw.
        log: a training log: a path or an open file. mapping: column names, such as `{"d_loss": "Loss_D"}`.
        loss: the family of the losses, a name in `stabilgan.losses` or a usual one such as bce or wgan-gp.
        features, weights_dir, save_features: which features samples are compared by; see
            `stabilgan.diagnosis.features.embed`.
        labels: of the reals. limit: at most so many samples of each. seed: of all that is drawn.
        device: where networks run. strict: what would be left out or converted is an error.
        data_dir: where known data sets lie. progress: told what is done, how much of it, and of how much.

    Returns:
        A `stabilgan.diagnosis.Diagnosis`: verdict, findings, evidence.

    Raises:
        InputError: one line that says what can't be used and what to do.

    >>> import torch
    >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> round(diagnose(real=x[:200], fake=torch.zeros(200, 2)).found("mode_collapse").severity, 3)
    1.0
    """
    model = model if model is not None else target
    given = {"real": real, "fake": fake, "model": model, "data": data, "log": log}
    chosen = _way(way, given)
    if chosen == "log":
        from stabilgan.diagnosis.log import diagnose_log

        told = None if progress is None else lambda done, total: progress("reading", done, total or 0)
        return diagnose_log(log, mapping=mapping, loss=loss, strict=strict, progress=told)

    from stabilgan.diagnosis.samples import LEAST, diagnose_samples

    settings: dict[str, Any] = {
        "features": features,
        "weights_dir": None if weights_dir is None else Path(weights_dir),
        "device": device,
        "strict": strict,
        "seed": seed,
        "data_dir": None if data_dir is None else Path(data_dir),
        "progress": progress,
    }
    reading = {k: settings[k] for k in ("strict", "seed", "data_dir", "progress")} | {"limit": limit}
    first = _read(real if chosen == "samples" else data, labels=labels, least=LEAST, **reading)
    learned = None if train is None else _read(train, like=first, least=2, **reading)
    if chosen == "samples":
        second = _read(fake, like=first, least=LEAST, allow_nonfinite=True, **reading)
        save = None if save_features is None else Path(save_features)
        return diagnose_samples(first, second, train=learned, save=save, **settings)

    from stabilgan.diagnosis import model as models
    from stabilgan.diagnosis.families import named
    from stabilgan.diagnosis.models import load_discriminator, load_generator

    try:
        family = None if loss is None else named(loss)
    except ValueError as error:
        raise InputError(str(error)) from None
    g = load_generator(model, weights, latent=latent, device=device)
    d = None if discriminator is None else load_discriminator(discriminator, discriminator_weights, device=device)
    drawn = models.DRAWN if n is None else n
    return models.diagnose_model(g, first, discriminator=d, train=learned, loss=family, n=drawn, **settings)


def _way(way: str | None, given: Mapping[str, Any]) -> str:
    """The way in that is asked for, or that fits what is given."""
    there = [name for name, value in given.items() if value is not None]
    if way is None:
        way = "log" if "log" in there else "model" if "model" in there else "samples"
    if way not in NEEDED:
        raise InputError(spec.unknown("way", way, NEEDED))
    if set(there) != set(NEEDED[way]):
        raise InputError(
            f"given are {', '.join(there) or 'nothing'}; expected real= and fake=, or model= and data=, or log="
        )
    return way


def _read(what: Any, **options: Any) -> Samples:
    if isinstance(what, Samples):
        return what
    from stabilgan.diagnosis.inputs import load

    return load(what, **options)
