"""Pictures of a bench: samples over time, curves with a band over seeds, success rates. Draws with Agg, no display."""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stabilgan.bench.report import Arm, Bench, Record, Summary

Array = NDArray[Any]
Runs = Mapping[str, Mapping[int, "Record"]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart with any colour vision (Okabe & Ito 2008)."""
DASHES = ("-", (0, (6, 2)), (0, (4, 1.5, 1, 1.5)), (0, (1.5, 1.5)), (0, (8, 2, 2, 2)))
"""Arms that lie on each other, as on a target, show through each other's gaps."""
GREY = "#777777"
COLUMNS = 6
BINS = 120


def write(folder: Path, summary: Summary, records: Iterable[Record]) -> list[str]:
    """Draws samples, curves and success of every bench into the folder; returns a line for each picture left out."""
    from stabilgan.bench.report import grouped

    records, notes, names = list(records), [], set[str]()
    for bench in summary.benches:
        name = safe_name(bench.workload)
        if sum(safe_name(b.workload) == name for b in summary.benches) > 1:
            name += f"-{bench.steps}-steps" if bench.steps is not None else f"-{bench.seconds:g}-s"
        if name in names:
            name += f"-{zlib.crc32(bench.settings.encode()):08x}"
        names.add(name)
        runs = grouped(records, bench)
        for kind, draw in (("samples", samples), ("curves", curves), ("success", success)):
            path = Path(folder, f"{kind}-{name}.png")
            figure = draw(bench, runs, Path(folder, "samples"))
            if isinstance(figure, str):
                notes.append(f"{path.name} left out: {figure}")
                path.unlink(missing_ok=True)  # of an earlier report: it would show other runs
            else:
                partial = path.with_name(f".{path.name}")
                # No date or version inside, so that the same records give the same file.
                figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})
                partial.replace(path)
    return notes


def safe_name(workload: str) -> str:
    """A workload's name as a part of a file name on any system.

    >>> safe_name("ring:modes=8"), safe_name("../my own.py:make")
    ('ring-modes=8', 'my-own.py-make')
    """
    return re.sub(r"[^A-Za-z0-9._=]+", "-", workload).strip(".-")[:80] or "workload"


# --- samples --------------------------------------------------------------------------------------------------------


def samples(bench: Bench, runs: Runs, folder: Path) -> Figure | str:
    """Rows are arms, columns are steps; one seed, the first that has samples. Else why there is no picture."""
    kept: dict[int, dict[str, Mapping[str, Array]]] = {}
    for seed in bench.seeds:
        of_seed = {arm: _load(folder, by_seed[seed]) for arm, by_seed in runs.items() if seed in by_seed}
        if any(of_seed.values()):
            kept[seed] = {arm: found for arm, found in of_seed.items() if found}
            break
    if not kept:
        return "no samples were kept (samples/*.npz)"
    seed, found = next(iter(kept.items()))
    steps = sorted({int(s) for f in found.values() for s in f["step"]})
    if len(steps) > COLUMNS:
        steps = [steps[round(i * (len(steps) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]
    real = next(iter(found.values()))["real"]
    points = real.ndim == 2
    columns = len(steps) + (not points)
    left = max(len(line) for arm in runs for line in _label(arm).split("\n")) * 0.085 + 0.25
    figure = Figure(figsize=(left + 1.55 * columns, 0.75 + 1.62 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), columns, squeeze=False)
    for row, arm in enumerate(runs):
        for column, step in enumerate(steps):
            axes = grid[row][column]
            _bare(axes, _label(arm) if column == 0 else "", f"step {step:,}" if row == 0 else "")
            shown = _at(found[arm], step) if arm in found else None
            if shown is None:
                _say(axes, _absent(runs[arm].get(seed)))
            elif points:
                _points(axes, shown, real)
            else:
                _tiles(axes, shown)
        if not points:
            _bare(grid[row][-1], "", "real" if row == 0 else "")
            _tiles(grid[row][-1], real)
    how = "generated points over the real ones (grey)" if points else "generated images"
    figure.suptitle(f"{bench.workload}: {how} during training, seed {seed}", fontsize=11)
    return figure


def _load(folder: Path, record: Record) -> Mapping[str, Array] | None:
    """The samples of a run, or None where there are none that can be read."""
    path = folder / f"{Path(record['hash']).name}.npz"
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # np.load alone leaks a broken file
            found = {key: file[key] for key in ("step", "samples", "real")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    whole = len(found["step"]) == len(found["samples"]) > 0 and found["samples"].ndim == found["real"].ndim + 1
    return found if whole and found["real"].ndim in (2, 3, 4) else None


def _at(kept: Mapping[str, Array], step: int) -> Array | None:
    at = np.flatnonzero(kept["step"] == step)
    return kept["samples"][int(at[0])] if at.size else None


def _absent(record: Record | None) -> str:
    if record is None:
        return "not run"
    if record["status"] == "failed":
        return "failed"
    return "diverged" if record["status"] == "diverged" else "no samples"


def _points(axes: Axes, fake: Array, real: Array) -> None:
    low, high = real[:, :2].min(0), real[:, :2].max(0)
    centre, half = (low + high) / 2, 0.8 * max(float((high - low).max()), 1e-6)  # 0.5 is the data, the rest margin
    axes.set_xlim(float(centre[0]) - half, float(centre[0]) + half)
    axes.set_ylim(float(centre[1]) - half, float(centre[1]) + half)
    axes.set_aspect("equal")
    axes.scatter(real[:, 0], real[:, 1], s=9, color="#BBBBBB", linewidths=0, rasterized=True)
    finite = fake[np.isfinite(fake).all(1)]
    axes.scatter(finite[:, 0], finite[:, 1], s=3, color=COLOURS[1], alpha=0.5, linewidths=0, rasterized=True)
    inside = (np.abs(finite[:, :2] - centre) <= half).all(1).sum()
    if (outside := 1 - inside / max(len(fake), 1)) >= 0.005:
        axes.text(0.03, 0.03, f"{100 * outside:.0f} % outside", transform=axes.transAxes, fontsize=7, color="black")


def _tiles(axes: Axes, images: Array, across: int = 5) -> None:
    images = images[: across * across]
    if images.ndim == 4:
        images = np.moveaxis(images, 1, -1)
        images = images if images.shape[-1] == 3 else images[..., 0]
    rows = math.ceil(len(images) / across)
    height, width = images.shape[1:3]
    sheet = np.full((rows * (height + 1) + 1, across * (width + 1) + 1, *images.shape[3:]), 255, images.dtype)
    for i, image in enumerate(images):
        top, side = (i // across) * (height + 1) + 1, (i % across) * (width + 1) + 1
        sheet[top : top + height, side : side + width] = image
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def _bare(axes: Axes, label: str, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#CCCCCC")
    if label:
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    if title:
        axes.set_title(title, fontsize=9)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=GREY)
    axes.set_box_aspect(1)


def _label(arm: str) -> str:
    return arm.replace("+", "\n+")


# --- curves ---------------------------------------------------------------------------------------------------------


def curves(bench: Bench, runs: Runs, folder: Path) -> Figure | str:
    """D's loss, G's loss and the primary reading over steps: an arm's median and quartiles over seeds."""
    panels = [("series", "d_loss", "D loss"), ("series", "g_loss", "G loss")]
    if bench.primary:
        panels.append(("readings", bench.primary, bench.primary.replace("_", " ")))
    drawn = {(where, key): {arm: _gather(runs[arm].values(), where, key) for arm in runs} for where, key, _ in panels}
    if bench.primary:
        for arm, (x, y) in drawn["readings", bench.primary].items():
            after = _after_divergence(bench.primary, runs[arm].values())
            drawn["readings", bench.primary][arm] = np.append(x, after[0]), np.append(y, after[1])
    if not any(len(x) for by_arm in drawn.values() for x, _ in by_arm.values()):
        return "no run has a curve"
    figure = Figure(figsize=(9, 1.0 + 2.35 * len(panels) + 0.28 * math.ceil(len(runs) / 2)), layout="constrained")
    column = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (where, key, label) in zip(column, panels, strict=True):
        for i, (arm, (x, y)) in enumerate(drawn[where, key].items()):
            if not len(x):
                continue
            middle, low, centre, high = _band(x, y, BINS if where == "series" else None)
            colour, dash = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
            axes.fill_between(middle, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(middle, centre, linestyle=dash, color=colour, linewidth=1.8, label=arm)
            for record in runs[arm].values():
                if record["status"] == "diverged" and (end := _gather([record], where, key))[0].size:
                    axes.plot(end[0][-1], end[1][-1], "x", color=colour, markersize=7, clip_on=False)
        if where == "series":
            _scale(axes, np.concatenate([y for _, y in drawn[where, key].values()]))
        elif bench.target is not None:
            axes.axhline(bench.target, color=GREY, linewidth=0.8, linestyle=(0, (4, 4)))
            axes.annotate(
                "target", (1, bench.target), xycoords=("axes fraction", "data"), xytext=(3, 0), va="center",
                textcoords="offset points", fontsize=8, color=GREY, annotation_clip=False,
            )  # fmt: skip
        axes.set_ylabel(label)
        axes.grid(True, color="#EEEEEE")
        axes.set_axisbelow(True)
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
    column[-1].set_xlabel("step")
    handles: dict[str, Any] = {}
    for axes in column:
        handles.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    across = max(1, min(3, 100 // (max(map(len, handles)) + 8)))  # about 100 letters fit beside the lines
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=across, frameon=False)
    seeds = len(bench.seeds)
    figure.suptitle(
        f"{bench.workload}: median and quartiles over {seeds} seed{'s' * (seeds != 1)}"
        + ("  (× a run diverged)" if any(a.diverged for a in bench.arms) else ""),
        fontsize=11,
    )
    return figure


def _gather(records: Iterable[Record], where: str, key: str) -> tuple[Array, Array]:
    """All (step, value) of these runs, those without a value left out."""
    pairs = [
        (step, value)
        for record in records
        for step, value in zip(record[where].get("step", ()), record[where].get(key, ()), strict=False)
        if value is not None
    ]
    x, y = np.array(pairs, dtype=float).reshape(-1, 2).T
    return x, y


def _after_divergence(key: str, records: Collection[Record]) -> tuple[Array, Array]:
    """A diverged run goes on at its final reading: the median of those that are left would rise by its leaving."""
    steps = {step for record in records for step in record["readings"].get("step", ())}
    pairs = [
        (step, record["final"][key])
        for record in records
        if record["status"] == "diverged" and record["final"].get(key) is not None
        for step in steps - set(record["readings"].get("step", ()))
    ]
    x, y = np.array(pairs, dtype=float).reshape(-1, 2).T
    return x, y


def _band(x: Array, y: Array, bins: int | None) -> tuple[Array, Array, Array, Array]:
    """Where, lower quartile, median, upper quartile: of all values at a step, or in a stretch of steps.

    A stretch keeps what a mean would smooth away: where a loss swings the band is wide.
    """
    places = np.unique(x)
    if bins is not None and len(places) > bins:
        edges = np.linspace(places[0], places[-1], bins + 1)
        group = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)
        centres = (edges[:-1] + edges[1:]) / 2
    else:
        group, centres = np.searchsorted(places, x), places
    order = np.argsort(group, kind="stable")
    present, starts = np.unique(group[order], return_index=True)
    quartiles = np.array([np.quantile(part, (0.25, 0.5, 0.75)) for part in np.split(y[order], starts[1:])])
    return centres[present], quartiles[:, 0], quartiles[:, 1], quartiles[:, 2]


def _scale(axes: Axes, values: Array) -> None:
    """Logarithmic where losses span decades; linear about zero where some are negative."""
    size = np.abs(values[values != 0])
    if not len(size) or np.quantile(size, 0.99) < 20 * np.quantile(size, 0.5):
        return
    if values.min() >= 0:
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(float(np.quantile(size, 0.01)) / 2, 1e-8))
    else:
        axes.set_yscale("symlog", linthresh=float(np.quantile(size, 0.5)))


# --- success --------------------------------------------------------------------------------------------------------


def success(bench: Bench, runs: Runs, folder: Path) -> Figure | str:
    """Each arm's success rate with its 95 % interval, counts and verdict beside it."""
    arms = [arm for arm in bench.arms if arm.judged]
    if not arms:
        return f"{bench.workload} has no notion of success"
    lines = [_label(arm.name).count("\n") + 1 for arm in arms]
    heights = [max(0.5, 0.19 * n + 0.14) for n in lines]
    figure = Figure(figsize=(9, 1.15 + sum(heights)), layout="constrained")
    axes = figure.subplots()
    places = [-(sum(heights[:i]) + heights[i] / 2) for i in range(len(arms))]
    for y, arm in zip(places, arms, strict=True):
        low, high = arm.readings["success"].interval or (0.0, 1.0)
        rate = arm.successes / arm.judged
        colour = {"helps": COLOURS[2], "hurts": COLOURS[1]}.get(
            arm.verdict or "", COLOURS[0] if arm.verdict else "black"
        )
        axes.plot([low, high], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt", clip_on=False)
        axes.plot([rate], [y], "o", color=colour, markersize=8, clip_on=False)
        axes.text(1.03, y, _beside(arm), va="center", fontsize=9, color=colour)
    axes.set_yticks(places, [_label(arm.name) for arm in arms], fontsize=9)
    axes.set_ylim(-sum(heights), 0)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    axes.set_xlabel("runs that reached the target and held it, with 95 % interval (Wilson)")
    axes.grid(True, axis="x", color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, pad=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(f"{bench.workload}: success over seeds", fontsize=11)
    return figure


def _beside(arm: Arm) -> str:
    parts = [f"{arm.successes} of {arm.judged}"]
    parts += [f"{n} {what}" for n, what in ((arm.diverged, "diverged"), (arm.failed, "failed")) if n]
    return ", ".join(parts) + (f"\n{arm.verdict}" if arm.verdict else "")
