"""What optimizers reached on the same problems: a table of figures, and curves of the loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from experiments.cells import Cell
from experiments.ratios import ratio_column, ratio_interval, ratio_name
from experiments.reconstructions import image_of, reconstructions_figure
from zeroth.records import Bootstrap
from zeroth.records.charts import setting_figure, setting_panels
from zeroth.records.tables import NO_VALUE

# Names of the x axis by what a picture of losses is over.
AXES: dict[str, str] = {"iterations": "iteration", "queries": "queries of a trial"}
# A fall by this factor is drawn on a logarithmic axis.
FAR_FALL = 20


def figures_of(cell: Cell) -> dict[str, dict[str, float]]:
    """The figures of a study: name -> value, low and high."""
    return {
        figure["name"]: {"value": figure["values"][0], "low": figure["low"][0], "high": figure["high"][0]}
        for figure in cell.measured["summary"]
    }


def figures_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """Lay out the figures of studies as text, a line a method, with ratios to baselines and with what was tuned of it.

    Raises:
        ValueError: the studies have different figures.
    """
    rows, ratios = [], list(dict.fromkeys(ratio_name(cell) for cell in cells if cell.ratio))
    for cell in cells:
        told = figures_of(cell)
        if list(told) != list(figures_of(cells[0])):
            raise ValueError(f"{cell.method} has other figures than {cells[0].method}: measure it anew")
        chosen: Mapping[str, Any] = (cell.measured.get("tuning") or {}).get("chosen") or {}
        tuned = ", ".join(f"{name} {_plain(value)}" for name, value in chosen.items())
        rows.append(
            {"method": cell.method, "n": str(cell.measured["n"])}
            | {f"{name} [95 % CI]": "{value:.4g} [{low:.4g}, {high:.4g}]".format(**ends) for name, ends in told.items()}
            | {head: text for name in ratios for head, text in ratio_column(cell, name)[0].items()}
            | {"tuned": tuned or NO_VALUE}
        )
    frame = pd.DataFrame(rows)
    return frame if (frame["tuned"] != NO_VALUE).any() else frame.drop(columns="tuned")


def ratio_of_figures(
    ours: Cell, theirs: Cell, figure: str, *, resampling: Bootstrap | None = None
) -> dict[str, float | int | None]:
    """Divide a figure of an optimizer, a mean over images, by that of a baseline.

    Args:
        ours: its study.
        theirs: the baseline's.
        figure: which one, e.g. "final loss".
        resampling: how the interval is drawn, by resampling the images; default ``Bootstrap()``.

    Returns:
        ``n``, the images that both measured: one of which a trial of either diverged is left out; ``value``, ``low``
        and ``high``, None with a baseline of 0.

    Raises:
        ValueError: a study does not tell its figures by image, or the two have no image in common.
    """
    one, two = by_index(ours, figure), by_index(theirs, figure)
    both = one.index.intersection(two.index)
    if len(both) == 0:
        raise ValueError(f"a ratio is of the same images, but {ours.method} and {theirs.method} have none in common")
    a, b = (values.loc[both].to_numpy(float) for values in (one, two))
    if b.mean() == 0:
        return {"n": len(both), "value": None, "low": None, "high": None}
    low, high = ratio_interval(
        lambda places: a[places].mean(-1) / b[places].mean(-1), len(both), resampling or Bootstrap()
    )
    return {"n": len(both), "value": float(a.mean() / b.mean()), "low": low, "high": high}


def by_index(cell: Cell, figure: str) -> "pd.Series[float]":
    """Return a figure of a study, (n,), indexed by the images' dataset indices.

    Raises:
        ValueError: the study does not tell it.
    """
    told = cell.measured.get("by_index") or {}
    if figure not in told:
        raise ValueError(
            f"{cell.method} does not tell {figure!r} by image: delete study.json in the folder of stage {cell.stage} "
            "and run the table again; its images are not measured anew"
        )
    return pd.Series(told[figure], index=told["index"])


def losses_figure(cells: Sequence[Cell], over: str, images: int | None = None) -> Figure:
    """Draw the loss of optimizers, over iterations or over the queries of a trial.

    A mean that stays positive and falls by more than :data:`FAR_FALL` has a logarithmic axis.

    Args:
        cells: studies of the same images, or problems.
        over: "iterations" or "queries".
        images: draw so many of them, a panel each: means over trials and their standard deviations. None for the mean
            over all, with its interval.

    Raises:
        ValueError: a study tells the losses of other or fewer images.
    """
    at = {cell.method: cell.measured["asked"] if over == "queries" else cell.measured["x"]["values"] for cell in cells}
    if images is None:
        lines = {cell.method: cell.measured["lines"][0] for cell in cells}
        tables = {
            method: _band(at[method], line["values"], line["low"], line["high"]) for method, line in lines.items()
        }
        ends = [end for table in tables.values() for end in (table["low"].min(), table["high"].max())]
        # Where losses fall so far, what the optimizers end at would lie on the axis.
        return setting_figure(tables, x=AXES[over], y="mean loss", log_y=0 < FAR_FALL * min(ends) < max(ends))
    indices = cells[0].measured["single"]["index"][:images]
    panels: dict[str, dict[str, pd.DataFrame]] = {f"loss, number {index}": {} for index in indices}
    for cell in cells:
        told = cell.measured["single"]
        if told["index"][:images] != indices or len(indices) < images:
            raise ValueError(
                f"{cell.method} tells the losses of {told['index']}, of which the first {images} were to be those of "
                f"{cells[0].method}: draw fewer, or measure it anew"
            )
        means, spreads = np.array(told["losses"]), np.array(told["spread"])
        for tables, mean, spread in zip(panels.values(), means, spreads, strict=False):
            tables[cell.method] = _band(at[cell.method], mean, mean - spread, mean + spread)
    return setting_panels(panels, x=AXES[over])


def maps_figure(cells: Sequence[Cell]) -> Figure:
    """Draw images, and below them what each optimizer adds to them and where it asks, as the paper's Fig. 9.

    Args:
        cells: traces of optimizers on the same images.

    Raises:
        ValueError: a trace of other images.
    """
    first = cells[0].measured["examples"]
    lines = {"true image": [image_of(text, first["shape"]) for text in first["original"]]}
    for cell in cells:
        told = cell.measured["examples"]
        if told["index"] != first["index"]:
            raise ValueError(f"{cell.method} is not of the images that {cells[0].method} is of: measure it anew")
        for name, images in told["maps"].items():
            lines[f"{cell.method},\n{name}"] = [image_of(text, told["shape"]) for text in images]
    return reconstructions_figure(lines)


def iterates_figure(cells: Sequence[Cell]) -> Figure:
    """Draw the first image as each optimizer changes it, with the labels that the victim gives, as the paper's Table 1.

    Args:
        cells: traces of optimizers on the same images, as long.

    Raises:
        ValueError: a trace of other images or iterations.
    """
    first = cells[0].measured["examples"]
    marks, lines, labels = first["iterates"]["iterations"], {}, list[int]()
    for cell in cells:
        told = cell.measured["examples"]
        if (told["index"][0], told["iterates"]["iterations"]) != (first["index"][0], marks):
            raise ValueError(f"{cell.method} is not of the image that {cells[0].method} is of: measure it anew")
        lines[cell.method] = [image_of(text, told["shape"]) for text in told["iterates"]["images"][0]]
        labels += told["iterates"]["predicted"][0]
    figure = reconstructions_figure(lines)
    for place, (axes, label) in enumerate(zip(figure.axes, labels, strict=True)):
        axes.set_xlabel(f"label {label}", fontsize=8)
        if place < len(marks):
            axes.set_title(f"{'iteration ' if place == 0 else ''}{marks[place]}", fontsize=8)
    return figure


def _band(x: Sequence[float], value: ArrayLike, low: ArrayLike, high: ArrayLike) -> pd.DataFrame:
    return pd.DataFrame({"x": x, "value": value, "low": low, "high": high})


def _plain(value: Any) -> str:
    return " ".join(map(_plain, value)) if isinstance(value, list) else f"{value:g}"
