"""Networks by name while planning, with no weights read: those that no stage trains, and stand-ins for RNNs."""

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

from cli.faults import explain
from cli.victims import VictimOptions, build_victim
from zeroth.networks import QueryRNN, UpdateRNN


class PlannedUpdateRNN(UpdateRNN):
    """Stands for an UpdateRNN that an earlier stage will train; the options that take one take nothing else.

    Args:
        hash: of the train stage, see :class:`~experiments.resolving.PlannedModel`.
    """

    def __init__(self, hash: str) -> None:
        super().__init__()
        self.hash = hash


class PlannedQueryRNN(QueryRNN):
    """Stands for a QueryRNN that an earlier stage will train.

    Args:
        hash: of the train stage.
    """

    def __init__(self, hash: str) -> None:
        super().__init__()
        self.hash = hash


# What stands for a network, by the last word of the option that takes it; else a PlannedModel.
PLANNED: dict[str, type[nn.Module]] = {"update": PlannedUpdateRNN, "query": PlannedQueryRNN}


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
