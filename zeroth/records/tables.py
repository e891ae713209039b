"""Summaries as tables, one line a run: for the terminal (rich) and for a README (Markdown)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zeroth.records.summary import Norm

NO_VALUE = "-"
# Columns of a table whose width nobody told: enough for an attack's intervals side by side.
FILE_WIDTH = 160


def attack_frame(summaries: Mapping[str, Mapping[str, Any]], *, norm: Norm = "l2") -> pd.DataFrame:
    """Lay out attack summaries as text, one line a run.

    Args:
        summaries: run name -> :func:`~zeroth.records.attack_summary`.
        norm: the distance shown, in [0, 1] pixels.
    """
    rows = [
        {
            "run": name,
            "n": str(told["n"]),
            "clean %": rate_text(told["clean_accuracy"]),
            "success %": rate_text(told["success_rate"]),
            "robust %": rate_text(told["robust_accuracy"]),
            "queries": _queries_text(told["queries"]),
            "to success": _queries_text(told["queries_to_success"]),
            f"{norm} median": number_text(told[norm]["median"], ".4g"),
        }
        for name, told in summaries.items()
    ]
    return pd.DataFrame(rows, dtype=object)


def certificate_frame(summaries: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Lay out certificate summaries as text, one line a run, a column for each radius that any of them has.

    Args:
        summaries: run name -> :func:`~zeroth.records.certificate_summary`.
    """
    curves = {name: told["certified_accuracy"] for name, told in summaries.items()}
    radii = sorted({radius for curve in curves.values() for radius in curve["radius"]})
    rows = []
    for name, told in summaries.items():
        row = {
            "run": name,
            "n": str(told["n"]),
            "ACR": number_text(told["acr"], ".3f"),
            "abstain %": rate_text(told["abstention_rate"]),
        }
        curve = curves[name]
        at = {r: rate_text(dict(value=v, low=a, high=b)) for r, v, a, b in zip(*(curve[k] for k in curve), strict=True)}
        rows.append(row | {f"CA({radius:g}) %": at.get(radius, NO_VALUE) for radius in radii})
    return pd.DataFrame(rows, dtype=object)


def rich_table(frame: pd.DataFrame, title: str | None = None) -> Table:
    """Make a table for the terminal: text to the left, numbers to the right."""
    table = Table(title=title, box=SIMPLE_HEAD)
    for place, column in enumerate(frame.columns):
        table.add_column(str(column), justify="right" if place else "left", no_wrap=place == 0)
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(str(cell)) for cell in row))  # Text: a run named [x] is no markup
    return table


def terminal() -> Console:
    """Return the terminal; where output goes to a file, wide enough for a table of intervals instead of rich's 80."""
    return console if (console := Console()).is_terminal else Console(width=FILE_WIDTH)


def markdown_table(frame: pd.DataFrame) -> str:
    """Make a GitHub table, columns padded so that the source reads well too.

    pandas' own ``to_markdown`` asks for tabulate, a dependency for these few lines.
    """
    lines = [list(map(str, frame.columns)), *([str(cell) for cell in row] for row in frame.itertuples(index=False))]
    cells = [[cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    padded = [
        [
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in cells
    ]
    rule = ["-" * (width - 1) + ":" if place else "-" * width for place, width in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]]) + "\n"


def number_text(value: float | None, spec: str) -> str:
    """Print a number by its format, "-" for none."""
    return NO_VALUE if value is None else format(value, spec)


def rate_text(rate: Mapping[str, float | None] | None) -> str:
    """Print a rate in percent with its interval, 97.5 [95.1, 98.8]; "-" for none."""
    if rate is None or rate["value"] is None:
        return NO_VALUE
    value, low, high = (100 * (rate[key] or 0.0) for key in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def mean_text(told: Mapping[str, float | None]) -> str:
    """Print a mean with its interval, 1,422 [1,390, 1,454], with a decimal below 100; "-" for none."""
    mean, low, high = told["mean"], told["low"], told["high"]
    if mean is None:
        return NO_VALUE
    spec = ",.0f" if mean >= 100 else ".1f"
    value = format(mean, spec)
    return value if low is None or high is None else f"{value} [{low:{spec}}, {high:{spec}}]"


def _queries_text(told: Mapping[str, float | None]) -> str:
    return NO_VALUE if told["mean"] is None else f"{told['mean']:,.0f} (median {told['median']:,.0f})"
