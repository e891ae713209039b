"""Datasets that torchvision can read and download, held in memory as uint8."""

from abc import abstractmethod
from pathlib import Path
from textwrap import shorten

from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.image_datamodule import ImageDataModule, Split, data_root
from datamodules.image_splits import Item, TensorSplit

# Letters of the reason for which a dataset is missing.
MOST_LETTERS = 60


class TorchvisionDataModule(ImageDataModule):
    """An `ImageDataModule` over a torchvision dataset; a subclass reads one of its two sources into tensors.

    Args:
        root: folder that holds torchvision's files; null means the environment variable ZEROTH_DATA, else ./data.
        download: fetch what is missing.
        batch_size: images a batch, in every loader.
        val_size: validation images, as a number (int) or as a share of the training set (float in (0, 1)).
        seed: seed of the validation split.
        num_workers: worker processes of each loader; 0 reads in the training process.
        train_transforms: torchvision v2 transforms of the images that are trained on (uint8), in order; null for none.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        download: bool = True,
        batch_size: int = 128,
        val_size: int | float = 5000,
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
        self.root = data_root(root)
        self.download = download
        self._sources: dict[bool, tuple[Tensor, Tensor]] = {}  # train and val share one read

    @abstractmethod
    def read(self, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
        """The training or the test set: images uint8 (N, C, H, W), labels int64 (N,)."""

    def prepare_data(self) -> None:
        for train in (True, False):
            if train not in self._sources:
                self._sources[train] = self._read_or_explain(train=train)

    def build_split(self, split: Split, *, augment: bool) -> Dataset[Item]:
        train = split != "test"
        if train not in self._sources:  # ranks other than the first, or no prepare_data before
            self._sources[train] = self._read_or_explain(train=train)
        images, labels = self._sources[train]
        transform = self.train_transform if augment else None
        return TensorSplit(images, labels, self.split_indices(split, len(labels)), transform)

    def _read_or_explain(self, *, train: bool) -> tuple[Tensor, Tensor]:
        try:
            # Looked for first without download, which would check sums of files that are already in use, every time.
            return self.read(train=train, download=False)
        except (RuntimeError, OSError) as error:
            reason: Exception = error
        tried, remedy = "download is off", "set download to true"
        if self.download:
            tried, remedy = "the download failed", "try again on a machine that is online"
            there = next(place for place in (self.root, *self.root.parents) if place.exists())
            try:
                return self.read(train=train, download=True)
            except (RuntimeError, OSError) as error:
                reason = error
                if there != self.root:
                    _remove_empty(self.root, keep=there)
        # The whole answer of a server, or an advice of torchvision for programmers, is in the traceback.
        why = shorten(str(reason), MOST_LETTERS, placeholder=" ...")
        raise FileNotFoundError(
            f"{type(self).__name__} is not under {self.root.absolute()} and {tried} ({why}): {remedy}, put "
            "torchvision's files there, or name the folder that holds them by root or ZEROTH_DATA"
        ) from reason


def _remove_empty(root: Path, *, keep: Path) -> None:
    """Remove the empty folders that a download has made: below and at ``root``, and above it up to ``keep``."""
    made = sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True)
    for folder in [*made, root, *root.parents]:
        if folder == keep:
            return
        try:
            folder.rmdir()
        except OSError:  # not empty
            continue
