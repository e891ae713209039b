"""Training of an autoencoder: the first stage of ZO-AE-DS (Zhang et al., ICLR 2022, sect. 4)."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.regression import MeanSquaredError

from lightning_modules.classifier import check_fit
from lightning_modules.system import Job, System


class Autoencoder(System):
    r"""An autoencoder trained to give back clean images, by gradients: no box is asked.

    .. math:: \min_{\theta} \; E_x \|\phi_{Dec}(\psi_{Enc}(x)) - x\|_2^2

    as a mean over pixels. A :class:`~lightning_modules.DenoisedSmoothing` takes its checkpoint as a
    :class:`~zeroth.networks.CheckpointAutoencoder`.

    Logged (and so usable as a checkpoint's monitor): train_loss, val_mse, val_psnr, test_mse, test_psnr; the PSNR in dB
    of pixels in [0, 1], from the mean error of all images.

    Args:
        network: images (B, C, H, W) in [0, 1] -> images of the same shape, e.g. a
            :class:`~zeroth.networks.MNISTAutoencoder`.
        optimizer: parameters -> optimizer; paper Adam at 1e-3.
        lr_scheduler: optimizer -> schedule; None keeps the learning rate.
        lr_interval: what one tick of the schedule is, an epoch or a step.

    Raises:
        FloatingPointError: a training loss is not finite.
    """

    job: ClassVar[Job] = "train-autoencoder"

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
            setattr(self, f"{split}_mse", MeanSquaredError())
            setattr(self, f"{split}_psnr", PeakSignalNoiseRatio(data_range=1.0))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as they come back."""
        return self.network(images)

    def setup(self, stage: str) -> None:
        check_fit(self.network, getattr(self.trainer, "datamodule", None))

    @property
    def monitor(self) -> str:
        """See :class:`System`."""
        return "val_mse"

    @property
    def monitor_mode(self) -> Literal["max", "min"]:
        """See :class:`System`."""
        return "min"

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.mse_loss(self(batch["image"]), batch["image"])
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["image"]))
        self.watch(loss, batch, batch_idx)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Images (B, C, H, W) as they come back."""
        return self(batch["image"])

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> None:
        images = batch["image"]
        back = self(images)
        for name in (f"{split}_mse", f"{split}_psnr"):
            metric = getattr(self, name)
            metric(back, images)
            self.log(name, metric, prog_bar=name.endswith("mse"), batch_size=len(images))
