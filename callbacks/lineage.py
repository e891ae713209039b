"""Where a result comes from: lineage.json in the run folder, and what a checkpoint needs to be attacked later."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.loggers import log_config, log_files, runs_of
from zeroth.records.json_io import write_json
from zeroth.records.schema import config_hash, file_sha256, flatten

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "scipy", "statsmodels", "zeroth")


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return the hash that the record files of a run with these settings carry."""
    return config_hash(flatten(settings))


def parent_of(checkpoint: str | Path) -> dict[str, Any]:
    """Describe a checkpoint that a run is built on, with its own lineage where that lies beside it."""
    path = Path(checkpoint)
    parent: dict[str, Any] = {"path": str(path), "sha256": file_sha256(path)}
    kept = path.parent.parent / "lineage.json"  # runs/<job>/<name>/checkpoints/x.ckpt
    if kept.is_file():
        told = json.loads(kept.read_text())
        parent |= {key: told[key] for key in ("job", "name", "config_hash", "parents") if key in told}
    return parent


def write_lineage(
    folder: Path, job: str, settings: Mapping[str, Any], parents: Sequence[Mapping[str, Any]] = (), **more: Any
) -> dict[str, Any]:
    """Write lineage.json, as a whole at once, and return what it says."""
    told = {
        "job": job,
        "name": folder.name,
        "config_hash": settings_hash(settings),
        "parents": list(parents),
        **more,
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "settings": settings,
    }
    write_json(folder / "lineage.json", told)
    return told


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Lineage(Callback):
    """Writes lineage.json of a training run, keeps the datamodule's settings in its checkpoints, logs the best one.

    Args:
        folder: the run folder.
        job: train-victim.
        config: the resolved configuration; logged to W&B.
        settings: the part of it that decides the outcome.
    """

    def __init__(self, folder: Path, job: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.folder, self.job, self.config, self.settings = folder, job, config, settings

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known before the first step."""
        if trainer.is_global_zero:
            write_lineage(self.folder, self.job, self.settings)
            log_config(runs_of(trainer), self.config)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the datamodule's class and arguments, plain values, so that attack.py finds the images."""
        checkpoint["zeroth"] = {"data": self.config.get("data"), "config_hash": settings_hash(self.settings)}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the hashes of the checkpoints; log the best one as an artifact named job and run, e.g. victim-digits."""
        if not trainer.is_global_zero or not isinstance(trainer.checkpoint_callback, ModelCheckpoint):
            return
        keeper = trainer.checkpoint_callback
        paths = {"best": keeper.best_model_path, "last": str(self.folder / "checkpoints" / "last.ckpt")}
        files = {name: path for name, path in paths.items() if path and Path(path).is_file()}
        told = {name: {"path": path, "sha256": file_sha256(path)} for name, path in files.items()}
        write_lineage(self.folder, self.job, self.settings, checkpoints=told)
        if "best" in files:
            name = f"{self.job.removeprefix('train-')}-{self.folder.name}"
            score = None if keeper.best_model_score is None else float(keeper.best_model_score)
            log_files(
                runs_of(trainer),
                name,
                "model",
                [files["best"], self.folder / "lineage.json"],
                {"score": score, **told["best"]},
            )
