"""Reads an experiment file: variables filled in for a scale, every field checked, before anything runs."""

import re
from argparse import ArgumentError
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args

import yaml
from jsonargparse import ArgumentParser

from cli.faults import explain
from experiments.at_scale import at_scale
from experiments.experiment import Experiment, Job, Picture, Row, Scale, Stage
from experiments.table_checks import check_table, unknown_key

# The plan gives these to the stages.
_PLANNED = re.compile(r"run(\..*)?|checkpoint|shard|trainer\.devices")
# A stage names a run folder and a rule of the workflow; "all" is the rule that asks for all of them.
_STAGE_NAME = re.compile(r"(?!all$)\w[\w.-]*")
# Fields of any values.
_FREE = ("options", "models", "defaults")
# Studies that ask no victim.
_WITHOUT_VICTIM = ("synthetic",)
_VARIABLE = re.compile(r"\{(\w+)\}")


def load_experiment(path: str | Path, scale: Scale) -> Experiment:
    """Read an experiment as it is at one scale.

    A value that is exactly ``{name}`` takes the variable's own type; inside text the variable is written out. The
    options of :attr:`Experiment.defaults` are part of each stage of the job.

    Args:
        path: ``configs/experiment/<paper>/<table>.yaml``.
        scale: one of the file's ``scales``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key, type, name or reference is wrong; names the file, the field, the value and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"experiment {path} does not exist: give a file of configs/experiment/<paper>/")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    try:
        return _experiment(raw, scale)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _experiment(raw: Any, scale: Scale) -> Experiment:
    if not isinstance(raw, dict):
        raise ValueError(f"an experiment is a mapping with the keys {', '.join(_names(Experiment))}, got {raw!r}")
    _check_keys(Experiment, raw, "")
    scales = raw["scales"]
    if not isinstance(scales, dict) or not all(isinstance(variables, dict) for variables in scales.values()):
        raise ValueError(f"scales must map each scale to its variables, got {scales!r}")
    if unknown := sorted(set(map(str, scales)) - set(get_args(Scale))):
        raise ValueError(f"scales: {unknown[0]!r} is no scale: it must be one of {', '.join(get_args(Scale))}")
    if scale not in scales:
        raise ValueError(f"scales has no {scale!r}: give --scale {' or '.join(scales)}")
    filled = {
        key: value if key in ("scales", "dataset", "rate") else _filled(value, scales[scale], key, scale)
        for key, value in raw.items()
    }
    parts = {
        "stages": _entries(Stage, filled.pop("stages"), "stages"),
        "pictures": _entries(Picture, filled.pop("pictures", {}), "pictures"),
    }
    rows = filled.pop("rows")
    if not isinstance(rows, list):
        raise ValueError(f"rows must be a list, got {rows!r}")
    read = [_typed(Row, row, f"rows[{place}]") for place, row in enumerate(rows)]
    whole = _typed(Experiment, {**filled, "stages": {}, "rows": []}, "")
    experiment = at_scale(replace(whole, **parts, rows=read), scale)
    check_table(experiment, scale)
    stages = {
        name: replace(stage, options={**experiment.defaults.get(stage.job, {}), **stage.options})
        for name, stage in experiment.stages.items()
    }
    _check_stages(stages)
    return replace(experiment, stages=stages)


def _filled(value: Any, variables: Mapping[str, Any], where: str, scale: str) -> Any:
    """Fill in the variables of all text in a value."""
    if isinstance(value, dict):
        return {key: _filled(item, variables, f"{where}.{key}", scale) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables, f"{where}[{place}]", scale) for place, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in variables:
            raise ValueError(
                f"{where}: {value!r} names the unknown variable {name!r}; scale {scale} has {', '.join(variables)}"
            )
    if whole := _VARIABLE.fullmatch(value):
        return variables[whole[1]]
    return _VARIABLE.sub(lambda found: str(variables[found[1]]), value)


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _check_keys(kind: type, value: Mapping[str, Any], where: str) -> None:
    """Refuse a key that is unknown and miss one that is not there."""
    start = f"{where}." if where else ""
    for key in value:
        if key not in _names(kind):
            raise ValueError(unknown_key(f"{start}{key}", str(key), _names(kind), kind.__name__))
    for field in fields(kind):
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{start}{field.name} is missing: {kind.__name__} needs it")


def _typed(kind: type, value: Any, where: str) -> Any:
    """Build a dataclass from a mapping; jsonargparse checks the types."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a mapping with the keys {', '.join(_names(kind))}, got {value!r}")
    _check_keys(kind, value, where)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        built = parser.instantiate(parser.parse_object({"value": deepcopy(value)})).value
    except ArgumentError as error:
        raise ValueError(explain(str(error), []).replace("value.", f"{where}." if where else "", 1)) from error
    # The parser fills in a class among values that may be anything; they are for the commands of the stages to read.
    return replace(built, **{name: value[name] for name in _FREE if name in value})


def _entries(kind: type, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must map names to {kind.__name__}s, got {value!r}")
    return {str(name): _typed(kind, entry, f"{where}.{name}") for name, entry in value.items()}


def _check_stages(stages: Mapping[str, Stage]) -> None:
    """Check that each stage follows what it needs."""
    before: dict[str, Stage] = {}
    for name, stage in stages.items():
        where = f"stages.{name}"
        if not _STAGE_NAME.fullmatch(name):
            raise ValueError(f"{where}: a stage is named by letters, digits, '_', '-' and '.', and not 'all'")
        _check_victim(where, stage, before)
        _check_reference(f"{where}.tuned", stage.tuned, "tune", before, needed=None if stage.job == "attack" else False)
        if (stage.study is None) != (stage.job != "study"):
            raise ValueError(f"{where}.study: a stage of job study, and no other, names a module, got {stage.study!r}")
        for option, networks in stage.models.items():
            for network in networks if isinstance(networks, list) else [networks]:
                if isinstance(network, str):  # resolving checks those that no stage trains
                    _check_reference(f"{where}.models.{option}", network, "train", before, needed=True)
            if option in stage.options:
                raise ValueError(f"{where}: option {option} is given twice, under options and under models")
        if stage.tuned is not None and "attack" in stage.options:
            raise ValueError(f"{where}: its attack is the one that {stage.tuned} tunes: leave out the option attack")
        if planned := next((key for key in stage.options if _PLANNED.fullmatch(key)), None):
            raise ValueError(f"{where}: option {planned} is for reproduce.py to give, not for the file: leave it out")
        before[name] = stage


def _check_victim(where: str, stage: Stage, before: Mapping[str, Stage]) -> None:
    """Check that a stage has one victim, of an earlier stage, or named by options that tell its images too; or none."""
    if stage.study in _WITHOUT_VICTIM:
        _check_reference(f"{where}.victim", stage.victim, "train", before, needed=False)
        return
    if not stage.named_victim or stage.job == "train":
        _check_reference(f"{where}.victim", stage.victim, "train", before, needed=stage.job != "train")
        return
    if stage.victim is not None:
        raise ValueError(
            f"{where}: its victim is given twice, as the train stage {stage.victim!r} and by the option "
            f"{stage.named_victim[0]}: leave out one of the two"
        )
    for needed in ("victim", "data"):
        if needed not in stage.options:
            raise ValueError(
                f"{where}: option {needed} is missing: without a train stage as victim the options name the victim and "
                "its images, e.g. victim: inception_v3, victim.weights: DEFAULT, data: configs/data/imagenet_299.yaml"
            )


def _check_reference(where: str, name: str | None, job: Job, before: Mapping[str, Stage], needed: bool | None) -> None:
    """Check a stage's reference to an earlier one; needed None leaves it free."""
    if needed is not None and needed != (name is not None):
        raise ValueError(f"{where} {f'must name a {job} stage' if needed else f'{name!r} has no use here'}")
    if name is not None and (name not in before or before[name].job != job):
        known = ", ".join(stage for stage in before if before[stage].job == job) or "none"
        raise ValueError(f"{where}: {name!r} is no {job} stage before this one; those are: {known}")
