"""Arguments of a zeroth-order rule chosen on training problems, as ZO-L2L tunes its baselines (sect. 4).

Shapes: n problems, T iterations.
"""

import json
import math
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning.cli import LightningArgumentParser

from cli.faults import explain
from experiments.studies.image_rows import ImageRows
from zeroth.optimizers.zeroth_order import ZerothOrder
from zeroth.problems import Problems, minimize


@dataclass(frozen=True)
class Tuning:
    """What is tried beside the rule as it is given; nothing unless there are values.

    One argument after the other is set to each of its values, the others being the best so far, and keeps the one with
    the least mean loss after T iterations.

    Args:
        values: argument of the rule -> its values, in this order, e.g. ``{delta: [0.01, 0.1, 1, 10, 100, 1000]}``, the
            paper's.
        line: factors of the first argument's best value, tried next; the paper's "linear range".
        problems: n. Attacks are on images of the validation split: those that configs/optimizer/ trains networks on.

    Raises:
        ValueError: an argument without values, a line without an argument or with a factor that is not positive, or
            no problems.
    """

    values: dict[str, list[Any]] = field(default_factory=dict)
    line: list[float] = field(default_factory=list)
    problems: int = 100

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            if not values:
                raise ValueError(f"tuning.values.{name} must have at least one value: leave it out, or give some")
        if self.line and not (self.values and all(0 < factor < math.inf for factor in self.line)):
            raise ValueError(f"tuning.line must be factors > 0 of the first of tuning.values, got {self.line}")
        if self.problems < 1:
            raise ValueError(f"tuning.problems must be at least 1, got {self.problems}")


def check_tuning(tuning: Tuning, described: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument or value that a rule, told by class_path and init_args, does not take."""
    for place, (name, values) in enumerate(tuning.values.items()):
        if place == 0 and tuning.line and not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"tuning.line has factors of numbers, but tuning.values begins with {name}: {values}")
        factors = [1, *tuning.line] if place == 0 else [1]
        for value in [factor * value if factor != 1 else value for value in values for factor in factors]:
            try:
                rule_of(described, {name: value})
            except ValueError as error:
                raise ValueError(f"tuning.values.{name} {value!r} is refused: {error}") from error


def tune(
    tuning: Tuning, described: Mapping[str, Any], problems: Problems, trials: ImageRows, *, iterations: int, seed: int
) -> dict[str, Any]:
    """Return the arguments of a rule with which it brings the problems furthest down.

    Args:
        tuning: what is tried.
        described: the rule's class_path and init_args.
        problems: the first n of them are taken, from their starting points.
        trials: a row a trial, made here or by a start that was killed: ``index``, its number, ``arguments``, ``loss``,
            None where a problem diverged, and ``queries``.
        iterations: T.
        seed: decides the directions, the same in all trials.
    """

    def loss_of(arguments: dict[str, Any]) -> float:
        for row in trials:
            if row["arguments"] == arguments:
                return math.inf if row["loss"] is None else float(row["loss"])
        rule, before = rule_of(described, arguments).eval().to(problems.device), problems.queries
        curves = minimize(rule, problems, torch.arange(tuning.problems), iterations=iterations, seed=seed)
        loss, asked = float(curves.losses[:, -1].double().mean()), problems.queries - before
        told = {"arguments": arguments, "loss": loss if math.isfinite(loss) else None, "queries": asked}
        trials.append([{"index": len(trials), **told}])
        return loss if math.isfinite(loss) else math.inf

    return search(tuning, described.get("init_args") or {}, loss_of)


def search(tuning: Tuning, given: Mapping[str, Any], loss_of: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    """Return the arguments of the least loss.

    Args:
        tuning: what is tried.
        given: the rule's own arguments, of which the first trial is made.
        loss_of: arguments -> mean loss, infinite where the rule diverges; may be asked for the same ones again.

    Raises:
        ValueError: the rule diverges with all of them.
    """
    best: dict[str, Any] = json.loads(json.dumps({name: given.get(name) for name in tuning.values}))  # no tuples
    for place, (name, values) in enumerate(tuning.values.items()):
        best = min([best, *({**best, name: value} for value in values)], key=loss_of)
        if place == 0:
            best = min([best, *({**best, name: factor * best[name]} for factor in tuning.line)], key=loss_of)
    if math.isinf(loss_of(best)):
        raise ValueError(f"the rule diverges with all of tuning.values {tuning.values}: give others")
    return best


def rule_of(described: Mapping[str, Any], arguments: Mapping[str, Any]) -> ZerothOrder:
    """Build a rule with some arguments in the place of its own.

    Args:
        described: its class_path and init_args.
        arguments: name -> value.

    Raises:
        ValueError: the rule does not take them.
    """
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ZerothOrder, "rule")
    told = {"class_path": described["class_path"], "init_args": {**(described.get("init_args") or {}), **arguments}}
    try:
        rule: ZerothOrder = parser.instantiate(parser.parse_object({"rule": deepcopy(told)})).rule
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(explain(str(error), [])) from error
    return rule
