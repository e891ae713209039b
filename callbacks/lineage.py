"""Where a result comes from: lineage.json in the run folder, and what a checkpoint needs to be attacked later."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from callbacks.loggers import log_config, log_files, parent_artifacts, runs_of
from callbacks.provenance import START_KEYS, add_start, describe_start
from zeroth.records.json_io import read_json, write_json
from zeroth.records.schema import config_hash, file_sha256, flatten

LINEAGE = "lineage.json"


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Return the hash that the record files of a run with these settings carry."""
    return config_hash(flatten(settings))


def parent_of(checkpoint: str | Path) -> dict[str, Any]:
    """Describe a checkpoint that a run is built on, with its own lineage where that lies beside it."""
    path = Path(checkpoint)
    parent: dict[str, Any] = {"path": str(path), "sha256": file_sha256(path)}
    if (path.parent.parent / LINEAGE).is_file():  # runs/<job>/<name>/checkpoints/x.ckpt
        told = read_lineage(path.parent.parent)
        parent |= {key: told[key] for key in ("job", "name", "config_hash", "parents") if key in told}
    return parent


def read_lineage(folder: Path) -> dict[str, Any]:
    """Read the lineage.json of a run folder.

    Raises:
        FileNotFoundError: it has none.
        ValueError: it is damaged; names the file and the remedy.
    """
    # Record files and checkpoints tell their settings themselves, so the run can go on without it.
    return dict(read_json(folder / LINEAGE, remedy="delete it and give the same command again, which writes it anew"))


def write_lineage(
    folder: Path,
    job: str,
    settings: Mapping[str, Any],
    parents: Sequence[Mapping[str, Any]] = (),
    *,
    start: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Write lineage.json, as a whole at once, and return what it says.

    A run that is resumed after a kill may have been made by several commits, on several machines: ``starts`` tells them
    all, one entry for those alike in all but date and command, and the first one also stands at the top. Of shards that
    start at the same moment, one may miss the other's entry.

    Args:
        folder: the run folder; what its lineage.json says of earlier starts with these settings is kept.
        job: train-victim, train-defense, attack, ...
        settings: what decides the outcome.
        parents: the victim's files, see :func:`parent_of`.
        start: see :func:`~callbacks.provenance.describe_start`; default: described now.
        more: further entries.

    Raises:
        ValueError: the lineage.json that is there is damaged.
    """
    this = settings_hash(settings)
    starts = add_start(_earlier_starts(folder, this), dict(describe_start() if start is None else start))
    told = {
        "job": job,
        "name": folder.name,
        "config_hash": this,
        "parents": list(parents),
        **more,
        **starts[0],
        "starts": starts,
        "settings": settings,
    }
    write_json(folder / LINEAGE, told)
    return told


def _earlier_starts(folder: Path, hash_of_settings: str) -> list[dict[str, Any]]:
    told = read_lineage(folder) if (folder / LINEAGE).is_file() else {}
    if told.get("config_hash") != hash_of_settings:
        return []
    # A folder begun before starts were kept tells what it can of its first one.
    return told.get("starts") or [{key: told.get(key) for key in START_KEYS}]


class Lineage(Callback):
    """Writes lineage.json of a training run, keeps the datamodule's settings in its checkpoints, logs the best one.

    Args:
        folder: the run folder.
        job: train-victim, train-autoencoder or train-defense.
        config: the resolved configuration; logged to W&B.
        settings: the part of it that decides the outcome.
        parents: checkpoints that the training builds on: its box, its autoencoder.
    """

    def __init__(
        self,
        folder: Path,
        job: str,
        config: Mapping[str, Any],
        settings: Mapping[str, Any],
        parents: Sequence[str] = (),
    ) -> None:
        self.folder, self.job, self.config, self.settings = folder, job, config, settings
        self.parents = [parent_of(checkpoint) for checkpoint in parents]
        self.start: dict[str, Any] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known before the first step."""
        if trainer.is_global_zero:
            self.start = describe_start()
            write_lineage(self.folder, self.job, self.settings, self.parents, start=self.start)
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
        # The start as it was described then: the source tree may have moved on while this program ran.
        write_lineage(self.folder, self.job, self.settings, self.parents, start=self.start, checkpoints=told)
        if "best" in files:
            name = f"{self.job.removeprefix('train-')}-{self.folder.name}"
            score = None if keeper.best_model_score is None else float(keeper.best_model_score)
            log_files(
                runs_of(trainer),
                name,
                "model",
                [files["best"], self.folder / LINEAGE],
                {"score": score, **told["best"], "parents": [parent["sha256"] for parent in self.parents]},
                parent_artifacts(self.parents),
            )
