"""What the loggers are given, the same for every job: one place that knows the rules of Weights & Biases.

Curves log their own x axis (``define_metric``), so that those of several runs overlay. Artifacts are named after the
run, e.g. victim-digits -> attack-digits-zo_ngd, and carry the parents' hashes: links between artifacts need a server.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger

# W&B shows at most 10,000 rows of a table; a longer one is logged as a file.
TABLE_ROWS = 10_000


def runs_of(trainer: Trainer) -> list[Any]:
    """The W&B runs that a trainer logs to: none or one. Ask on rank 0 only."""
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def log_config(runs: Iterable[Any], config: Mapping[str, Any]) -> None:
    """Log a resolved configuration; W&B splits keys at dots, so they are replaced."""
    for run in runs:
        run.config.update(_without_dots(config), allow_val_change=True)


def log_curve(runs: Iterable[Any], x_name: str, x: Sequence[Any], curves: Mapping[str, Sequence[float | None]]) -> None:
    """Log curves over an axis of their own, one row a mark; unknown values are left out."""
    for run in runs:
        run.define_metric(x_name)
        for name in curves:
            run.define_metric(name, step_metric=x_name)
        for place, mark in enumerate(x):
            values = {name: curve[place] for name, curve in curves.items()}
            known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
            if known:
                run.log({x_name: mark, **known})


def log_scalars(trainer: Trainer, numbers: Mapping[str, Any]) -> None:
    """Log final numbers to every logger, nested mappings joined by '/'; W&B takes them as the run's summary."""
    flat = dict(_flat(numbers))
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(flat)
        else:
            logger.log_metrics(
                {name: float(value) for name, value in flat.items() if not isinstance(value, str)}, step=0
            )
            logger.save()


def log_rows(runs: Iterable[Any], name: str, rows: pd.DataFrame) -> None:
    """Log a table of one row an image, as far as W&B shows it."""
    shown = rows.head(TABLE_ROWS).astype(object)
    values = shown.where(shown.notna(), None)  # W&B knows None, not pandas' NA
    for run in runs:
        run.log({name: wandb.Table(columns=list(rows.columns), data=values.to_numpy().tolist())})


def log_pictures(runs: Iterable[Any], pictures: Iterable[Path]) -> None:
    """Log PNG files under their stems."""
    for run in runs:
        run.log({f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures})


def log_files(
    runs: Iterable[Any],
    name: str,
    kind: str,
    files: Iterable[str | Path],
    metadata: Mapping[str, Any],
    parents: Iterable[str] = (),
) -> None:
    """Log files as one artifact; its parents are linked where there is a server to know them."""
    for run in runs:
        artifact = wandb.Artifact(artifact_name(name), type=kind, metadata=dict(metadata))
        for file in files:
            artifact.add_file(str(file))
        if not getattr(run, "offline", True):
            for parent in parents:
                run.use_artifact(f"{artifact_name(parent)}:latest")
        run.log_artifact(artifact)


def parent_artifacts(parents: Iterable[Mapping[str, Any]]) -> list[str]:
    """Artifacts of the runs that lineage.json names as parents, e.g. victim-digits."""
    return [f"{parent['job'].removeprefix('train-')}-{parent['name']}" for parent in parents if "job" in parent]


def artifact_name(name: str) -> str:
    """A name that W&B takes: letters, digits, '-', '_' and '.'."""
    return re.sub(r"[^\w.-]", "_", name)


def _without_dots(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key).replace(".", "_"): _without_dots(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_dots(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _flat(numbers: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in numbers.items():
        name = f"{prefix}{str(key).replace('.', '_')}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}/")
        elif isinstance(value, bool | int | float | str):
            yield name, value
