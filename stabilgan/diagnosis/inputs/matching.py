"""Reals and fakes brought to one form, so that they can be compared at all: kind, size, channels, columns, classes."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from stabilgan.diagnosis.findings import InputError
from stabilgan.diagnosis.inputs.samples import Samples


def matched(real: Samples, fake: Samples, *, strict: bool = False) -> tuple[Samples, Samples]:
    """Both samples in one form; each conversion is a note.

    Images: rows of pixels become images of the other's size, the larger are brought to the size of the smaller, grey
    becomes three channels where the other is in colour (one channel where the colour is all grey). Tables: the same
    columns, whatever their order; a category that one of them lacks is a column of zeros. Labels are numbered alike.

    Args:
        strict: images of different sizes or channels are an InputError instead.

    Raises:
        InputError: the two can't be compared; with both their shapes.
    """
    if (real.kind == "images") != (fake.kind == "images"):
        raise InputError(_different(real, fake))
    if real.kind == "images":
        if strict and real.x.shape[1:] != fake.x.shape[1:]:
            raise InputError(f"{_said(real)} and {_said(fake)} differ in size or channels (strict); bring them to one")
        real, fake = _channels(real, fake)
        real, fake = _sizes(real, fake)
    elif real.columns and fake.columns:
        real, fake = _columns(real, fake)
    if real.x.shape[1:] != fake.x.shape[1:]:
        raise InputError(f"{_said(real)} and {_said(fake)} can't be compared; expected samples of one kind and width")
    if fake.kind != real.kind:
        fake = replace(fake, kind=real.kind)
    return real, _classes(real, fake)


def _said(samples: Samples) -> str:
    return f"{samples.source} ({samples.kind} of shape {tuple(samples.x.shape)})"


def _noted(samples: Samples, x: Tensor, note: str) -> Samples:
    return replace(samples, x=x, notes=(*samples.notes, note))


def _different(real: Samples, fake: Samples) -> str:
    rows, images = (fake, real) if real.kind == "images" else (real, fake)
    if rows.x.shape[1] == math.prod(images.x.shape[1:]):
        return (
            f"{_said(rows)} has as many values as the images of {images.source}: read it with like=, or add "
            ":kind=images behind its path, so that their range is found"
        )
    return f"{_said(real)} and {_said(fake)} can't be compared; expected both images, or both features"


def _channels(real: Samples, fake: Samples) -> tuple[Samples, Samples]:
    if real.x.shape[1] == fake.x.shape[1]:
        return real, fake
    grey, colour = (real, fake) if real.x.shape[1] == 1 else (fake, real)
    if bool((colour.x.nan_to_num() == colour.x[:, :1].nan_to_num()).all()):
        colour = _noted(colour, colour.x[:, :1].clone(), "three channels that are all alike: one kept")
    else:
        grey = _noted(grey, grey.x.expand(-1, 3, -1, -1).clone(), f"grey, tripled as {colour.source} is in colour")
    return (grey, colour) if grey.source == real.source and real.x.shape[1] == 1 else (colour, grey)


def _sizes(real: Samples, fake: Samples) -> tuple[Samples, Samples]:
    a, b = tuple(real.x.shape[2:]), tuple(fake.x.shape[2:])
    if a == b:
        return real, fake
    to = min(a, b, key=math.prod)
    return (
        real if a == to else _noted(real, resized(real.x, to), _resize_note(a, to, fake)),
        fake if b == to else _noted(fake, resized(fake.x, to), _resize_note(b, to, real)),
    )


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Images in [0, 1] at another height and width, bicubic and antialiased, a thousand at a time."""
    parts = [F.interpolate(p, list(size), mode="bicubic", antialias=True).clamp_(0, 1) for p in x.split(1000)]
    return torch.cat(parts)


def _resize_note(size: tuple[int, ...], to: tuple[int, ...], other: Samples) -> str:
    return (
        f"{size[1]} x {size[0]} resized to {to[1]} x {to[0]}, the size of {other.source} (bicubic); compare with care"
    )


def _columns(real: Samples, fake: Samples) -> tuple[Samples, Samples]:
    if real.columns == fake.columns:
        return real, fake
    own, theirs = set(real.columns), set(fake.columns)
    for one, other, lacking in ((real, fake, own - theirs), (fake, real, theirs - own)):
        kinds = {c.partition("=")[0] for c in other.columns if "=" in c}
        alone = sorted(c for c in lacking if "=" not in c or c.partition("=")[0] not in kinds)
        if alone:
            raise InputError(
                f"{one.source} has the column {alone[0]!r}, and {other.source} has not, or not of that kind (numbers, "
                f"categories); its columns are {', '.join(other.columns[:8])}; expected the same in both"
            )
    columns = [*real.columns, *(c for c in fake.columns if c not in own)]
    return _with_columns(real, columns, sorted(theirs - own)), _with_columns(fake, columns, sorted(own - theirs))


def _with_columns(samples: Samples, columns: list[str], absent: list[str]) -> Samples:
    place = {name: i for i, name in enumerate(samples.columns)}
    zeros = samples.x.new_zeros(len(samples))
    x = torch.stack([samples.x[:, place[c]] if c in place else zeros for c in columns], 1)
    note = (f"categories that it lacks: {', '.join(absent[:5])}",) if absent else ()
    return replace(samples, x=x, columns=tuple(columns), notes=(*samples.notes, *note))


def _classes(real: Samples, fake: Samples) -> Samples:
    """The fakes with labels numbered as the reals' are, by class names; dropped where their names are no classes."""
    if fake.labels is None or not real.classes or not fake.classes or fake.classes == real.classes:
        return fake
    number = {name: i for i, name in enumerate(real.classes)}
    if strangers := [c for c in fake.classes if c not in number]:
        note = f"its classes ({', '.join(strangers[:3])}) are not those of {real.source}: labels not used"
        return replace(fake, labels=None, classes=(), notes=(*fake.notes, note))
    table = torch.tensor([number[c] for c in fake.classes])
    return replace(fake, labels=table[fake.labels], classes=real.classes)
