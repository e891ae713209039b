"""Files of weights: how they are read without running code of theirs, and the network of a checkpoint as a module."""

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
from torch import Tensor, nn

# What torch.load raises for a file that is cut short or no torch file at all.
_UNREADABLE = (RuntimeError, EOFError, zipfile.BadZipFile, KeyError, UnicodeDecodeError, ValueError)


def read_weights(path: str | Path) -> Any:
    """Read a file of tensors and plain values, never running code that is in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short, no torch or safetensors file, or holds pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"checkpoint {path} does not exist: train.py writes runs/train-victim/<name>/checkpoints/last.ckpt"
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


class CheckpointClassifier(nn.Module):
    """The network of a checkpoint of train.py: images (B, C, H, W) in [0, 1] -> logits (B, K).

    For wherever a module stands beside the one that is attacked or trained: as an attack's surrogate, as the victim of
    a substitute. It stays in eval mode whatever its owner does, and its parameters take no gradient; images do.

    Args:
        checkpoint: file that train.py wrote.

    Attributes:
        network: the module that was trained.
        num_classes, image_shape: the network's own, None where it does not tell.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of train.py, or its network cannot be built.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        held = read_weights(checkpoint)
        settings = held.get("hyper_parameters") if isinstance(held, dict) else None
        if not settings or "network" not in settings or "state_dict" not in held:
            raise ValueError(
                f"checkpoint {checkpoint} was not written by train.py (it has no state_dict with a network among its "
                "hyper_parameters): give a checkpoint of train.py, or a class path of your own that loads these weights"
            )
        self.network = _build(settings["network"], checkpoint)
        start = "network."
        state = {
            name.removeprefix(start): value for name, value in held["state_dict"].items() if name.startswith(start)
        }
        fill(self.network, state, checkpoint)
        self.num_classes: int | None = settings.get("num_classes") or getattr(self.network, "num_classes", None)
        self.image_shape = getattr(self.network, "image_shape", None)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "CheckpointClassifier":
        """Stay in eval mode: a module that holds this one trains itself alone."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


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
