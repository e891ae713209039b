"""What a stage will cost, before it runs: images asked and time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.experiment import Job
from zeroth.records import flatten, plain

# Settings that decide how many queries an attack spends on an image.
SPENDING = ("attack", "budget", "targeted", "seed")


@dataclass(frozen=True)
class Estimate:
    """Cost of a stage.

    Args:
        queries: images that the victim is asked, None where nobody can tell.
        seconds: time of that at the victim's rate, None where nobody can tell.
        at_most: whether the two are bounds rather than expectations.
    """

    queries: int | None = None
    seconds: float | None = None
    at_most: bool = False


def estimate(job: Job, config: Mapping[str, Any], *, rate: float | None, cell: Path, pairs: int | None = 1) -> Estimate:
    """Estimate the cost of a stage.

    An attack asks at most images x budget, and never more than its cap; where it has been published with the same
    settings, its mean count is expected again. (Those of a tuned attack are not known before it is tuned.) A tuning
    asks at most trials x images x budget, a certification images x (n0 + n) exactly. Of a training, a study, or a split
    that is taken whole, nothing is known before the data is read.

    Args:
        job: its program.
        config: its whole configuration.
        rate: images a second that the victim answers, None where the experiment does not say.
        cell: the JSON of the cell that reports it; need not exist.
        pairs: attacks on an image, each with the whole budget; None where nobody can tell.
    """
    count = (config.get("images") or {}).get("count")
    if count is None or pairs is None or job in ("train", "study"):
        return Estimate()
    mean = _published_mean(cell, config) if job == "attack" else None
    if job == "certify":
        queries = count * (config["certify"]["n0"] + config["certify"]["n"])
    else:
        count *= pairs
        queries = count * config["budget"] * (config["trials"] if job == "tune" else 1)
        if (cap := config.get("total_queries")) is not None:
            queries = min(queries, cap)
        if mean is not None:
            queries = min(queries, round(count * mean))
    return Estimate(queries, queries / rate if rate else None, at_most=job != "certify" and mean is None)


def _published_mean(cell: Path, config: Mapping[str, Any]) -> float | None:
    """Mean queries an image that a cell reports, None where it tells none or is of an attack with other settings."""
    try:
        told = json.loads(cell.read_text(encoding="utf-8"))
        mean, settings = told["measured"]["queries"]["mean"], {**told["config"]["settings"], "seed": told["seed"]}
        settings = {key: value for key, value in settings.items() if key.partition(".")[0] in SPENDING}
    except (OSError, ValueError, KeyError, TypeError):  # an estimate is no reason to stop
        return None
    if settings != plain(flatten({key: config[key] for key in SPENDING}), canonical=True):
        return None
    return float(mean) if isinstance(mean, int | float) else None
