"""scikit-learn's handwritten digits: 1,797 real 8x8 images that come with the library, so nothing is downloaded."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset

from datamodules.image_datamodule import ImageDataModule, Split
from datamodules.image_splits import Item, TensorSplit

TEST_SIZE = 397  # leaves 1,400 images for training and validation
SPLIT_SEED = 0


class Digits(ImageDataModule):
    """1,400 images for training and validation, 397 for test, of shape (1, 8, 8), ten classes.

    The dataset has no test split of its own. Ours is one fixed permutation, which no argument changes, so that figures
    of different runs compare. Indices of all splits count in the order of `sklearn.datasets.load_digits`.

    Args:
        batch_size: images a batch, in every loader.
        val_size: validation images, as a number (int) or as a share of the 1,400 (float in (0, 1)).
        seed: seed of the validation split.
        num_workers: worker processes of each loader.
        train_transforms: torchvision v2 transforms of the training images, in order; null for none.
    """

    num_classes = 10
    image_shape = (1, 8, 8)
    class_names = [str(digit) for digit in range(10)]  # noqa: RUF012

    def __init__(
        self,
        *,
        batch_size: int = 64,
        val_size: int | float = 200,
        seed: int = 0,
        num_workers: int = 0,
        train_transforms: list[nn.Module] | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            val_size=val_size,
            seed=seed,
            num_workers=num_workers,
            train_transforms=train_transforms,
        )

    def build_split(self, split: Split, *, augment: bool) -> Dataset[Item]:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).div(16).unsqueeze(1)  # levels 0..16 -> (N, 1, 8, 8)
        labels = torch.tensor(digits.target, dtype=torch.int64)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SPLIT_SEED))
        source = (order[:TEST_SIZE] if split == "test" else order[TEST_SIZE:]).sort().values
        rows = source[self.split_indices(split, len(source))]
        return TensorSplit(images, labels, rows, self.train_transform if augment else None)
