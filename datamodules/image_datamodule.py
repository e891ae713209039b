"""What all image datamodules share: the seeded validation split, the loaders, and where data is looked for."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from datamodules.image_splits import Item

Split = Literal["train", "val", "test"]


class ImageDataModule(pl.LightningDataModule):
    """Train, validation and test splits of an image dataset; a subclass says how a source is read.

    The validation split is drawn from the training set by a generator of its own, so it depends on `seed` and on the
    size of the training set alone. An item's index counts in file order within its source: training and
    validation indices count in the training set, test indices in the test set.

    Args:
        batch_size: images a batch, in every loader.
        val_size: validation images, as a number (int) or as a share of the training set (float in (0, 1)).
        seed: seed of the validation split.
        num_workers: worker processes of each loader; 0 reads in the training process.
        train_transforms: torchvision v2 transforms of the images that are trained on, in order; null for none.

    Attributes:
        num_classes: number of classes K.
        image_shape: (C, H, W) of every image.
        class_names: K names, in label order.

    Raises:
        ValueError: batch_size, num_workers or val_size is out of range.
        FileNotFoundError: the data is not there and cannot be downloaded (from prepare_data or setup).
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    class_names: list[str]

    def __init__(
        self,
        *,
        batch_size: int,
        val_size: int | float,
        seed: int,
        num_workers: int,
        train_transforms: list[nn.Module] | None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
        if val_size <= 0 or (isinstance(val_size, float) and val_size >= 1):
            raise ValueError(f"val_size must be a number of images (at least 1) or a share in (0, 1), got {val_size}")
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self.num_workers = num_workers
        self.train_transform = v2.Compose(train_transforms) if train_transforms else None
        self._splits: dict[tuple[Split, bool], Dataset[Item]] = {}

    @abstractmethod
    def build_split(self, split: Split, *, augment: bool) -> Dataset[Item]:
        """The Dataset of one split, under the training transforms if `augment`; the result is kept.

        Raises:
            FileNotFoundError: its source is missing.
        """

    def dataset(self, split: Split, *, augment: bool = False) -> Dataset[Item]:
        """The split's Dataset of dict items, built at the first call; `prepare_data()` downloads what it needs.

        Args:
            split: train, val or test.
            augment: apply train_transforms, for the loader that trains. Without it the training images are the same at
                every look, so that they can be attacked, certified and recorded by index.

        Raises:
            ValueError: there is no such split, or another than train is to be augmented.
        """
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be train, val or test, got {split!r}")
        if augment and split != "train":
            raise ValueError(f"augment is for the split train alone, got split={split!r}")
        key = (split, augment and self.train_transform is not None)
        if key not in self._splits:
            self._splits[key] = self.build_split(split, augment=key[1])
        return self._splits[key]

    def setup(self, stage: str | None = None) -> None:
        # Only what the stage needs: a tree that holds test images alone must serve attack.py.
        needed: dict[str | None, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": ("test",),
        }
        for split in needed.get(stage, ("train", "val", "test")):
            self.dataset(split, augment=split == "train")

    def split_indices(self, split: Split, total: int) -> Tensor:
        """A split's rows (int64, ascending) of a source of `total`: all of the test set, part of the training set."""
        if split == "test":
            return torch.arange(total)
        held_out = round(self.val_size * total) if isinstance(self.val_size, float) else self.val_size
        if not 0 < held_out < total:
            raise ValueError(f"val_size={self.val_size} leaves no images for one of train and val: there are {total}")
        order = torch.randperm(total, generator=torch.Generator().manual_seed(self.seed))
        return (order[:held_out] if split == "val" else order[held_out:]).sort().values

    def train_dataloader(self) -> DataLoader[Item]:
        return self._loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Item]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Item]:
        return self._loader("test")

    def _loader(self, split: Split, *, train: bool = False) -> DataLoader[Item]:
        # Keywords only: Lightning rebuilds predict loaders and misreads a positional batch_size.
        return DataLoader(
            dataset=self.dataset(split, augment=train),
            batch_size=self.batch_size,
            shuffle=train,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def data_root(root: str | None) -> Path:
    """Where data is looked for: `root`, else the environment variable ZEROTH_DATA, else ./data."""
    return Path(root or os.environ.get("ZEROTH_DATA") or "data").expanduser()
