"""The command line of evaluations that keep one row an image: attack.py's and certify.py's."""

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningArgumentParser

from callbacks.lineage import write_lineage
from callbacks.loggers import log_config, runs_of
from callbacks.progress import EvaluationProgress
from callbacks.record_writer import RecordWriter
from cli.checkpoints import parents_in
from cli.evaluation import EvaluationCLI
from cli.folders import save_config
from cli.processes import locked
from zeroth.records.schema import Kind, RecordHeader


class RecordsCLI(EvaluationCLI):
    """An evaluation that keeps one row an image and reports on them, resumed where a killed start stopped."""

    batch_help = "a kill loses at most one batch"

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As for every evaluation; rows can be made in parts."""
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--shard", type=str | None, default=None, help="k/n: only part k of n; jobs of one folder are merged"
        )

    def own_callbacks(self) -> list[Callback]:
        """The record writer and the progress line."""
        self.writer = self.build_writer()
        quiet = self.config_init.trainer.enable_progress_bar is False
        return [self.writer] if quiet else [self.writer, EvaluationProgress()]

    def header(self, kind: Kind) -> RecordHeader:
        """What every record file of the run begins with."""
        parents = self.parents()
        sha256 = parents[0]["sha256"] if parents else None
        return RecordHeader(kind=kind, config=self.settings, checkpoint_sha256=sha256, seed=self.config.seed)

    def run(self) -> None:
        """Evaluate what is not recorded yet; rank 0 then merges all records of the folder into the report."""
        leader = self.trainer.is_global_zero
        if leader:
            save_config(self.folder, self.resolved)
            write_lineage(self.folder, self.job, self.settings, [*self.parents(), *parents_in(self.settings)])
            log_config(runs_of(self.trainer), self.resolved)
        # A finished run, or a rank beyond the last batch, has nothing to load: no fault.
        warnings.filterwarnings("ignore", message="Total length of `DataLoader` across ranks is zero.*")
        self.trainer.predict(self.task, datamodule=self.data, return_predictions=False)
        self.trainer.strategy.barrier("records are written")
        if not leader:
            return
        # Of processes that end together, shards or not, the one that reports last must have read the rows of all.
        with locked(self.folder / "report.lock"):
            if self.report()["complete"]:
                self.writer.clean()

    @abstractmethod
    def build_writer(self) -> RecordWriter:
        """What is kept of a batch."""

    @abstractmethod
    def report(self) -> Mapping[str, Any]:
        """Merge, summarise, draw and log, on rank 0 only; returns what report.json says."""
