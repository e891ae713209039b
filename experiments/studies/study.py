"""What the studies share: the command line of attack.py, a task over batches, study.json.

Shapes: B images, n of them measured, X marks on the x axis.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor

from callbacks.lineage import write_lineage
from callbacks.loggers import log_config, log_curve, runs_of
from callbacks.tasks import EvaluationTask, Victim
from cli.checkpoints import parents_in
from cli.evaluation import EvaluationCLI
from cli.folders import save_config
from zeroth.oracles import Output, ScoreOracle
from zeroth.records import Bootstrap, rich_table, terminal, write_json

RESAMPLES = 2000


def curve(name: str, values: ArrayLike, seed: int) -> dict[str, Any]:
    """Average (n, X) over the images, with the bootstrap's 95 % interval at each mark.

    The bootstrap keeps to the range of what was measured, which Student's t leaves for probabilities near 0.

    Returns:
        one line of study.json: ``name``; ``values``, ``low`` and ``high``, each (X,).

    Raises:
        ValueError: fewer than two images.
    """
    table = np.asarray(values, float)
    if len(table) < 2:
        raise ValueError(f"{len(table)} are left to measure, an interval needs 2: raise images.count, or data.test")
    resampling = Bootstrap(seed=seed, resamples=RESAMPLES)
    low, high = zip(*(resampling.interval(column) for column in table.T), strict=True)
    return {"name": name, "values": table.mean(0).tolist(), "low": list(low), "high": list(high)}


class StudyTask(EvaluationTask):
    """Measures batches of images through an oracle.

    Args:
        victim: callable images (N, C, H, W) in [0, 1] -> scores (N, K).
        seed: with the dataset index it fixes all random draws of an image.
        output: what the victim's scores are.
        max_batch: most images the victim is asked at once.

    Attributes:
        queries: images that the victim has answered so far.
    """

    def __init__(
        self, victim: Victim, *, seed: int = 0, output: Output = "logits", max_batch: int | None = None
    ) -> None:
        super().__init__()
        self.victim, self.seed, self.output, self.max_batch = victim, seed, output, max_batch
        self.queries = 0

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> dict[str, Tensor]:
        """Measure a batch with keys image (B, C, H, W), label (B,) and index (B,)."""
        images, labels, indices = batch["image"], batch["label"], batch["index"]
        oracle = ScoreOracle(self.victim, output=self.output, max_batch=self.max_batch, device=images.device)
        found = self.measure(oracle, images, labels, indices)
        self.queries += oracle.queries
        return {name: values.cpu() for name, values in found.items()}

    @abstractmethod
    def measure(self, oracle: ScoreOracle, images: Tensor, labels: Tensor, indices: Tensor) -> dict[str, Tensor]:
        """Return what is averaged over the images, name -> (n, X), n <= B."""


class StudyCLI(EvaluationCLI):
    """Parses, builds and runs a study; one process, a minute or two, so that a killed one is simply run again.

    Attributes:
        study: name of its module.
        unit: what it averages over.
        nothing: what is said where there is nothing to average.
    """

    job = "study"
    unit: ClassVar[str] = "images"
    batch_help = "a killed study measures all of them again"
    study: ClassVar[str]
    nothing: ClassVar[str] = "the victim gets none of the selected images right: nothing is left to measure"

    def method_name(self) -> str:
        """The study."""
        return self.study

    def task_options(self) -> dict[str, Any]:
        """What every :class:`StudyTask` takes."""
        config = self.config_init
        return {"seed": config.seed, "output": self.victim_options.output, "max_batch": config.max_batch}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """As for every evaluation.

        Raises:
            ValueError: options that would deal out the images to several processes.
        """
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.world_size > 1:
            raise ValueError("a study averages over all its images: use --trainer.devices 1")
        return trainer

    def run(self) -> None:
        """Measure and write study.json, unless it is there."""
        place, console = self.folder / "study.json", terminal()
        if place.is_file():
            console.print(f"measured already: {place}", soft_wrap=True)
            return
        save_config(self.folder, self.resolved)
        write_lineage(self.folder, self.job, self.settings, [*self.parents(), *parents_in(self.settings)])
        runs = runs_of(self.trainer)
        log_config(runs, self.resolved)
        predictions = self.trainer.predict(self.task, datamodule=self.source(), return_predictions=True)
        batches = [batch for batch in predictions or [] if batch]
        if not batches:
            raise ValueError(self.nothing)
        values = {name: torch.cat([batch[name] for batch in batches]).numpy() for name in batches[0]}
        told = {
            "study": self.study,
            "n": len(next(iter(values.values()))),
            "queries": self.task.queries,
            "seed": self.config.seed,
            "images": self.resolved.get("images"),
            "checkpoint_sha256": next((parent["sha256"] for parent in self.parents()), None),
            "settings": self.settings,
            **self.measured(values),
        }
        write_json(place, told)
        axis, marks = told["x"]["name"], told["x"]["values"]
        means = {line["name"]: line["values"] for line in told["lines"]}
        console.print(rich_table(pd.DataFrame({axis: marks, **means}).map("{:.4g}".format)))
        for note in told["notes"]:
            console.print(note)
        console.print(f"{told['n']} {self.unit}, {told['queries']:,} queries; {place}", soft_wrap=True)
        log_curve(runs, axis, marks, means)

    def source(self) -> LightningDataModule:
        """Return what is measured."""
        return self.data

    @abstractmethod
    def measured(self, values: dict[str, np.ndarray]) -> dict[str, Any]:
        """Average what the task measured, name -> (n, X): the study's own part of study.json."""
