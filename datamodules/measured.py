"""Images behind linear measurements: what a reconstructor sees of them, and the images themselves.

Shapes: B images of C x H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.digits import Digits
from datamodules.image_datamodule import ImageDataModule, Split
from datamodules.image_splits import Item
from datamodules.mnist import MNIST
from zeroth.networks import GaussianMeasurement


class MeasuredSplit(Dataset[Item]):
    """Items whose ``image`` is what a measurement leaves of the image, and ``original`` the image, both (C, H, W).

    Args:
        source: a split whose items are made by the batch.
        measurement: images (B, C, H, W) -> images of the same shape, in [0, 1].
    """

    def __init__(self, source: Any, measurement: nn.Module) -> None:
        self.source, self.measurement = source, measurement

    def __len__(self) -> int:
        return len(self.source)

    @property
    def indices(self) -> Tensor:
        """Dataset indices of this split's rows, int64 (n,)."""
        return self.source.indices

    @property
    def targets(self) -> Tensor:
        """The labels of this split's rows, int64 (n,)."""
        return self.source.targets

    def __getitem__(self, row: int) -> Item:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Item]:
        """The items of a whole batch, measured together."""
        items = self.source.__getitems__(rows)
        with torch.no_grad():
            seen = self.measurement(torch.stack([item["image"] for item in items]))
        return [{**item, "image": image, "original": item["image"]} for item, image in zip(items, seen, strict=True)]


class _Measured(ImageDataModule):
    """A dataset whose images are measured; comes before the dataset among the base classes."""

    def __init__(self, *, measurements: int, measurement_seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.measurement = GaussianMeasurement(
            image_shape=self.image_shape, measurements=measurements, seed=measurement_seed
        )

    def build_split(self, split: Split, *, augment: bool) -> Dataset[Item]:
        return MeasuredSplit(super().build_split(split, augment=augment), self.measurement)  # type: ignore[safe-super]


class MeasuredMNIST(_Measured, MNIST):
    """MNIST through 576 Gaussian measurements an image (ZO-AE-DS, Zhang et al., ICLR 2022, sect. 5.3).

    An item's ``image`` is the back-projection in [0, 1] of :class:`~zeroth.networks.GaussianMeasurement`, what a
    reconstructor takes; ``original`` is the image, what it should answer.

    Args:
        measurements: M, of 784 pixels.
        measurement_seed: of the sampling matrix: who trains on one seed's images knows nothing of another's.
        options: of :class:`MNIST`.
    """

    def __init__(self, *, measurements: int = 576, measurement_seed: int = 0, **options: Any) -> None:
        super().__init__(measurements=measurements, measurement_seed=measurement_seed, **options)


class MeasuredDigits(_Measured, Digits):
    """Digits through 48 Gaussian measurements an image; items as those of :class:`MeasuredMNIST`.

    Args:
        measurements: M, of 64 pixels.
        measurement_seed: of the sampling matrix.
        options: of :class:`Digits`.
    """

    def __init__(self, *, measurements: int = 48, measurement_seed: int = 0, **options: Any) -> None:
        super().__init__(measurements=measurements, measurement_seed=measurement_seed, **options)
