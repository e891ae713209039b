"""PGD: projected gradient descent from random starts (Madry et al., ICLR 2018).

Shapes: B images, n active rows, C x H x W pixels, D of them.
"""

from typing import ClassVar, Literal

from torch import Tensor

from zeroth.attacks.attack import Attack
from zeroth.attacks.losses import Loss, check_kappa, check_loss, objective
from zeroth.attacks.whitebox.steepest import first_gradient, project, steepest
from zeroth.oracles import GradientOracle, Oracle, Trial


class PGD(Attack):
    r"""Steps of fixed length down the gradient, each projected into the ball, from one random start after another.

    .. math:: x_{k+1} = \Pi_{\epsilon}(x_k - \lambda \, \text{sign}(\nabla J(x_k))) \quad (l_\infty)

    and lambda times the unit gradient for l_2. A start and a step cost one query each. The defaults are ours, set by
    hand on MNIST training images, where settings tuned on 100 of them (40 trials) won fewer of 300 others;
    ``configs/attack/pgd_paper.yaml`` has the paper's.

    Args:
        epsilon: radius of the ball, [0, 1] pixels; paper .3 (l_inf, MNIST).
        norm: "linf" or "l2", of the ball and of the step.
        steps: steps of one run; paper 40.
        learning_rate: lambda, length of a step in the norm; None takes epsilon / 2; paper .01.
        random_start: whether the first run starts at random (paper) or at the clean image, whose gradient of the margin
            came with its check; later runs always start at random: uniform in the ball.
        restarts: runs after the first; None for as many as the budget allows; paper 0.
        loss: "cross_entropy" (paper) or "margin".
        kappa: confidence of an adversarial point.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = GradientOracle
    epsilon: float

    def __init__(
        self,
        *,
        epsilon: float = 0.4,
        norm: Literal["linf", "l2"] = "linf",
        steps: int = 10,
        learning_rate: float | None = None,
        random_start: bool = False,
        restarts: int | None = None,
        loss: Loss = "margin",
        kappa: float = 0.0,
    ) -> None:
        if not epsilon > 0:
            raise ValueError(f"epsilon must be > 0 in [0, 1] pixels, got {epsilon}")
        if norm not in ("linf", "l2"):
            raise ValueError(f"norm must be 'linf' or 'l2', got {norm!r}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if learning_rate is not None and not learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0 in [0, 1] pixels, got {learning_rate}")
        if restarts is not None and restarts < 0:
            raise ValueError(f"restarts must be >= 0, or None for no end but the budget, got {restarts}")
        check_kappa(kappa)
        check_loss(loss)
        self.epsilon, self.norm, self.steps = epsilon, norm, steps
        self.learning_rate = epsilon / 2 if learning_rate is None else learning_rate
        self.random_start, self.restarts, self.loss, self.kappa = random_start, restarts, loss, kappa

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        aim = objective(trial, self.loss)
        points = trial.images.clone()
        run = 0
        while len(rows := trial.active):  # all images begin a run together: none but success and budget ends one
            if run or self.random_start:
                points[rows] = trial.images[rows] + self.start(trial, rows)
                _, gradients = trial.gradient(points[rows], rows, aim)
            else:
                gradients = first_gradient(trial, self.loss)[rows]
            for _ in range(self.steps):
                rows, gradients = trial.keep(rows, gradients)
                if len(rows) == 0:
                    break
                moved = points[rows] - self.learning_rate * steepest(gradients, self.norm)
                points[rows] = project(moved, trial.images[rows], self.norm, self.epsilon)
                _, gradients = trial.gradient(points[rows], rows, aim)
            if run == self.restarts:
                trial.retire(trial.active, "restarts")
            run += 1

    def start(self, trial: Trial, rows: Tensor) -> Tensor:
        """Draw perturbations (n, C, H, W) uniform in the ball; the box is the trial's to keep."""
        shape = trial.images.shape[1:]
        if self.norm == "linf":
            return self.epsilon * (2 * trial.streams.rand(rows, (*shape,)) - 1)
        directions = trial.sphere(rows, (1, *shape))[:, 0]
        radius = trial.streams.rand(rows, (1,)) ** (1 / shape.numel())
        return self.epsilon * radius.reshape(-1, 1, 1, 1) * directions
