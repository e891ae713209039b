"""Sign descent on a randomized gradient estimate: the baseline that tells what a cleverer step adds.

Shapes: n active rows, D pixels.
"""

from typing import Literal

from torch import Tensor

from zeroth.attacks.score.sampled import Probes, SampledAttack
from zeroth.oracles import Trial


class RGESign(SampledAttack):
    """delta <- project(delta - lambda sign(g)), g the one-sided estimate of the margin's gradient (ZO-NGD eq. 16).

    The defaults are tuned on MNIST training images, 40 trials as for the other attacks.

    Args:
        epsilon: radius of the l_inf ball, [0, 1] pixels.
        samples: R, directions an iteration.
        mu: length of a probe's step along its unit direction.
        learning_rate: size of the sign step; None takes 2 epsilon.
        cells: draw directions on a grid of cells x cells; None for pixels.
        iterations: give an image up after so many steps; None for no end but the budget.
        kappa: confidence of an adversarial point.
        accept: "all" asked points count, or only "iterates".

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    def __init__(
        self,
        *,
        epsilon: float = 0.4,
        samples: int = 3,
        mu: float = 1.0,
        learning_rate: float | None = None,
        cells: int | None = 7,
        iterations: int | None = None,
        kappa: float = 0.0,
        accept: Literal["all", "iterates"] = "all",
    ) -> None:
        super().__init__(
            epsilon=epsilon, samples=samples, mu=mu, cells=cells, iterations=iterations, kappa=kappa, accept=accept
        )
        self.learning_rate = self.step_size(learning_rate)

    def descend(self, trial: Trial, probes: Probes, state: dict[str, Tensor]) -> Tensor:
        """Return lambda sign(g)."""
        rows = probes.rows
        gradient = self.gradient(
            probes, self.objective(trial, probes.answers, rows), self.objective(trial, probes.base, rows)
        )
        return self.learning_rate * gradient.sign()
