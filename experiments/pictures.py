"""The figures of a published folder, drawn from its cells and records; each PNG says what it was drawn from."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from experiments.cells import Cell, axis_number, by_option
from experiments.curves import curve_of
from experiments.examples import read_examples
from experiments.experiment import Picture
from experiments.marks import CURVE_PICTURES
from experiments.measuring import DISTANCES, cell_rows, mean_distance
from experiments.optimizations import figures_of, iterates_figure, losses_figure, maps_figure
from experiments.reconstructions import methods_figure
from zeroth.records import Norm, config_hash, merge_records
from zeroth.records.charts import bars_figure, heat_figure, setting_figure, setting_panels, within_figure
from zeroth.records.plots import (
    NORM_NAMES,
    certified_accuracy_figure,
    distortion_figure,
    save_figure,
    success_figure,
)
from zeroth.records.strips import strip_figure, target_grid_figure

# Name of the text in a PNG that holds the hash of what it was drawn from.
SOURCE = "Drawn from"
DECADE = 10
FigureOf = Callable[[Cell], Mapping[str, float | None]]


def draw_picture(picture: Picture, cells: Sequence[Cell], folder: Path) -> Figure:
    """Draw one figure.

    Args:
        picture: what is drawn.
        cells: all lines of the table.
        folder: the published folder.

    Raises:
        ValueError: a picture that these cells do not allow; the message says why.
    """
    chosen = chosen_cells(picture, cells)
    if picture.kind == "success":
        rows = {cell.method: cell_rows(cell, folder) for cell in chosen}
        return success_figure(rows, budget=max(cell.setting("budget") for cell in chosen))
    if picture.kind == "certified":
        return certified_accuracy_figure(_records(chosen, folder))
    if picture.kind == "study":
        return _study_figure(chosen)
    if picture.kind == "reconstructions":
        return methods_figure(chosen)
    if picture.kind == "maps":
        return maps_figure(chosen)
    if picture.kind == "iterates":
        return iterates_figure(chosen)
    if picture.kind == "losses":
        return losses_figure(chosen, str(picture.over), picture.images)
    if picture.kind == "transfer":
        return _transfer_figure(chosen)
    if picture.kind == "strip":
        return _strip_figure(picture, chosen, folder)
    if picture.kind in CURVE_PICTURES:
        return _curves_figure(picture, chosen, folder)
    if picture.kind == "lines":
        return _lines_figure(picture, chosen, folder)
    if picture.kind == "figures":
        return _figures_figure(picture, chosen)
    return _setting_figure(picture, chosen)


def chosen_cells(picture: Picture, cells: Sequence[Cell]) -> list[Cell]:
    """Cells that a picture draws: those of its rows, in the order of the table.

    Raises:
        ValueError: a row that is not in the table, or no cell at all.
    """
    if unknown := set(picture.rows) - {cell.method for cell in cells}:
        raise ValueError(f"a picture names the rows {sorted(unknown)}, which the table does not have")
    if not cells:
        raise ValueError("there is nothing to draw: the table has no rows")
    return [cell for cell in cells if not picture.rows or cell.method in picture.rows]


def source_hash(picture: Picture, cells: Sequence[Cell]) -> str:
    """Hex SHA-256 of all that decides what a picture shows: its kind, and the method, settings and records it draws."""
    drawn = [
        {"method": cell.method, "settings": cell.config["settings"], "records": cell.records["sha256"]}
        for cell in chosen_cells(picture, cells)
    ]
    more: dict[str, Any] = {}
    if picture.kind == "strip":
        shown = [None if cell.examples is None else cell.examples["sha256"] for cell in chosen_cells(picture, cells)]
        more = {"images": picture.images, "examples": shown}
    if picture.kind == "losses" and picture.images:
        more = {"images": picture.images}
    if picture.kind in CURVE_PICTURES:
        shown = [None if cell.curve is None else cell.curve["sha256"] for cell in chosen_cells(picture, cells)]
        more = {"threshold": picture.threshold, "curves": shown}
    if picture.kind == "transfer":
        more = {"victims": [cell.subject["name"] for cell in chosen_cells(picture, cells)]}
    return config_hash({"kind": picture.kind, "over": picture.over, "drawn": drawn, **more})


def save_picture(picture: Picture, cells: Sequence[Cell], folder: Path, stem: str) -> None:
    """Draw a figure into ``<folder>/<stem>.png``, with its :func:`source_hash` inside."""
    figure = draw_picture(picture, cells, folder)
    save_figure(figure, folder / f"{stem}.png", metadata={SOURCE: source_hash(picture, cells)})


def drawn_from(path: Path) -> str | None:
    """Read the :func:`source_hash` that a PNG holds; None where it holds none."""
    with Image.open(path) as image:
        image.load()  # the texts may follow the pixels
        return image.info.get(SOURCE)


def setting_lines(
    picture: Picture, cells: Sequence[Cell], figure_of: FigureOf | None = None
) -> dict[str, pd.DataFrame]:
    """Group cells to lines against the setting ``picture.over``: of one victim, and equal in all other settings.

    A line is named by what the names of its methods share: "tuned, mu 0.1, epsilon 0.2" and "tuned, mu 0.1, epsilon
    0.4" make "tuned, mu 0.1".

    Args:
        picture: what is drawn.
        cells: what it is drawn of.
        figure_of: cell -> value, low and high; default the figure that the kind of picture is about.

    Returns:
        name -> table with the columns x, value, low, high of :func:`~zeroth.records.charts.setting_figure`.

    Raises:
        ValueError: no setting is named, or its value is no number.
    """
    if picture.over is None:
        raise ValueError(f"a picture of kind {picture.kind} needs over, the setting on its x axis, e.g. attack.epsilon")
    figure_of = figure_of or partial(_figure_of, picture)
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if axis_number(value := cell.setting(picture.over)) is None:
            raise ValueError(f"{picture.over} of {cell.method} is {value!r}: only numbers can stand on an axis")
        settings = by_option(cell.config["settings"])
        del settings[picture.over]
        groups.setdefault(config_hash({**settings, **_of_what(cell)}), []).append(cell)
    lines: dict[str, pd.DataFrame] = {}
    for group in groups.values():
        name = _shared_name([cell.method for cell in group])
        name = name if name and name not in lines else group[0].method
        rows = [{"x": axis_number(cell.setting(picture.over)), **figure_of(cell)} for cell in group]
        lines[name] = pd.DataFrame(rows, columns=["x", "value", "low", "high"], dtype=float)
    return lines


def _of_what(cell: Cell) -> dict[str, Any]:
    """What a line of several cells has in common beside its settings."""
    victim = cell.subject["checkpoint_sha256"] or cell.subject["name"]  # one that no stage trained has no checkpoint
    return {"victim": victim, **({"case": cell.case} if cell.case else {})}


def spans_decade(values: Sequence[float]) -> bool:
    """Whether values are positive and the largest is at least ten times the smallest."""
    return len(values) > 0 and min(values) > 0 and max(values) >= DECADE * min(values)


def _setting_figure(picture: Picture, cells: Sequence[Cell]) -> Figure:
    lines = setting_lines(picture, cells)
    rows = pd.concat(lines.values())
    percent = picture.kind == "success_vs"
    return setting_figure(
        lines,
        x=str(picture.over).rpartition(".")[2],
        y="attack success rate" if percent else "queries spent per image, mean",
        log_x=spans_decade(rows["x"].tolist()),
        log_y=not percent and spans_decade(rows["value"].dropna().tolist()),
        percent=percent,
    )


def _figure_of(picture: Picture, cell: Cell) -> dict[str, float | None]:
    if picture.kind == "success_vs":
        return cell.measured["success_rate"] or {}
    told = cell.measured["queries"]
    return {"value": told["mean"], "low": told["low"], "high": told["high"]}


def _lines_figure(picture: Picture, cells: Sequence[Cell], folder: Path) -> Figure:
    """Success rate and mean distances against a setting, a panel each."""
    rows = {cell.method: cell_rows(cell, folder) for cell in cells}

    def distance_of(norm: Norm) -> FigureOf:
        def told(cell: Cell) -> Mapping[str, float | None]:
            found = mean_distance(rows[cell.method], norm)
            return {"value": found["mean"], "low": found["low"], "high": found["high"]}

        return told

    panels = {"attack success rate": setting_lines(picture, cells, lambda cell: cell.measured["success_rate"] or {})}
    panels |= {f"{NORM_NAMES[norm]}, mean": setting_lines(picture, cells, distance_of(norm)) for norm in DISTANCES}
    over = [cell.setting(str(picture.over)) for cell in cells]
    name = str(picture.over).rpartition(".")[2]
    return setting_panels(panels, x=name, log_x=spans_decade(over), percent=["attack success rate"])


def _figures_figure(picture: Picture, cells: Sequence[Cell]) -> Figure:
    """All figures of studies against a setting, a panel each."""
    panels = {
        name: setting_lines(picture, cells, lambda cell, name=name: figures_of(cell)[name])  # type: ignore[misc]
        for name in figures_of(cells[0])
    }
    over = [number for cell in cells if (number := axis_number(cell.setting(str(picture.over)))) is not None]
    return setting_panels(panels, x=str(picture.over).rpartition(".")[2], log_x=spans_decade(over), percent=["success"])


def _curves_figure(picture: Picture, cells: Sequence[Cell], folder: Path) -> Figure:
    """Distances, or the share of images within one, against queries."""
    norm = cells[0].norm or "l2"  # planning refuses rows of several
    curves = {}
    for cell in cells:
        curve = curve_of(cell, cell_rows(cell, folder), folder)
        curves[cell.method] = (curve.columns.to_numpy(), curve.to_numpy().T)
    if picture.threshold is not None:
        return within_figure(curves, threshold=picture.threshold, distance=norm)
    return distortion_figure(curves, distance=norm)


def _transfer_figure(cells: Sequence[Cell]) -> Figure:
    """Success rates: a line for each method, a column for each victim that it was tried on."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        settings = by_option(cell.config["settings"])
        groups.setdefault(config_hash({**settings, "case": cell.case}), []).append(cell)
    victims = list(dict.fromkeys(cell.subject["name"] for cell in cells))
    values: dict[str, list[float]] = {}
    for group in groups.values():
        name = _shared_name([cell.method for cell in group]) or group[0].method
        rates = {cell.subject["name"]: cell.measured["success_rate"]["value"] for cell in group}
        if len(rates) < len(group) or name in values:
            raise ValueError(
                f"a picture of kind transfer has one rate a method and victim, but {group[0].method} has several: "
                "name methods alike before a comma, and only those with the same settings"
            )
        values[name] = [nan if (rate := rates.get(victim)) is None else rate for victim in victims]
    return heat_figure(pd.DataFrame(values, index=victims).T, x="victim", value="attack success rate")


def _strip_figure(picture: Picture, cells: Sequence[Cell], folder: Path) -> Figure:
    """Originals and adversarial images side by side; of an attack on all targets a grid of images and targets."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.examples is None:
            raise ValueError(f"{cell.method} was published without images to show: run reproduce.py on the table again")
        told = read_examples(folder / cell.examples["file"])
        first = np.unique(told["index"])[: picture.images]
        found[cell.method] = {name: values[np.isin(told["index"], first)] for name, values in told.items()}
    several = [len(np.unique(told["index"])) < len(told["index"]) for told in found.values()]
    if any(several) != all(several):
        raise ValueError("a picture of kind strip shows rows with one target an image, or rows with all, not both")
    return target_grid_figure(found) if all(several) else strip_figure(found)


def _study_figure(cells: Sequence[Cell]) -> Figure:
    if len(cells) != 1 or cells[0].kind != "study":
        raise ValueError(f"a picture of kind study draws one study row, got {', '.join(cell.method for cell in cells)}")
    study: Mapping[str, Any] = cells[0].measured
    x, y = study["x"], study["y"]["name"]
    lines = {line["name"]: _line_table(x["values"], line) for line in study["lines"]}
    if study["kind"] == "bars":
        values = [value for line in study["lines"] for value in line["values"]]
        return bars_figure([str(mark) for mark in x["values"]], lines, x=x["name"], y=y, log_y=spans_decade(values))
    return setting_figure(lines, x=x["name"], y=y, log_x=x.get("log", False))


def _line_table(marks: Sequence[Any], line: Mapping[str, Any]) -> pd.DataFrame:
    nothing = [None] * len(marks)
    ends = {end: pd.to_numeric(pd.Series(line.get(end) or nothing)) for end in ("low", "high")}
    return pd.DataFrame({"x": marks, "value": line["values"], **ends})


def _records(cells: Sequence[Cell], folder: Path) -> dict[str, pd.DataFrame]:
    return {cell.method: merge_records(folder / cell.records["file"]) for cell in cells}


def _shared_name(methods: Sequence[str]) -> str:
    """Keep the parts between commas of the first name that all the others have too."""
    parts = [set(method.split(", ")) for method in methods]
    return ", ".join(part for part in methods[0].split(", ") if all(part in others for others in parts))
