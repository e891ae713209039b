"""Adversarial images of several runs side by side: a strip of images a run, or a grid of images and wanted classes.

Shapes: n rows (images, or pairs of image and wanted class), C x H x W pixels, C 1 or 3.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from zeroth.records.pictures import bare, show
from zeroth.records.plots import run_label

INCHES = 0.85  # an image
NAME_INCHES = 1.9

Examples = Mapping[str, NDArray[Any]]


def strip_figure(runs: Mapping[str, Examples]) -> Figure:
    """Originals in the first line, adversarial images of each run below; a cross where a run found none.

    Args:
        runs: run name -> ``index``, ``label``, ``predicted`` and ``success`` (n,), ``original`` and ``adversarial``
            (n, C, H, W) in [0, 1], one row an image.

    Raises:
        ValueError: no run, or runs of different images.
    """
    first = _first(runs)
    for name, told in runs.items():
        if not np.array_equal(told["index"], first["index"]):
            raise ValueError(f"a strip shows the same images of all runs, but {name} has others: give all the same")
    across = len(first["index"])
    figure = Figure(figsize=(NAME_INCHES + INCHES * across, (INCHES + 0.2) * (len(runs) + 1)), layout="constrained")
    grid: NDArray[Any] = figure.subplots(len(runs) + 1, across, squeeze=False)
    for column in range(across):
        show(grid[0, column], first["original"][column])
        grid[0, column].set_title(str(first["label"][column]), fontsize=8)
    for line, told in zip(grid[1:], runs.values(), strict=True):
        for axes, image, success, predicted in zip(
            line, told["adversarial"], told["success"], told["predicted"], strict=True
        ):
            _show_found(axes, image, bool(success))
            if success:
                axes.set_title(str(predicted), fontsize=8)
    for axes, name in zip(grid[:, 0], ["original", *runs], strict=True):
        axes.set_ylabel(run_label(name), fontsize=8, rotation=0, ha="right", va="center")
    return figure


def target_grid_figure(runs: Mapping[str, Examples]) -> Figure:
    """A grid a run: a line an image, a column a wanted class; the original stands in the column of its own class.

    Args:
        runs: as :func:`strip_figure` takes them, with ``target`` (n,) and a row for each pair.

    Raises:
        ValueError: no run.
    """
    first = _first(runs)
    images = np.unique(first["index"])
    classes = 1 + max(int(max(told["target"].max(), told["label"].max())) for told in runs.values())
    figure = Figure(
        figsize=(len(runs) * (0.4 + INCHES * classes), 0.5 + (INCHES + 0.05) * len(images)), layout="constrained"
    )
    blocks = figure.subfigures(1, len(runs), squeeze=False)[0]
    for block, (name, told) in zip(blocks, runs.items(), strict=True):
        block.suptitle(run_label(name), fontsize=9)
        grid: NDArray[Any] = block.subplots(len(images), classes, squeeze=False)
        for axes in grid.flatten():
            bare(axes)
        for place, (index, target) in enumerate(zip(told["index"], told["target"], strict=True)):
            line, label = int(np.searchsorted(images, index)), int(told["label"][place])
            show(grid[line, label], told["original"][place])
            _show_found(grid[line, int(target)], told["adversarial"][place], bool(told["success"][place]))
        for column, axes in enumerate(grid[0]):
            axes.set_title(str(column), fontsize=8)
    return figure


def _first(runs: Mapping[str, Examples]) -> Examples:
    if not runs:
        raise ValueError("there is nothing to draw: no run was given")
    return next(iter(runs.values()))


def _show_found(axes: Axes, image: NDArray[np.float64], success: bool) -> None:
    """Show an adversarial image; where none was found, a cross."""
    if success:
        show(axes, image)
        return
    bare(axes)
    axes.plot([0, 1], [0, 1], color="0.75", linewidth=0.8, transform=axes.transAxes)
    axes.plot([0, 1], [1, 0], color="0.75", linewidth=0.8, transform=axes.transAxes)
