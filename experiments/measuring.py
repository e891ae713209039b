"""What a cell says of its records: summary, of one case where its row has one, distances, ratio to a baseline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.cells import Cell, CellKind
from experiments.curves import at_marks, curve_of, ratio_of_medians
from experiments.experiment import Experiment, Ratio
from experiments.optimizations import ratio_of_figures
from experiments.ratios import ratio_interval, require_pairs
from zeroth.records import (
    Bootstrap,
    Case,
    Norm,
    attack_summary,
    certificate_summary,
    mean_interval,
    merge_records,
    plain,
    select_case,
)

DISTANCES: tuple[Norm, ...] = ("l1", "l2", "linf")


def measure(
    records: Path,
    kind: CellKind,
    radii: Sequence[float],
    settings: Mapping[str, Any],
    *,
    case: Case | None = None,
    norm: Norm | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], int, int]:
    """Summarise a published record file: what the cell says is measured, the images asked in all, the images.

    Args:
        records: the merged rows, or the study.json of a study.
        kind: of the cell.
        radii: of the certified accuracy, l_2 in [0, 1] pixels.
        settings: of the method, by dotted key.
        case: of the cell's row; it chooses what is summarised, not what was asked.
        norm: the attack's, which tells an easy target from a hard one.
        seed: of the run.
    """
    if kind == "study":
        study = json.loads(records.read_text(encoding="utf-8"))
        return study, study["queries"], study["n"]
    rows: pd.DataFrame = merge_records(records)
    if kind == "attack":
        shown = _of_case(rows, case, norm, seed)
        return plain(attack_summary(shown)), int(rows["queries"].sum()), int(rows["index"].nunique())
    asked = len(rows) * (settings["certify.n0"] + settings["certify.n"])
    return plain(certificate_summary(rows, radii)), asked, len(rows)


def cell_rows(cell: Cell, folder: Path) -> pd.DataFrame:
    """The attack rows that a cell summarises, those of its case, from the published folder."""
    return _of_case(merge_records(folder / cell.records["file"]), cell.case, cell.norm, cell.seed)


def compared(cells: Sequence[Cell], experiment: Experiment, folder: Path) -> list[Cell]:
    """Give cells the distances and ratios that an experiment shows, from the records and curves beside them.

    Args:
        cells: lines of the table, in the order of its rows.
        experiment: the table.
        folder: where the records of the cells lie.

    Raises:
        ValueError: a cell without its distances over queries or its figures by image, or a ratio to other images.
    """
    shown = [norm for norm in DISTANCES if norm in experiment.columns]
    ratios = [row.ratio_to for row in experiment.rows]
    if not shown and not any(ratios) and not experiment.marks:
        return [replace(cell, distances=None, ratio=None, at=None) for cell in cells]
    rows = {cell.method: cell_rows(cell, folder) for cell in cells if cell.kind == "attack"}
    curves = {cell.method: curve_of(cell, rows[cell.method], folder) for cell in cells if experiment.marks}
    by_method = {cell.method: cell for cell in cells}
    return [
        replace(
            cell,
            distances={norm: mean_distance(rows[cell.method], norm) for norm in shown} or None,
            ratio=_ratio_told(cell, by_method, rows, curves, ratio, experiment),
            at=at_marks(curves[cell.method], experiment.marks, experiment.threshold) if experiment.marks else None,
        )
        for cell, ratio in zip(cells, ratios, strict=True)
    ]


def mean_distance(rows: pd.DataFrame, norm: Norm, *, confidence: float = 0.95) -> dict[str, float | None]:
    """Mean distance of the adversarial images that were found, with Student's t interval, which stays at 0 or above.

    Args:
        rows: (N, ...) attack rows.
        norm: which distance, [0, 1] pixels.
        confidence: of the interval.

    Returns:
        ``mean``, ``low`` and ``high``; None without an image, no interval of a single one.
    """
    return mean_interval(rows.loc[rows["success"].astype(bool), norm], least=0.0, confidence=confidence)


def paired_ratio(
    rows: pd.DataFrame,
    baseline: pd.DataFrame,
    norm: Norm,
    *,
    keys: Sequence[str] = ("index",),
    resampling: Bootstrap | None = None,
) -> dict[str, Any]:
    """Divide the mean distance of a run by that of a baseline, over what both won.

    Args:
        rows: (N, ...) attack rows.
        baseline: attack rows of the baseline, in any order; it may have more of them.
        norm: which distance.
        keys: columns that make a pair: the image, or the image and its target.
        resampling: how the interval is drawn, by resampling the images; default ``Bootstrap()``.

    Returns:
        ``n``, the pairs; ``value``, ``low`` and ``high``, None without a pair or with a baseline at distance 0.

    Raises:
        ValueError: the baseline lacks an image or target.
    """
    resampling = resampling or Bootstrap()
    ours, theirs = (table.set_index(list(keys)).sort_index() for table in (rows, baseline))
    require_pairs(ours.index, theirs.index)
    theirs = theirs.loc[ours.index]
    both = ours["success"].astype(bool) & theirs["success"].astype(bool)
    n = int(both.sum())
    # Images are resampled, with all their targets: the pairs of an image are not independent. The sums over its pairs
    # have the ratio of the means.
    a, b = (
        table.loc[both.to_numpy(), norm].astype(float).groupby(level="index").sum().to_numpy()
        for table in (ours, theirs)
    )
    if n == 0 or b.mean() == 0:
        return {"n": n, "value": None, "low": None, "high": None}
    low, high = ratio_interval(lambda places: a[places].mean(-1) / b[places].mean(-1), len(a), resampling)
    return {"n": n, "value": float(a.mean() / b.mean()), "low": low, "high": high}


def _ratio_told(
    cell: Cell,
    cells: Mapping[str, Cell],
    rows: Mapping[str, pd.DataFrame],
    curves: Mapping[str, pd.DataFrame],
    ratio: Ratio | None,
    experiment: Experiment,
) -> dict[str, Any] | None:
    """The ratio of a cell as it keeps it, of means or of medians; None where its row has none."""
    if ratio is None:
        return None
    if ratio.of == "l1" or ratio.of == "l2" or ratio.of == "linf":
        return _ratio(cell, cells[ratio.row], rows, ratio.of)
    if ratio.of != "median_at":
        found = ratio_of_figures(cell, cells[ratio.row], ratio.of)
        return {"row": ratio.row, "of": ratio.of, **found, "reported": None}
    mark = experiment.marks[-1]
    own_targets = cell.case in ("best", "worst")
    found = ratio_of_medians(curves[cell.method], curves[ratio.row], mark, of_images=own_targets)
    reported = [(one.reported.get("median_at") or {}).get(str(mark)) for one in (cell, cells[ratio.row])]
    return {"row": ratio.row, "of": ratio.of, "mark": mark, **found, "reported": _quotient(*reported)}


def _ratio(cell: Cell, baseline: Cell, rows: Mapping[str, pd.DataFrame], norm: Norm) -> dict[str, Any]:
    """The ratio of a cell as it keeps it, the paper's made of what it reports of both rows."""
    ours, theirs = rows[cell.method], rows[baseline.method]
    # Of all targets, or of one that is the same for both; the easiest and the hardest may differ between the two.
    keys = ["index"] if cell.case in ("best", "worst") or ours["target"].isna().all() else ["index", "target"]
    found = paired_ratio(ours, theirs, norm, keys=keys)
    reported = [one.reported.get(norm) for one in (cell, baseline)]
    return {"row": baseline.method, "of": norm, **found, "reported": _quotient(*reported)}


def _quotient(one: float | None, two: float | None) -> float | None:
    """The ratio of two figures of the paper, where it has both."""
    return None if one is None or not two else one / two


def _of_case(rows: pd.DataFrame, case: Case | None, norm: Norm | None, seed: int) -> pd.DataFrame:
    return rows if case is None else select_case(rows, case, norm=norm or "l2", seed=seed)
