"""From the rows of an attack to report.json, pictures, a table on the terminal and W&B."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pytorch_lightning import Trainer

from callbacks.loggers import log_curve, log_files, log_pictures, log_rows, log_scalars, parent_artifacts, runs_of
from callbacks.pieces import EXAMPLES, Pieces, load_pieces, query_marks
from callbacks.terminal import tell_report
from zeroth.attacks import Attack
from zeroth.records import (
    attack_frame,
    attack_summary,
    attacked_rows,
    distortion_quartiles,
    merge_records,
    plain,
    robust_accuracy_vs_epsilon,
    success_curve,
    write_json,
)
from zeroth.records.pictures import adversarial_figure
from zeroth.records.plots import distortion_figure, robust_accuracy_figure, save_figure, success_figure

EPSILONS = 51  # points of the robust-accuracy curve


def report_attack(
    trainer: Trainer,
    folder: Path,
    attack: Attack,
    *,
    budget: int,
    images: int,
    parents: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Merge the record files of all ranks and shards in a run folder and report on what is there.

    Args:
        trainer: whose loggers get the numbers.
        folder: the run folder.
        attack: what was run, for its norm.
        budget: queries an image could spend.
        images: how many images the run selected, over all shards.
        parents: the victim's files, as lineage.json has them.
        class_names: names of the classes, for the picture.

    Returns:
        what report.json says.
    """
    rows, pieces = merge_records(folder, "attack"), load_pieces(folder)
    marks = query_marks(budget)
    robust = _robust_curve(rows, attack)
    rates = success_curve(rows, marks)
    distortion = _distortion_curve(rows, pieces, len(marks))
    report: dict[str, Any] = {
        "run": folder.name,
        "attack": repr(attack),
        "norm": attack.norm,
        "budget": budget,
        "images": images,
        "recorded": len(rows),
        "complete": len(rows) == images,
        **attack_summary(rows),
        "success_curve": {"queries": marks, "success_rate": rates},
        "distortion_curve": {"queries": marks, **distortion},
        "robust_curve": robust,
    }
    write_json(folder / "report.json", report)
    pictures = draw_attack(folder, rows, pieces, attack, budget, class_names)

    tell_report(attack_frame({folder.name: report}, norm=attack.norm), folder, report, pictures)

    runs = runs_of(trainer)
    log_curve(runs, "queries", marks, {"success_rate": rates, **distortion})
    log_curve(runs, "epsilon", robust["epsilon"], {"robust_accuracy": robust["accuracy"]})
    log_scalars(trainer, {name: value for name, value in report.items() if not name.endswith("_curve")})
    log_rows(runs, "images", rows)
    log_pictures(runs, pictures)
    files = [folder / name for name in ("report.json", "lineage.json", "config.yaml")]
    sha256 = [parent["sha256"] for parent in parents]
    log_files(runs, f"attack-{folder.name}", "report", files, {"parents": sha256}, parent_artifacts(parents))
    return report


def draw_attack(
    folder: Path,
    rows: pd.DataFrame,
    pieces: Pieces | None,
    attack: Attack,
    budget: int,
    class_names: Sequence[str] | None = None,
) -> list[Path]:
    """Draw what the rows allow; returns the files."""
    norm, name = attack.norm, folder.name
    figures = {
        "success_vs_queries": success_figure({name: rows}, budget=budget),
        "robust_accuracy_vs_epsilon": robust_accuracy_figure({name: rows}, norm=norm),
    }
    if pieces is not None:
        if (played := _distances(rows, pieces)).size:
            figures["distortion_vs_queries"] = distortion_figure({name: (pieces.marks.numpy(), played)}, norm=norm)
        if len(pieces.shown) and pieces.image.shape[1] in (1, 3):
            told = rows.set_index("index").loc[pieces.shown.tolist()]
            figures["adversarial_examples"] = adversarial_figure(
                pieces.image,
                pieces.adversarial,
                pieces.label.tolist(),
                pieces.predicted.tolist(),
                told["queries_to_success"].tolist(),
                told[norm].tolist(),
                norm=norm,
                class_names=class_names,
                per_row=EXAMPLES,
            )
    paths = [folder / f"{stem}.png" for stem in figures]
    for figure, path in zip(figures.values(), paths, strict=True):
        save_figure(figure, path)
    return paths


def _robust_curve(rows: pd.DataFrame, attack: Attack) -> dict[str, list[float | None]]:
    found = rows.loc[rows["success"], attack.norm].astype(float)
    top = attack.epsilon or (float(found.max()) if len(found) else 1.0)
    return robust_accuracy_vs_epsilon(rows, attack.norm, np.linspace(0, top, EPSILONS).tolist())


def _distances(rows: pd.DataFrame, pieces: Pieces) -> NDArray[np.float32]:
    """Distances (M, B) of the attacked images at each mark, inf where nothing was found yet."""
    return pieces.distance[np.isin(pieces.index, attacked_rows(rows)["index"])].T.numpy()


def _distortion_curve(rows: pd.DataFrame, pieces: Pieces | None, marks: int) -> dict[str, list[float | None]]:
    """Median and quartiles (M,) of the distances at each mark, None where the quartile's images have none yet."""
    names = ("distance_q25", "distance_median", "distance_q75")
    if pieces is None or not (played := _distances(rows, pieces)).size:
        return {name: [None] * marks for name in names}
    return {name: plain(curve) for name, curve in zip(names, distortion_quartiles(played), strict=True)}
