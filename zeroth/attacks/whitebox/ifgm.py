"""I-FGM: the iterated fast gradient method in l_inf, l_2 and l_1 (Kurakin et al., 2017; thesis 2.1.1.3 and Table 4).

Shapes: B images, n active rows, C x H x W pixels.
"""

from typing import ClassVar, Literal

import torch

from zeroth.attacks.attack import Attack, check_accept
from zeroth.attacks.losses import Loss, check_kappa, check_loss, objective
from zeroth.attacks.whitebox.epsilon_grid import EpsilonGrid, check_grid
from zeroth.attacks.whitebox.steepest import first_gradient, project, steepest
from zeroth.oracles import GradientOracle, Oracle, Trial
from zeroth.oracles.goal import Norm


class IFGM(Attack):
    r"""A run of FGM steps of length epsilon / steps in the ball, for the smallest epsilon on a grid that works.

    .. math:: x_{k+1} = \Pi_\epsilon(x_k - \tfrac{\epsilon}{K} \, s(\nabla J(x_k))), \qquad s \text{ of eqs. 7-8}

    A run costs ``steps`` queries; the gradient at the clean image serves all of them. Epsilons are tried one after
    another, all images side by side. The defaults are ours; ``configs/attack/ifgm_paper.yaml`` has the thesis'.

    Args:
        norm: "linf", "l2" or "l1", of the steps, the ball and the distance.
        largest: the grid's largest epsilon, [0, 1] pixels; None takes the thesis': 1, 10 and 1,000.
        points: epsilons of the grid, largest / points apart; thesis 1,000.
        stride: look at every stride-th epsilon first and then at those below the first that works; 1 (thesis) tries
            all.
        steps: K, steps of a run; thesis 10.
        loss: "cross_entropy" (thesis: the training loss), which costs one query, or "margin".
        kappa: confidence of an adversarial point; thesis 0.
        accept: "all" ends a run at its first adversarial point, "iterates" (thesis) looks at its last point only.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = GradientOracle
    # What counts is how near the point is, though the first epsilon that works ends the search.
    stop_at_success: ClassVar[bool] = False

    def __init__(
        self,
        *,
        norm: Norm = "linf",
        largest: float | None = None,
        points: int = 1000,
        stride: int = 25,
        steps: int = 10,
        loss: Loss = "margin",
        kappa: float = 0.0,
        accept: Literal["all", "iterates"] = "all",
    ) -> None:
        self.largest = check_grid(norm, largest, points, stride)
        check_loss(loss)
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        check_kappa(kappa)
        check_accept(accept)
        self.norm, self.points, self.stride, self.steps = norm, points, stride, steps
        self.loss, self.kappa, self.accept = loss, kappa, accept

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        aim, first = objective(trial, self.loss), first_gradient(trial, self.loss)
        grid = EpsilonGrid(len(trial.images), points=self.points, stride=self.stride, device=trial.images.device)
        while len(rows := trial.active):
            numbers, count = grid.propose(rows, 1)
            epsilon = torch.zeros(len(trial.images), 1, 1, 1, device=rows.device)
            epsilon[rows] = (numbers * (self.largest / self.points)).reshape(-1, 1, 1, 1)
            works = torch.zeros(len(trial.images), dtype=torch.bool, device=rows.device)
            going, points, gradients = rows, trial.images[rows], first[rows]
            for step in range(self.steps):
                last, clean, radius = step == self.steps - 1, trial.images[going], epsilon[going]
                moved = points - radius / self.steps * steepest(gradients, self.norm)
                points = project(moved, clean, self.norm, radius)
                if last:  # nothing follows: a forward is enough
                    answers = trial.query(points.unsqueeze(1), going)[:, 0]
                else:
                    answers, gradients = trial.gradient(points, going, aim, iterate=False)
                # What was not asked answers NaN, whose margin meets nothing.
                works[going] = trial.goal.met(answers, going) & (last or self.accept == "all")
                going, points, gradients = (
                    tensor[trial.playing[going] & ~works[going]] for tensor in (going, points, gradients)
                )
                if len(going) == 0:
                    break
            done = grid.enter(rows, works[rows].unsqueeze(1), count)
            trial.retire(rows[done & grid.found[rows]], "success")
            trial.retire(rows[done], "grid")
