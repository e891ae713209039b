"""STL-10 (Coates et al. 2011)."""

import torch
from torch import Tensor, nn
from torchvision import datasets

from datamodules.torchvision_datamodule import TorchvisionDataModule


class STL10(TorchvisionDataModule):
    """5,000 training and 8,000 test images of shape (3, 96, 96), ten classes; the unlabelled images are not used.

    Args:
        root: folder that holds torchvision's files; null means the environment variable ZEROTH_DATA, else ./data.
        download: fetch what is missing.
        batch_size: images a batch, in every loader.
        val_size: validation images, as a number (int) or as a share of the training set (float in (0, 1)).
        seed: seed of the validation split.
        num_workers: worker processes of each loader; 0 reads in the training process.
        train_transforms: torchvision v2 transforms of the training images (uint8), in order; null for none.
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

    def __init__(
        self,
        *,
        root: str | None = None,
        download: bool = True,
        batch_size: int = 128,
        val_size: int | float = 500,
        seed: int = 0,
        num_workers: int = 0,
        train_transforms: list[nn.Module] | None = None,
    ) -> None:
        super().__init__(
            root=root,
            download=download,
            batch_size=batch_size,
            val_size=val_size,
            seed=seed,
            num_workers=num_workers,
            train_transforms=train_transforms,
        )

    def read(self, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        source = datasets.STL10(str(self.root), split="train" if train else "test", download=download)
        return torch.from_numpy(source.data), torch.from_numpy(source.labels).long()
