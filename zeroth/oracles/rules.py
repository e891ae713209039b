"""What an attack asks of a trial, and what a trial tells of its progress."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from zeroth.oracles.goal import Ball


@dataclass(frozen=True)
class Rules:
    """What an attack asks of a trial.

    Args:
        distance: perturbations (N, C, H, W) -> (N,): what is to be small.
        ball: constraint on the perturbation; None for none.
        accept: "all" looks at every asked point, "iterates" only at those asked with ``iterate=True`` (the papers'
            convention).
        stop_at_success: a row leaves play once it has an adversarial point.
        keep_misses: attack an image whatever its first answer is, and keep of those that are looked at its point of
            least margin inside the ball, ``ledger.miss``; needs scores. For who must go on with something where nothing
            is adversarial.
    """

    distance: Callable[[Tensor], Tensor]
    ball: Ball | None = None
    accept: Literal["all", "iterates"] = "all"
    stop_at_success: bool = True
    keep_misses: bool = False


@dataclass(frozen=True)
class ProgressUpdate:
    """Where a call of an attack stands: queries spent, rows out of play, rows with success, rows in all."""

    queries: int
    finished: int
    successes: int
    total: int
