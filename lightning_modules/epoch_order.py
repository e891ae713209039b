"""Training images in an order that a resumed training finds again."""

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, Subset

from zeroth.oracles import ImageStreams
from zeroth.oracles.streams import derived_seed


def epoch_streams(seed: int, epoch: int, indices: Tensor, device: torch.device) -> ImageStreams:
    """Draws of images in an epoch, from 1 on; epoch 0 is that of validation and test, which are always the same."""
    return ImageStreams(derived_seed(seed, epoch), indices, device)


class EpochOrder(pl.LightningDataModule):
    """A datamodule, or some of its training images, in an order that depends on the seed and the epoch alone.

    A plain loader shuffles by torch's global generator, whose state a checkpoint does not hold: a training that was
    killed would go on with other batches. On several devices Lightning's own sampler deals that order out.

    Args:
        data: datamodule with ``dataset(split, augment=...)``, ``batch_size`` and ``num_workers``.
        seed: decides the orders, and which images are taken.
        epoch: tells which epoch begins.
        count: training images; None for all.

    Raises:
        ValueError: there are not so many training images (when they are first asked for).
    """

    def __init__(self, data: Any, *, seed: int, epoch: Callable[[], int], count: int | None = None) -> None:
        super().__init__()
        self.data, self.seed, self.epoch, self.count = data, seed, epoch, count
        self.num_classes, self.image_shape = data.num_classes, data.image_shape

    def prepare_data(self) -> None:
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        self.data.setup(stage)

    def training_images(self, *, augment: bool) -> Any:
        """The training images; the same ones with and without augmentation."""
        images = self.data.dataset("train", augment=augment)
        if self.count is None:
            return images
        if self.count > len(images):
            raise ValueError(
                f"train_images={self.count}, but {type(self.data).__name__} has {len(images)} training images: lower "
                "it, or give null for all"
            )
        generator = ImageStreams(self.seed, [0]).generator(0)
        return Subset(images, torch.randperm(len(images), generator=generator)[: self.count].sort().values.tolist())

    def epoch_sizes(self, ranks: int) -> tuple[int, int]:
        """Images of an epoch's training and of its validation, each filled up so that all processes have as many."""
        train, val = len(self.training_images(augment=False)), len(self.data.dataset("val"))
        return -(-train // ranks) * ranks, -(-val // ranks) * ranks

    def train_dataloader(self) -> DataLoader:
        images = self.training_images(augment=True)
        return DataLoader(
            dataset=images,
            batch_size=self.data.batch_size,
            sampler=_Order(len(images), self.seed, self.epoch),
            num_workers=self.data.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader:
        return self.data.val_dataloader()

    def test_dataloader(self) -> DataLoader:
        return self.data.test_dataloader()


class _Order(Sampler[int]):
    """A permutation for each epoch."""

    def __init__(self, length: int, seed: int, epoch: Callable[[], int]) -> None:
        self.length, self.seed, self.epoch = length, seed, epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = ImageStreams(self.seed, [self.epoch() + 1]).generator(0)
        # What else is drawn in this process, augmentation and dropout, is that of the epoch too.
        torch.manual_seed(generator.initial_seed())
        return iter(torch.randperm(self.length, generator=generator).tolist())
