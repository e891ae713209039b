"""What attacks on scores and gradients make small.

Shapes: n rows, Q points a row, K classes.
"""

from typing import Literal, get_args

from torch import Tensor

from zeroth.oracles import Trial
from zeroth.oracles.trial import Objective

Loss = Literal["cross_entropy", "margin"]


def check_loss(loss: str) -> None:
    """Raise ValueError for an unknown loss."""
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be 'cross_entropy' or 'margin', got {loss!r}")


def check_kappa(kappa: float) -> None:
    """Raise ValueError for a confidence below 0."""
    if kappa < 0:
        raise ValueError(f"kappa must be >= 0, got {kappa}")


def hinge(trial: Trial, kappa: float) -> Objective:
    r"""Return :math:`\max(m, -\kappa)` of answers (n, ..., K) and rows (n,), (n, ...): ZO-NGD eq. 2, thesis eq. 9."""
    return lambda answers, rows: trial.margin(answers, rows).clamp_min(-kappa)


def loss_values(trial: Trial, answers: Tensor, rows: Tensor, loss: Loss) -> Tensor:
    r"""Loss of log-probabilities (n, ..., K) of rows (n,): (n, ...), the smaller the nearer to the goal.

    .. math:: m \quad \text{("margin", negative where the goal is met)}
    .. math:: \log p_t \ \text{(untargeted)}, \quad -\log p_y \ \text{(targeted)} \quad \text{("cross\_entropy")}
    """
    if loss == "margin":
        return trial.margin(answers, rows)
    key = trial.goal.key[rows].reshape(-1, *[1] * (answers.ndim - 1)).expand(*answers.shape[:-1], 1)
    own = answers.gather(-1, key).squeeze(-1)
    return own if trial.goal.targets is None else -own


def objective(trial: Trial, loss: Loss) -> Objective:
    """Return :func:`loss_values` as the function of answers (n, K) and rows (n,) that :meth:`Trial.gradient` takes."""
    return lambda answers, rows: loss_values(trial, answers, rows, loss)
