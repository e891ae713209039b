"""Networks that no stage trains, victims and surrogates by name: checked while planning, with no weights read."""

import warnings
from argparse import ArgumentError
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
import torchvision
from pytorch_lightning.cli import LightningArgumentParser
from torch import nn

import zeroth.networks  # noqa: F401  its class names become known to the parser
from cli.faults import explain
from cli.victims import VictimOptions, build_victim


def check_victim(options: VictimOptions) -> None:
    """Check name and arguments of a victim by building it without numbers; a class path of one's own is not called.

    Raises:
        ValueError: there is no such victim, it does not take the arguments, or has no such weights.
    """
    if "." in (name := options.name or ""):
        return
    published = name in torchvision.models.list_models(module=torchvision.models)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's, on how Inception's numbers are drawn: none are
        build_victim(replace(options, weights=None if published else options.weights, state_dict=None))
    if published:
        _check_weights("victim.weights", name, options.weights)


def network_settings(network: Mapping[str, Any]) -> dict[str, Any]:
    """Tell a network by its class_path and all of its init_args, defaults included.

    Args:
        network: class_path and init_args; the class may be named by its name alone.

    Raises:
        ValueError: there is no such class, it does not take the arguments, or torchvision has no such weights.
    """
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    try:
        told = parser.parse_object({"network": deepcopy(dict(network))}).network.as_dict()
    except ArgumentError as error:
        raise ValueError(f"models: {explain(str(error), [])}") from error
    if told["class_path"].rpartition(".")[2] == "TorchvisionClassifier":
        arguments = told["init_args"]
        if arguments["name"] in torchvision.models.list_models(module=torchvision.models):
            _check_weights("models: weights", arguments["name"], arguments["weights"])
    return told


def _check_weights(field: str, name: str, weights: str | None) -> None:
    known = torchvision.models.get_model_weights(name).__members__
    if weights is not None and weights not in known:
        raise ValueError(f"{field} {weights!r}: torchvision offers {', '.join(known)} for {name}")
