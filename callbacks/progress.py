"""A line on the terminal for a long evaluation: images (or pairs) done, rates, success so far, time left."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from callbacks.selection import EvaluationData
from callbacks.tasks import AttackTask, EvaluationTask
from zeroth.attacks import AttackResult
from zeroth.oracles import ProgressUpdate


class EvaluationProgress(Callback):
    """Shows the progress of AttackTask or CertificationTask under ``trainer.predict``; each rank counts its own share.

    Args:
        console: where to print; default the terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self.images = self.queries = self.hits = self.seen = 0
        self._began, self._start, self._word, self._rows = 0.0, 0, "", "images"

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the line; images that an earlier start recorded count as done."""
        if not trainer.is_global_zero:
            return
        data: EvaluationData = trainer.datamodule  # type: ignore[attr-defined]
        task: EvaluationTask = pl_module  # type: ignore[assignment]
        rows = task.rows_an_image
        share = range(trainer.global_rank, len(data.batches), trainer.world_size)
        total = rows * sum(len(data.batches[number]) for number in share)
        self.images = rows * sum(len(data.batches[number]) for number in share if number in data.done)
        self._began, self._start = time.perf_counter(), self.images
        self._word = "adversarial" if isinstance(pl_module, AttackTask) else "right under noise"
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rates]}"), TimeRemainingColumn())
        self._rows = "images" if rows == 1 else "pairs"
        self._bar = Progress(TextColumn(self._rows), *columns, console=self.console)
        self._task = self._bar.add_task("images", total=total, completed=self.images, rates="")
        self._bar.start()

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Listen to the batch that begins."""
        task: EvaluationTask = pl_module  # type: ignore[assignment]
        if self._bar is not None:
            task.progress = self._update

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add the batch that ended."""
        if self._bar is None:
            return
        if isinstance(outputs, AttackResult):
            hits, queries, size = int(outputs.success.sum()), int(outputs.queries.sum()), len(outputs)
        else:
            size, queries = len(outputs.prediction), int(outputs.samples.sum())
            hits = int((outputs.prediction == batch["label"].cpu()).sum())
        self.images, self.queries, self.hits, self.seen = (
            self.images + size,
            self.queries + queries,
            self.hits + hits,
            self.seen + size,
        )
        self._show(self.images, self.queries, self.hits, self.seen)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the line."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the terminal usable."""
        self._stop()

    def _update(self, now: ProgressUpdate) -> None:
        done = now.finished
        self._show(self.images + done, self.queries + now.queries, self.hits + now.successes, self.seen + done)

    def _show(self, images: int, queries: int, hits: int, seen: int) -> None:
        if self._bar is not None:
            seconds = time.perf_counter() - self._began
            rates = rates_text(images - self._start, queries, hits, seen, self._word, seconds, self._rows)
            self._bar.update(self._task, completed=images, rates=rates)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def rates_text(images: int, queries: int, hits: int, seen: int, word: str, seconds: float, rows: str) -> str:
    """Tell images/s, queries/s and the hits so far, e.g. "12 of 30 adversarial"."""
    seconds = max(seconds, 1e-9)
    return f"{images / seconds:.1f} {rows}/s, {queries / seconds:,.0f} queries/s, {hits} of {seen} {word}"
