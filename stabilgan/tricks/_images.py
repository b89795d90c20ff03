"""Samples as images, for tricks that act on nothing else."""

from __future__ import annotations

import math

from torch import Tensor, nn

from stabilgan import spec, surgery

NO_POINTS = (
    "refused at attach where D is a Sequential that begins with a linear layer; a D with a forward of its own may "
    "reshape samples, so that they are known, and refused, at the first batch alone"
)
"""The limit of these tricks."""


def shape_from(text: str | None, name: str) -> tuple[int, int, int] | None:
    """Channels, height and width from an option such as "1x28x28".

    Raises:
        ValueError: it is no such thing.

    >>> shape_from("3x32x32", "trick")
    (3, 32, 32)
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"{name}: shape is {text!r}; expected channels x height x width of flat images, as in 1x28x28")
    channels, height, width = map(int, parts)
    return channels, height, width


def as_images(x: Tensor, shape: tuple[int, int, int] | None, name: str) -> Tensor:
    """`x` as (N, C, H, W), where it is that already, or flat with the given shape.

    Raises:
        ValueError: it is neither.
    """
    if shape is not None and x[:1].numel() == shape[0] * shape[1] * shape[2]:
        return x.reshape(-1, *shape)
    if shape is not None or x.dim() != 4:
        what = "flat images of " + "x".join(map(str, shape)) if shape else "images (N, C, H, W)"
        raise ValueError(
            f"{name}: samples are {tuple(x.shape)}; expected {what}. Say how flat images are laid out with "
            'shape="1x28x28"; this trick is not for points'
        )
    return x


def refuse_points(d: nn.Module, shape: tuple[int, int, int] | None, name: str) -> None:
    """At attach: what D's first layer says of the samples, where it can say it.

    Raises:
        ValueError: it takes points, or flat images of another shape than the one given.
    """
    first = surgery.entrance(d)
    if isinstance(first, nn.Linear) and (shape is None or first.in_features != math.prod(shape)):
        what = "flat images of " + "x".join(map(str, shape)) if shape else "images (N, C, H, W)"
        said = f"D begins with a linear layer, so its samples are (N, {first.in_features})"
    elif isinstance(first, (nn.Conv1d, nn.Conv3d)):
        what, said = "images (N, C, H, W)", f"D begins with a {type(first).__name__}"
    else:
        return
    raise ValueError(
        f"{name}: {said}; expected {what}. Say how flat images are laid out with "
        'shape="1x28x28"; this trick is not for points'
    )


def policy_from(text: str, known: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The parts of a policy, joined by commas, or by dashes, which the command line leaves together.

    Raises:
        ValueError: a part that is not known.

    >>> policy_from("color-cutout", ("color", "cutout"), "trick")
    ('color', 'cutout')
    """
    parts = tuple(part.strip() for part in text.replace("-", ",").split(",") if part.strip())
    for part in parts:
        if part not in known:
            raise ValueError(f"{name}: policy is {text!r}; {spec.unknown('part', part, known)}")
    return parts
