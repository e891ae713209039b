"""Tuning an attack: what a trial is worth, what the next one tries, and where trials are kept.

The finished trials are the whole state. Each proposal comes from a sampler of its own, seeded by (seed, number of the
trial) and told of all trials before it, so that a killed tuning goes on exactly as an undisturbed one.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import TPESampler
from pytorch_lightning import Callback, LightningModule, Trainer

from zeroth.attacks import AttackResult
from zeroth.oracles.streams import derived_seed
from zeroth.records.summary import OUT_OF_PLAY

Objective = Literal["queries", "distance"]
# Digits of a proposed real number: a tuned file is read by people, and nobody can tell finer settings apart.
DIGITS = 4

optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line on stderr for each proposal


@dataclass(frozen=True)
class TuningTrial:
    """One set of parameters, tried on all images.

    Args:
        number: 0, 1, ...; 0 is the attack as it was given.
        params: searched parameter -> value.
        value: the objective, smaller is better; inf where more than half of the images have no distance.
        success_rate: share of the attacked images; None for a failed trial.
        mean_queries: spent an attacked image, failures included; None for a failed trial.
        total_queries: asked in all; None for a failed trial.
        seconds: that the trial took.
        failed: why these parameters could not be tried, None where they could.
        attacked: images that the victim got right, over which the figures are; None for a failed trial, and for one of
            a time when it was not kept.
    """

    number: int
    params: dict[str, Any]
    value: float
    success_rate: float | None
    mean_queries: float | None
    total_queries: int | None
    seconds: float
    failed: str | None = None
    attacked: int | None = None


class ResultKeeper(Callback):
    """Keeps what a trial's batches come to; Lightning's own list of predictions takes no frozen dataclass.

    Attributes:
        results: of the batches of the last ``trainer.predict``.
    """

    def __init__(self) -> None:
        self.results: list[AttackResult] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the trial before."""
        self.results = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the batch that ended."""
        self.results.append(outputs)


def measure(results: Sequence[AttackResult], objective: Objective, budget: int) -> dict[str, Any]:
    """Tell what a trial is worth: ``value``, ``success_rate``, ``mean_queries``, ``total_queries`` and ``attacked``.

    Args:
        results: of all batches.
        objective: "queries": mean queries spent on an attacked image, a failure counted as the whole budget.
            "distance": median distance over the attacked images, inf for a failure.
        budget: queries an image may spend.

    Raises:
        ValueError: no image was attacked.
    """
    attacked = np.array([reason not in OUT_OF_PLAY for result in results for reason in result.reason], bool)
    if not attacked.any():
        raise ValueError(
            f"none of the {len(attacked)} images is left to attack, all were out of play at their first check: "
            "give a victim that gets them right, or more images by --images.count"
        )
    columns = ("success", "queries", "distance")
    success, queries, distance = (torch.cat([getattr(r, name) for r in results]).numpy()[attacked] for name in columns)
    cost = np.where(success, queries, budget)
    return {
        "value": float(cost.mean() if objective == "queries" else np.median(distance.astype(float))),
        "success_rate": float(success.mean()),
        "mean_queries": float(queries.mean()),
        "total_queries": int(sum(int(result.queries.sum()) for result in results)),
        "attacked": int(attacked.sum()),
    }


def worst_value(objective: Objective, budget: int) -> float:
    """What a failed trial counts: as one in which no image fell."""
    return float(budget) if objective == "queries" else math.inf


def best_trial(tried: Iterable[TuningTrial]) -> TuningTrial:
    """Return the trial of the smallest value, the earliest of equal ones."""
    return min(tried, key=lambda trial: trial.value)


def propose(space: Mapping[str, BaseDistribution], tried: Sequence[TuningTrial], *, seed: int) -> dict[str, Any]:
    """Choose the parameters of the next trial by the tree-structured Parzen estimator (multivariate).

    Args:
        space: searched parameter -> distribution.
        tried: all trials before it, in order; failed ones count at their value.
        seed: of the tuning.

    Returns:
        searched parameter -> value; real ones to :data:`DIGITS` digits.
    """
    own = derived_seed(seed, len(tried))
    study = optuna.create_study(sampler=TPESampler(seed=own, multivariate=True))
    study.add_trials(
        optuna.create_trial(params=trial.params, distributions=dict(space), value=trial.value) for trial in tried
    )
    drawn = study.ask(fixed_distributions=dict(space)).params
    return {name: _rounded(value, space[name]) for name, value in drawn.items()}


def read_trials(path: Path) -> list[TuningTrial]:
    """Read the finished trials of trials.json, none where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return []
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["results"]
        return [TuningTrial(**{**entry, "value": _infinite(entry["value"])}) for entry in told]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or delete it to begin anew"
        ) from error


def _infinite(value: float | None) -> float:
    return math.inf if value is None else value  # JSON has no word for infinity


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    if not isinstance(distribution, FloatDistribution) or distribution.step is not None:
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high)
