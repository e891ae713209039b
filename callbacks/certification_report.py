"""From the rows of a certification to report.json, the certified-accuracy curve, a table on the terminal and W&B."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Trainer
from scipy.stats import norm

from callbacks.loggers import log_curve, log_files, log_pictures, log_rows, log_scalars, parent_artifacts, runs_of
from callbacks.terminal import tell_report
from zeroth.records import (
    certificate_frame,
    certificate_summary,
    certified_accuracy,
    merge_records,
    write_json,
)
from zeroth.records.plots import certified_accuracy_figure, save_figure

RADIUS_STEP = 0.25  # the papers' tables have a column each quarter
CURVE_POINTS = 101


def report_certification(
    trainer: Trainer,
    folder: Path,
    *,
    sigma: float,
    n: int,
    alpha: float,
    images: int,
    parents: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Merge the record files of all ranks and shards in a run folder and report on what is there.

    Args:
        trainer: whose loggers get the numbers.
        folder: the run folder.
        sigma: standard deviation of the noise.
        n: samples of the bound.
        alpha: probability that a certificate is wrong.
        images: how many images the run selected, over all shards.
        parents: the victim's files, as lineage.json has them.

    Returns:
        what report.json says.
    """
    rows = merge_records(folder, "certificate")
    # The largest radius that n samples can prove: all of them of one class, alpha ** (1 / n) its bound.
    largest = sigma * float(norm.ppf(alpha ** (1 / n)))
    radii = np.arange(0, max(largest, 0) + 1e-12, RADIUS_STEP).tolist()
    report = {
        "run": folder.name,
        "sigma": sigma,
        "n_samples": n,
        "alpha": alpha,
        "largest_provable_radius": largest,
        "images": images,
        "recorded": len(rows),
        "complete": len(rows) == images,
        **certificate_summary(rows, radii or [0.0]),
    }
    write_json(folder / "report.json", report)
    picture = folder / "certified_accuracy.png"
    save_figure(certified_accuracy_figure({folder.name: rows}), picture)

    tell_report(certificate_frame({folder.name: report}), folder, report, [picture])

    runs = runs_of(trainer)
    fine = np.linspace(0, max(largest, RADIUS_STEP), CURVE_POINTS).tolist()
    log_curve(runs, "radius", fine, {"certified_accuracy": certified_accuracy(rows, fine)["accuracy"]})
    log_scalars(trainer, {name: value for name, value in report.items() if name != "certified_accuracy"})
    log_rows(runs, "images", rows)
    log_pictures(runs, [picture])
    files = [folder / name for name in ("report.json", "lineage.json", "config.yaml")]
    sha256 = [parent["sha256"] for parent in parents]
    log_files(runs, f"certificate-{folder.name}", "report", files, {"parents": sha256}, parent_artifacts(parents))
    return report
