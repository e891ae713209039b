"""STL-10 (Coates et al. 2011)."""

from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from datamodules.torchvision_datamodule import TorchvisionDataModule


class STL10(TorchvisionDataModule):
    """5,000 training and 8,000 test images of shape (3, 96, 96), ten classes; the unlabelled images are not used.

    Args:
        val_size: validation images, as a number (int) or as a share of the training set (float in (0, 1)).
        kwargs: as in `TorchvisionDataModule`.
    """

    num_classes = 10
    image_shape = (3, 96, 96)
    class_names = [  # noqa: RUF012
        "airplane",
        "bird",
        "car",
        "cat",
        "deer",
        "dog",
        "horse",
        "monkey",
        "ship",
        "truck",
    ]

    def __init__(self, *, val_size: int | float = 500, **kwargs: Any) -> None:
        super().__init__(val_size=val_size, **kwargs)

    def read(self, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        source = datasets.STL10(str(self.root), split="train" if train else "test", download=download)
        return torch.from_numpy(source.data), torch.from_numpy(source.labels).long()
