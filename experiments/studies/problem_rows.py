"""An optimizer on problems, several times each: a row a problem, and what is averaged of the rows.

Shapes: n problems, T iterations.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.studies.image_rows import Row
from zeroth.optimizers.zeroth_order import Step, ZerothOrder
from zeroth.oracles.streams import derived_seed
from zeroth.problems import Problems, minimize

# What seeds are derived for: the starting points and the directions of a trial, and the directions of a tuning.
POINTS, DIRECTIONS, TUNING = 31, 32, 33


def problem_rows(
    rule: ZerothOrder,
    problems_of: Callable[[int], Problems],
    rows: Tensor,
    *,
    iterations: int,
    trials: int,
    seed: int,
    gradients: bool = False,
) -> list[Row]:
    """Run an optimizer on the same problems from several starting points.

    Args:
        rule: on the problems' device, in eval mode.
        problems_of: seed of the starting points -> problems.
        rows: (n,) int64, which of them.
        iterations: T.
        trials: how many starting points, the same for all optimizers.
        seed: decides points and directions.
        gradients: whether the true gradient is asked for in each iteration, one query each.

    Returns:
        of each problem ``queries``, the mean ``losses`` over trials, (T + 1,), ``spread``, their standard deviation,
        and, where problems have a goal, ``first``, the iteration at which each trial reaches it, None where it does
        not. With ``gradients`` there are ``cosines``, (T,): the mean over trials of the cosine similarity of estimate
        and true gradient, 0 where one of them is 0. Where trials diverge there is their number, ``diverged``, in the
        place of all but ``queries``.
    """
    losses, reached, similar, asked = [], [], [], 0
    for trial in range(trials):
        problems = problems_of(derived_seed(seed, POINTS, trial))
        watch = Similarity(problems, rows) if gradients else None
        curves = minimize(
            rule,
            problems,
            rows,
            iterations=iterations,
            seed=derived_seed(seed, DIRECTIONS, trial),
            watch=watch,
        )
        similar += [] if watch is None else [torch.stack(watch.cosines, 1)]
        losses.append(curves.losses.cpu())
        reached += [] if curves.reached is None else [curves.reached.cpu()]
        asked += problems.queries // len(rows)
    values = torch.stack(losses, 1).double()  # (n, trials, T + 1)
    goals = torch.stack(reached, 1) if reached else None
    cosines = torch.stack(similar, 1).double().mean(1) if similar else None  # (n, T)
    told: list[Row] = []
    for place, curve in enumerate(values):
        row: Row = {"queries": asked}
        if diverged := int((~curve.isfinite()).any(1).sum()):
            told.append(row | {"diverged": diverged})
            continue
        row |= {"losses": curve.mean(0).tolist(), "spread": curve.std(0, correction=0).tolist()}
        if goals is not None:
            row["first"] = [int(goal.nonzero()[0]) if goal.any() else None for goal in goals[place]]
        if cosines is not None:
            row["cosines"] = cosines[place].tolist()
        told.append(row)
    return told


class Similarity:
    """Looks on at a trajectory and compares its estimates with the true gradients of the iterations' own functions.

    Args:
        problems: which tell their gradients.
        rows: (n,) int64, which of them.

    Attributes:
        cosines: (n,) of each iteration so far.
    """

    def __init__(self, problems: Problems, rows: Tensor) -> None:
        self.problems, self.rows = problems, rows
        self.cosines: list[Tensor] = []

    def __call__(self, theta: Tensor, step: Step) -> None:
        """Ask for the gradients (n, d) at theta."""
        times = torch.full((len(self.rows), 1), len(self.cosines))
        _, true = self.problems.gradient(theta.unsqueeze(1), self.rows, times)
        self.cosines.append(F.cosine_similarity(step.gradient, true[:, 0], dim=1).cpu())


def averages(rows: Sequence[Row], asked: Tensor) -> dict[str, Tensor]:
    """Return what is averaged over problems, of n rows with ``index``, none of which diverged.

    Args:
        rows: of :func:`problem_rows`.
        asked: (T + 1,), what the optimizer has asked of a problem before each iteration of a trial.

    Returns:
        the ``index`` (n, 1), and means over trials: ``losses`` (n, T + 1); ``area under the loss``, their mean; where
        there are cosines their mean, ``cosine similarity``; and of problems with a goal ``success``, ``iterations to
        success`` and ``queries to success``, (n, 1), all of them where there is none.
    """
    losses = torch.tensor([row["losses"] for row in rows], dtype=torch.float64)
    found = {
        "index": torch.tensor([[row["index"]] for row in rows]),
        "losses": losses,
        "area under the loss": losses.mean(1, keepdim=True),
    }
    if "cosines" in rows[0]:
        found["cosine similarity"] = torch.tensor([[np.mean(row["cosines"])] for row in rows])
    if "first" not in rows[0]:
        return found
    ends = torch.tensor([[len(asked) - 1 if at is None else at for at in row["first"]] for row in rows])
    return found | {
        "success": torch.tensor([[np.mean([at is not None for at in row["first"]])] for row in rows]),
        "iterations to success": ends.double().mean(1, keepdim=True),
        "queries to success": (1 + asked[ends]).double().mean(1, keepdim=True),
    }
