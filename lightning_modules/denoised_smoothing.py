"""Denoised smoothing of a black box, trained by gradients or through queries alone (ZO-AE-DS).

Shapes: B images of C x H x W pixels, d numbers that the box is asked by (d_z behind a decoder), Q queries, K classes.
"""

from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.regression import MeanSquaredError

from lightning_modules.box_answers import ask_all
from lightning_modules.classifier import check_fit
from lightning_modules.epoch_order import EpochOrder, epoch_streams
from lightning_modules.hyperparameters import describe
from lightning_modules.system import Job, System
from zeroth.defenses import DenoisedModel
from zeroth.estimators import Estimator, box_loss
from zeroth.networks import CheckpointAutoencoder, CheckpointDenoiser
from zeroth.oracles import GradientOracle, ImageStreams, Oracle, Output, ScoreOracle

Trained = Literal["denoiser", "encoder", "autoencoder"]
REPORTED = {"val": ["val_noisy_"], "test": ["test_noisy_", "test_"]}  # what the figures of a split begin with


class DenoisedSmoothing(System):
    r"""A denoiser, and the encoder behind it, trained so that the box answers noisy images as it does clean ones.

    .. math:: \min_\theta \; w \, E \|D_\theta(x + \delta) - x\|^2 + \gamma \, E \, \ell_{CE}(R(x + \delta), f(x)),
        \qquad \delta \sim N(0, \sigma^2 I)

    (Zhang et al., ICLR 2022, eq. 2, the first term as a mean over pixels), where f(x) is the box's own label of the
    clean image and R = box o decoder o encoder o denoiser (eq. 6). What ``estimator`` says is the whole difference
    between the methods: None takes the box's true gradient (FO-DS; FO-AE-DS with an autoencoder), RGE or CGE take
    queries alone (ZO-DS; ZO-AE-DS), eq. 8. All of them ask through an oracle, which counts.

    The decoder belongs to the box: it is frozen, but for ``trained="autoencoder"``. Noise is not clipped. The box's
    labels of the training images, without their augmentation, are asked once, when training begins.

    Logged: train_loss, train_denoising, train_stability, queries (so far: labels, training, validation), val_mse of the
    denoiser, val_noisy_accuracy (of the defended box, against the true labels), and for the test split also
    test_accuracy, without noise. A kill loses the epoch that it falls into, and its queries.

    Args:
        denoiser: images -> images of the same shape, e.g. a DnCNN, or a CheckpointDenoiser to train on.
        victim: the box: a module, images in [0, 1] -> scores (N, K), e.g. a CheckpointClassifier or an HTTPVictim.
        autoencoder: trained, with ``encoder`` and ``decoder``, e.g. a CheckpointAutoencoder.
        estimator: of the box's gradient, an RGE or CGE; None for the true gradient. Paper mu .005.
        sigma: standard deviation of the noise, [0, 1] pixels; the paper's figures fit .25.
        denoising_weight: w; 0 leaves the term out.
        stability_weight: gamma; 0 asks the box nothing, which pre-trains the denoiser. The paper gives no gamma.
        trained: the denoiser alone, also the encoder (paper), or also the decoder (with the true gradient).
        train_images: how many are trained on, drawn by the seed; None for all.
        budget: most queries; training ends before an epoch that would ask more. None for no bound.
        max_batch: largest batch the box is asked at once; bounds the memory. None for the oracle's.
        output: what the box's scores are.
        seed: decides noise, directions and the order of images, epoch by epoch.
        optimizer: parameters -> optimizer; paper Adam at 1e-3, ZO-DS at 1e-4.
        lr_scheduler: optimizer -> schedule; None keeps the learning rate.
        lr_interval: what one tick of the schedule is, an epoch or a step.

    Raises:
        ValueError: an argument is out of range, parts do not fit each other or the data, or the budget is too small.
        VictimError: the box answers other scores than declared.
        FloatingPointError: a training loss is not finite.
    """

    job: ClassVar[Job] = "train-defense"

    def __init__(
        self,
        denoiser: nn.Module,
        victim: nn.Module,
        *,
        autoencoder: nn.Module | None = None,
        estimator: Estimator | None = None,
        sigma: float = 0.25,
        denoising_weight: float = 1.0,
        stability_weight: float = 1.0,
        trained: Trained = "encoder",
        train_images: int | None = None,
        budget: int | None = None,
        max_batch: int | None = None,
        output: Output = "logits",
        seed: int = 0,
        optimizer: OptimizerCallable = torch.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__(optimizer=optimizer, lr_scheduler=lr_scheduler, lr_interval=lr_interval)
        for field, value in (("denoising_weight", denoising_weight), ("stability_weight", stability_weight)):
            if not value >= 0:
                raise ValueError(f"{field} must be 0 or more, got {value}")
        if denoising_weight == stability_weight == 0:
            raise ValueError("denoising_weight and stability_weight are both 0: set one, or there is nothing to train")
        if not sigma > 0:
            raise ValueError(f"sigma must be > 0 in [0, 1] pixels, got {sigma}")
        if trained not in get_args(Trained):
            raise ValueError(f"trained must be one of {', '.join(get_args(Trained))}, got {trained!r}")
        if trained == "autoencoder" and (estimator is not None or autoencoder is None):
            raise ValueError("trained='autoencoder' needs an autoencoder and the box's true gradient (estimator: null)")
        for field, most in (("train_images", train_images), ("budget", budget)):
            if most is not None and most < 1:
                raise ValueError(f"{field} must be at least 1 or null, got {most}")
        self.save_hyperparameters()
        # Of a network read from a file the network itself is kept: its names in the state_dict stay the same.
        own = denoiser.network if isinstance(denoiser, CheckpointDenoiser) else denoiser
        encoding = autoencoder.network if isinstance(autoencoder, CheckpointAutoencoder) else autoencoder
        self.defense = DenoisedModel(own, victim.eval(), encoding)
        self.estimator, self.sigma, self.trained = estimator, sigma, trained
        self.defense.freeze({"denoiser": ["encoder", "decoder"], "encoder": ["decoder"], "autoencoder": []}[trained])
        self.denoising_weight, self.stability_weight = denoising_weight, stability_weight
        self.train_images, self.budget, self.max_batch = train_images, budget, max_batch
        self.output, self.seed = output, seed
        self.num_classes, self.image_shape = self.defense.num_classes, self.defense.image_shape
        self.build_metrics()
        self._box: Oracle | None = None
        self._targets: Tensor | None = None  # by dataset index: what the box answers to the clean training image
        self._asked_before = 0  # queries of earlier starts, and those for the targets, over all processes
        self._counts = False  # whether what the box is asked now are queries of the defender: those of a test are not

    def build_metrics(self) -> None:
        """Make what validation and test report."""
        for split, starts in REPORTED.items():
            setattr(self, f"{split}_mse", MeanSquaredError())
            for start in starts:
                for name, metric in self.figures().items():
                    setattr(self, start + name, metric)

    def figures(self) -> dict[str, Metric]:
        """What the box's answers to a split come to, by the ends of the names that it is logged under."""
        return {"accuracy": MulticlassAccuracy(num_classes=self.num_classes or 10, average="micro")}

    def forward(self, images: Tensor) -> Tensor:
        """What the defended box answers to images (B, C, H, W)."""
        return self.defense(images)

    @property
    def queries(self) -> int:
        """Images asked of the box so far: for the targets, in training and in validation, by all processes alike."""
        return self._asked_before + (self._box.queries * self.trainer.world_size if self._box and self._counts else 0)

    @property
    def monitor(self) -> str:
        """See :class:`System`."""
        return "val_noisy_accuracy" if self.stability_weight > 0 else "val_mse"

    @property
    def monitor_mode(self) -> Literal["max", "min"]:
        """See :class:`System`."""
        return "min" if self.monitor == "val_mse" else "max"

    def training_data(self, data: Any) -> EpochOrder:
        """Return what to fit on: the datamodule, its images in an order that a resumed epoch finds again."""
        return EpochOrder(data, seed=self.seed, epoch=lambda: self.current_epoch, count=self.train_images)

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and not isinstance(data, EpochOrder):
            raise ValueError("fit a defense in its own order: trainer.fit(module, module.training_data(datamodule))")
        if data is not None:
            check_fit(self, data)
            if self.num_classes is None:
                self.num_classes = getattr(data, "num_classes", None)
                self.build_metrics()
        self._asked_before, self._counts = self.queries, stage == "fit"
        self._box = self.build_box(self.trainer.strategy.root_device)  # self.device is told later

    def build_box(self, device: torch.device) -> Oracle:
        """Make the oracle that training and validation ask."""
        kind = GradientOracle if self.estimator is None else ScoreOracle
        return kind(self.defense.box, output=self.output, max_batch=self.max_batch, device=device, clamp=False)

    def on_fit_start(self) -> None:
        """Ask the box about the clean training images, unless a checkpoint has brought what it answered."""
        self._dimension = self.defense.try_out(self.trainer.datamodule.image_shape)  # type: ignore[attr-defined]
        if self.stability_weight == 0 or self._targets is not None:
            return
        data = self.trainer.datamodule.training_images(augment=False)  # type: ignore[attr-defined]
        needed = len(data) + self._epoch_queries()
        if self.budget is not None and needed > self.budget:
            raise ValueError(
                f"budget={self.budget} queries does not suffice for {len(data)} training images and one epoch, which "
                f"come to {needed}: raise it, or lower train_images, val_size or the estimator's queries"
            )
        self._targets = self.ask_targets(data)
        self._asked_before += len(data)

    def on_train_start(self) -> None:
        self._stop_if_spent()  # where a training that its budget ended is started again

    def ask_targets(self, data: Dataset[Any]) -> Tensor:
        """Return the box's labels of a split's images, (largest dataset index + 1,)."""
        box = ScoreOracle(self.defense.box, output=self.output, max_batch=self.max_batch, device=self.device)
        return ask_all(box, data, self).argmax(1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images = batch["image"]
        streams = epoch_streams(self.seed, self.current_epoch + 1, batch["index"], self.device)
        denoised = self.defense.denoise(self._noisy(images, streams))
        loss = images.new_zeros(())
        if self.denoising_weight > 0:
            error = F.mse_loss(denoised, images)
            self.log("train_denoising", error, batch_size=len(images))
            loss = loss + self.denoising_weight * error
        if self.stability_weight > 0:
            assert self._targets is not None  # asked in on_fit_start
            targets = self._targets[batch["index"].to(self._targets.device)].to(images.device)
            unstable = self._stability(denoised, targets, streams).mean()
            self.log("train_stability", unstable, prog_bar=True, batch_size=len(images))
            loss = loss + self.stability_weight * unstable
        self.log("train_loss", loss, prog_bar=True, batch_size=len(images))
        self.watch(loss, batch, batch_idx)
        return loss

    def loss_of(self, answers: Tensor, targets: Tensor) -> Tensor:
        """What is stable where it is small, (N,): the cross-entropy of log-probabilities (N, K) and labels (N,)."""
        return F.nll_loss(answers, targets, reduction="none")

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log("queries", float(self.queries))
        self._stop_if_spent()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:  # which would spend queries on nothing
            self.evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.evaluate(batch, "test")  # by an oracle of its own, see setup: these are none of the defender's queries

    def evaluate(self, batch: dict[str, Tensor], split: str) -> None:
        """Log what a split's images come to, under the noise that each of them always has."""
        images, metric = batch["image"], getattr(self, f"{split}_mse")
        denoised = self.defense.denoise(self._noisy(images, epoch_streams(self.seed, 0, batch["index"], self.device)))
        metric(denoised, images)
        self.log(f"{split}_mse", metric, batch_size=len(images))
        if self.stability_weight == 0 or self._box is None:
            return
        for start in REPORTED[split]:
            shown = denoised if start.endswith("noisy_") else self.defense.denoise(images)
            self.report(start, self._box(self.defense.decode(self.defense.compress(shown))), batch)

    def report(self, start: str, answers: Tensor, batch: dict[str, Tensor]) -> None:
        """Log what the box's answers to a batch come to, under names with a common start."""
        accuracy = getattr(self, f"{start}accuracy")
        accuracy(answers, batch["label"])
        self.log(f"{start}accuracy", accuracy, prog_bar=True, batch_size=len(answers))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        # Rebuilt without the files that the denoiser and the autoencoder once came from: the weights are here.
        settings = checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]
        for name in ("denoiser", "autoencoder"):
            if isinstance(told := settings.get(name), dict) and "checkpoint" in told.get("init_args", {}):
                settings[name] = describe(getattr(self.defense, name))
        checkpoint["defense"] = {"targets": self._targets, "queries": self.queries}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if held := checkpoint.get("defense"):
            self._targets, self._asked_before = held["targets"], held["queries"]

    def _stability(self, denoised: Tensor, targets: Tensor, streams: ImageStreams) -> Tensor:
        """The loss (B,) of what the box answers to denoised images (B, C, H, W)."""

        def loss(answers: Tensor, rows: Tensor) -> Tensor:
            return self.loss_of(answers, targets[rows])

        try:
            box, z = self._box, self.defense.compress(denoised)
            assert box is not None  # built in setup
            return box_loss(box, z, self.defense.decode, loss, self.estimator, streams.randn)
        except FloatingPointError as error:
            raise FloatingPointError(
                f"epoch {self.current_epoch}, dataset indices {streams.keys[:8]} and those of their batch: {error}"
            ) from error

    def _noisy(self, images: Tensor, streams: ImageStreams) -> Tensor:
        """Add noise to images (B, C, H, W), a draw an image."""
        return images + self.sigma * streams.randn(torch.arange(len(images)), tuple(images.shape[1:]))

    def _epoch_queries(self) -> int:
        """What an epoch asks of the box, by all processes."""
        train, val = self.trainer.datamodule.epoch_sizes(self.trainer.world_size)  # type: ignore[attr-defined]
        each = 1 if self.estimator is None else self.estimator.queries(self._dimension)
        return train * each + val if self.stability_weight > 0 else 0

    def _stop_if_spent(self) -> None:
        """End training before an epoch that the budget cannot pay for: a larger one goes on as if it had been."""
        needed = self.queries + self._epoch_queries()
        if self.budget is not None and needed > self.budget and self.stability_weight > 0:
            rank_zero_info(f"budget={self.budget}: {self.queries} queries are asked, an epoch more would be {needed}")
            self.trainer.should_stop = True
