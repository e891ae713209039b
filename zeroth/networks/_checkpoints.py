"""Files of weights: how they are read without running code of theirs, and how the network of one is built again."""

import importlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

# What torch.load raises for a file that is cut short or no torch file at all.
_UNREADABLE = (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, UnicodeDecodeError, ValueError)


def read_weights(path: str | Path, *, job: str = "train-victim") -> Any:
    """Read a file of tensors and plain values, never running code that is in it.

    Args:
        path: file by torch.save, or .safetensors.
        job: folder of runs/ where such files come from, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short, no torch or safetensors file, or holds pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: train.py writes runs/{job}/<name>/checkpoints/last.ckpt"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise ValueError(f"checkpoint {path} cannot be read: it is no torch checkpoint, or damaged") from error
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"checkpoint {path} holds pickled objects besides tensors and plain values"
            f"{f' ({named.group(1)})' if named else ''}: refused, because loading them would run code of the file. "
            "Save the weights alone, torch.save(model.state_dict(), ...), and give them by "
            "--victim CLASS --victim.state_dict FILE"
        ) from error
    except (*_UNREADABLE, SafetensorError) as error:
        raise ValueError(
            f"checkpoint {path} cannot be read: it is cut short or no torch checkpoint; copy it again or train it anew"
        ) from error


def fill(module: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    """Load named weights into a module.

    Raises:
        ValueError: they are those of another module; names the file and the first key that differs.
    """
    try:
        module.load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        first = " ".join(str(error).split())[:300]
        raise ValueError(f"weights {path} do not fit {type(module).__name__}: {first}") from error


def read_network(
    checkpoint: str, *, part: str | None = None, job: str = "train-victim"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network that a system of train.py trained, with its weights.

    Args:
        checkpoint: file that train.py wrote; its system keeps the network as ``network``.
        part: what a defense's checkpoint is read for, which holds several: its ``denoiser`` or its ``autoencoder``.
        job: as in :func:`read_weights`.

    Returns:
        the network, and the system's hyperparameters as plain values.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of train.py, or its network cannot be built.
    """
    held = read_weights(checkpoint, job=job)
    settings = held.get("hyper_parameters") if isinstance(held, dict) else None
    name, start = "network", "network."
    if part is not None and settings and isinstance(settings.get(part), Mapping):
        name, start = part, f"defense.{part}."
    if not settings or name not in settings or "state_dict" not in held:
        raise ValueError(
            f"checkpoint {checkpoint} was not written by train.py (it has no state_dict with a network among its "
            "hyper_parameters): give a checkpoint of train.py, or a class path of your own that loads these weights"
        )
    network = _build(settings[name], checkpoint)
    state = {key.removeprefix(start): value for key, value in held["state_dict"].items() if key.startswith(start)}
    fill(network, state, checkpoint)
    return network, settings


def _build(description: Any, checkpoint: str) -> nn.Module:
    """Build a network from {class_path, init_args}, as train.py describes it; init_args may hold networks again."""
    try:
        if not isinstance(description, Mapping) or "class_path" not in description:
            raise ValueError(f"expected a class_path with init_args, got {description!r}")
        module, _, name = str(description["class_path"]).rpartition(".")
        kind = getattr(importlib.import_module(module or "zeroth.networks"), name)
        # The file is a stranger's: nothing but a network is called.
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(f"{description['class_path']} is no torch module")
        arguments = {
            key: _build(value, checkpoint) if isinstance(value, Mapping) and "class_path" in value else value
            for key, value in (description.get("init_args") or {}).items()
        }
        return kind(**arguments)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"checkpoint {checkpoint} names a network that cannot be built: {error}") from error
