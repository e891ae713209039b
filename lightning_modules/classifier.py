"""Training of a victim: cross-entropy on clean or on noisy images."""

from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.system import System


def check_fit(network: object, data: object, num_classes: int | None = None) -> None:
    """See that a network takes the images and tells the classes of a datamodule, as far as both tell about themselves.

    Args:
        network: may have image_shape (C, H, W) and num_classes.
        data: likewise.
        num_classes: K of the network where it is known from elsewhere.

    Raises:
        ValueError: they differ.
    """
    num_classes = getattr(network, "num_classes", None) if num_classes is None else num_classes
    shapes = (getattr(data, "image_shape", None), getattr(network, "image_shape", None))
    # A list, as files of settings hold it, is as good as a tuple.
    given_shape, expected_shape = (None if shape is None else tuple(shape) for shape in shapes)
    given_classes = getattr(data, "num_classes", None)
    for name, given, expected, remedy in (
        ("num_classes", given_classes, num_classes, "choose other data, or a network with as many classes"),
        ("image_shape", given_shape, expected_shape, "choose other data, or a network for such images"),
    ):
        if given is not None and expected is not None and given != expected:
            raise ValueError(
                f"{type(data).__name__} has {name} {given}, but {type(network).__name__} has {expected}: {remedy}"
            )


class Classifier(System):
    """A network trained by cross-entropy to tell K classes apart.

    With noise_sigma > 0 it trains on x + N(0, sigma^2 I), unclipped: the "RS" baseline of Cohen et al. (ICML 2019) and
    of ZO-AE-DS (Zhang et al., ICLR 2022). The checkpoint then holds the noise-trained network itself.

    Logged (and so usable as a checkpoint's monitor): train_loss, train_accuracy, val_loss, val_accuracy, test_loss,
    test_accuracy; with noise also val_noisy_accuracy and test_noisy_accuracy. Losses are of the training kind (noisy
    with noise, smoothed with smoothing); val_accuracy and test_accuracy are always on clean images.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K).
        num_classes: K; null reads it from the network's attribute num_classes.
        label_smoothing: weight of the uniform distribution in the training target, in [0, 1).
        noise_sigma: standard deviation of the training noise, in [0, 1] pixels; 0 for none.
        compile: compile the network by torch.compile when the Trainer takes it up.
        optimizer: parameters -> optimizer.
        lr_scheduler: optimizer -> schedule; null keeps the learning rate.
        lr_interval: what one tick of the schedule is, an epoch or a step (OneCycleLR counts steps).

    Raises:
        ValueError: an argument is out of range, or num_classes is not given and the network does not tell it.
        FloatingPointError: a training loss is not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        noise_sigma: float = 0.0,
        compile: bool = False,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__(optimizer=optimizer, lr_scheduler=lr_scheduler, lr_interval=lr_interval)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if not noise_sigma >= 0:
            raise ValueError(f"noise_sigma must be 0 or more, got {noise_sigma}")
        if num_classes is None:
            num_classes = getattr(network, "num_classes", None)
            if num_classes is None:
                raise ValueError(f"{type(network).__name__} does not tell its number of classes: give num_classes")
        self.save_hyperparameters()
        self.network = network
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.noise_sigma = noise_sigma
        self.compile_network = compile

        accuracy = MulticlassAccuracy(num_classes=num_classes, average="micro")
        self.train_accuracy = accuracy.clone()
        self.val_accuracy = accuracy.clone()
        self.test_accuracy = accuracy.clone()
        if noise_sigma > 0:
            self.val_noisy_accuracy = accuracy.clone()
            self.test_noisy_accuracy = accuracy.clone()
        self._compiled = False

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        return self.network(images)

    def setup(self, stage: str) -> None:
        check_fit(self.network, getattr(self.trainer, "datamodule", None), self.num_classes)
        if self.compile_network and not self._compiled:
            self.network.compile()  # in place: the names in the state_dict stay the same
            self._compiled = True

    @property
    def monitor(self) -> str:
        """The logged figure by which the best checkpoint is chosen: the accuracy on the kind of images trained on."""
        return "val_noisy_accuracy" if self.noise_sigma > 0 else "val_accuracy"

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits, loss = self._answer(batch, noisy=self.noise_sigma > 0)
        self.train_accuracy(logits, batch["label"])
        self.log("train_loss", loss, prog_bar=True, batch_size=len(logits))
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True, batch_size=len(logits))
        self.watch(loss, batch, batch_idx)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Logits (B, K)."""
        return self(batch["image"])

    def _answer(self, batch: dict[str, Tensor], *, noisy: bool) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the mean loss of a batch, of the images themselves or with noise added to them."""
        images = batch["image"]
        if noisy:
            images = images + self.noise_sigma * torch.randn_like(images)
        logits = self(images)
        return logits, F.cross_entropy(logits, batch["label"], label_smoothing=self.label_smoothing)

    def _evaluate(self, batch: dict[str, Tensor], split: str) -> None:
        logits, loss = self._answer(batch, noisy=False)
        accuracies = {f"{split}_accuracy": logits}
        if self.noise_sigma > 0:
            accuracies[f"{split}_noisy_accuracy"], loss = self._answer(batch, noisy=True)
        for name, answer in accuracies.items():
            metric = getattr(self, name)
            metric(answer, batch["label"])
            self.log(name, metric, prog_bar=True, batch_size=len(logits))
        self.log(f"{split}_loss", loss, batch_size=len(logits), sync_dist=True)
