"""FGM: the fast gradient method in l_inf, l_2 and l_1 (Goodfellow et al., ICLR 2015; thesis eqs. 7-8 and Table 4).

Shapes: B images, n active rows, Q epsilons of a request, C x H x W pixels.
"""

from typing import ClassVar

from torch import Tensor

from zeroth.attacks.attack import Attack
from zeroth.attacks.losses import Loss, check_kappa, check_loss
from zeroth.attacks.whitebox.epsilon_grid import EpsilonGrid, check_grid
from zeroth.attacks.whitebox.steepest import first_gradient, steepest
from zeroth.oracles import GradientOracle, Oracle, Trial
from zeroth.oracles.goal import Norm


class FGM(Attack):
    r"""One step down the gradient, of the smallest length on a grid that fools the victim.

    .. math:: x = x_0 - \epsilon \, \text{sign}(\nabla J(x_0)) \quad \text{(eq. 7)}, \qquad
              x = x_0 - \epsilon \frac{\nabla J(x_0)}{\|\nabla J(x_0)\|_q} \quad (q = 1, 2; \text{ eq. 8})

    All epsilons lie on one ray, so an image asks ``request`` of them at once, upwards, and leaves play at the first
    that works. The defaults are ours; ``configs/attack/fgm_paper.yaml`` has the thesis'.

    Args:
        norm: "linf", "l2" or "l1", of the step and of the distance.
        largest: the grid's largest epsilon, [0, 1] pixels; None takes the thesis': 1, 10 and 1,000.
        points: epsilons of the grid, largest / points apart; thesis 1,000.
        stride: look at every stride-th epsilon first and then at those below the first that works; 1 (thesis) tries
            all. Larger ones miss a success between two epsilons that fail.
        loss: "cross_entropy" (thesis: the training loss), which costs one query, or "margin".
        kappa: confidence of an adversarial point; thesis 0.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = GradientOracle
    # What counts is how near the point is, though the first that works ends the search.
    stop_at_success: ClassVar[bool] = False
    request = 16

    def __init__(
        self,
        *,
        norm: Norm = "linf",
        largest: float | None = None,
        points: int = 1000,
        stride: int = 25,
        loss: Loss = "margin",
        kappa: float = 0.0,
    ) -> None:
        self.largest = check_grid(norm, largest, points, stride)
        check_loss(loss)
        check_kappa(kappa)
        self.norm, self.points, self.stride, self.loss, self.kappa = norm, points, stride, loss, kappa

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        steps = steepest(first_gradient(trial, self.loss), self.norm)
        grid = EpsilonGrid(len(trial.images), points=self.points, stride=self.stride, device=trial.images.device)
        while len(rows := trial.active):
            numbers, count = grid.propose(rows, self.request)
            count = count.minimum(trial.remaining(rows))
            lengths = numbers * (self.largest / self.points)

            def make(part: slice, rows: Tensor = rows, lengths: Tensor = lengths) -> Tensor:
                moves = lengths[part].reshape(-1, self.request, 1, 1, 1) * steps[rows[part]].unsqueeze(1)
                return trial.images[rows[part]].unsqueeze(1) - moves

            works = trial.adversarial(make, rows, count)
            done = grid.enter(rows, works[:, : self.request], count)
            trial.retire(rows[done & grid.found[rows]], "success")
            trial.retire(rows[done], "grid")
