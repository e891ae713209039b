"""Rows on disk as batches end; a killed run goes on: recorded batches are skipped, a broken one is replayed."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter

from callbacks.pieces import query_marks, save_piece
from callbacks.selection import EvaluationData, shard_numbers
from callbacks.tasks import AttackTask, EvaluationTask
from zeroth.attacks import AttackResult
from zeroth.oracles import Journal
from zeroth.records.reading import done_keys, merge_records, record_path
from zeroth.records.rows import Key, index_of, key_of
from zeroth.records.schema import AttackRecord, CertificateRecord, RecordHeader
from zeroth.records.store import RecordFile
from zeroth.smoothing import Certificate


class RecordWriter(BasePredictionWriter, ABC):
    """Appends the rows of each image to this rank's file in the run folder; keeps a journal while a batch is asked.

    Args:
        folder: the run folder.
        header: what each record file begins with; a file with another one is refused.
    """

    def __init__(self, folder: Path, header: RecordHeader) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.header = folder, header
        self.number = -1
        self._recorded: set[Key] = set()
        self._numbers: Iterator[int] = iter(())
        self._file: RecordFile | None = None

    @abstractmethod
    def rows(self, prediction: Any, batch: Mapping[str, torch.Tensor]) -> Sequence[AttackRecord | CertificateRecord]:
        """The rows of a batch, in its order."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the record file and mark the batches that earlier starts finished; the images are set up by now."""
        task: EvaluationTask = pl_module  # type: ignore[assignment]
        data: EvaluationData = trainer.datamodule  # type: ignore[attr-defined]
        shard = None if data.shard is None else shard_numbers(data.shard)
        self._file = RecordFile(
            record_path(self.folder, self.header.kind, rank=trainer.global_rank, shard=shard), self.header
        )
        self._recorded = done_keys(self.folder, self.header)
        rows = Counter(map(index_of, self._recorded))
        data.done = {
            number
            for number, indices in enumerate(data.batches)
            if all(rows[index] == task.rows_an_image for index in indices)
        }
        self._numbers = iter(data.mine())

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Open the journal of the fixed batch that begins: it answers what an earlier start has asked already."""
        task: EvaluationTask = pl_module  # type: ignore[assignment]
        data: EvaluationData = trainer.datamodule  # type: ignore[attr-defined]
        self.number = next(self._numbers)
        if task.keeps_journal:
            path = self.folder / "journal" / f"{data.key(self.number)}.journal"
            task.journal = Journal.open(path, fingerprint=self.header.to_dict())

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append the rows that an earlier start has not recorded yet, then drop the journal."""
        for row in self.rows(prediction, batch):
            if key_of(row, self.header) not in self._recorded and self._file is not None:
                self._file.append(row)
        if (journal := self._close_journal(pl_module)) is not None:
            journal.path.unlink(missing_ok=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close what is open; the journal of an unfinished batch stays on disk."""
        self._close_journal(pl_module)
        if self._file is not None:
            self._file.close()
            self._file = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """As teardown."""
        self.teardown(trainer, pl_module, "predict")

    def clean(self) -> None:
        """Delete what the journals of a run left whose images are all recorded.

        Those are batches killed between their last row and the journal's end, and batches that a later start cut
        otherwise, by another batch size or shard.
        """
        folder = self.folder / "journal"
        for path in folder.glob("*.journal"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not there, or holds files of somebody else
            folder.rmdir()

    @staticmethod
    def _close_journal(module: LightningModule) -> Journal | None:
        task: EvaluationTask = module  # type: ignore[assignment]
        journal, task.journal = task.journal, None
        if journal is not None:
            journal.close()
        return journal


class AttackRecordWriter(RecordWriter):
    """Rows, curves and, if wanted, adversarial images of an attack.

    Args:
        folder: the run folder.
        header: what each record file begins with.
        save_adversarial: keep every adversarial image.
    """

    def __init__(self, folder: Path, header: RecordHeader, *, save_adversarial: bool = False) -> None:
        super().__init__(folder, header)
        self.save_adversarial = save_adversarial

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """As :class:`RecordWriter`; under a cap on all queries, what the finished batches have spent is gone."""
        super().setup(trainer, pl_module, stage)
        task: AttackTask = pl_module  # type: ignore[assignment]
        data: EvaluationData = trainer.datamodule  # type: ignore[attr-defined]
        if task.total_queries is not None and data.done:
            rows = merge_records(self.folder, "attack")
            ended = rows["index"].isin([index for number in data.done for index in data.batches[number]])
            task.spent = int(rows.loc[ended, "queries"].sum())

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: AttackResult, *rest: Any
    ) -> None:
        """Keep curves and pictures first, so that a recorded row always has them; then as :class:`RecordWriter`."""
        task: AttackTask = pl_module  # type: ignore[assignment]
        data: EvaluationData = trainer.datamodule  # type: ignore[attr-defined]
        marks = query_marks(task.budget)
        save_piece(self.folder, data.key(self.number), prediction, marks, adversarial=self.save_adversarial)
        super().write_on_batch_end(trainer, pl_module, prediction, *rest)

    def rows(self, prediction: AttackResult, batch: Mapping[str, torch.Tensor]) -> list[AttackRecord]:
        """See :class:`RecordWriter`."""
        columns: dict[str, list[Any]] = {
            "index": prediction.indices.tolist(),
            "label": prediction.labels.tolist(),
            "target": [None] * len(prediction) if prediction.targets is None else prediction.targets.tolist(),
            "predicted": prediction.predicted.tolist(),
            "success": prediction.success.tolist(),
            "queries": prediction.queries.tolist(),
            "queries_to_success": prediction.queries_to_success.tolist(),
            **{name: values.tolist() for name, values in prediction.norms().items()},
            "seconds": prediction.seconds.tolist(),
            # A minimum-norm attack goes on after its first success: it ends by its budget, and has not failed.
            "fail_reason": [
                "" if won else reason
                for won, reason in zip(prediction.success.tolist(), prediction.reason, strict=True)
            ],
        }
        return [AttackRecord(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


class CertificationRecordWriter(RecordWriter):
    """Cohen's rows of a certification."""

    def rows(self, prediction: Certificate, batch: Mapping[str, torch.Tensor]) -> list[CertificateRecord]:
        """See :class:`RecordWriter`."""
        columns = (batch["index"], batch["label"], prediction.prediction, prediction.radius, prediction.seconds)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [
            CertificateRecord(
                idx=index, label=label, predict=predict, radius=radius, correct=predict == label, time=seconds
            )
            for index, label, predict, radius, seconds in rows
        ]
