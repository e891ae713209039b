"""From the rows of an attack to report.json, pictures, a table on the terminal and W&B."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Trainer

from callbacks.loggers import log_curve, log_files, log_pictures, log_rows, log_scalars, parent_artifacts, runs_of
from callbacks.pieces import EXAMPLES, Pieces, load_pieces, query_marks
from callbacks.terminal import tell_report
from zeroth.attacks import Attack
from zeroth.records import (
    CASES,
    Norm,
    attack_frame,
    attack_summary,
    attacked_rows,
    distortion_quartiles,
    merge_records,
    plain,
    robust_accuracy_vs_epsilon,
    select_case,
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
    rows_an_image: int,
    seed: int,
    parents: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Merge the record files of all ranks and shards in a run folder and report on what is there.

    Where an image has several rows, one a target, figures are over rows, and those of the best, average and worst case
    over images are told beside them.

    Args:
        trainer: whose loggers get the numbers.
        folder: the run folder.
        attack: what was run, for its norm.
        budget: queries an image could spend.
        images: how many images the run selected, over all shards.
        rows_an_image: how many rows each of them has in the end.
        seed: seed of the run, which draws the average case.
        parents: the victim's files, as lineage.json has them.
        class_names: names of the classes, for the picture.

    Returns:
        what report.json says.
    """
    rows, pieces = merge_records(folder, "attack"), load_pieces(folder)
    marks = query_marks(budget) if pieces is None else pieces.marks.tolist()
    cases = {
        case: select_case(rows, case, norm=attack.norm, seed=seed) for case in (CASES if rows_an_image > 1 else ())
    }
    sizes = _sizes(rows, attack)
    report: dict[str, Any] = {
        "run": folder.name,
        "attack": repr(attack),
        "norm": attack.norm,
        "distance": attack.distance_name,
        "budget": budget,
        "images": images,
        "recorded": rows["index"].nunique(),
        "complete": len(rows) == images * rows_an_image,
        **attack_summary(rows),
        "tallies": {} if pieces is None else pieces.tallies,
        **_curves(rows, pieces, attack.norm, marks, sizes),
    }
    if cases:
        report["cases"] = {
            case: {**attack_summary(chosen), **_curves(chosen, pieces, attack.norm, marks, sizes)}
            for case, chosen in cases.items()
        }
    write_json(folder / "report.json", report)
    lines = {f"{case} case": chosen for case, chosen in cases.items()} or {folder.name: rows}
    pictures = draw_attack(folder, rows, lines, pieces, attack, budget, class_names)

    told = {f"{case} case": summary for case, summary in report.get("cases", {}).items()}
    name = f"{folder.name}, all pairs" if cases else folder.name
    tell_report(attack_frame({name: report, **told}, norm=attack.norm), folder, report, pictures)

    runs = runs_of(trainer)
    for suffix, summary in {"": report, **{f"_{case}": report["cases"][case] for case in cases}}.items():
        queries, robust = {**summary["success_curve"], **summary["distortion_curve"]}, summary["robust_curve"]
        curves = {f"{name}{suffix}": curve for name, curve in queries.items() if name != "queries"}
        log_curve(runs, "queries", marks, curves)
        log_curve(runs, "epsilon", robust["epsilon"], {f"robust_accuracy{suffix}": robust["accuracy"]})
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
    lines: Mapping[str, pd.DataFrame],
    pieces: Pieces | None,
    attack: Attack,
    budget: int,
    class_names: Sequence[str] | None = None,
) -> list[Path]:
    """Draw a line for each table of rows, and examples of all rows, as far as there are any; returns the files."""
    norm = attack.norm
    figures = {
        "success_vs_queries": success_figure(lines, budget=budget),
        "robust_accuracy_vs_epsilon": robust_accuracy_figure(lines, norm=norm),
    }
    if pieces is not None:
        played = {name: pieces.distances(attacked_rows(table)) for name, table in lines.items()}
        if known := {name: (pieces.marks.numpy(), distances) for name, distances in played.items() if distances.size}:
            figures["distortion_vs_queries"] = distortion_figure(known, distance=attack.distance_name)
        if len(pieces.shown) and pieces.image.shape[1] in (1, 3):
            by_key = dict(zip(pieces.keys_of(rows), range(len(rows)), strict=True))
            told = rows.iloc[[by_key[key] for key in pieces.shown]]
            figures["adversarial_examples"] = adversarial_figure(
                pieces.image,
                pieces.adversarial,
                pieces.label.tolist(),
                pieces.predicted.tolist(),
                # An attack that goes on after its first success shows what it found within all its queries.
                told["queries_to_success" if attack.stop_at_success else "queries"].tolist(),
                told[norm].tolist(),
                norm=norm,
                class_names=class_names,
                per_row=EXAMPLES,
            )
    paths = [folder / f"{stem}.png" for stem in figures]
    for figure, path in zip(figures.values(), paths, strict=True):
        save_figure(figure, path)
    return paths


def _sizes(rows: pd.DataFrame, attack: Attack) -> list[float]:
    found = rows.loc[rows["success"], attack.norm].astype(float)
    top = attack.epsilon or (float(found.max()) if len(found) else 1.0)
    return np.linspace(0, top, EPSILONS).tolist()


def _curves(
    rows: pd.DataFrame, pieces: Pieces | None, norm: Norm, marks: list[int], sizes: list[float]
) -> dict[str, dict[str, Any]]:
    """Success and distances at marks of queries, accuracy at sizes of the perturbation.

    Of the distances median and quartiles, None where the quartile's images have none yet.
    """
    names = ("distance_q25", "distance_median", "distance_q75")
    distortion: dict[str, list[float | None]] = {name: [None] * len(marks) for name in names}
    if pieces is not None and (played := pieces.distances(attacked_rows(rows))).size:
        distortion = {name: plain(curve) for name, curve in zip(names, distortion_quartiles(played), strict=True)}
    return {
        "success_curve": {"queries": marks, "success_rate": success_curve(rows, marks)},
        "distortion_curve": {"queries": marks, **distortion},
        "robust_curve": robust_accuracy_vs_epsilon(rows, norm, sizes),
    }
