"""What systems share whose network answers images by images, and is trained towards known ones."""

from abc import abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_modules.classifier import check_fit
from lightning_modules.system import System


class ImageRegression(System):
    """Trains a network of images to images by the mean squared error of its answers; a subclass says towards what.

    Args:
        network: images (B, C, H, W) in [0, 1] -> images of the same shape.
        optimizer: parameters -> optimizer.
        lr_scheduler: optimizer -> schedule; None keeps the learning rate.
        lr_interval: what one tick of the schedule is, an epoch or a step.

    Raises:
        FloatingPointError: a training loss is not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__(optimizer=optimizer, lr_scheduler=lr_scheduler, lr_interval=lr_interval)
        self.save_hyperparameters()
        self.network = network
        for split in ("val", "test"):
            for name, metric in self.figures().items():
                setattr(self, f"{split}_{name}", metric)

    @abstractmethod
    def figures(self) -> dict[str, Metric]:
        """What the answers to a split come to, by the ends of the names that it is logged under."""

    @abstractmethod
    def wanted(self, batch: dict[str, Tensor]) -> Tensor:
        """The images (B, C, H, W) that a batch should be answered by."""

    @abstractmethod
    def report(self, start: str, answers: Tensor, batch: dict[str, Tensor]) -> None:
        """Log what the answers to a batch come to, under names with a common start."""

    def forward(self, images: Tensor) -> Tensor:
        """The network's answers (B, C, H, W) to images (B, C, H, W) in [0, 1]."""
        return self.network(images)

    def setup(self, stage: str) -> None:
        check_fit(self.network, getattr(self.trainer, "datamodule", None))

    @property
    def monitor_mode(self) -> Literal["max", "min"]:
        """See :class:`System`."""
        return "min"

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.mse_loss(self(batch["image"]), self.wanted(batch))
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["image"]))
        self.watch(loss, batch, batch_idx)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.report("val_", self(batch["image"]), batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.report("test_", self(batch["image"]), batch)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The network's answers (B, C, H, W)."""
        return self(batch["image"])
