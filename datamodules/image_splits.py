"""Datasets whose items are dicts {"image": (C, H, W) float32 in [0, 1], "label": int, "index": int}.

`index` is the image's place in the file order of the dataset it came from, whatever split or subset it is met in: the
key of its random streams and of its record.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

Item = dict[str, Any]


class TensorSplit(Dataset[Item]):
    """Rows of a dataset that is held in memory.

    Args:
        images: the whole dataset, uint8 (N, C, H, W), or float32 already in [0, 1].
        labels: int64 (N,).
        indices: int64 (n,), the rows of this split.
        transform: applied to each uint8 or float image (C, H, W) before it becomes float32 in [0, 1].
    """

    def __init__(
        self, images: Tensor, labels: Tensor, indices: Tensor, transform: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.images = images
        self.labels = labels
        self.indices = indices
        self.transform = transform

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def targets(self) -> Tensor:
        """The labels of this split's rows, int64 (n,)."""
        return self.labels[self.indices]

    def __getitem__(self, row: int) -> Item:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Item]:
        """The items of a whole batch: the DataLoader calls it, and one gather is cheaper than one an image."""
        indices = self.indices[torch.as_tensor(rows, dtype=torch.int64)]
        images = self.images[indices]  # (B, C, H, W)
        if self.transform is not None:
            images = torch.stack([self.transform(image) for image in images])
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        columns = zip(images.unbind(), self.labels[indices].tolist(), indices.tolist(), strict=True)
        return [{"image": image, "label": label, "index": index} for image, label, index in columns]


class FileSplit(Dataset[Item]):
    """Rows of a list of image files, decoded when asked.

    Args:
        samples: (path, label) of the whole dataset.
        indices: int64 (n,), the rows of this split.
        loader: path -> PIL image.
        transform: PIL image -> PIL image or tensor (C, H, W).
        image_shape: what each item must come out as, because a batch needs one shape.

    Raises:
        ValueError: an image has another shape (from `__getitem__`).
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        indices: Tensor,
        loader: Callable[[str], Any],
        transform: Callable[[Any], Any] | None,
        image_shape: tuple[int, int, int],
    ) -> None:
        self.samples = samples
        self.indices = indices
        self.loader = loader
        self.transform = transform
        self.image_shape = image_shape

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def targets(self) -> Tensor:
        """The labels of this split's rows, int64 (n,); no file is read."""
        return torch.tensor([self.samples[index][1] for index in self.indices.tolist()], dtype=torch.int64)

    def __getitem__(self, row: int) -> Item:
        index = int(self.indices[row])
        path, label = self.samples[index]
        image = self.loader(path)
        if self.transform is not None:
            image = self.transform(image)
        pixels = F.to_dtype(F.to_image(image), torch.float32, scale=True).as_subclass(Tensor)  # (C, H, W) in [0, 1]
        if tuple(pixels.shape) != self.image_shape:
            raise ValueError(
                f"{path} comes out as {tuple(pixels.shape)}, but this datamodule's images are {self.image_shape}: "
                "set resize and crop (and let train_transforms end in the same size)"
            )
        return {"image": pixels, "label": label, "index": index}
