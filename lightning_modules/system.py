"""What all systems share: optimizer and schedule, the watch over the losses, and checkpoints of plain values."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_modules.hyperparameters import describe

Job = Literal["train-victim", "train-autoencoder", "train-defense", "train-optimizer"]
# Steps between looks at the losses on an accelerator, where each look waits for the device.
CHECK_EVERY = 50


class System(pl.LightningModule):
    """Trains networks that it owns.

    A checkpoint holds plain values beside the weights, so that it can be rebuilt without running code of its maker;
    also one of a system made in Python.

    Args:
        optimizer: parameters -> optimizer; only those that take a gradient are given to it.
        lr_scheduler: optimizer -> schedule; None keeps the learning rate.
        lr_interval: what one tick of the schedule is, an epoch or a step (OneCycleLR counts steps).

    Attributes:
        job: names the run folder and W&B's job type.
        monitor_mode: whether the best checkpoint has the largest or the smallest :attr:`monitor`.

    Raises:
        ValueError: lr_interval is none of the two.
        FloatingPointError: a training loss is not finite.
    """

    job: ClassVar[Job] = "train-victim"

    def __init__(
        self,
        *,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        lr_interval: Literal["epoch", "step"],
    ) -> None:
        super().__init__()
        if lr_interval not in ("epoch", "step"):
            raise ValueError(f"lr_interval must be epoch or step, got {lr_interval!r}")
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self._unchecked: list[tuple[int, Tensor, Tensor]] = []  # (batch_idx, loss, dataset indices) not yet looked at

    @property
    @abstractmethod
    def monitor(self) -> str:
        """The logged figure by which the best checkpoint is chosen."""

    @property
    def monitor_mode(self) -> Literal["max", "min"]:
        """Whether that figure is to be large or small."""
        return "max"

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        entry: dict[str, Any] = {"scheduler": scheduler, "interval": self.lr_interval}
        if isinstance(scheduler, ReduceLROnPlateau):  # the command line's, which carries the name it monitors
            entry["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": entry}

    def watch(self, loss: Tensor, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Look at a training loss, now or, on an accelerator, together with those of the next steps."""
        self._unchecked += [(batch_idx, loss.detach(), batch["index"])]
        if len(self._unchecked) >= (1 if loss.device.type == "cpu" else CHECK_EVERY):
            self._check_losses()

    def on_train_epoch_end(self) -> None:
        self._check_losses()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A network built from a file is rebuilt without it: the state_dict holds what its weights have become.
        settings = checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]
        told = {name: describe(held) for name, held in self.named_children() if hasattr(held, "rebuild_args")}
        if told:
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {**settings, **told}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A rebuilt module goes on with the file's own plain values: what is saved again says the same.
        if plain := checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY):
            self._set_hparams(plain)

    def _check_losses(self) -> None:
        """Stop at the first loss that is not finite, before more work goes into ruined weights."""
        unchecked, self._unchecked = self._unchecked, []
        if not unchecked:
            return
        finite = torch.stack([loss for _, loss, _ in unchecked]).isfinite()
        if not finite.all():
            batch_idx, loss, indices = unchecked[int((~finite).nonzero()[0])]
            raise FloatingPointError(
                f"the training loss is {loss.item()} at epoch {self.current_epoch}, batch {batch_idx} (dataset indices "
                f"{indices[:8].tolist()}{', ...' if len(indices) > 8 else ''}): lower the learning rate, or look at "
                "these images"
            )

    def _set_hparams(self, hp: Any) -> None:
        """Keep plain values alone, also of a system made in Python, so that its checkpoint can rebuild it."""
        hp = dict(hp)
        if "_instantiator" not in hp:  # made in Python: LightningCLI hands plain values and names its instantiator
            plain: dict[str, Any] = {
                "_class_path": f"{type(self).__module__}.{type(self).__qualname__}",
                "_instantiator": "pytorch_lightning.cli.instantiate_module",
            }
            for name, value in hp.items():
                try:
                    if (
                        name == "victim"
                        and not hasattr(value, "checkpoint")
                        and next(value.parameters(), None) is not None
                    ):
                        # No part of the state_dict: described by its class it would come back with other weights.
                        raise TypeError(f"the weights of {type(value).__name__} are in no file")
                    plain[name] = describe(value)
                except TypeError as error:
                    if isinstance(value, nn.Module):  # an optimizer left out matters to nobody who loads the network
                        rank_zero_warn(f"{error}: load this checkpoint by load_from_checkpoint(path, {name}=...)")
            hp = plain
        super()._set_hparams(hp)
