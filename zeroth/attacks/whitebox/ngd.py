"""NGD: natural gradient descent with the victim's own gradients (Zhao et al., AAAI 2020, "White-box Attack").

Shapes: n active rows, M score vectors, K classes, C x H x W pixels, D of them.
"""

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from zeroth.attacks.attack import Attack
from zeroth.attacks.losses import check_kappa, objective
from zeroth.attacks.score.zo_ngd import natural_gradient
from zeroth.attacks.whitebox.steepest import margin_gradient, project
from zeroth.oracles import GradientOracle, Oracle, Trial
from zeroth.oracles.trial import Objective

Fisher = Literal["two_class", "outer_product", "exact"]


class NGD(Attack):
    r"""Descent on the margin m, preconditioned by the damped Fisher matrix F, in an l_inf ball (eqs. 2, 9-12, 18-22).

    .. math:: \delta_{k+1} = \Pi_S(\delta_k - \lambda (F + \gamma I)^{-1} \nabla m(\delta_k))

    A query is one forward with one backward, so that each gradient costs one: that of the margin, whose answer tells
    whether the point is adversarial, and each score vector: none for "two_class", 1 for "outer_product", K for "exact"
    (the paper seems to count a forward and all backwards through it as one). The last step of a budget makes do with
    the score vectors that it can afford. The defaults are ours, set by hand on MNIST training images, where
    settings tuned on 100 of them (40 trials) were no better on 300 others; ``configs/attack/ngd_paper.yaml`` has the
    paper's.

    Args:
        epsilon: radius of the l_inf ball, [0, 1] pixels; paper .2 MNIST, .1 CIFAR-10, .05 ImageNet.
        learning_rate: lambda of eq. 19, of which the paper gives no value.
        damping: gamma of eq. 18; paper .01.
        fisher: "outer_product" (eq. 12, paper; a targeted attack takes its target for t), "exact" (eq. 9), or
            "two_class" (ours): eq. 9 for an answer of the two classes of the margin alone,
            :math:`\sigma(m) \sigma(-m) \nabla m \nabla m^T`, which makes long steps where the victim is sure.
        iterations: give an image up after so many steps; None for no end but the budget.
        kappa: confidence of an adversarial point; paper 0.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = GradientOracle
    epsilon: float

    def __init__(
        self,
        *,
        epsilon: float = 0.4,
        learning_rate: float = 10.0,
        damping: float = 1.0,
        fisher: Fisher = "two_class",
        iterations: int | None = None,
        kappa: float = 0.0,
    ) -> None:
        for field, value in (("epsilon", epsilon), ("learning_rate", learning_rate), ("damping", damping)):
            if not value > 0:
                raise ValueError(f"{field} must be > 0, got {value}")
        if fisher not in get_args(Fisher):
            raise ValueError(f"fisher must be one of {', '.join(get_args(Fisher))}, got {fisher!r}")
        if iterations is not None and iterations < 1:
            raise ValueError(f"iterations must be at least 1, or None for no end but the budget, got {iterations}")
        check_kappa(kappa)
        self.epsilon, self.learning_rate, self.damping = epsilon, learning_rate, damping
        self.fisher, self.iterations, self.kappa = fisher, iterations, kappa

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        rows, steps = trial.active, 0
        points, answers, gradients = (part[rows] for part in (trial.images, trial.start, margin_gradient(trial)))
        while len(rows) and steps != self.iterations:
            factors = self.factors(trial, rows, points, answers, gradients)
            step = natural_gradient(gradients.flatten(1), factors, self.damping).reshape_as(points)
            points = project(points - self.learning_rate * step, trial.images[rows], "linf", self.epsilon)
            answers, gradients = trial.gradient(points, rows)
            rows, points, answers, gradients = trial.keep(rows, points, answers, gradients)
            steps += 1
        trial.retire(rows, "iterations")

    def factors(self, trial: Trial, rows: Tensor, points: Tensor, answers: Tensor, gradients: Tensor) -> Tensor:
        """Return V (n, M, D) with F = V^T V: score vectors times the square roots of their probabilities.

        Args:
            trial: what the score vectors are asked of.
            rows: (n,).
            points: (n, C, H, W).
            answers: (n, K) log-probabilities of the points.
            gradients: (n, C, H, W) of the margin.
        """
        if self.fisher == "two_class":
            margins = trial.goal.margin(answers, rows)
            weights = margins.sigmoid() * (-margins).sigmoid()
            return weights.sqrt().reshape(-1, 1, 1) * gradients.flatten(1).unsqueeze(1)
        if self.fisher == "outer_product":
            aims: list[Objective] = [objective(trial, "cross_entropy")]
            roots = torch.ones(len(rows), 1, device=rows.device)
        else:
            aims = [_log_probability(k) for k in range(answers.shape[1])]
            roots = (answers / 2).exp()
        factors = torch.zeros(len(rows), len(aims), points[0].numel(), device=rows.device)
        for k, aim in enumerate(aims):
            able = trial.remaining(rows) > 1  # one is kept for the point that the step leads to
            _, scores = trial.gradient(points[able], rows[able], aim, iterate=False)
            # NaN is what the oracle's own cap refused: these rows are out of play.
            factors[able, k] = roots[able, k, None] * scores.flatten(1).nan_to_num()
        return factors


def _log_probability(k: int) -> Objective:
    return lambda log_probabilities, _: log_probabilities[:, k]
