"""MNIST (LeCun et al. 1998)."""

from torch import Tensor
from torchvision import datasets

from datamodules.torchvision_datamodule import TorchvisionDataModule


class MNIST(TorchvisionDataModule):
    """60,000 training and 10,000 test images of shape (1, 28, 28), ten classes.

    Arguments: see `TorchvisionDataModule`.
    """

    num_classes = 10
    image_shape = (1, 28, 28)
    class_names = [str(digit) for digit in range(10)]  # noqa: RUF012

    def read(self, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        source = datasets.MNIST(str(self.root), train=train, download=download)
        return source.data.unsqueeze(1), source.targets
