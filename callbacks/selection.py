"""Which images an evaluation takes, in which fixed batches, and which rank takes which batch.

A batch is a fixed slice of the selected images, whatever the number of ranks and however often the run was killed: a
killed batch is run again in its full composition, so that its journal fits.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset


@dataclass(frozen=True)
class Selection:
    """The images of a split that are evaluated.

    Args:
        split: split of the dataset.
        count: how many images; null takes all.
        start: place of the first one in the split.
        stride: every stride-th image is taken.
    """

    split: Literal["train", "val", "test"] = "test"
    count: int | None = None
    start: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"images.count must be at least 1 or null for all, got {self.count}")
        if self.start < 0 or self.stride < 1:
            raise ValueError(f"images.start must be >= 0 and images.stride >= 1, got {self.start} and {self.stride}")

    def places(self, size: int) -> list[int]:
        """Places of the images in a split of ``size`` images; ValueError where there are too few."""
        places = list(range(self.start, size, self.stride))[: self.count]
        if not places or (self.count is not None and len(places) < self.count):
            raise ValueError(
                f"images.count {self.count} from images.start {self.start} by images.stride {self.stride} leaves "
                f"{len(places)} images of the {size} in split {self.split!r}: ask for fewer, or start earlier"
            )
        return places


def shard_numbers(shard: str) -> tuple[int, int]:
    """Read a shard "k/n", 1 <= k <= n."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"shard must be k/n with 1 <= k <= n, e.g. 1/4, got {shard!r}")
    return int(match[1]), int(match[2])


def shard_of(places: list[int], shard: str | None) -> list[int]:
    """The part k of n of the images, every n-th from the k-th on, for a shard "k/n"; all of them for None."""
    if shard is None:
        return places
    k, n = shard_numbers(shard)
    return places[k - 1 :: n]


def images_a_batch(rows: int, rows_an_image: int) -> int:
    """How many whole images make a batch of at most so many rows, one at least."""
    return max(1, rows // rows_an_image)


class EvaluationData(LightningDataModule):
    """The selected images of another datamodule, in fixed batches dealt out to the ranks in turn.

    Args:
        data: where the images come from.
        selection: which images.
        shard: "k/n" takes part k of n of them; None all.
        batch_size: rows a batch at most; it has one image at least, and images are never torn.
        rows_an_image: rows that an image gives.

    Attributes:
        batches: dataset indices of each batch, after setup.
        done: numbers of the batches that need not run, set before the loader is made.
    """

    def __init__(
        self,
        data: LightningDataModule,
        selection: Selection,
        *,
        shard: str | None = None,
        batch_size: int,
        rows_an_image: int = 1,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.allow_zero_length_dataloader_with_multiple_devices = True  # more ranks than batches
        self.data, self.selection, self.shard = data, selection, shard
        self.batch_size = images_a_batch(batch_size, rows_an_image)
        shard_of([], shard)
        self.total = 0
        self.batches: list[list[int]] = []
        self.done: set[int] = set()
        self._places: list[list[int]] = []

    def prepare_data(self) -> None:
        """Fetch the data, on one process a node."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Cut the selected images into batches."""
        self._dataset: Dataset = self.data.dataset(self.selection.split)  # type: ignore[attr-defined]
        chosen = self.selection.places(len(self._dataset))
        self.total = len(chosen)
        places = shard_of(chosen, self.shard)
        self._places = [places[at : at + self.batch_size] for at in range(0, len(places), self.batch_size)]
        self.batches = [[self._index(place) for place in batch] for batch in self._places]

    def mine(self) -> list[int]:
        """Numbers of this rank's batches that are to run, ascending."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return [number for number in range(rank, len(self.batches), ranks) if number not in self.done]

    def key(self, number: int) -> str:
        """A file name for a batch that depends on its images alone."""
        indices = self.batches[number]
        digest = hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest()[:8]
        return f"{indices[0]:06d}-{indices[-1]:06d}-{digest}"

    def predict_dataloader(self) -> DataLoader:
        """This rank's batches. Only the last batch of all can be short, so a plain batch_size cuts them right."""
        places = [place for number in self.mine() for place in self._places[number]]
        return DataLoader(dataset=Subset(self._dataset, places), batch_size=self.batch_size, shuffle=False)

    def _index(self, place: int) -> int:
        indices = getattr(self._dataset, "indices", None)  # tells the index without decoding the image
        return int(self._dataset[place]["index"] if indices is None else indices[place])
