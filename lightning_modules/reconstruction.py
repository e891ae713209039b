"""A reconstructor of measured images, and its defense through queries alone (ZO-AE-DS, Zhang et al., sect. 5.3).

Shapes: B images of C x H x W pixels, as measured and as they were.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchmetrics import Metric
from torchmetrics.aggregation import MeanMetric
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.regression import mean_squared_error

from lightning_modules.box_answers import ask_all
from lightning_modules.denoised_smoothing import DenoisedSmoothing
from lightning_modules.image_regression import ImageRegression
from lightning_modules.system import Job, System
from zeroth.oracles import ImageGradientOracle, ImageOracle, Oracle

ERRORS = ("rmse", "ssim")


def image_errors(answers: Tensor, originals: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean squared error and structural similarity of each answer (B, C, H, W) with the true image, both (B,).

    The paper's RMSE is the mean of the first over the images, not the root of the mean of all squares. The similarity
    has torchmetrics' Gaussian window of sigma 1.5, for pixels that span 1.
    """
    # Pixels by images: an output of its own an image.
    rmse = mean_squared_error(answers.flatten(1).T, originals.flatten(1).T, squared=False, num_outputs=len(answers))
    ssim = structural_similarity_index_measure(answers, originals, data_range=1.0, reduction="none")
    return rmse.reshape(-1), torch.as_tensor(ssim).reshape(-1)


def originals_of(batch: dict[str, Tensor]) -> Tensor:
    """The true images (B, C, H, W) of a batch of measured ones.

    Raises:
        ValueError: it has none.
    """
    if "original" not in batch:
        raise ValueError(
            "these images were not measured, so there is nothing to reconstruct (a batch has no 'original'): choose "
            "data whose items have both, such as MeasuredMNIST"
        )
    return batch["original"]


class Reconstruction(ImageRegression):
    """A network trained to recover images from what a measurement leaves of them, by their mean squared error.

    It takes the back-projections of the measurements in [0, 1], ``image`` of a batch, and answers the images,
    ``original``: data such as :class:`~datamodules.MeasuredMNIST`. A defense takes its checkpoint as a
    :class:`~zeroth.networks.CheckpointReconstructor`.

    Logged (and so usable as a checkpoint's monitor): train_loss; val_rmse, val_ssim, test_rmse and test_ssim, the means
    of :func:`image_errors`.

    Args:
        network: images (B, C, H, W) in [0, 1] -> images of the same shape, e.g. an
            :class:`~zeroth.networks.MNISTReconstructor`.
        optimizer: parameters -> optimizer.
        lr_scheduler: optimizer -> schedule; None keeps the learning rate.
        lr_interval: what one tick of the schedule is, an epoch or a step.

    Raises:
        ValueError: the data's images were not measured.
        FloatingPointError: a training loss is not finite.
    """

    job: ClassVar[Job] = "train-victim"

    def figures(self) -> dict[str, Metric]:
        """See :class:`ImageRegression`."""
        return {name: MeanMetric() for name in ERRORS}

    @property
    def monitor(self) -> str:
        """See :class:`System`."""
        return "val_rmse"

    def wanted(self, batch: dict[str, Tensor]) -> Tensor:
        """The images that were measured."""
        return originals_of(batch)

    def report(self, start: str, answers: Tensor, batch: dict[str, Tensor]) -> None:
        """See :class:`ImageRegression`."""
        _log_errors(self, start, answers, batch)


class DenoisedReconstruction(DenoisedSmoothing):
    r"""A denoiser, and the encoder behind it, trained so that a reconstructor answers noisy inputs as it does clean
    ones.

    .. math:: \min_\theta \; w \, E \|D_\theta(x + \delta) - x\|^2 + \gamma \, E \|R(x + \delta) - f(x)\|^2,
        \qquad \delta \sim N(0, \sigma^2 I)

    both terms as means over pixels. x is what the box f takes, the back-projection of a measurement in [0, 1], not the
    image that was measured: the noise is added to x, unclipped, behind the measurement and before the denoiser, and
    R = f o decoder o encoder o denoiser. f(x) is the box's own answer to the clean x, asked once; the true image has
    no part in the training. Attacks enter where the noise does: they move x in an l_2 ball
    (:func:`~zeroth.defenses.reconstruction_attack.reconstruction_pgd`). The denoiser and the autoencoder see
    back-projections alone, so the autoencoder is one that was trained on them.

    FO-DS, ZO-DS, FO-AE-DS and ZO-AE-DS differ as in :class:`DenoisedSmoothing`, by ``autoencoder`` and ``estimator``.

    Logged: train_loss, train_denoising, train_stability and queries as there, val_mse of the denoiser, val_noisy_rmse
    and val_noisy_ssim of the defended box against the true images, for one draw of noise an image; for the test split
    also test_rmse and test_ssim, without noise.

    Args: those of :class:`DenoisedSmoothing`, but ``output`` has no meaning here, and ``victim`` is a module, images in
    [0, 1] -> images, e.g. a :class:`~zeroth.networks.CheckpointReconstructor`.

    Raises:
        ValueError, VictimError, FloatingPointError: as there; or the data's images were not measured.
    """

    def figures(self) -> dict[str, Metric]:
        """See :class:`DenoisedSmoothing`."""
        return {name: MeanMetric() for name in ERRORS}

    @property
    def monitor(self) -> str:
        """See :class:`System`."""
        return "val_noisy_rmse" if self.stability_weight > 0 else "val_mse"

    @property
    def monitor_mode(self) -> Literal["max", "min"]:
        """See :class:`System`."""
        return "min"

    def build_box(self, device: torch.device) -> Oracle:
        """See :class:`DenoisedSmoothing`."""
        kind = ImageOracle if self.estimator is not None else ImageGradientOracle
        return kind(self.defense.box, max_batch=self.max_batch, device=device, clamp=False)

    def ask_targets(self, data: Dataset[Any]) -> Tensor:
        """Return the box's answers to a split's inputs, (largest dataset index + 1, C, H, W)."""
        return ask_all(ImageOracle(self.defense.box, max_batch=self.max_batch, device=self.device), data, self)

    def loss_of(self, answers: Tensor, targets: Tensor) -> Tensor:
        """What is stable where it is small, (N,): the squared error of answers (N, C, H, W), a mean over pixels."""
        return (answers - targets).square().flatten(1).mean(1)

    def report(self, start: str, answers: Tensor, batch: dict[str, Tensor]) -> None:
        """See :class:`DenoisedSmoothing`."""
        _log_errors(self, start, answers, batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the box's answers of the images that are trained on alone: the whole table may be many times that."""
        super().on_save_checkpoint(checkpoint)
        if (table := checkpoint["defense"]["targets"]) is not None:
            rows = (table != -1).flatten(1).any(1).nonzero()[:, 0]  # -1 stands where no image was asked
            checkpoint["defense"]["targets"] = {"size": len(table), "rows": rows, "answers": table[rows]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See :meth:`on_save_checkpoint`."""
        super().on_load_checkpoint(checkpoint)
        if isinstance(held := self._targets, dict):
            self._targets = torch.full((held["size"], *held["answers"].shape[1:]), -1.0)
            self._targets[held["rows"]] = held["answers"]


def _log_errors(module: System, start: str, answers: Tensor, batch: dict[str, Tensor]) -> None:
    """Log the errors of answers (B, C, H, W) under names with a common start."""
    for name, errors in zip(ERRORS, image_errors(answers, originals_of(batch)), strict=True):
        metric = getattr(module, start + name)
        metric(errors)
        module.log(start + name, metric, prog_bar=name == "rmse", batch_size=len(answers))
