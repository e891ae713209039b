"""The files that the networks of a configuration are read from, those that ship with the package among them."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from callbacks.lineage import parent_of
from zeroth.records.schema import file_sha256


def checkpoints_in(settings: Any) -> Iterator[str]:
    """The files that the networks of a configuration are read from, in their order: the parents of what is trained."""
    if isinstance(settings, Mapping):
        if isinstance(file := settings.get("checkpoint"), str):
            yield file
        if (shipped := _shipped(settings)) is not None:
            yield shipped
        for value in settings.values():
            yield from checkpoints_in(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from checkpoints_in(value)


def parents_in(settings: Any) -> list[dict[str, Any]]:
    """Describe those files, each once, with their hashes: what a run is built on beside its victim's checkpoint."""
    return [parent_of(path) for path in dict.fromkeys(checkpoints_in(settings))]


def with_shipped_hashes(settings: Any) -> Any:
    """Add to each class that reads a file of the package the file's sha256: another release may ship another one.

    Raises:
        FileNotFoundError: this copy of the package has no such file.
    """
    if isinstance(settings, Mapping):
        told = {key: with_shipped_hashes(value) for key, value in settings.items()}
        if (shipped := _shipped(settings)) is not None:
            told["init_args"]["checkpoint_sha256"] = file_sha256(shipped)
        return told
    return [with_shipped_hashes(value) for value in settings] if isinstance(settings, list) else settings


def _shipped(told: Mapping[str, Any]) -> str | None:
    """The file that a class (class_path, init_args) reads where its checkpoint is None, if that ships."""
    arguments = told.get("init_args")
    if not isinstance(arguments, Mapping) or arguments.get("checkpoint", "") is not None:
        return None
    module, _, name = str(told.get("class_path")).rpartition(".")
    shipped = getattr(getattr(importlib.import_module(module), name), "default_checkpoint", None)
    return None if shipped is None else str(shipped())
