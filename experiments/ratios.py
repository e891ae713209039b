"""What ratios to a baseline share: the same images on both sides, an interval over them, and how a table shows them."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from experiments.cells import Cell
from zeroth.records import Bootstrap
from zeroth.records.tables import NO_VALUE, number_text

NORMS = {"l0": "l_0", "l1": "l_1", "l2": "l_2", "linf": "l_inf"}


def require_pairs(ours: pd.Index, theirs: pd.Index) -> None:
    """Raise ValueError where a baseline lacks an image or target of the rows that are compared with it."""
    if len(alone := ours.difference(theirs)):
        raise ValueError(
            f"a ratio is of the same images and targets, but {len(alone)} of {len(ours)} rows have none of the "
            f"baseline's {len(theirs)} beside them: give the baseline's stage all their images and targets"
        )


def ratio_interval(
    ratio: Callable[[Any], Any], images: int, resampling: Bootstrap, *, batch: int | None = None
) -> tuple[float | None, float | None]:
    """Percentile bootstrap of a ratio over images: both sides are resampled together, so what they share falls out.

    Args:
        ratio: places of drawn images (..., n) -> ratios (...).
        images: n; a single one has no interval.
        resampling: how many draws, their seed, and the confidence.
        batch: draws that are made and looked at at once; None for all.
    """
    if images < 2:
        return None, None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # equal ratios everywhere, an interval of no width; medians at infinity
        found = bootstrap(
            (np.arange(images),), lambda places, axis: ratio(np.asarray(places, int)), vectorized=True, batch=batch,
            n_resamples=resampling.resamples, method="percentile", confidence_level=resampling.confidence,
            rng=np.random.default_rng(resampling.seed),
        ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def ratio_name(cell: Cell) -> str:
    """Say what the ratio of a cell is of and to."""
    ratio = cell.ratio or {}
    if ratio["of"] == "median_at":
        return f"median {NORMS[cell.norm or 'l2']} at {ratio['mark']:,} / that of {ratio['row']}"
    return f"{NORMS.get(ratio['of'], ratio['of'])} / that of {ratio['row']}"


def ratio_column(cell: Cell, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Lay out the ratio to one baseline, where a cell has it.

    Args:
        cell: a line of the table.
        name: of the ratio, see :func:`ratio_name`.

    Returns:
        head of a column -> text: ours, and the paper's.
    """
    ours = cell.ratio if cell.ratio and ratio_name(cell) == name else None
    paper = None if ours is None else ours["reported"]
    text = interval_text(ours, "value")
    if ours is not None and text != NO_VALUE:
        text += f", n {ours['n']:,}"
    return {f"{name} [95 % CI]": text}, {name: number_text(paper, ".3g")}


def interval_text(told: Mapping[str, Any] | None, value: str) -> str:
    """Write a number to three or four digits, as large or small as it is, with its interval where it has one."""
    if told is None or told[value] is None:
        return NO_VALUE
    high = "inf" if told["high"] is None else f"{told['high']:.3g}"
    ends = "" if told["low"] is None else f" [{told['low']:.3g}, {high}]"
    return f"{told[value]:.4g}{ends}"
