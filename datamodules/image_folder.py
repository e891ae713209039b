"""Any tree of images with one folder a class: ImageNet, Restricted ImageNet, CIFAR-10 as JPEG files, one's own."""

from functools import cached_property
from pathlib import Path

from torch import nn
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.datasets.folder import default_loader, find_classes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from datamodules.class_map import folder_labels, read_class_map
from datamodules.image_datamodule import ImageDataModule, Split, data_root
from datamodules.image_splits import FileSplit, Item


class ImageFolder(ImageDataModule):
    """Images `<root>/<folder>/<train or test>/<class>/*.jpg` (or png, webp, ...), read as RGB when asked.

    Labels count the class folders in sorted order; with a class map they count its classes. File order, in which
    indices count, is torchvision's: class by class, names sorted. A tree without a training folder serves attack and
    certification.

    Args:
        folder: the tree, relative to the data root, or an absolute path.
        root: the data root; null means the environment variable ZEROTH_DATA, else ./data.
        train: subfolder of the training images.
        test: subfolder of the test images (ImageNet's is called val).
        resize: the shorter side is resized to this many pixels; null leaves it.
        crop: then a centred square of this many pixels is cut out; null for none.
        class_map: class name -> list of folder names or ranges `first..last`, or a YAML or JSON file that holds it;
            folders it does not name are left out.
        batch_size: images a batch, in every loader.
        val_size: validation images, as a number (int) or as a share of the training set (float in (0, 1)).
        seed: seed of the validation split.
        num_workers: worker processes of each loader; 0 reads in the training process.
        train_transforms: torchvision v2 transforms of the training images (PIL), in order, in place of resize and crop.

    Raises:
        ValueError: resize or crop is not positive, the class map does not fit the folders, or the splits have
            different ones.
        FileNotFoundError: the tree, a split of it or the class map is not there.
    """

    def __init__(
        self,
        folder: str,
        *,
        root: str | None = None,
        train: str = "train",
        test: str = "test",
        resize: int | None = None,
        crop: int | None = None,
        class_map: dict[str, list[str]] | str | None = None,
        batch_size: int = 128,
        val_size: int | float = 0.1,
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
        for name, pixels in (("resize", resize), ("crop", crop)):
            if pixels is not None and pixels < 1:
                raise ValueError(f"{name} must be at least 1 pixel or null, got {pixels}")
        self.tree = data_root(root) / folder
        self.subfolders = {"train": train, "val": train, "test": test}
        steps: list[nn.Module] = [] if resize is None else [v2.Resize(resize, antialias=True)]
        steps += [] if crop is None else [v2.CenterCrop(crop)]
        self.crop = crop
        self.transform = v2.Compose(steps) if steps else None
        self.class_map = read_class_map(class_map) if isinstance(class_map, str) else class_map
        self._sources: dict[str, datasets.DatasetFolder] = {}

    @cached_property
    def class_names(self) -> list[str]:  # type: ignore[override]
        if self.class_map is not None:
            return list(self.class_map)
        return find_classes(str(self._subfolder(self._any_split("train", "test"))))[0]

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return len(self.class_names)

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        if self.crop is not None:
            return 3, self.crop, self.crop
        # The test images first: listing ImageNet's training images takes minutes.
        image = default_loader(self._source(self._any_split("test", "train")).samples[0][0])
        channels, height, width = F.to_image(self.transform(image) if self.transform else image).shape
        return channels, height, width

    def prepare_data(self) -> None:
        self._subfolder(self._any_split("train", "test"))  # nothing to download: say early that the tree is missing

    def build_split(self, split: Split, *, augment: bool) -> Dataset[Item]:
        source = self._source(split)
        indices = self.split_indices(split, len(source.samples))
        transform = (self.train_transform if augment else None) or self.transform
        return FileSplit(source.samples, indices, default_loader, transform, self.image_shape)

    def _any_split(self, first: Split, second: Split) -> Split:
        """The first of two splits, unless only the other's folder is there."""
        return first if (self.tree / self.subfolders[first]).is_dir() else second

    def _subfolder(self, split: Split) -> Path:
        path = self.tree / self.subfolders[split]
        if not path.is_dir():
            raise FileNotFoundError(
                f"there is no image folder {path.absolute()}: unpack the images there as <class>/<image file>, or name "
                "the place by the arguments root, folder, train and test, or by the environment variable ZEROTH_DATA"
            )
        return path

    def _source(self, split: Split) -> datasets.DatasetFolder:
        name = self.subfolders[split]
        if name not in self._sources:
            path = self._subfolder(split)
            if self.class_map is None:
                source = datasets.ImageFolder(str(path))
                if source.classes != self.class_names:
                    differ = sorted(set(source.classes) ^ set(self.class_names))
                    raise ValueError(
                        f"{path} has other class folders than {self.tree / self.subfolders['train']} "
                        f"({', '.join(differ)}), so labels would not agree: "
                        "add the missing folders, or give a class_map"
                    )
                self._sources[name] = source
            else:
                self._sources[name] = _MappedFolder(str(path), self.class_map)
        return self._sources[name]


class _MappedFolder(datasets.ImageFolder):
    """torchvision's ImageFolder with several folders to a class."""

    def __init__(self, path: str, class_map: dict[str, list[str]]) -> None:
        self.class_map = class_map
        super().__init__(path)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        return list(self.class_map), folder_labels(self.class_map, find_classes(directory)[0])
