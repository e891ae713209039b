"""What a stage's options mean to the program that it starts, as its real command line understands them."""

import difflib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import LightningDataModule
from pytorch_lightning.cli import LightningArgumentParser
from torch import nn

from callbacks.lineage import settings_hash
from cli import TrainCLI
from cli.faults import explain
from cli.folders import result_settings
from cli.training import default_name
from cli.victims import VictimOptions
from experiments.cells import axis_number, by_option, method_settings
from experiments.experiment import Experiment, Network, Stage
from experiments.marks import check_marks
from experiments.networks import PLANNED, check_victim, network_settings
from experiments.parsing import command_line, option_words, parse, plain_config
from experiments.table_checks import OVER
from zeroth.records import difference, flatten

# What all tunings of an experiment share: a method that is tried more often, or on more images, looks the better one.
EFFORT = ("trials", "images", "budget", "seed", "objective")


class PlannedModel(nn.Module):
    """Stands for a network that an earlier stage will train: a stage is planned before the checkpoint is there.

    Args:
        hash: of the train stage, or of the settings of a network that no stage trains. It takes the network's place in
            the settings of the stage that is built on it, so that their hash covers how the network came about and not
            where it lies.
    """

    def __init__(self, hash: str) -> None:
        super().__init__()
        self.hash = hash


@dataclass(frozen=True)
class Resolved:
    """A stage as its program will understand it.

    Args:
        config: the whole configuration, class defaults included.
        hash: hex SHA-256 of what decides the outcome. Of a train stage without models it is the ``config_hash`` of its
            lineage.json; of another it covers the hashes of the stages that it follows.
        data: class_path and init_args of the images; an evaluation has those of its victim unless it says otherwise.
        prefix: what the run folder's name begins with: the config file's stem of a train stage, since experiments
            share their victims, else the stage's name.
        settings: the part of the configuration that decides the outcome.
        pairs: attacks on an image; one for each wrong class where all are targets, None where nobody can tell before
            the images are there.
    """

    config: dict[str, Any]
    hash: str
    data: dict[str, Any]
    prefix: str
    settings: dict[str, Any]
    pairs: int | None = 1


def resolve(experiment: Experiment) -> dict[str, Resolved]:
    """Resolve all stages, in their order.

    Raises:
        ValueError: a program does not take an option or its value, two tunings get unequal effort, a picture is drawn
            over what is no setting of its rows, or a stage has no distance at a mark; names the field and the remedy.
    """
    found: dict[str, Resolved] = {}
    for name, stage in experiment.stages.items():
        try:
            if stage.job == "train":
                found[name] = _resolve_train(stage, found)
            else:
                found[name] = _resolve_evaluation(name, stage, experiment, found)
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise ValueError(f"stages.{name}: {error}") from error
    check_equal_effort({name: found[name].config for name, stage in experiment.stages.items() if stage.job == "tune"})
    _check_axes(experiment, found)
    check_marks(experiment, {name: resolved.config for name, resolved in found.items()})
    return found


def check_equal_effort(tunings: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that all tunings get the same effort.

    Args:
        tunings: name of a tune stage -> its whole configuration.

    Raises:
        ValueError: they do not; names the field and two stages with their values.
    """
    for key in EFFORT:
        # An objective that is not given follows from the attack.
        given = {name: config[key] for name, config in tunings.items() if key != "objective" or config[key] is not None}
        (first, value), *others = given.items() or [("", None)]
        for name, other in others:
            if unequal := difference(value, other, key):
                field, one, two = unequal
                raise ValueError(
                    f"stages {first} and {name} differ in {field}, {one!r} and {two!r}: all tunings of an experiment "
                    "get equal effort, so give both the same value, under defaults.tune say"
                )


def _check_axes(experiment: Experiment, found: Mapping[str, Resolved]) -> None:
    """Check that each row of a picture over a setting has that setting, and a number for it."""
    for name, picture in experiment.pictures.items():
        drawn = [row for row in experiment.rows if not picture.rows or row.method in picture.rows]
        for row in drawn if picture.kind in OVER else []:
            settings = by_option(method_settings(flatten(found[row.stage].settings)))
            field, key = f"pictures.{name}.over", str(picture.over)
            if key not in settings:
                near = difflib.get_close_matches(key, list(settings), n=1)
                hint = f", did you mean {near[0]}?" if near else ""
                known = ", ".join(sorted(settings))
                raise ValueError(f"{field}: {row.method} has no setting {key}{hint} (it has {known})")
            value = settings[key]
            tuned = experiment.stages[row.stage].tuned is not None  # what it will be is not known yet
            if not tuned and axis_number(value) is None:
                raise ValueError(f"{field}: {key} of {row.method} is {value!r}: only numbers can stand on an axis")


def model_options(stage: Stage, model: Callable[[str, Network], dict[str, Any]]) -> dict[str, Any]:
    """The options of :attr:`Stage.models`, each network told by ``model`` as class_path and init_args."""
    return {
        option: json.dumps(
            [model(option, network) for network in given] if isinstance(given, list) else model(option, given)
        )
        for option, given in stage.models.items()
    }


def _planned(before: Mapping[str, Resolved]) -> Callable[[str, Network], dict[str, Any]]:
    """Tell a network by the :class:`PlannedModel` that stands for it."""

    def planned(option: str, network: Network) -> dict[str, Any]:
        kind = PLANNED.get(option.rpartition(".")[2], PlannedModel)
        path = f"{kind.__module__}.{kind.__qualname__}"
        told = before[network].hash if isinstance(network, str) else settings_hash(network_settings(network))
        return {"class_path": path, "init_args": {"hash": told}}

    return planned


def _resolve_train(stage: Stage, before: Mapping[str, Resolved]) -> Resolved:
    parsed = parse(TrainCLI, option_words({**stage.options, **model_options(stage, _planned(before))}))
    config = plain_config(parsed)
    if config.get("data") is None:
        raise ValueError("a train stage needs data: name it in its config or by the option data")
    return Resolved(
        config,
        settings_hash(result_settings(config)),
        config["data"],
        default_name(parsed.words, config["model"]),
        result_settings(config),
    )


def _resolve_evaluation(name: str, stage: Stage, experiment: Experiment, before: Mapping[str, Resolved]) -> Resolved:
    options = dict(stage.options)
    if stage.tuned is not None:  # the tuned file is not there yet; its hash stands for what it will say
        options["attack"] = experiment.stages[stage.tuned].options["attack"]
        options |= model_options(experiment.stages[stage.tuned], _planned(before))
    options |= model_options(stage, _planned(before))
    victim = None if stage.victim is None else before[stage.victim]
    # The checkpoint, which is not there yet, will tell the images that its victim was trained on.
    images = [] if victim is None or "data" in options else ["--data", json.dumps(victim.data)]
    parsed = parse(command_line(stage), [*images, *option_words(options)])
    parsed.resolved = plain_config(parsed)
    # Builds the attack, the selection and the datamodule, none of which reads a file: they check their own values.
    try:
        parsed.config_init = parsed.parser.instantiate(parsed.config)
    except (ValueError, TypeError) as error:
        raise ValueError(explain(str(error), [])) from error
    if "victim" in parsed.resolved:
        parsed.victim_options = VictimOptions(**parsed.resolved["victim"])
        if victim is None:
            check_victim(parsed.victim_options)
    settings = parsed.outcome_settings()
    if victim is None and stage.tuned is not None:
        _check_same_victim(stage.tuned, before[stage.tuned].settings["victim"], settings["victim"])
    outcome = {
        "job": stage.job if stage.study is None else f"{stage.job} {stage.study}",
        "settings": settings,
        "victim": None if victim is None else victim.hash,  # the settings say what was named
        "tuned": None if stage.tuned is None else before[stage.tuned].hash,
    }
    pairs = _wrong_classes(parsed.config_init.data) if parsed.resolved.get("targeted") == "all" else 1
    return Resolved(parsed.resolved, settings_hash(outcome), parsed.resolved["data"], name, settings, pairs)


def _wrong_classes(data: Any) -> int | None:
    """Wrong classes of an image; None of a tree that is not there yet, whose folders are the classes."""
    try:
        return int(data.num_classes) - 1
    except FileNotFoundError:
        return None


def _check_same_victim(tune: str, tuned: Mapping[str, Any], attacked: Mapping[str, Any]) -> None:
    if found := difference(tuned, attacked, "victim"):
        raise ValueError(
            f"{found[0]} is {found[2]!r}, but {tune} tunes on {found[1]!r}: an attack is tuned on the victim that it "
            "then attacks"
        )


def build_data(data: Mapping[str, Any]) -> Any:
    """Build a datamodule from its class_path and init_args; it reads nothing yet."""
    parser = LightningArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    return parser.instantiate(parser.parse_object({"data": deepcopy(data)})).data  # it writes into what it is given
