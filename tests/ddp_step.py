"""One training step of a digits victim on two ranks; run as a script by test_ddp.py, once a rank."""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from datamodules import Digits
from lightning_modules import Classifier
from zeroth.networks import DigitsCNN


class Keep(pl.Callback):
    """Writes what this rank was given, and the gradients that all ranks agreed on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.save(batch["index"], self.folder / f"index{trainer.global_rank}.pt")

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        gradients = {name: p.grad.clone() for name, p in pl_module.network.named_parameters()}
        torch.save(gradients, self.folder / f"gradients{trainer.global_rank}.pt")


def network() -> DigitsCNN:
    """Make the network, its weights the same in every process; eval: no dropout, no batch statistics."""
    torch.manual_seed(0)
    return DigitsCNN().eval()


def main() -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Keep(Path(sys.argv[1]))],
    )
    module = Classifier(network())
    module.on_train_start = module.network.eval  # type: ignore[method-assign]
    trainer.fit(module, datamodule=Digits(batch_size=16))


if __name__ == "__main__":
    main()
