"""Curves of one or several runs. Each function takes tables or arrays and returns a Figure; nothing touches pyplot.

pyplot keeps global state and may ask for a window; a bare Figure draws anywhere, also in threads and on machines
without a display. Shapes: B images, M points of a curve.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from zeroth.records.json_io import replacing
from zeroth.records.summary import (
    Norm,
    attacked_rows,
    certified_accuracy,
    distortion_quartiles,
    robust_accuracy_vs_epsilon,
)

# Okabe and Ito's colours are told apart by colour-blind readers, the dashes also on a grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
# A solid line below a dashed one of the same colour: both are seen where they are one.
BELOW: dict[str, Any] = {"linewidth": 3.0, "alpha": 0.45}
LEGEND: dict[str, Any] = {
    "frameon": True, "framealpha": 0.9, "edgecolor": "none", "fontsize": 9, "handlelength": 2.6
}  # fmt: skip
LEGEND_INSIDE = 3  # more lines than that need a legend that could cover a curve
NORM_NAMES: dict[str, str] = {"l0": r"$\ell_0$", "l1": r"$\ell_1$", "l2": r"$\ell_2$", "linf": r"$\ell_\infty$"}


def success_figure(runs: Mapping[str, pd.DataFrame], *, budget: int | None = None) -> Figure:
    """Share of the attacked images with an adversarial image against queries, a step at each success.

    Args:
        runs: run name -> attack rows.
        budget: right end of the axis; None takes the most that any image spent.
    """
    attacked = {name: attacked_rows(table) for name, table in runs.items()}
    labels, images = run_labels({name: len(rows) for name, rows in attacked.items()})
    figure, axes = new_axes("queries per image", f"attack success rate{images}")
    end = max([budget or 1, *(int(rows["queries"].max()) for rows in attacked.values() if len(rows) and not budget)])
    earliest = end
    for rows, label, style in zip(attacked.values(), labels, line_styles(runs), strict=True):
        first = np.sort(rows.loc[rows["success"].astype(bool), "queries_to_success"].to_numpy())
        first = first[first <= end]
        share = np.arange(1, len(first) + 1) / max(len(rows), 1)
        last, earliest = (share[-1], min(earliest, first[0])) if len(first) else (0.0, earliest)
        axes.step([1, *first, end], [0, *share, last], where="post", label=label, **style)
    query_axis(axes, _round_below(earliest) if earliest < end else 1, end)
    share_axis(axes)
    return finish(figure, axes, "best")


def distortion_figure(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, distance: str = "l2") -> Figure:
    """Median distance against queries, with the quartiles as a band; on a log axis where they span a decade.

    An image without an adversarial image yet is at infinite distance: the median starts where half of the images
    have one.

    Args:
        curves: run name -> (marks (M,), distances (M, B)), as ``AttackResult.best_distance_at`` gives them, inf where
            nothing was found yet. Leave out images that were not attacked.
        distance: what the distances are, a norm or words ("elastic-net").

    Raises:
        ValueError: shapes that do not fit.
    """
    name = NORM_NAMES.get(distance, distance)
    figure, axes = new_axes("queries per image", f"{name} distance, median and quartiles")
    spread = {name: _quartiles(name, *curve) for name, curve in curves.items()}
    finite = [q[np.isfinite(q)].max(initial=0) for _, q in spread.values()]
    top = 1.05 * max(finite, default=0) or 1.0
    for (name, (marks, quartiles)), style in zip(spread.items(), line_styles(curves), strict=True):
        low, median, high = np.where(np.isfinite(quartiles), quartiles, np.nan)
        images = np.shape(curves[name][1])[1]
        axes.plot(marks, median, marker="o", markersize=3, clip_on=False, label=run_label(name, images), **style)
        # Where the upper quartile is still infinite the band runs out of the picture.
        high = np.where(np.isnan(high) & ~np.isnan(low), 2 * top, high)
        axes.fill_between(marks, low, high, color=style["color"], alpha=0.18, linewidth=0)
    end = max([float(marks.max()) for marks, _ in spread.values()], default=1.0)
    # From the first mark where a quartile is known: before it there is nothing to see.
    known = [marks[np.isfinite(quartiles).any(0)].min(initial=end) for marks, quartiles in spread.values()]
    earliest = min(known, default=end)
    query_axis(axes, _round_below(earliest) if earliest < end else 1, end)
    least = min([q[np.isfinite(q)].min(initial=np.inf) for _, q in spread.values()], default=np.inf)
    if 0 < 10 * least <= top:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(0.95 * least, top)
    else:
        axes.set_ylim(0, top)
    return finish(figure, axes, "best")


def certified_accuracy_figure(
    runs: Mapping[str, pd.DataFrame], *, confidence: float = 0.95, max_radius: float | None = None
) -> Figure:
    """Certified accuracy against the radius, exact at every radius, with a pointwise Clopper-Pearson band.

    Args:
        runs: run name -> rows with Cohen's columns.
        confidence: of the band.
        max_radius: right end of the axis, in [0, 1] pixels; None takes a little more than the largest radius.
    """
    labels, images = run_labels({name: len(table) for name, table in runs.items()})
    figure, axes = new_axes(r"$\ell_2$ radius, [0, 1] pixels", f"certified accuracy{images}")
    end = (
        max_radius
        or 1.05 * max([float(table["radius"].max()) for table in runs.values() if len(table)], default=0.0)
        or 1.0
    )
    for table, label, style in zip(runs.values(), labels, line_styles(runs), strict=True):
        if len(table) == 0:
            continue
        radii = np.unique([0.0, *table.loc[table["correct"].astype(bool), "radius"], end])
        curve = certified_accuracy(table, radii.tolist(), confidence=confidence)
        # "pre": an image counts up to and at its radius, so the curve falls just behind it.
        accuracy, low, high = _band(curve)
        axes.step(radii, accuracy, where="pre", label=label, **style)
        axes.fill_between(radii, low, high, step="pre", color=style["color"], alpha=0.18, linewidth=0)
    axes.set_xlim(0, end)
    share_axis(axes)
    return finish(figure, axes, "upper right")


def robust_accuracy_figure(
    runs: Mapping[str, pd.DataFrame],
    *,
    norm: Norm = "l2",
    grid: Sequence[float] | None = None,
    confidence: float = 0.95,
) -> Figure:
    """Accuracy under attack against the size of the perturbation, with a pointwise Wilson band.

    Args:
        runs: run name -> attack rows.
        norm: column of the distance.
        grid: (M,) sizes; None takes 201 from 0 to the largest distance found.
        confidence: of the band.
    """
    unit = "changed pixels" if norm == "l0" else "[0, 1] pixels"
    figure, axes = new_axes(rf"{NORM_NAMES[norm]} perturbation $\epsilon$, {unit}", "accuracy under attack")
    if grid is None:
        found = [float(table[norm].astype(float).max()) for table in runs.values()]
        # A little beyond the largest distance: a fixed-epsilon attack drops to its last value there.
        end = 1.05 * max([size for size in found if np.isfinite(size)], default=0.0) or 1.0
        grid = np.linspace(0, end, 211).tolist()
    for (name, table), style in zip(runs.items(), line_styles(runs), strict=True):
        curve = robust_accuracy_vs_epsilon(table, norm, grid, confidence=confidence)
        accuracy, low, high = _band(curve)
        axes.plot(
            grid, accuracy, drawstyle="steps-post", label=run_label(name, int((table["predicted"] >= 0).sum())), **style
        )
        axes.fill_between(grid, low, high, step="post", color=style["color"], alpha=0.18, linewidth=0)
    axes.set_xlim(min(grid), max(grid) if max(grid) > min(grid) else min(grid) + 1)
    share_axis(axes)
    return finish(figure, axes, "best")


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150, metadata: dict[str, str] | None = None) -> None:
    """Write a figure, as a whole at once, the format by the ending of ``path`` (.png, .pdf, .svg); the folder is made.

    Args:
        figure: what is drawn.
        path: the file.
        dpi: dots an inch.
        metadata: name -> text kept in the file, as matplotlib's ``savefig`` takes it; any names in a PNG.
    """
    path = Path(path)
    with replacing(path) as part:
        figure.savefig(part, dpi=dpi, format=path.suffix.removeprefix("."), metadata=metadata)


def _quartiles(name: str, marks: ArrayLike, distances: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the marks in order (M,) and the quartiles there (3, M), inf where an infinite distance takes part."""
    at, values = np.asarray(marks, float), np.asarray(distances, float)
    if at.ndim != 1 or values.ndim != 2 or len(values) != len(at) or values.size == 0 or np.isnan(values).any():
        raise ValueError(
            f"{name}: marks must be (M,) and distances (M, B) with at least one image and no NaN (inf where nothing "
            f"was found), got shapes {at.shape} and {values.shape}"
        )
    order = at.argsort()
    return at[order], distortion_quartiles(values[order])


def _band(curve: Mapping[str, list[float | None]]) -> tuple[NDArray[np.float64], ...]:
    """Accuracy and the ends of its interval, each (M,), NaN (not drawn) where there was no image."""
    return tuple(np.array(curve[key], float) for key in ("accuracy", "low", "high"))


def new_axes(x: str, y: str) -> tuple[Figure, Axes]:
    """Start a figure with the two axes named, in the look that all of them share."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, x, y)
    return figure, axes


def dress(axes: Axes, x: str, y: str) -> None:
    """Name the two axes, and give them the look that all of them share."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def line_styles(names: Iterable[str]) -> list[dict[str, Any]]:
    """Choose a colour and a dash for each run.

    Runs that share all but what follows the last comma of their names ("tuned, iterates" and "tuned, all") share a
    colour, and what follows the comma has a dash of its own.
    """
    names = list(names)
    parts = [tuple(name.rpartition(", ")[::2]) for name in names]
    heads, tails = (
        {part: place for place, part in enumerate(dict.fromkeys(pair[side] for pair in parts))} for side in (0, 1)
    )
    if grouped := "" not in heads and len(heads) <= min(len(COLOURS), len(names) - 1) and len(tails) <= len(DASHES):
        places = [(heads[head], tails[tail]) for head, tail in parts]
    else:  # colours and dashes of coprime numbers: 28 runs before a style comes back
        places = [(place, place) for place in range(len(names))]
    return [
        {"color": COLOURS[colour % len(COLOURS)], "linestyle": DASHES[dash % len(DASHES)]}
        | (BELOW if grouped and dash == 0 and (colour, 1) in places else {"linewidth": 1.6})
        for colour, dash in places
    ]


def run_label(name: str, n: int | None = None) -> str:
    """Name of a run, with its number of images, as the legend needs it."""
    # matplotlib hides what starts with an underscore, and reads text between two $ as a formula.
    name = name.lstrip("_").replace("$", r"\$")
    return name if n is None else f"{name} (n = {n:,})"


def run_labels(counts: Mapping[str, int]) -> tuple[list[str], str]:
    """Label runs with their numbers of images; where all have the same, the axis says it once, by the second."""
    if len(counts) > 1 and len(shared := set(counts.values())) == 1:
        return [run_label(name) for name in counts], f" (n = {shared.pop():,})"
    return [run_label(name, n) for name, n in counts.items()], ""


def _round_below(queries: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... below a number of queries, 1 at least."""
    steps = [step * 10.0**power for power in range(10) for step in (1, 2, 5)]
    return max(step for step in steps if step == 1 or step < queries)


def query_axis(axes: Axes, start: float, end: float) -> None:
    """Make the x axis one of queries: logarithmic above a decade, whole numbers with thousands separators."""
    if start > 0 and end / start > 10:
        axes.set_xscale("log")
        if end / start < 1e3:  # decades alone would leave one or two labels
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(start, max(end, start + 1))


def share_axis(axes: Axes) -> None:
    """Make the y axis one of percentages, 0 to 100."""
    axes.set_ylim(0, 1.01)  # a line at 100 % is not cut in half
    axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def finish(figure: Figure, axes: Axes, place: Literal["upper right", "best"]) -> Figure:
    """Add the legend: in a corner that the curves leave free, or beside the axes where it would be too long for one."""
    if not (labels := axes.get_legend_handles_labels()[1]):
        return figure
    if len(labels) <= LEGEND_INSIDE:
        axes.legend(loc=place, **LEGEND)
        return figure
    figure.legend(loc="outside right upper", **LEGEND)
    # The axes keep their size: an inch holds about 15 letters, beside the sample of the line.
    figure.set_figwidth(figure.get_figwidth() + 0.6 + max(map(len, labels)) / 15)
    return figure
