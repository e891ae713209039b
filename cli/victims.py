"""The model under evaluation: out of a Lightning checkpoint, torchvision, or any class with a file of weights."""

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import instantiate_module
from torch import nn

import zeroth.networks
from cli.faults import known_classes
from lightning_modules import Classifier
from zeroth.networks._checkpoints import fill, read_weights
from zeroth.oracles import Output


@dataclass
class VictimOptions:
    """A victim that is no checkpoint of train.py; --victim NAME is short for --victim.name NAME.

    Args:
        name: a torchvision classifier, a class of zeroth.networks, or a class path of your own.
        weights: torchvision's published weights, e.g. DEFAULT.
        init_args: arguments of the class, e.g. --victim.init_args.width 32.
        state_dict: file of weights, by torch.save or safetensors.
        output: what the scores are; holds for checkpoints too.
    """

    name: str | None = None
    weights: str | None = None
    init_args: dict[str, Any] = field(default_factory=dict)
    state_dict: str | None = None
    output: Output = "logits"


def load_checkpoint(path: str | Path) -> tuple[LightningModule, dict[str, Any] | None]:
    """Build the module that a checkpoint of train.py holds.

    Returns:
        the module in eval mode, and its datamodule as {class_path, init_args}, None where the checkpoint does not tell.

    Raises:
        FileNotFoundError, ValueError: as in :func:`read_weights`, or it is no checkpoint of train.py.
    """
    checkpoint = read_weights(path)
    keys = set(checkpoint) if isinstance(checkpoint, dict) else set()
    settings = checkpoint.get("hyper_parameters") if "hyper_parameters" in keys else None
    if "state_dict" not in keys or not settings or not ("_class_path" in settings or "network" in settings):
        raise ValueError(
            f"checkpoint {path} was not written by train.py (it has no state_dict with hyper_parameters): "
            "for weights from elsewhere give --victim CLASS --victim.state_dict FILE"
        )
    settings = {key: value for key, value in settings.items() if key != "_instantiator"}
    # A Classifier made and trained in Python keeps its arguments, but not the name of its class.
    try:
        module = instantiate_module(LightningModule if "_class_path" in settings else Classifier, settings)
    except (argparse.ArgumentError, ValueError, TypeError, RuntimeError, ImportError) as error:
        first = " ".join(str(error).split())[-200:]
        raise ValueError(f"checkpoint {path} names a system that cannot be built: {first}") from error
    fill(module, checkpoint["state_dict"], path)
    return module.eval(), checkpoint.get("zeroth", {}).get("data")


def build_victim(options: VictimOptions, seed: int = 0) -> Callable[[Any], Any]:
    """Build a victim by name; modules come in eval mode.

    Weights that nothing gives are drawn by the seed, so that a resumed run, a shard and a rank have the same victim.

    Raises:
        ValueError: unknown name (lists the known ones), wrong arguments, or weights that do not fit.
    """
    name = options.name or ""
    if name in torchvision.models.list_models(module=torchvision.models):
        arguments = {"name": name, "weights": options.weights, **options.init_args}
        victim: Any = _seeded(zeroth.networks.TorchvisionClassifier, arguments, seed)
    else:
        if options.weights is not None:
            raise ValueError(
                f"victim.weights {options.weights!r} is for torchvision's models; give a file by --victim.state_dict"
            )
        target = _find(name)
        try:
            victim = _seeded(target, options.init_args, seed)
        except TypeError as error:
            raise ValueError(f"victim {name} does not take victim.init_args {options.init_args}: {error}") from error
        except RuntimeError as error:
            raise ValueError(f"victim {name} could not be built with {options.init_args}: {error}") from error
    if options.state_dict is not None:
        if not isinstance(victim, nn.Module):
            raise ValueError(f"victim.state_dict needs a torch module, {name} gives a {type(victim).__name__}")
        state = read_weights(options.state_dict)
        if not isinstance(state, dict):
            raise ValueError(
                f"victim.state_dict {options.state_dict} holds a {type(state).__name__}, not named weights"
            )
        fill(victim, state.get("state_dict", state), options.state_dict)
    return victim.eval() if isinstance(victim, nn.Module) else victim


def _seeded(target: Callable[..., Any], arguments: dict[str, Any], seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return target(**arguments)


def _find(name: str) -> Callable[..., Any]:
    if "." not in name:
        if name in (known := known_classes("victim")):
            return getattr(zeroth.networks, name)
        raise ValueError(
            f"victim: unknown name {name!r}; give a torchvision classifier (e.g. resnet18), one of {', '.join(known)}, "
            "or a class path package.module.Class"
        )
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"victim: cannot import {name}: {error}; the folder of your package must be on PYTHONPATH"
        ) from error
