"""Measured values against a setting or queries, as lines or as bars. As in plots.py, nothing touches pyplot.

Shapes: M values of the setting, or marks of queries; B images.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FormatStrFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)
from numpy.typing import ArrayLike, NDArray

from zeroth.records.plots import (
    COLOURS,
    LEGEND,
    NORM_NAMES,
    dress,
    finish,
    line_styles,
    new_axes,
    query_axis,
    run_label,
    run_labels,
    share_axis,
)
from zeroth.records.summary import ROUNDING

# Above so many points error bars of several lines run into one another: a band is drawn.
MOST_ERROR_BARS = 10
PANELS_ACROSS = 2
LEGEND_ACROSS = 3
_COLUMNS = ("x", "value", "low", "high")


def setting_figure(
    runs: Mapping[str, pd.DataFrame],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
    percent: bool = False,
) -> Figure:
    """Draw a line a run against a setting, with error bars, or a band where there are many values.

    Args:
        runs: run name -> (M,) rows with the columns ``x`` (the setting), ``value``, ``low`` and ``high``, the ends of
            its interval, NaN where it has none.
        x: name of the setting.
        y: name of the value.
        log_x: logarithmic x axis.
        log_y: logarithmic y axis.
        percent: the values are fractions, shown from 0 to 100 %.
    """
    figure, axes = new_axes(x, y)
    _draw_lines(axes, runs, log_x=log_x, log_y=log_y, percent=percent)
    return finish(figure, axes, "best")


def setting_panels(
    panels: Mapping[str, Mapping[str, pd.DataFrame]], *, x: str, log_x: bool = False, percent: Sequence[str] = ()
) -> Figure:
    """Draw several values against one setting, a panel each, two side by side; the runs are named once.

    Args:
        panels: name of a value -> runs as :func:`setting_figure` takes them, the same ones in each.
        x: name of the setting.
        log_x: logarithmic x axis.
        percent: names of the values that are fractions, shown from 0 to 100 %.
    """
    down = -(-len(panels) // PANELS_ACROSS)
    figure = Figure(figsize=(4.2 * min(PANELS_ACROSS, len(panels)), 0.5 + 2.7 * down), layout="constrained")
    grid = figure.subplots(down, min(PANELS_ACROSS, len(panels)), squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, runs) in zip(grid, panels.items(), strict=False):
        dress(axes, x, name)
        _draw_lines(axes, runs, log_x=log_x, log_y=False, percent=name in percent)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), LEGEND_ACROSS), **LEGEND)
    return figure


def within_figure(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, threshold: float, distance: str = "l2"
) -> Figure:
    """Draw the share of images that are within a distance against queries.

    Args:
        curves: run name -> (marks (M,), ascending, distances (M, B)), inf where nothing was found yet. Leave out images
            that were not attacked.
        threshold: the distance.
        distance: what the distances are, a norm or words ("elastic-net").
    """
    tables = {name: (np.asarray(marks, float), np.asarray(values, float)) for name, (marks, values) in curves.items()}
    labels, images = run_labels({name: values.shape[1] for name, (_, values) in tables.items()})
    name = NORM_NAMES.get(distance, distance)
    figure, axes = new_axes("queries per image", rf"share within {name} $\leq$ {threshold:g}{images}")
    for (marks, values), label, style in zip(tables.values(), labels, line_styles(tables), strict=True):
        share = (values <= threshold + ROUNDING).sum(1) / max(values.shape[1], 1)
        axes.step(marks, share, where="post", label=label, **style)
    ends = [marks.max() for marks, _ in tables.values()]
    query_axis(axes, 1, max(ends, default=1.0))
    share_axis(axes)
    return finish(figure, axes, "best")


def heat_figure(values: pd.DataFrame, *, x: str, value: str) -> Figure:
    """Draw fractions as a table of colours that bear their numbers in percent; what was not measured stays empty.

    Args:
        values: fractions from 0 to 1, or NaN, a line a row and a column a column.
        x: what the columns are.
        value: what the fractions are.
    """
    rows, columns = values.shape
    longest = max(map(len, map(str, values.index)), default=0)
    figure = Figure(figsize=(1.8 + 1.3 * columns + longest / 14, 1.3 + 0.42 * rows), layout="constrained")
    axes = figure.add_subplot()
    shares = values.to_numpy(float)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    for row, column in np.argwhere(np.isfinite(shares)):
        share = shares[row, column]
        colour = "white" if share < 0.5 else "black"  # on the dark and the light half of the colours
        axes.text(column, row, f"{100 * share:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(columns), [run_label(str(name)).replace(", ", "\n") for name in values.columns], fontsize=8)
    axes.set_yticks(range(rows), [run_label(str(name)) for name in values.index], fontsize=8)
    axes.set_xlabel(x)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=value, format=PercentFormatter(1))
    return figure


def _draw_lines(axes: Axes, runs: Mapping[str, pd.DataFrame], *, log_x: bool, log_y: bool, percent: bool) -> None:
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # decades alone would leave one or two labels
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for (name, table), style in zip(runs.items(), line_styles(runs), strict=True):
        at, value, low, high = (table[column].to_numpy(float)[table["x"].argsort()] for column in _COLUMNS)
        if len(at) > MOST_ERROR_BARS:
            axes.plot(at, value, label=run_label(name), **style)
            axes.fill_between(at, low, high, color=style["color"], alpha=0.18, linewidth=0)
        else:
            axes.errorbar(
                at, value, _whiskers(value, low, high), label=run_label(name), marker="o", markersize=4, capsize=3,
                clip_on=False, **style,
            )  # fmt: skip
    marks = np.unique(np.concatenate([[], *(table["x"].to_numpy(float) for table in runs.values())]))
    if len(marks) <= MOST_ERROR_BARS:  # the values that were tried, and no others
        axes.xaxis.set_major_locator(FixedLocator(marks.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    if percent:
        share_axis(axes)
    elif not log_y:
        _include_zero(axes)


def bars_figure(
    marks: Sequence[str], runs: Mapping[str, pd.DataFrame], *, x: str, y: str, log_y: bool = False
) -> Figure:
    """Draw a group of bars a mark, one bar a run, with error bars; the bars of a single run bear their values.

    Args:
        marks: (M,) what stands under the groups.
        runs: run name -> (M,) rows with the columns ``value``, ``low`` and ``high``, NaN where there is no interval.
        x: name of the marks.
        y: name of the value.
        log_y: logarithmic y axis, for values of several magnitudes: all must be positive.
    """
    figure, axes = new_axes(x, y)
    if log_y:
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    width = 0.8 / max(len(runs), 1)
    for place, (name, table) in enumerate(runs.items()):
        value, low, high = (table[column].to_numpy(float) for column in _COLUMNS[1:])
        at = np.arange(len(marks)) + (place - (len(runs) - 1) / 2) * width
        colour = COLOURS[place % len(COLOURS)]
        whiskers = {"elinewidth": 1, "capsize": min(3, 12 * width), "ecolor": "0.25"}
        label = run_label(name) if len(runs) > 1 else None  # one run: the axis says it all
        bars = axes.bar(
            at, value, width, yerr=_whiskers(value, low, high), label=label, color=colour, error_kw=whiskers
        )
        if len(runs) == 1:
            axes.bar_label(bars, fmt="{:.3g}", padding=2, fontsize="small")
            axes.margins(y=0.1)  # room for the labels
    axes.set_xticks(np.arange(len(marks)), marks)
    axes.grid(visible=False, axis="x")
    return finish(figure, axes, "best")


def _whiskers(value: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lengths (2, M) of the error bars below and above, 0 where there is no interval."""
    return np.nan_to_num(np.stack([value - low, high - value])).clip(min=0)


def _include_zero(axes: Axes) -> None:
    """Let the y axis begin at 0 where all is above: a difference looks as large as it is."""
    low, high = axes.get_ylim()
    if low > 0 or axes.dataLim.y0 >= 0:
        axes.set_ylim(0, high)
