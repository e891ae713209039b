"""A step of denoised smoothing against what it must do: ``python -m benchmarks.defense``.

The floor of a step is its queries as plain batched forwards of decoder and box, at their best batch size, and a forward
with its backward of denoiser and encoder; both measured before and after the steps, in the same process. Random weights
and images do: a step asks the same number of queries whatever the answers are.
"""

import time
import warnings
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import auto_cli
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.harness import MIB, Timer, device_name, devices, floor_rate, peak, reset_peak
from datamodules import Digits
from datamodules.image_splits import TensorSplit
from lightning_modules import DenoisedSmoothing
from zeroth.estimators import CGE, RGE, Estimator
from zeroth.networks import (
    CarliniWagnerCNN,
    CIFAR10Autoencoder,
    CIFARResNet,
    ConvAutoencoder,
    DigitsAutoencoder,
    DigitsCNN,
    DnCNN,
    MNISTAutoencoder,
)

WARM = 2  # steps before the clock runs


@dataclass(frozen=True)
class Case:
    """Sizes of a defense.

    Args:
        name: in the table.
        box, denoiser, autoencoder: networks, by random weights.
        shape: (C, H, W).
        batch: images a step.
    """

    name: str
    box: type[nn.Module]
    denoiser: dict[str, int]
    autoencoder: type[ConvAutoencoder]
    shape: tuple[int, int, int]
    batch: int


CASES = (
    Case("digits", DigitsCNN, {"channels": 1, "depth": 5, "width": 16}, DigitsAutoencoder, (1, 8, 8), 64),
    Case("MNIST", CarliniWagnerCNN, {"channels": 1, "depth": 5, "width": 16}, MNISTAutoencoder, (1, 28, 28), 64),
    Case("CIFAR-10", CIFARResNet, {"channels": 3}, CIFAR10Autoencoder, (3, 32, 32), 16),
)


class RandomImages(Digits):
    """Random images of any shape, in place of the digits."""

    def __init__(self, shape: tuple[int, int, int], size: int, batch_size: int) -> None:
        super().__init__(batch_size=batch_size)
        self.image_shape, self.size = shape, size

    def build_split(self, split: Any, *, augment: bool) -> TensorSplit:
        images = torch.rand(self.size, *self.image_shape, generator=torch.Generator().manual_seed(0))
        return TensorSplit(images, torch.zeros(self.size, dtype=torch.int64), torch.arange(self.size), None)


class Stopwatch(pl.Callback):
    """Seconds, queries and peak memory of all steps but the first few."""

    def __init__(self) -> None:
        self.start, self.seconds, self.steps, self.asked, self.held = 0.0, 0.0, 0, 0, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == WARM:
            self.asked, self.held = pl_module.queries, reset_peak(pl_module.device)
        _wait(pl_module.device)
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        _wait(pl_module.device)
        if trainer.global_step > WARM:
            self.seconds += time.perf_counter() - self.start
            self.steps += 1
            self.queries, self.memory = pl_module.queries - self.asked, peak(pl_module.device) - self.held


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step and of its floor, and what they are made of."""

    images: int
    queries: float
    seconds: float
    floor: float
    memory: int


def measure_step(case: Case, estimator: Estimator, device: torch.device, steps: int) -> StepCost:
    """Train a defense for some steps, and measure its floor before and after them."""
    torch.manual_seed(0)
    box, coder = case.box().eval().to(device), case.autoencoder().to(device)
    denoiser = DnCNN(**case.denoiser).to(device)
    module = DenoisedSmoothing(
        denoiser, box, autoencoder=coder, estimator=estimator, denoising_weight=0.0, train_images=case.batch
    )
    watch = Stopwatch()
    trainer = pl.Trainer(
        max_epochs=WARM + steps,
        accelerator=device.type,
        devices=1,
        limit_val_batches=0,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = _floor(case, nn.Sequential(coder.decoder, box), denoiser, coder, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, on loaders of one batch
        trainer.fit(module, module.training_data(RandomImages(case.shape, case.batch, case.batch)))
    for part in (box, coder, denoiser):  # Lightning has taken them back
        part.to(device)
    after = _floor(case, nn.Sequential(coder.decoder, box), denoiser, coder, device)
    rate, front = max(before[0], after[0]), min(before[1], after[1])
    queries = watch.queries / watch.steps
    return StepCost(case.batch, queries, watch.seconds / watch.steps, queries / rate + front, watch.memory)


def _floor(case: Case, behind: nn.Module, denoiser: nn.Module, coder: Any, device: torch.device) -> tuple[float, float]:
    """Return the best rate of decoder and box, points a second, and the seconds of the front's forward and backward."""
    rate, _ = floor_rate(behind.eval(), (coder.features,))  # type: ignore[arg-type]
    images = torch.rand(case.batch, *case.shape, device=device)

    def front() -> Tensor:
        z = coder.encoder(denoiser(images))
        z.backward(torch.ones_like(z))
        return z

    timer = Timer("front()", globals={"front": front}, num_threads=torch.get_num_threads())
    return rate, timer.blocked_autorange(min_run_time=0.3).median


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(steps: int = 10) -> None:
    """Print what a step costs by RGE and by CGE at each size, on each device.

    Args:
        steps: steps that are measured, after the first two.
    """
    for device in devices():
        table = Table(title=f"A step of ZO-AE-DS, {device_name(device)}", title_justify="left")
        for column in ("case", "images", "queries", "ms", "floor ms", "ratio", "images/s", "queries/s", "MiB"):
            table.add_column(column, justify="left" if column == "case" else "right")
        for case in CASES:
            features = case.autoencoder().features
            for name, estimator in (("RGE", RGE(q=features, mu=0.005)), ("CGE", CGE(mu=0.005))):
                cost = measure_step(case, estimator, device, steps)
                table.add_row(
                    f"{case.name}, {name}",
                    f"{cost.images:,}",
                    f"{cost.queries:,.0f}",
                    f"{1000 * cost.seconds:,.0f}",
                    f"{1000 * cost.floor:,.0f}",
                    f"{cost.seconds / cost.floor:.2f}",
                    f"{cost.images / cost.seconds:,.0f}",
                    f"{cost.queries / cost.seconds:,.0f}",
                    f"{cost.memory / MIB:,.0f}",
                )
        Console().print(table)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
