"""`embed`: reals and fakes as features, by a named extractor, or by the one that fits what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from stabilgan import spec
from stabilgan.diagnosis.features import cache, dinov2, inception, saved
from stabilgan.diagnosis.features.batches import mapped
from stabilgan.diagnosis.features.classifier import DIGITS, TRUSTED, Classifier, classifier_of
from stabilgan.diagnosis.features.content import content_hash
from stabilgan.diagnosis.features.edges import DIRECTIONS, LEVELS, Edges
from stabilgan.diagnosis.features.known import known
from stabilgan.diagnosis.features.result import Features
from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs import Progress, Samples, sniff
from stabilgan.diagnosis.models.targets import first_tensor, quietly, resolve

NAMES = ("auto", "identity", "pixels", "classifier", "edges", "inception", "dinov2")
FEW = 200
"""With fewer images than this no classifier is trained on them."""


def embed(
    real: Samples,
    fake: Samples,
    name: str = "auto",
    *,
    weights_dir: Path | None = None,
    save: Path | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    data_dir: Path | None = None,
    progress: Progress | None = None,
) -> Features:
    """Reals and fakes, brought to one form by `inputs.matched`, as features.

    Args:
        name: "pixels", flattened; "classifier", one trained on the reals' labels (for MNIST and Fashion-MNIST by name
            the workload's own), which also gives labels; "edges", strengths of edges in the parts of an image, on
            the reals' principal axes; "inception" or "dinov2", with weights from `weights_dir` or torch's folder of
            checkpoints;
            `module:callable` or `file.py:callable`, run as named, which maps (N, C, H, W) in [0, 1] or rows to (N, d);
            `file:saved.npz` or `file:real.npz,fake.npz`; "auto": for images the classifier where there are labels, else
            "edges"; for tables columns standardised by the reals; else as they are.
        save: an .npz to write the features to, for `file:`.
        device: where networks run and where the features are put.
        seed: of whatever is trained.
        data_dir: where the test images of MNIST lie, for its classifier's accuracy.

    Raises:
        InputError: no such extractor, one that doesn't suit the samples, or weights that can't be had.
    """
    if real.x.shape[1:] != fake.x.shape[1:]:
        raise InputError(
            f"reals have shape {tuple(real.x.shape)} and fakes {tuple(fake.x.shape)}; expected samples of one shape"
        )
    where = torch.device(device)
    made = _made(real, fake, name, weights_dir, where, seed, data_dir, progress)
    if save is not None:
        saved.save(Path(save), made, real, fake)
    labels = [None if y is None else y.to(where) for y in (made.labels_real, made.labels_fake)]
    return replace(
        made,
        real=made.real.to(where),
        fake=made.fake.to(where),
        labels_real=labels[0],
        labels_fake=labels[1],
        device=where,
    )


def _made(
    real: Samples,
    fake: Samples,
    name: str,
    weights_dir: Path | None,
    device: torch.device,
    seed: int,
    data_dir: Path | None,
    progress: Progress | None,
) -> Features:
    if name.startswith("file:"):
        return saved.load(name.removeprefix("file:"), real, fake)
    if name not in NAMES:
        if "." not in name and ":" not in name:
            raise InputError(
                f"{spec.unknown('features', name, NAMES)}; or module:callable, file.py:callable, file:saved.npz"
            )
        return _of_users(real, fake, name, device, progress)
    if name != "auto":
        return _named(real, fake, name, weights_dir, device, seed, data_dir, progress)
    name, why, real = _chosen(real, data_dir)
    made = _named(real, fake, name, weights_dir, device, seed, data_dir, progress)
    if name == "classifier" and made.labels_real is None:
        why = (
            f"features 'edges' chosen: a classifier of the reals is right on {made.accuracy:.0%} of held-out ones alone"
        )
        made = _named(real, fake, "edges", weights_dir, device, seed, data_dir, progress)
    return replace(made, notes=(why, *made.notes)) if why else made


def _named(
    real: Samples,
    fake: Samples,
    name: str,
    weights_dir: Path | None,
    device: torch.device,
    seed: int,
    data_dir: Path | None,
    progress: Progress | None,
) -> Features:
    if name in ("identity", "pixels"):
        return _as_they_are(real, fake)
    if real.kind != "images":
        raise InputError(f"features {name!r} are of images; {real.source} holds {real.kind}; leave the option out")
    if name == "classifier":
        judge = classifier_of(real, data_dir=data_dir, device=device, seed=seed, progress=progress)
        return _classified(real, fake, judge, device, progress)
    if name == "edges":
        edges = Edges(real.x.shape[1]).to(device).fit(real.x, device=device, progress=progress)
        key = content_hash(edges.mean, edges.axes, of=f"edges {edges.version}")
        told = f"features are edges ({DIRECTIONS} directions, {LEVELS} scales) and a coarse copy, on the reals' axes"
        return _network(real, fake, edges, "edges", key, (told,), device, progress)
    net, notes = (inception.load if name == "inception" else dinov2.load)(weights_dir)
    key = content_hash(*net.state_dict().values(), of=name)
    return _network(real, fake, net.to(device), name, key, notes, device, progress)


def _chosen(real: Samples, data_dir: Path | None) -> tuple[str, str, Samples]:
    """The extractor that suits the samples, why, and the samples under the name of their data set where it is known."""
    if real.kind != "images":
        return "identity", "", real
    if real.source.partition(":")[0].lower() in DIGITS and tuple(real.x.shape[1:]) == (1, 28, 28):
        return "classifier", "features 'classifier' chosen: the data set has one", real
    if real.labels is not None and len(real) >= FEW:
        classes = len(real.labels.unique())
        if classes >= 2 and len(real) >= 10 * (int(real.labels.max()) + 1):
            return "classifier", f"features 'classifier' chosen: the reals are labelled ({classes} classes)", real
    if name := known(real, data_dir):
        why = f"features 'classifier' chosen: {real.source} holds images of {name}, to the last pixel"
        return "classifier", why, replace(real, source=name)
    return "edges", "features 'edges' chosen: the reals have no labels that a classifier could learn", real


def _as_they_are(real: Samples, fake: Samples) -> Features:
    x, y = real.x.flatten(1), fake.x.flatten(1)
    if real.kind == "images":
        return Features(x, y, "pixels", (f"features are the {x.shape[1]:,} pixel values",))
    if real.kind != "table":
        return Features(x, y, "identity", (f"features are the {x.shape[1]:,} values as they are",))
    numbers = torch.tensor([("=" not in c) for c in real.columns] or [True] * x.shape[1])
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    flat = numbers & ~(std > 1e-12 * mean.abs())
    std = torch.where(numbers & ~flat, std, 1.0)
    mean = torch.where(numbers, mean, 0.0)
    notes = ["columns of numbers are standardised by the reals' mean and spread; categories are 0 or 1"]
    if flat.any():
        names = [c for c, f in zip(real.columns, flat.tolist(), strict=False) if f]
        notes.append(f"columns in which all reals are alike, only centred: {', '.join(names[:5]) or int(flat.sum())}")
    return Features(((x - mean) / std).float(), ((y - mean) / std).float(), "table", tuple(notes))


def _network(
    real: Samples,
    fake: Samples,
    function: Callable[[Tensor], Tensor],
    name: str,
    key: str,
    notes: tuple[str, ...],
    device: torch.device,
    progress: Progress | None,
) -> Features:
    """The features of both by a network, from the cache where they were computed before."""
    sides, told = [], []
    for samples, what in ((real, "features of the reals"), (fake, "features of the fakes")):
        own = content_hash(samples.x, of=key)
        kept, note = cache.kept_features(name, own, samples.x.flatten(1).isfinite().all(1))
        if kept is None:
            kept = mapped(function, samples.x, device=device, what=what, progress=progress)
            cache.keep_features(name, own, kept)
        sides.append(kept)
        told += [note] if note else []
    if sides[0].shape[1] != sides[1].shape[1]:
        raise InputError(
            f"features {name!r} have {sides[0].shape[1]} columns for reals and {sides[1].shape[1]} for fakes"
        )
    return Features(sides[0], sides[1], name, (*notes, *told))


def _classified(
    real: Samples, fake: Samples, judge: Classifier, device: torch.device, progress: Progress | None
) -> Features:
    made = _network(real, fake, judge.features, "classifier", judge.key, judge.notes, device, progress)
    made = replace(made, classes=judge.classes, accuracy=judge.accuracy)
    if judge.accuracy < TRUSTED:
        note = f"its labels are not used: it names fewer than {TRUSTED:.0%} of held-out reals rightly"
        return replace(made, notes=(*made.notes, note))
    return replace(
        made,
        labels_real=judge.labels(made.real, device),
        labels_fake=judge.labels(made.fake, device),
    )


def _of_users(real: Samples, fake: Samples, name: str, device: torch.device, progress: Progress | None) -> Features:
    """Features by code that the user names; never kept, since the code may change."""
    target = resolve(name, device)
    if target.module is not None:
        target.module.to(device).eval()

    def function(x: Tensor) -> Tensor:
        try:
            with quietly():
                out = first_tensor(target.call(x))
        except Exception as error:  # a user's code may raise anything
            raise InputError(f"{name} raised {type(error).__name__}: {sniff.one_line(error)}") from error
        if out is None:
            raise InputError(f"{name} gave no tensor; expected (N, d) features")
        return out

    x = mapped(function, real.x, device=device, what="features of the reals", progress=progress)
    y = mapped(function, fake.x, device=device, what="features of the fakes", progress=progress)
    for side, samples in ((x, real), (y, fake)):
        if bool((~side.isfinite().all(1) & samples.x.flatten(1).isfinite().all(1)).any()):
            raise InputError(f"{name} gave nan or infinity for samples of {samples.source} that are finite")
    return Features(x, y, name, (f"features by {name}",))
