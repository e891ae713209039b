"""Which parameters of an attack are searched, and where: ``configs/tune/<stem>.yaml``, checked before any work.

A file maps parameters to ranges ``{low, high, log, step}`` or to ``{choices: [...]}``.
"""

import difflib
import inspect
from argparse import ArgumentError
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from cli.faults import explain
from zeroth.attacks import Attack

FOLDER = Path(__file__).parent.parent / "configs" / "tune"
RANGE = ("low", "high", "log", "step")


@dataclass(frozen=True)
class SearchSpace:
    """The searched parameters of an attack, by name: draws must not depend on the order of the file.

    Args:
        file: where they are written.
        entries: parameter -> what the file says of it.
        distributions: parameter -> the same for Optuna.
    """

    file: Path
    entries: dict[str, dict[str, Any]]
    distributions: dict[str, BaseDistribution]


def find_space(attack: type[Attack], stem: str | None) -> Path:
    """Find the shipped space of an attack: that of its config's stem, else that of its module's.

    Raises:
        FileNotFoundError: neither is there.
    """
    module = attack.__module__.rpartition(".")[2]
    for name in (stem, module):
        if name is not None and (file := FOLDER / f"{name}.yaml").is_file():
            return file
    raise FileNotFoundError(
        f"space: nothing tells where {attack.__name__} is searched: write configs/tune/{module}.yaml, "
        "or give a file by --space"
    )


def read_space(file: Path, attack: type[Attack]) -> SearchSpace:
    """Read the search space of an attack.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; names the file, the parameter and the remedy.
    """
    if not file.is_file():
        raise FileNotFoundError(f"space {file} does not exist: give a YAML file such as configs/tune/zo_ngd.yaml")
    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"space {file} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(written, dict) or not written:
        raise ValueError(f"space {file} must map parameters to ranges, e.g. mu: {{low: 0.1, high: 10, log: true}}")
    parameters = [name for name in inspect.signature(attack).parameters if name != "self"]
    hints = get_type_hints(attack.__init__)
    entries, distributions = {}, {}
    for name, entry in sorted(written.items(), key=lambda item: str(item[0])):
        if name not in parameters:
            near = difflib.get_close_matches(str(name), parameters, n=1)
            raise ValueError(
                f"space {file}: {attack.__name__} has no parameter {name!r}"
                + (f"; did you mean {near[0]}? It takes " if near else "; it takes ")
                + ", ".join(parameters)
            )
        try:
            distributions[name] = _distribution(entry, hints.get(name))
        except ValueError as error:
            raise ValueError(f"space {file}: {name}{error}") from error
        entries[name] = entry
    return SearchSpace(file, entries, distributions)


def starting_point(space: SearchSpace, attack: Attack, init_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the searched parameters as an attack has them; for null, what the attack makes of it.

    Raises:
        ValueError: one lies outside the space, so that no trial could be as good as what is given.
    """
    start = {}
    for name, distribution in space.distributions.items():
        value = init_args.get(name)
        if value is None and not (isinstance(distribution, CategoricalDistribution) and None in distribution.choices):
            value = getattr(attack, name, None)
        try:
            create_trial(params={name: value}, distributions={name: distribution}, value=0.0)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"attack.{name} {value} lies outside {space.entries[name]} of {space.file}, and the search starts from "
                "the attack as it is given: change it, or give a wider --space"
            ) from error
        start[name] = value
    return start


def check_ends(space: SearchSpace, class_path: str, init_args: Mapping[str, Any]) -> None:
    """Build the attack with each end of each range and each choice, all else as given.

    Raises:
        ValueError: the attack refuses one: trials would be lost there.
    """
    for name, distribution in space.distributions.items():
        ends = (
            distribution.choices
            if isinstance(distribution, CategoricalDistribution)
            else (space.entries[name]["low"], space.entries[name]["high"])
        )
        for value in ends:
            try:
                build_attack(class_path, {**init_args, name: value})
            except ValueError as error:
                raise ValueError(f"space {space.file}: {name} {value!r} is refused: {error}") from error


def build_attack(class_path: str, init_args: Mapping[str, Any]) -> Attack:
    """Build an attack from its class and arguments, types checked as on the command line.

    Raises:
        ValueError: the class does not take them.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Attack, "attack")
    own = deepcopy(dict(init_args))  # parsing puts namespaces in the place of what lists hold
    try:
        config = parser.parse_object({"attack": {"class_path": class_path, "init_args": own}})
        attack: Attack = parser.instantiate(config).attack
    except (ArgumentError, ValueError) as error:
        raise ValueError(explain(str(error), [])) from error
    return attack


def _distribution(entry: Any, hint: Any) -> BaseDistribution:
    """Turn an entry into Optuna's words; messages go on after the parameter's name."""
    if not isinstance(entry, dict) or not ({"low", "high"} <= entry.keys() or "choices" in entry):
        raise ValueError(f" must be {{low, high, log, step}} or {{choices: [...]}}, got {entry!r}")
    allowed = ("choices",) if "choices" in entry else RANGE
    if unknown := [key for key in entry if key not in allowed]:
        raise ValueError(f" has {unknown[0]!r} besides {', '.join(allowed)}: leave it out")
    return _choices(entry["choices"]) if "choices" in entry else _range(entry, hint)


def _choices(choices: Any) -> CategoricalDistribution:
    given = choices if isinstance(choices, list) else []
    if not given or not all(value is None or isinstance(value, str | int | float) for value in given):
        raise ValueError(f".choices must be a list of one or more numbers, texts or nulls, got {choices!r}")
    if len(set(map(repr, given))) < len(given):
        raise ValueError(f".choices must differ from one another, got {choices!r}")
    return CategoricalDistribution(given)


def _range(entry: Mapping[str, Any], hint: Any) -> BaseDistribution:
    low, high, log, step = entry["low"], entry["high"], entry.get("log", False), entry.get("step")
    numbers = {"low": low, "high": high} | ({} if step is None else {"step": step})
    for field, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f".{field} must be a number, got {value!r} (YAML reads 1.0e-5 as one, 1e-5 as text)")
    if not isinstance(log, bool):
        raise ValueError(f".log must be true or false, got {log!r}")
    if not low < high:
        raise ValueError(f".low must be below high, got low {low} and high {high}")
    if log and low <= 0:
        raise ValueError(f".low must be > 0 where log is true, got {low}")
    if step is not None and (log or step <= 0):
        raise ValueError(f".step must be > 0 and is for ranges without log, got step {step} and log {log}")
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-8:
        raise ValueError(f".step must lead from low to high in whole steps, got {low}, {high} and {step}")
    whole = all(isinstance(value, int) for value in numbers.values())
    kinds = set(get_args(hint) or (hint,))
    if int in kinds and float not in kinds and not whole:
        raise ValueError(f" takes whole numbers, got {dict(entry)}")
    if whole and float not in kinds:
        return IntDistribution(low, high, log=log, step=1 if step is None else step)
    return FloatDistribution(low, high, log=log, step=step)
