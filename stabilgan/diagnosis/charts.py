"""Pictures of a diagnosis: samples, nearest pairs, histograms, a map of the data, curves. Needs no display."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from stabilgan.bench.pictures import COLOURS
from stabilgan.diagnosis.regions import COARSE

REAL, FAKE, LOST = "#9aa5b1", COLOURS[0], COLOURS[1]
GRID = 8


class Picture(NamedTuple):
    """A picture with what it shows in a sentence; `png` are its bytes."""

    title: str
    caption: str
    png: bytes


def pictures(figures: Mapping[str, Any], *, onsets: Mapping[str, int] | None = None) -> list[Picture]:
    """All pictures that the figures of a diagnosis allow, in the order of a report.

    Args:
        figures: `Diagnosis.figures`.
        onsets: title of a failure -> the step from which it is seen, marked in the curves.
    """
    made = []
    if figures.get("curves"):
        made.append(curves(figures["curves"], onsets or {}))
    if "fake_images" in figures:
        made.append(samples(figures["real_images"], figures["fake_images"]))
    if figures.get("pair_images"):
        made.append(pairs(figures["pair_images"], figures["pair_ratios"]))
    if figures.get("paths") is not None:
        made.append(paths(figures["paths"], figures["shape"]))
    if "fake" in figures and figures["fake"].shape[1] == 2:
        made.append(area(figures["real"], figures["fake"], projected=figures["projected"]))
    if (regions := _histogram(figures)) is not None:
        made.append(regions)
    if "scores" in figures:
        made.append(scores(*figures["scores"]))
    return made


def samples(real: Tensor, fake: Tensor) -> Picture:
    """A grid of each side."""
    figure = Figure(figsize=(10, 5.1), layout="constrained")
    for axes, images, title in zip(figure.subplots(1, 2), (real, fake), ("real", "generated"), strict=True):
        _show(axes, _tiled(images[: GRID**2], GRID))
        axes.set_title(title)
    return Picture("Samples", "Real samples on the left, generated ones on the right, as they come.", _png(figure))


def pairs(images: list[tuple[Tensor, Tensor]], ratios: Tensor) -> Picture:
    """The fakes nearest to training samples, above them."""
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    grid = figure.subplots(2, len(images), squeeze=False)
    for column, ((fake, real), ratio) in enumerate(zip(images, ratios.tolist(), strict=False)):
        _show(grid[0, column], _image(fake))
        _show(grid[1, column], _image(real))
        grid[0, column].set_title(f"{ratio:.2f}", fontsize=9)
    grid[0, 0].set_ylabel("generated")
    grid[1, 0].set_ylabel("nearest")
    caption = (
        "The fakes that are nearest to a training sample (or real sample, where no training set was given), and that "
        "sample below. The number is the distance, in units of that sample's distance to its own nearest neighbour."
    )
    return Picture("Nearest pairs", caption, _png(figure))


def paths(strips: Tensor, shape: tuple[int, ...]) -> Picture:
    """What the generator puts out on the way between latents."""
    low, high = strips.min(), strips.max()
    scaled = ((strips - low) / (high - low).clamp(min=1e-12)).reshape(-1, *shape)
    figure = Figure(figsize=(10, 10 * len(strips) / strips.shape[1] + 0.2), layout="constrained")
    _show(figure.subplots(), _tiled(scaled, strips.shape[1]))
    caption = "Each row goes from one latent to another. Rows that stay the same, or jump, are a bad sign."
    return Picture("Between latents", caption, _png(figure))


def area(real: Tensor, fake: Tensor, *, projected: bool) -> Picture:
    """Both sides in the plane."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    for x, colour, alpha, label in ((real, REAL, 1.0, "real"), (fake, FAKE, 0.6, "generated")):
        axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=9, c=colour, alpha=alpha, label=label, linewidths=0)
    low, high = np.quantile(real.numpy(), (0.001, 0.999), axis=0)
    margin = 0.25 * (high - low) + 1e-9
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    axes.legend(loc="upper right", framealpha=0.9)
    where = "on the first two principal axes of the reals' features" if projected else "as they are"
    caption = f"Where fakes cover the data, {where}. Grey without blue is left out; blue without grey is off the data."
    return Picture("Map of the data", caption, _png(figure))


def curves(columns: Mapping[str, Any], onsets: Mapping[str, int]) -> Picture:
    """Each column of a log over the steps, with the onsets marked."""
    losses = {name: c for name, c in columns.items() if "loss" in name.lower()} or dict(columns)
    rest = {name: c for name, c in columns.items() if name not in losses}
    parts = [part for part in (losses, rest) if part]
    figure = Figure(figsize=(10, 3.4 * len(parts)), layout="constrained")
    for axes, part in zip(figure.subplots(len(parts), 1, squeeze=False)[:, 0], parts, strict=True):
        for (name, (steps, values)), colour in zip(part.items(), COLOURS * len(part), strict=False):
            finite = np.isfinite(values)
            axes.plot(np.asarray(steps)[finite], np.asarray(values)[finite], c=colour, lw=1.1, label=_plain(name))
        for step in sorted(set(onsets.values())):
            title = ", ".join(t for t, at in onsets.items() if at == step)
            axes.axvline(step, c=LOST, lw=1.4, ls="--")
            axes.text(step, 0.98, f" {title}", transform=axes.get_xaxis_transform(), va="top", c=LOST, fontsize=9)
        axes.set_yscale("symlog", linthresh=1)
        axes.legend(loc="upper right", fontsize=8, framealpha=0.9)
    axes.set_xlabel("step")
    caption = "What the log holds, on a scale that is linear up to 1 and logarithmic beyond; dashed: the onset."
    return Picture("Curves", caption, _png(figure))


def scores(real: Tensor, fake: Tensor) -> Picture:
    """What the discriminator gives reals and fakes."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    both = np.concatenate([real.numpy(), fake.numpy()])
    bins = np.linspace(both.min() - 1e-6, both.max() + 1e-6, 60).tolist()
    axes.hist(real.numpy(), bins, color=REAL, label="real")
    axes.hist(fake.numpy(), bins, color=FAKE, alpha=0.6, label="generated")
    axes.set_xlabel("D's score")
    axes.legend()
    return Picture("Scores", "What the discriminator gives reals and fakes; apart, it has won.", _png(figure))


def _histogram(figures: Mapping[str, Any]) -> Picture | None:
    """The share of each class, or of each region of the partition that was judged; what is left out marked."""
    found = figures.get("regions", [])
    if not found:
        return None
    lossy = [r for r in found if r["counts"]]
    named = next((r for r in found if r["labels"]), None)
    coarse = max(found, key=lambda r: len(r["real"]) * (len(r["real"]) <= COARSE))
    chosen = named or max(lossy, key=lambda r: r["mass"], default=coarse)
    names = figures.get("classes") or ()
    real, fake = (np.array(chosen[side]) / max(1, sum(chosen[side])) for side in ("real", "fake"))
    order = np.arange(len(real)) if chosen["labels"] else np.argsort(-real)
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes, at = figure.subplots(), np.arange(len(real))
    axes.bar(at - 0.2, real[order], 0.4, color=REAL, label="real")
    axes.bar(at + 0.2, fake[order], 0.4, color=FAKE, label="generated")
    lost = [place for place, region in enumerate(order) if chosen["counts"] and region in chosen["cells"]]
    axes.plot(lost, [0] * len(lost), "v", color=LOST, ms=8, clip_on=False, label="left out" if lost else None)
    kind = "class" if chosen["labels"] else "region"
    if chosen["labels"] and len(names) == len(real):
        axes.set_xticks(at, [_plain(str(name)) for name in names], rotation=45 if len(real) > 10 else 0)
    axes.set_xlabel(kind)
    axes.set_ylabel("share")
    axes.legend()
    caption = f"How much of the data, and of the fakes that are near it, lies in each {kind}."
    return Picture("Modes", caption, _png(figure))


def _plain(name: str) -> str:
    """A name that matplotlib takes for text, not for mathematics or for nothing."""
    return " " + name.replace("$", r"\$") if name.startswith("_") else name.replace("$", r"\$")


def _image(x: Tensor) -> np.ndarray[Any, Any]:
    """(C, H, W) in [0, 1] as matplotlib wants it."""
    array: np.ndarray[Any, Any] = x.clamp(0, 1).permute(1, 2, 0).numpy()
    return array[..., :3] if array.shape[2] >= 3 else array[..., 0]


def _tiled(images: Tensor, columns: int) -> np.ndarray[Any, Any]:
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    width = images.shape[-1] * columns
    strips = []
    for row in rows:
        strip = np.concatenate([_image(x) for x in row], axis=1)
        strips.append(np.pad(strip, [(0, 0), (0, width - strip.shape[1]), *[(0, 0)] * (strip.ndim - 2)]))
    return np.concatenate(strips, axis=0)


def _show(axes: Axes, image: np.ndarray[Any, Any]) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _png(figure: Figure) -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()
