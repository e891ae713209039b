"""The plan of an experiment: which command makes which stage, in which folder, and what is done already.

A stage's folder carries the hash of what decides its outcome. A changed config therefore has another folder: that
stage and what follows from it run again, nothing else does, and nothing old is lost.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cli.training import job_of
from experiments.estimates import estimate
from experiments.experiment import Experiment, Job, Network, Scale, Stage
from experiments.parsing import option_words
from experiments.resolving import model_options, resolve
from zeroth.records import write_json

ROOT = Path(__file__).parents[1]
# Jobs whose images are independent, so that shards and devices may divide them and every row stays what it is. A
# training is none of them: N devices see N batches a step, and the victim would be another one.
DIVISIBLE: tuple[Job, ...] = ("attack", "certify")
BEST = Path("checkpoints", "best.ckpt")
# What is read of a train stage's checkpoint, by the last word of the option that takes it; else a classifier.
PARTS = {
    "autoencoder": "CheckpointAutoencoder",
    "denoiser": "CheckpointDenoiser",
    "update": "CheckpointUpdateRNN",
    "query": "CheckpointQueryRNN",
}
# What reads a box, by the system that trained it; else a classifier.
BOXES = {"Reconstruction": "CheckpointReconstructor"}
# What a job leaves in its folder for the stages that follow and for the table.
REPORT = "report.json"
PRODUCTS: dict[Job, tuple[str, ...]] = {
    "train": (BEST.as_posix(),),
    "tune": ("tuned.yaml", "trials.json"),
    "attack": (REPORT,),
    "certify": (REPORT,),
    "study": ("study.json",),
}


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its place and its commands.

    Args:
        name: the stage's name in the experiment.
        job: its program.
        folder: its run folder.
        hash: hex SHA-256 of what decides its outcome, see :class:`~experiments.resolving.Resolved`.
        commands: words to run from the project's root; one command, or one for each shard.
        parents: names of the stages that it follows.
        queries: images that the victim is asked, None where nobody can tell.
        seconds: time of that on 2 CPU cores, None where nobody can tell.
        at_most: whether the two are bounds rather than expectations.
        markers: a file for each command, there when the command has ended well.
        done: whether an earlier start finished it, see :func:`finished`.
        data: class_path and init_args of its images.
        images: the selection of images, empty for a training.
        box: network that reads its checkpoint as a box.
    """

    name: str
    job: Job
    folder: Path
    hash: str
    commands: list[list[str]]
    parents: list[str]
    queries: int | None = None
    seconds: float | None = None
    at_most: bool = False
    markers: list[Path] = field(default_factory=list)
    done: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    box: str = "CheckpointClassifier"

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "PlannedStage":
        """Read what :meth:`Plan.write` wrote of a stage."""
        paths = {"folder": Path(told["folder"]), "markers": [Path(marker) for marker in told["markers"]]}
        return cls(**{**told, **paths})


@dataclass(frozen=True)
class Plan:
    """An experiment at one scale, ready to run.

    Args:
        experiment: ``<paper>/<table>``, from the file's folder and stem.
        file: the experiment file.
        scale: the scale.
        runs: the folder of all runs.
        stages: in an order in which each follows what it needs.
    """

    experiment: str
    file: Path
    scale: Scale
    runs: Path
    stages: list[PlannedStage]

    @property
    def place(self) -> Path:
        """Where :meth:`write` puts the plan."""
        return ROOT / self.runs / "plans" / f"{self.experiment.replace('/', '-')}-{self.scale}.json"

    def write(self) -> Path:
        """Write the plan for the workflow engine, as a whole at once, and return the file."""
        write_json(self.place, asdict(self))
        return self.place

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Plan":
        """Read what :meth:`write` wrote."""
        paths = {"file": Path(told["file"]), "runs": Path(told["runs"])}
        return cls(**{**told, **paths, "stages": [PlannedStage.from_json(stage) for stage in told["stages"]]})


def make_plan(
    experiment: Experiment,
    scale: Scale,
    *,
    file: Path,
    runs: Path = Path("runs"),
    results: Path = Path("results"),
    shards: int = 1,
    devices: int | None = None,
) -> Plan:
    """Plan an experiment; reads the disk, writes nothing.

    Args:
        experiment: of :func:`load_experiment`.
        scale: the scale that it was loaded at.
        file: its file.
        runs: the folder of all runs.
        results: published results, whose figures are the better estimates.
        shards: parts that attacks and certifications are cut into.
        devices: devices of each attack and certification, by Lightning's DDP; None leaves one.

    Raises:
        ValueError: a stage's options are wrong, tunings of unequal effort, or a picture over no setting, which name the
            file and the field; shards or devices below 1.
    """
    for name, value in (("shards", shards), ("devices", devices)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    runs, table = rooted(runs), f"{Path(file).absolute().parent.name}/{Path(file).stem}"
    run_options = {"run.root": str(runs), "run.group": table, "run.tags": _tags(table, experiment.dataset[scale])}
    planned: dict[str, PlannedStage] = {}
    try:
        found = resolve(experiment)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    pictured = pictured_stages(experiment)
    for name, resolved in found.items():
        stage = experiment.stages[name]
        job = job_of(resolved.config["model"]) if stage.job == "train" else stage.job
        folder = runs / job / f"{resolved.prefix}-{resolved.hash[:8]}"
        command = _command(stage, planned, run_options | {"run.name": folder.name})
        command += ["--save_adversarial"] if name in pictured else []
        divisible = stage.job in DIVISIBLE and resolved.config.get("total_queries") is None
        if divisible and devices is not None:
            command += ["--trainer.devices", str(devices)]
        if stage.job == "train" and resolved.config["trainer"]["devices"] == "auto":
            command += ["--trainer.devices", "1"]  # all of a host's would train another victim
        parts = [f"{k}of{shards}" for k in range(1, shards + 1)] if divisible and shards > 1 else []
        cell = results / table / scale / f"{name}.json"
        cost = estimate(stage.job, resolved.config, rate=experiment.rate.get(scale), cell=cell, pairs=resolved.pairs)
        planned[name] = PlannedStage(
            name=name,
            job=stage.job,
            folder=folder,
            hash=resolved.hash,
            commands=[[*command, "--shard", part.replace("of", "/")] for part in parts] or [command],
            parents=[parent for parent in (stage.victim, stage.tuned, *stage.built_on) if parent is not None],
            queries=cost.queries,
            seconds=cost.seconds,
            at_most=cost.at_most,
            markers=[folder / f"done.{part}" for part in parts] or [folder / "done"],
            done=finished(folder, stage.job),
            data=resolved.data,
            images=resolved.config.get("images") or {},
            box=BOXES.get(_system(resolved.config), PlannedStage.box),
        )
    return Plan(table, rooted(file), scale, runs, list(planned.values()))


def pictured_stages(experiment: Experiment) -> set[str]:
    """Attack stages whose adversarial images a picture shows. No option says so: it decides no row."""
    strips = [picture for picture in experiment.pictures.values() if picture.kind == "strip"]
    return {
        row.stage for picture in strips for row in experiment.rows if not picture.rows or row.method in picture.rows
    }


def rooted(path: Path) -> Path:
    """A path as commands that run from the project's root spell it: relative where it lies below the root."""
    whole = Path(os.path.abspath(path))
    return whole.relative_to(ROOT) if whole.is_relative_to(ROOT) else whole


def finished(folder: Path, job: Job) -> bool:
    """Whether a stage was run to its end, in one command or in any number of shards, and what it made is there."""
    place = ROOT / folder
    if not all((place / name).is_file() for name in PRODUCTS[job]):
        return False
    if (place / "done").is_file() and (job not in DIVISIBLE or _complete(place / REPORT)):
        return True
    # Of shards that ran on several machines no report needs to tell of all rows.
    found = [re.fullmatch(r"done\.(\d+)of(\d+)", path.name) for path in place.glob("done.*of*")]
    shards = {(int(match[1]), int(match[2])) for match in found if match}
    return any(all((k, n) in shards for k in range(1, n + 1)) for _, n in shards)


def _complete(report: Path) -> bool:
    try:
        return json.loads(report.read_text(encoding="utf-8"))["complete"] is True
    except (ValueError, KeyError, TypeError):  # damaged: the stage writes it anew
        return False


def _command(stage: Stage, before: Mapping[str, PlannedStage], run_options: Mapping[str, str]) -> list[str]:
    """The words that run a stage as a whole."""
    options = {**stage.options, **run_options}
    if stage.victim is not None:
        options["checkpoint"] = str(before[stage.victim].folder / BEST)
    if stage.tuned is not None:
        options["attack"] = str(before[stage.tuned].folder / "tuned.yaml")

    def given(option: str, network: Network) -> dict[str, Any]:
        if not isinstance(network, str):
            return network
        kind = PARTS.get(option.rpartition(".")[2]) or before[network].box
        return {"class_path": kind, "init_args": {"checkpoint": str(before[network].folder / BEST)}}

    options |= model_options(stage, given)
    program = [f"{stage.job}.py"] if stage.study is None else ["-m", f"experiments.studies.{stage.study}"]
    return [sys.executable, *program, *option_words(options)]


def _system(config: Mapping[str, Any]) -> str:
    """The class that a stage trains; empty for another job."""
    return str((config.get("model") or {}).get("class_path", "")).rpartition(".")[2]


def _tags(table: str, dataset: str) -> str:
    """W&B tags of all runs of a table, as one word: the paper and the dataset."""
    return json.dumps([table.partition("/")[0], dataset])
