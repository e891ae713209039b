"""Distances against queries in a published table: one small file a line, and what is shown of it at the marks.

Shapes: n rows (images, or pairs of image and target), M marks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from callbacks.pieces import NO_TARGET, load_pieces
from experiments.cells import Cell
from experiments.experiment import Experiment
from experiments.marks import needs_curves
from experiments.plan import REPORT, ROOT, PlannedStage
from experiments.ratios import ratio_interval, require_pairs
from zeroth.records import Bootstrap, attacked_rows, distortion_summary, file_sha256, plain, read_json

AGAIN = "run reproduce.py on the table again"


def copy_curve(experiment: Experiment, stage: PlannedStage, folder: Path) -> dict[str, str] | None:
    """Copy the distances of a run within numbers of queries into a published folder.

    The file has ``index`` and ``target`` (-1 for none) (n,), ``marks`` (M,) and ``distance`` (n, M) in the attack's
    norm, inf where nothing adversarial was found yet.

    Returns:
        ``file`` in the folder and its ``sha256``; None where the experiment shows no distance at a number of queries.

    Raises:
        FileNotFoundError: the run kept no curves, or none at a mark; says what to do.
        ValueError: its distances are in no norm.
    """
    if not needs_curves(experiment):
        return None
    run = ROOT / stage.folder
    again = f"delete {run} and give the same command again"
    pieces = load_pieces(run)
    if pieces is None:
        raise FileNotFoundError(f"stage {stage.name} kept no curves in {run}: {again}")
    if missing := set(experiment.marks) - set(pieces.marks.tolist()):
        raise FileNotFoundError(f"stage {stage.name} kept no distances at {min(missing)} queries in {run}: {again}")
    report = read_json(run / REPORT, remedy=again)
    if (distance := report.get("distance", report["norm"])) != report["norm"]:
        raise ValueError(
            f"stage {stage.name} minimizes its {distance} distance: only norms can be compared over queries"
        )
    index, target = (np.array(column) for column in zip(*pieces.keys, strict=True))
    path = folder / "curves" / f"{stage.name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"index": index, "target": target, "marks": pieces.marks.numpy(), "distance": pieces.distance.numpy()}
    save_file({name: np.ascontiguousarray(values) for name, values in told.items()}, path)
    return {"file": path.relative_to(folder).as_posix(), "sha256": file_sha256(path)}


def curve_of(cell: Cell, rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Read the distances of the images that a cell's attack was tried on.

    Args:
        cell: the line.
        rows: its attack rows, those of its case.
        folder: the published folder.

    Returns:
        (n, M) distances by ``index`` and ``target``, the marks as columns.

    Raises:
        ValueError: the cell was published without curves, or they lack a row.
    """
    if cell.curve is None:
        raise ValueError(f"{cell.method} was published without its distances over queries: {AGAIN}")
    path = folder / cell.curve["file"]
    told = load_file(path)
    keys = pd.MultiIndex.from_arrays([told["index"], told["target"]], names=["index", "target"])
    curve = pd.DataFrame(told["distance"], index=keys, columns=told["marks"].tolist())
    played = attacked_rows(rows)
    targets = played["target"].fillna(NO_TARGET).astype(int)
    if (told["target"] == NO_TARGET).all():  # older runs tell no target where an image has one
        targets = targets * 0 + NO_TARGET
    wanted = pd.MultiIndex.from_arrays([played["index"], targets], names=["index", "target"])
    if len(alone := wanted.difference(keys)):
        raise ValueError(f"{path} has no distances of {len(alone)} of {len(wanted)} rows of {cell.method}: {AGAIN}")
    return curve.loc[wanted]


def at_marks(curve: pd.DataFrame, marks: Sequence[int], threshold: float | None) -> dict[str, Any]:
    """Summarize a curve of :func:`curve_of` as a cell tells it.

    Returns:
        ``threshold``; ``marks``, number of queries as text -> what
        :func:`~zeroth.records.distortion_summary` tells, None for infinity.

    Raises:
        ValueError: the curve has no such mark.
    """
    if missing := set(marks) - set(curve.columns):
        raise ValueError(f"marks: no distances were published at {min(missing)} queries: {AGAIN}")
    told = {str(mark): distortion_summary(curve[mark], threshold=threshold) for mark in marks}
    return plain({"threshold": threshold, "marks": told})


def ratio_of_medians(
    ours: pd.DataFrame, theirs: pd.DataFrame, mark: int, *, of_images: bool = False, resampling: Bootstrap | None = None
) -> dict[str, Any]:
    """Divide the median distance of a run by that of a baseline on the same images, failures at infinity.

    Args:
        ours: curve of the run.
        theirs: curve of the baseline; it may have more rows.
        mark: number of queries.
        of_images: pair rows by their image alone, because each line has the target of its own case.
        resampling: how the interval is drawn, by resampling the images with all their targets; default ``Bootstrap()``.

    Returns:
        ``n``, the pairs; ``value``, ``low`` and ``high``, None without a pair, where a median is infinite, or where the
        baseline's is 0.

    Raises:
        ValueError: the baseline lacks an image or target.
    """
    resampling = resampling or Bootstrap()
    a, b = (curve[mark].droplevel("target") if of_images else curve[mark] for curve in (ours, theirs))
    require_pairs(a.index, b.index)
    pairs = pd.DataFrame({"a": a, "b": b.loc[a.index]})
    # (images, targets): an image is drawn with all its targets, since the pairs of an image are not independent.
    one, two = (_by_image(pairs[name]) for name in ("a", "b"))
    middle = np.nanmedian if np.isnan(one).any() else np.median  # images may have unequal numbers of targets

    def ratio(places: Any) -> Any:
        return middle(one[places], axis=(-2, -1)) / middle(two[places], axis=(-2, -1))

    told: dict[str, Any] = {"n": len(pairs), "value": None, "low": None, "high": None}
    if len(pairs) == 0 or not np.isfinite(medians := pairs.median().to_numpy()).all() or medians[1] == 0:
        return told
    told["value"] = float(medians[0] / medians[1])
    low, high = ratio_interval(ratio, len(one), resampling, batch=1000)
    return plain(told | {"low": low, "high": high})


def _by_image(distances: pd.Series) -> Any:
    """Lay distances out as (images, targets), NaN where an image lacks a target."""
    if distances.index.nlevels == 1:
        return distances.to_numpy(float)[:, None]
    return distances.unstack("target").to_numpy(float)
