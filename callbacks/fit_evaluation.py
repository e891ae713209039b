"""What the evaluations inside fit share: when they run, on which images, and that training does not notice.

Shapes: B images of a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, Subset

from callbacks.selection import Selection, images_a_batch
from callbacks.tasks import EvaluationTask


class FitEvaluation(Callback, ABC):
    """Evaluates a subset every n epochs after validation and logs scalars through the module's logger.

    Images are dealt out to the ranks one by one; sums are taken over all ranks.

    Args:
        every_n_epochs: evaluate after every n-th epoch.
        images: which images.
        batch_size: rows worked on together.
    """

    def __init__(self, every_n_epochs: int, images: Selection, batch_size: int) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.every_n_epochs, self.images, self.batch_size = every_n_epochs, images, batch_size

    @abstractmethod
    def start(self, module: LightningModule, num_classes: int) -> EvaluationTask:
        """Make the task that takes the batches."""

    @abstractmethod
    def count(self, prediction: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Sum up a batch: additive numbers."""

    @abstractmethod
    def scalars(self, sums: Mapping[str, float], images: int) -> dict[str, float]:
        """Turn the sums over all images into what is logged."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate when it is time to."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ValueError(
                f"{type(self).__name__} takes its images from the datamodule: call trainer.fit with datamodule="
            )
        dataset = data.dataset(self.images.split)
        places = self.images.places(len(dataset))
        mine = Subset(dataset, places[trainer.global_rank :: trainer.world_size])
        sums: dict[str, float] = {}
        with evaluating(pl_module):
            task = self.start(pl_module, data.num_classes)
            size = images_a_batch(self.batch_size, task.rows_an_image)
            for batch in DataLoader(dataset=mine, batch_size=size) if len(mine) else ():
                placed = {name: value.to(pl_module.device) for name, value in batch.items()}
                for name, value in self.count(task.predict_step(placed, 0), batch).items():
                    sums[name] = sums.get(name, 0.0) + value
        for name, value in self.scalars(self._over_ranks(trainer, sums), len(places)).items():
            # Every rank logs the same number, already summed over ranks.
            pl_module.log(name, value, batch_size=len(places), sync_dist=trainer.world_size > 1)

    def _over_ranks(self, trainer: Trainer, sums: dict[str, float]) -> dict[str, float]:
        names = self.sum_names
        local = torch.tensor(
            [sums.get(name, 0.0) for name in names], dtype=torch.float64, device=trainer.strategy.root_device
        )
        total = trainer.strategy.reduce(local, reduce_op="sum")
        return dict(zip(names, total.tolist(), strict=True))

    @property
    @abstractmethod
    def sum_names(self) -> list[str]:
        """Names of the sums, the same on ranks without images."""


@contextmanager
def evaluating(module: LightningModule) -> Iterator[None]:
    """Put a module into eval mode; give back each submodule's mode and all random states afterwards."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    try:
        # Validation may run in inference mode, whose tensors cannot take part in a gradient (white-box attacks).
        with isolate_rng(), torch.inference_mode(False):
            module.eval()
            yield
    finally:
        for submodule, mode in modes.items():
            submodule.training = mode
