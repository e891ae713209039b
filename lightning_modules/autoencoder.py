"""Training of an autoencoder: the first stage of ZO-AE-DS (Zhang et al., ICLR 2022, sect. 4)."""

from typing import ClassVar

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.image import PeakSignalNoiseRatio
from torchmetrics.regression import MeanSquaredError

from lightning_modules.image_regression import ImageRegression
from lightning_modules.system import Job


class Autoencoder(ImageRegression):
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

    def figures(self) -> dict[str, Metric]:
        """See :class:`ImageRegression`."""
        return {"mse": MeanSquaredError(), "psnr": PeakSignalNoiseRatio(data_range=1.0)}

    @property
    def monitor(self) -> str:
        """See :class:`System`."""
        return "val_mse"

    def wanted(self, batch: dict[str, Tensor]) -> Tensor:
        """The images themselves."""
        return batch["image"]

    def report(self, start: str, answers: Tensor, batch: dict[str, Tensor]) -> None:
        """See :class:`ImageRegression`."""
        for name in ("mse", "psnr"):
            metric = getattr(self, start + name)
            metric(answers, batch["image"])
            self.log(start + name, metric, prog_bar=name == "mse", batch_size=len(answers))
