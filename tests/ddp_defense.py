"""Defenses of a counted box trained on two ranks; run as a script by test_ddp.py, once a rank."""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from datamodules import Digits
from lightning_modules import DenoisedSmoothing
from tests.runs import Counted, asked
from zeroth.estimators import CGE
from zeroth.networks import DigitsAutoencoder, DnCNN

IMAGES, VALIDATION, FEATURES = 23, 31, 16  # neither of the first two divides by two
# By both ranks, whose loaders give each as many images.
EPOCH = 24 * (FEATURES + 1) + 32


class Look(pl.Callback):
    """Writes what this rank saw: what all ranks have asked before the first step, and what the run came to."""

    def __init__(self, file: Path, log: Path) -> None:
        self.file, self.box_log, self.before = file, log, 0

    def on_train_start(self, trainer, pl_module):
        trainer.strategy.barrier()
        self.before = asked(self.box_log)
        trainer.strategy.barrier()

    def on_fit_end(self, trainer, pl_module):
        trainer.strategy.barrier()
        told = {"before": self.before, "asked": asked(self.box_log), "queries": pl_module.queries}
        told |= {"logged": int(trainer.callback_metrics["queries"]), "epochs": trainer.current_epoch}
        told |= {"targets": pl_module._targets, "state": pl_module.state_dict()}
        told["items"] = list(trainer.datamodule.training_images(augment=False))
        torch.save(told, self.file)
        trainer.strategy.barrier()


def fit(folder: Path, name: str, **arguments) -> None:
    """Train a defense for three epochs at most."""
    torch.manual_seed(0)
    log = folder / f"{name}.log"
    module = DenoisedSmoothing(
        DnCNN(channels=1, depth=3, width=4),
        Counted(log=str(log)),
        autoencoder=DigitsAutoencoder(),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        train_images=IMAGES,
        **arguments,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.callbacks.append(Look(folder / f"{name}{trainer.global_rank}.pt", log))
    trainer.fit(module, module.training_data(Digits(batch_size=5, val_size=VALIDATION)))


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        fit(folder, "poor", estimator=CGE(mu=0.005), budget=IMAGES + EPOCH - 1)
    except ValueError as error:
        (folder / "poor.txt").write_text(str(error))
    # Pays for two epochs, and for all but one query of a third.
    fit(folder, "zo", estimator=CGE(mu=0.005), budget=IMAGES + 3 * EPOCH - 1)
    fit(folder, "fo", trained="autoencoder")


if __name__ == "__main__":
    main()
