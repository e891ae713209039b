"""CIFAR-10 (Krizhevsky 2009)."""

import torch
from torch import Tensor
from torchvision import datasets

from datamodules.torchvision_datamodule import TorchvisionDataModule


class CIFAR10(TorchvisionDataModule):
    """50,000 training and 10,000 test images of shape (3, 32, 32), ten classes.

    Arguments: see `TorchvisionDataModule`.
    """

    num_classes = 10
    image_shape = (3, 32, 32)
    class_names = [  # noqa: RUF012
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]

    def read(self, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        source = datasets.CIFAR10(str(self.root), train=train, download=download)
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()  # (N, H, W, C) -> (N, C, H, W)
        return images, torch.tensor(source.targets)
