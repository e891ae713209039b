"""A learned optimizer trained on two ranks, whole and in two starts; run as a script by test_ddp.py, once a rank."""

import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from datamodules.optimizees import QuadraticOptimizees
from lightning_modules import OptimizerTraining
from zeroth.estimators import LearnedSampling
from zeroth.networks import UpdateRNN
from zeroth.optimizers import LearnedOptimizer

SLOTS = 6  # of both ranks


class Broken(QuadraticOptimizees):
    """Training problem 2 has no value."""

    def problems(self, split, device="cpu"):
        made = super().problems(split, device)
        made.target[made.indices == 2] = torch.nan
        return made


def fit(kind: type[QuadraticOptimizees], slots: int, epochs: int, keeper: ModelCheckpoint | None, **options):
    """Train for some epochs of three windows; return the module and what it logged at last."""
    torch.manual_seed(0)
    rule = LearnedOptimizer(update=UpdateRNN(hidden=3), estimator=LearnedSampling(q=3, mu=1e-2))
    module = OptimizerTraining(rule, horizon=8, window=2, slots=slots)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[] if keeper is None else [keeper],
        enable_checkpointing=keeper is not None,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({} if keeper is None else {"devices": 2, "strategy": "ddp"}),
    )
    data = kind(dimension=4, train=7, val=1, test=1, windows=3 * (1 if keeper is None else 2))
    trainer.fit(module, datamodule=data, **options)
    return module, {name: int(value) for name, value in trainer.callback_metrics.items() if name != "train_loss"}


def main() -> None:
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    for kind in (QuadraticOptimizees, Broken):
        keeper = ModelCheckpoint(folder, filename=f"{kind.__name__}{{epoch}}", save_top_k=-1)
        whole = fit(kind, SLOTS // 2, 4, keeper)
        first = {"ckpt_path": folder / f"{kind.__name__}epoch=1.ckpt", "weights_only": True}
        again = fit(kind, SLOTS // 2, 4, ModelCheckpoint(folder / "again"), **first)
        rank = whole[0].global_rank
        for name, (module, logged) in {"whole": whole, "again": again}.items():
            told = {"state": module.rule.state_dict(), "held": module._trajectories.plain(), "logged": logged}
            torch.save(told, folder / f"{kind.__name__}-{name}{rank}.pt")


if __name__ == "__main__":
    main()
