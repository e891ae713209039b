"""Class map files: which folders of an image tree make up each class."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from pathlib import Path

import yaml


def read_class_map(path: str | Path) -> dict[str, list[str]]:
    """The mapping class name -> folder names of a YAML or JSON file; classes are labelled in the file's order.

    An entry `first..last` stands for every folder from first to last in sorted order, as Restricted ImageNet is defined
    (Tsipras et al., "Robustness May Be at Odds with Accuracy", ICLR 2019).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold such a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"class_map {path.absolute()} does not exist")
    content = yaml.safe_load(path.read_text())  # YAML holds JSON
    if not isinstance(content, dict) or not content:
        raise ValueError(f"class_map {path} must hold a mapping: class name -> list of folder names")
    for name, entries in content.items():
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
            raise ValueError(
                f"class_map {path}: class {name!r} needs a list of folder names (strings), got {entries!r}"
            )
    return {str(name): entries for name, entries in content.items()}


def folder_labels(class_map: dict[str, list[str]], folders: Sequence[str]) -> dict[str, int]:
    """Folder name -> label, for those of `folders` that the map names.

    Raises:
        ValueError: an entry matches no folder, or a folder falls in two classes.
    """
    folders = sorted(folders)
    labels: dict[str, int] = {}
    for label, (name, entries) in enumerate(class_map.items()):
        for entry in entries:
            first, separator, last = entry.partition("..")
            chosen = folders[bisect_left(folders, first) : bisect_right(folders, last if separator else first)]
            if not chosen:
                raise ValueError(f"class_map: {entry!r} of class {name!r} matches none of the {len(folders)} folders")
            for folder in chosen:
                if folder in labels:
                    raise ValueError(f"class_map: folder {folder!r} is in two classes, {name!r} is the second")
                labels[folder] = label
    return labels
