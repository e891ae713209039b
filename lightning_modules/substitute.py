"""Training of a substitute: a network taught by a black box's labels (Papernot et al., AsiaCCS 2017, Algorithm 1).

Shapes: N images of the growing set, C x H x W pixels, K classes.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchmetrics.classification import MulticlassAccuracy

from lightning_modules.box_answers import kept
from lightning_modules.classifier import Classifier, check_fit
from zeroth.oracles import ImageStreams, LabelOracle
from zeroth.oracles.oracle import exact_float32
from zeroth.oracles.scores import name_of


def augment(network: nn.Module, images: Tensor, labels: Tensor, step: float, batch_size: int = 128) -> Tensor:
    r"""Move images to where the network's answer to their label changes most (Papernot et al. 2017, eq. 6).

    .. math:: x' = x + \lambda \, \text{sign}(\nabla_x \log p_{\tilde O(x)}(x)), \quad \text{clamped to } [0, 1]

    The sign of the gradient of log p is that of p, and does not vanish where p rounds to 1. The same on every call with
    the same weights, on a GPU too, so that a killed run makes the same images again.

    Args:
        network: images -> logits (N, K); asked in eval mode.
        images: (N, C, H, W) in [0, 1].
        labels: (N,) the box's.
        step: lambda, [0, 1] pixels.
        batch_size: images differentiated at once.

    Returns:
        (N, C, H, W).
    """
    was_training, moved = network.training, []
    device = next((held.device for held in network.parameters()), images.device)
    network.eval()
    cudnn = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True)
    with cudnn, exact_float32(device.type), torch.inference_mode(False), torch.enable_grad():
        for part, key in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            points = part.to(device, copy=True).requires_grad_()
            own = network(points).log_softmax(1).gather(1, key.to(device).unsqueeze(1))
            (gradient,) = torch.autograd.grad(own.sum(), points)
            moved.append((points.detach() + step * gradient.sign()).clamp(0, 1).to(images.device))
    network.train(was_training)
    return torch.cat(moved)


class SubstituteData(pl.LightningDataModule):
    """What a substitute is trained on, and told apart by: its own growing set, and the images of a datamodule.

    Args:
        substitute: makes the training set.
        data: datamodule with ``dataset(split)``; the first ``seeds`` images of its validation split are the seeds, the
            others validate. The training split is not looked at, the test split tests.
    """

    def __init__(self, substitute: "Substitute", data: Any) -> None:
        super().__init__()
        self.substitute, self.data = substitute, data
        self.num_classes, self.image_shape = data.num_classes, data.image_shape
        self.batch_size: int = data.batch_size

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        self.data.setup("validate" if stage == "fit" else stage)
        if (held := len(self.data.dataset("val"))) <= self.substitute.seeds:
            raise ValueError(
                f"seeds={self.substitute.seeds} leaves no images to validate by: the validation split of "
                f"{type(self.data).__name__} has {held}; lower seeds, or raise the datamodule's val_size"
            )

    def images(self, start: int, count: int) -> tuple[Tensor, list[int]]:
        """Return images (n <= count, C, H, W) of the validation split from a place on, and their dataset indices."""
        split = self.data.dataset("val")
        items = [split[place] for place in range(start, min(start + count, len(split)))]
        return torch.stack([item["image"] for item in items]), [item["index"] for item in items]

    def train_dataloader(self) -> DataLoader:
        # Lightning asks for it before each epoch: the set may have grown.
        images, labels, generator = self.substitute.labelled_set()
        # Shuffled here and not by the loader, whose order would depend on how often it was begun. The generator is for
        # the seed that a loader draws each time, else from the draws of dropout.
        order = torch.randperm(len(labels), generator=generator).tolist()
        rows: list[Any] = [{"image": images[row], "label": int(labels[row]), "index": row} for row in order]
        return DataLoader(dataset=rows, batch_size=self.batch_size, generator=generator)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader:
        split = self.data.dataset("val")
        rest = Subset(split, range(self.substitute.seeds, len(split)))
        return DataLoader(dataset=rest, batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader:
        return self.data.test_dataloader()


class Substitute(Classifier):
    """A classifier of a black box's labels, whose training set doubles by Jacobian augmentation.

    Begins with ``seeds`` images, trains ``epochs_per_round`` epochs, adds to each image the one that :func:`augment`
    makes of it, asks the box for the new labels, trains on, and so ``doublings`` times: the box answers
    seeds * 2^doublings labels, each image once. The thesis' 150 seeds and 5 augmentations are 4,800 labels and six
    rounds. The network keeps its weights from round to round, as in CleverHans' program.

    The seeds are the first images of the validation split, which neither the victim was trained on nor attacks report
    on (the thesis takes them out of the test set): give the same datamodule, with the same seed of its split, as for
    the victim. The validation images after them tell val_accuracy, and the first ``agreement`` of those val_agreement,
    the share on which the substitute answers as the box does. Those labels measure; nothing is trained or chosen by
    them, and ``queries`` does not count them.

    Fit it by train.py, or by ``trainer.fit(substitute, substitute.training_data(datamodule))`` for at least
    (doublings + 1) * epochs_per_round epochs. Labels are kept in the checkpoint, and beside it as they are asked, so
    that a killed training goes on without asking one twice, by the same steps. The victim is no part of a checkpoint.

    Logged beside a Classifier's figures: queries, train_accuracy (on the box's labels) and val_agreement.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, K); the thesis gives it the victim's layers.
        victim: the black box: a module, images in [0, 1] -> scores (N, K) or labels (N,), e.g. a CheckpointClassifier
            or an HTTPVictim; put into eval mode. None for a substitute that is loaded and not trained.
        seeds: images to begin with; thesis 150.
        doublings: how often the set doubles; thesis 5 "Jacobian augmentation epochs".
        epochs_per_round: epochs between two doublings.
        lambda_: step of the augmentation, [0, 1] pixels; thesis .1.
        budget: most labels that may be asked; None for no bound.
        agreement: most images on which the agreement is measured; 0 for none.
        num_classes: K; None reads it from the network.
        seed: decides the order of batches and the draws of dropout, epoch by epoch.
        optimizer: parameters -> optimizer.

    Raises:
        ValueError: an argument is out of range, or the labels exceed the budget.
    """

    def __init__(
        self,
        network: nn.Module,
        victim: nn.Module | None = None,
        *,
        seeds: int = 150,
        doublings: int = 5,
        epochs_per_round: int = 10,
        lambda_: float = 0.1,
        budget: int | None = None,
        agreement: int = 500,
        num_classes: int | None = None,
        seed: int = 0,
        optimizer: OptimizerCallable = torch.optim.Adam,
    ) -> None:
        for field, value, least in (
            ("seeds", seeds, 1),
            ("doublings", doublings, 0),
            ("epochs_per_round", epochs_per_round, 1),
            ("agreement", agreement, 0),
        ):
            if value < least:
                raise ValueError(f"{field} must be at least {least}, got {value}")
        if not lambda_ > 0:
            raise ValueError(f"lambda_ must be > 0 in [0, 1] pixels, got {lambda_}")
        if budget is not None and seeds * 2**doublings > budget:
            raise ValueError(
                f"budget={budget} labels, but seeds={seeds} and doublings={doublings} ask {seeds * 2**doublings} "
                "(seeds * 2^doublings): lower one of the two, or raise the budget"
            )
        super().__init__(network, num_classes=num_classes, optimizer=optimizer)
        self.seeds, self.doublings, self.epochs_per_round, self.lambda_ = seeds, doublings, epochs_per_round, lambda_
        self.budget, self.agreement, self.seed = budget, agreement, seed
        self.val_agreement = MulticlassAccuracy(num_classes=self.num_classes, average="micro", ignore_index=-1)
        # In a tuple: what is no attribute of its own is in no state_dict, and no optimizer finds its parameters.
        self._victim = (victim,)
        self._images: Tensor | None = None  # (N, C, H, W), those whose labels were asked
        self._labels = torch.empty(0, dtype=torch.int64)  # (N,) the box's
        self._measured: dict[int, int] = {}  # dataset index -> the box's label, for the agreement

    @property
    def queries(self) -> int:
        """Labels asked of the box to train on."""
        return len(self._labels)

    @property
    def monitor(self) -> str:
        """The last weights are the best: an attacker has no other labels to choose by."""
        return "epoch"

    def training_data(self, data: Any) -> SubstituteData:
        """Return what to fit on: the labelled set in the place of a datamodule's training images."""
        return SubstituteData(self, data)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        rounds, most = (self.doublings + 1) * self.epochs_per_round, self.trainer.max_epochs
        if self._victim[0] is None:
            raise ValueError("victim must be given to train a Substitute: it is asked for the labels")
        if not isinstance(getattr(self.trainer, "datamodule", None), SubstituteData):
            raise ValueError("fit a Substitute on its own set: trainer.fit(module, module.training_data(datamodule))")
        check_fit(self._victim[0], self._data().data)
        if self.trainer.world_size > 1:
            raise ValueError(
                f"a Substitute asks by one process, so that each label is asked once, got {self.trainer.world_size} "
                "processes: use --trainer.devices 1"
            )
        if most is not None and 0 <= most < rounds:
            raise ValueError(
                f"trainer.max_epochs must be at least (doublings + 1) * epochs_per_round = {rounds}, or the set is not "
                f"doubled {self.doublings} times, got {most}"
            )
        self.trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]  # the set grows between epochs
        self._victim[0].to(self.trainer.strategy.root_device).eval()

    def on_fit_start(self) -> None:
        """Ask the labels by which the agreement is measured; after a resumed checkpoint has brought those it has."""
        if self.agreement and not self._measured:
            images, indices = self._data().images(self.seeds, self.agreement)
            self._measured = dict(zip(indices, self._ask("agreement", images).tolist(), strict=True))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log("queries", float(self.queries))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        theirs = torch.tensor([self._measured.get(index, -1) for index in batch["index"].tolist()], device=self.device)
        if bool((theirs >= 0).any()):
            self.val_agreement(self(batch["image"]), theirs)
            self.log("val_agreement", self.val_agreement, prog_bar=True, batch_size=len(theirs))

    def labelled_set(self) -> tuple[Tensor, Tensor, torch.Generator]:
        """Return images (N, C, H, W), labels (N,) and the generator of the order for the epoch that begins.

        Doubles the set until it is that of the epoch's round; what a checkpoint has brought is not asked again.
        """
        if self._images is None:
            images, _ = self._data().images(0, self.seeds)
            self._images, self._labels = images, self._ask("round-0", images)
        for number in range(1, min(self.current_epoch // self.epochs_per_round, self.doublings) + 1):
            if len(self._labels) < self.seeds * 2**number:
                made = augment(self.network, self._images, self._labels, self.lambda_)
                self._labels = torch.cat([self._labels, self._ask(f"round-{number}", made)])
                self._images = torch.cat([self._images, made])
        # An epoch has draws of its own, so that a resumed one draws what it would have drawn. Seeded here: Lightning
        # leaves out on_train_epoch_start in the first epoch after a checkpoint.
        generator = ImageStreams(self.seed, [self.current_epoch]).generator(0)
        torch.manual_seed(generator.initial_seed())
        return self._images, self._labels, generator

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["substitute"] = {"images": self._images, "labels": self._labels, "measured": self._measured}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if held := checkpoint.get("substitute"):
            self._images, self._labels, self._measured = held["images"], held["labels"], held["measured"]

    def _data(self) -> SubstituteData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _ask(self, name: str, images: Tensor) -> Tensor:
        """Ask the box for the labels (N,) of images, from the journal beside the checkpoints as far as that goes."""
        oracle = LabelOracle(self._victim[0])  # type: ignore[arg-type]
        with kept(oracle, name, self, {"seeds": self.seeds, "lambda_": self.lambda_}) as journal:
            parts = images.split(oracle.batch_size(images))
            labels = torch.cat([oracle.ask(oracle.prepare(part), journal) for part in parts]).cpu()
        if int(labels.max()) >= self.num_classes:
            raise ValueError(
                f"victim {name_of(self._victim[0])} answered label {int(labels.max())}, but the network has "
                f"{self.num_classes} classes: give it as many as the victim has"
            )
        return labels

    def _set_hparams(self, hp: Any) -> None:
        """Keep the victim out: a checkpoint is loaded without it."""
        super()._set_hparams({name: value for name, value in dict(hp).items() if name != "victim"})
