"""What optimizers reached on the same problems: a table of figures, and curves of the loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.cells import Cell
from zeroth.records.charts import setting_figure
from zeroth.records.tables import NO_VALUE

# Names of the x axis by what a picture of losses is over.
AXES: dict[str, str] = {"iterations": "iteration", "queries": "queries per image"}


def figures_of(cell: Cell) -> dict[str, dict[str, float]]:
    """The figures of a study: name -> value, low and high."""
    return {
        figure["name"]: {"value": figure["values"][0], "low": figure["low"][0], "high": figure["high"][0]}
        for figure in cell.measured["figures"]
    }


def figures_table(cells: Sequence[Cell]) -> pd.DataFrame:
    """Lay out the figures of studies as text, a line a method, with what was tuned of it.

    Raises:
        ValueError: the studies have different figures.
    """
    rows = []
    for cell in cells:
        told = figures_of(cell)
        if list(told) != list(figures_of(cells[0])):
            raise ValueError(f"{cell.method} has other figures than {cells[0].method}: measure it anew")
        chosen: Mapping[str, Any] = (cell.measured.get("tuning") or {}).get("chosen") or {}
        tuned = ", ".join(f"{name} {_plain(value)}" for name, value in chosen.items())
        rows.append(
            {"method": cell.method, "n": str(cell.measured["n"])}
            | {f"{name} [95 % CI]": "{value:.4g} [{low:.4g}, {high:.4g}]".format(**ends) for name, ends in told.items()}
            | {"tuned": tuned or NO_VALUE}
        )
    frame = pd.DataFrame(rows)
    return frame if (frame["tuned"] != NO_VALUE).any() else frame.drop(columns="tuned")


def losses_figure(cells: Sequence[Cell], over: str) -> Figure:
    """Draw the mean loss of optimizers with its interval, over iterations or over the queries of a trial."""
    lines = {}
    for cell in cells:
        line, marks = cell.measured["lines"][0], cell.measured["x"]["values"]
        x = cell.measured["asked"] if over == "queries" else marks
        lines[cell.method] = pd.DataFrame({"x": x, "value": line["values"], "low": line["low"], "high": line["high"]})
    return setting_figure(lines, x=AXES[over], y="mean loss", log_x=False)


def _plain(value: Any) -> str:
    return " ".join(map(_plain, value)) if isinstance(value, list) else f"{value:g}"
