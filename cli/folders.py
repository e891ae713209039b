"""Where a run lives, what settings it belongs to, and where its numbers go."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from callbacks.lineage import LINEAGE, read_lineage, settings_hash
from cli.checkpoints import with_shipped_hashes
from zeroth.records.json_io import difference, plain, replacing

JobType = Literal[
    "train-victim", "train-autoencoder", "train-defense", "train-optimizer", "attack", "certify", "tune", "study"
]  # fmt: skip

# What may change between a start and its resumption: where and how fast it runs, not what comes out.
HARDWARE = (
    "accelerator", "devices", "num_nodes", "strategy", "enable_progress_bar", "enable_model_summary", "logger",
    "log_every_n_steps", "default_root_dir", "profiler", "detect_anomaly", "benchmark",
)  # fmt: skip
# But a training on N devices makes steps of N batches, and its victim is another one. Only values away from these
# count: a training on one device has the hash that it has always had.
ONE_DEVICE: dict[str, tuple[Any, ...]] = {
    "devices": ("auto", 1, "1"),
    "num_nodes": (1,),
    "strategy": ("auto",),
}
DATA_PLACE = ("root", "num_workers", "download")
# What ``wandb agent`` sets for the runs that it starts.
SWEEP = "WANDB_SWEEP_ID"


@dataclass
class RunOptions:
    """Name and bookkeeping of a run; its folder is <root>/<job>/<name>.

    Args:
        name: the run's name; default: the config file's stem, or victim and attack, see also :func:`name_in_sweep`.
        root: folder of all runs.
        group: W&B group, for runs of one experiment grid.
        tags: W&B tags, e.g. the paper and the dataset.
        project: W&B project.
        wandb: W&B mode; default: the environment variable WANDB_MODE, else offline, under ``wandb agent`` online.
    """

    name: str | None = None
    root: str = "runs"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    project: str = "zeroth"
    wandb: Literal["offline", "online", "disabled"] | None = None

    def folder(self, job: JobType, name: str) -> Path:
        """The run's folder, <root>/<job>/<name>."""
        return Path(self.root) / job / (self.name or name)

    def loggers(self, job: JobType, folder: Path) -> list[Logger]:
        """A CSV logger below the run folder and, unless disabled, a W&B logger whose files live there too."""
        # A new csv/version_N a start: CSVLogger deletes older files of its folder.
        loggers: list[Logger] = [CSVLogger(folder, name="csv")]
        # A sweep learns from its server what has been tried.
        mode = self.wandb or os.environ.get("WANDB_MODE", "online" if SWEEP in os.environ else "offline")
        if mode in ("offline", "dryrun"):
            loggers.append(self._wandb(job, folder, offline=True))
        elif mode == "online":
            loggers.append(self._wandb(job, folder, offline=False))
        elif mode != "disabled":
            raise ValueError(f"WANDB_MODE must be offline, online or disabled, got {mode!r}")
        return loggers

    def _wandb(self, job: JobType, folder: Path, *, offline: bool) -> WandbLogger:
        folder.mkdir(parents=True, exist_ok=True)  # wandb falls back to a temporary folder when it is missing
        logger = WandbLogger(
            name=folder.name,
            save_dir=folder,
            offline=offline,
            project=self.project,
            group=self.group,
            job_type=job,
            tags=self.tags or None,
            settings={"silent": offline},  # the run folder is told at the end
        )
        # Lightning hands over anonymous=None, of which wandb warns in each run; there is no public way to leave it out.
        logger._wandb_init.pop("anonymous", None)
        return logger


def name_in_sweep(name: str, settings: Mapping[str, Any]) -> str:
    """A run's default name; where ``wandb agent`` starts the run, with a hash of the settings that decide its outcome.

    The runs of a sweep differ by their settings alone, and a folder belongs to one of them. The hash, not the id that
    W&B gives a run: a run that is started once more, by this sweep or by another, goes on with what is recorded.
    """
    return f"{name}-{settings_hash(settings)[:8]}" if SWEEP in os.environ else name


def result_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that decides what comes out: without the run's name, place and hardware.

    The trainer's part is there for trainings alone: the rows of an evaluation do not depend on it. Networks that ship
    with the package are told by their hash.
    """
    settings = {key: value for key, value in config.items() if key not in ("run", "config", "shard", "trainer")}
    if isinstance(trainer := config.get("trainer"), Mapping):
        settings["trainer"] = {
            key: value
            for key, value in trainer.items()
            if key not in HARDWARE or (key in ONE_DEVICE and value not in ONE_DEVICE[key])
        }
    if isinstance(data := settings.get("data"), Mapping) and isinstance(data.get("init_args"), Mapping):
        arguments = {key: value for key, value in data["init_args"].items() if key not in DATA_PLACE}
        settings["data"] = {**data, "init_args": arguments}
    return dict(with_shipped_hashes(settings))


def refuse_other_settings(folder: Path, settings: Mapping[str, Any], growing: Sequence[str] = ()) -> None:
    """Check that a run folder, if it has been used, belongs to these settings, but for those that may grow.

    Args:
        folder: the run folder.
        settings: what decides the outcome.
        growing: dotted keys of those that may differ.

    Raises:
        ValueError: it was made with others; names the first field that differs and the remedy. Or its lineage.json is
            damaged.
    """
    if not (folder / LINEAGE).is_file():
        return
    was, now = (_without(told, growing) for told in (read_lineage(folder)["settings"], plain(settings)))
    if found := difference(was, now):
        raise ValueError(
            f"{folder} was made with {found[0]} = {found[1]!r}, this run has {found[2]!r}: "
            "use the same settings to go on with it, or give this run a name of its own by --run.name"
        )


def _without(settings: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Settings but for some, told by dotted keys."""
    left = {key: value for key, value in settings.items() if key not in keys}
    for key, value in left.items():
        if isinstance(value, Mapping):
            left[key] = _without(value, [name.partition(".")[2] for name in keys if name.startswith(f"{key}.")])
    return left


def save_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.yaml; at once as a whole, because ranks and shards may start together."""
    with replacing(folder / "config.yaml") as part:
        part.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
