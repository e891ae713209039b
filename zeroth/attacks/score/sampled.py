"""The loop that attacks by sampled gradients share: ask probes, estimate, step, ask the new iterate.

Shapes: B images, n active rows, R directions, Q probes of a row, D pixels, K classes.
"""

import itertools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zeroth.attacks.attack import Attack, check_accept
from zeroth.attacks.losses import check_kappa, hinge
from zeroth.estimators import combine, grid_directions, random_directions, slopes
from zeroth.estimators import probes as probe_points
from zeroth.oracles import Oracle, ScoreOracle, Trial


@dataclass(frozen=True)
class Probes:
    """What one iteration has learned of the rows still in play.

    Attributes:
        rows: (n,) their numbers.
        base: (n, K) log-probabilities of the iterate.
        answers: (n, Q, K) log-probabilities of the probes, NaN where one was not asked.
        directions: (n, R, D).
        freedom: independent coordinates of a direction: D, or the cells of the grid it is constant on.
        iteration: 0, 1, ...
    """

    rows: Tensor
    base: Tensor
    answers: Tensor
    directions: Tensor
    freedom: int
    iteration: int


class SampledAttack(Attack):
    """Projected descent in an l_inf ball on gradients from random directions.

    One iteration asks its probes around the iterate, then the next iterate, whose answer is both the success check and
    the base of the next differences: R + 1 queries (2 R + 1 with antithetic pairs). The last request shrinks to what
    the budget allows.

    Args:
        epsilon: radius of the l_inf ball, [0, 1] pixels.
        samples: R, directions an iteration.
        mu: length of a probe's step along its unit direction, [0, 1] pixels.
        cells: draw directions on a grid of cells x cells, upsampled; None for pixels.
        iterations: give an image up after so many steps; None for no end but the budget.
        kappa: confidence of an adversarial point.
        accept: "all" asked points count, or only "iterates".
    """

    oracle_type: ClassVar[type[Oracle]] = ScoreOracle
    epsilon: float
    antithetic: ClassVar[bool] = False

    def __init__(
        self,
        *,
        epsilon: float,
        samples: int,
        mu: float,
        cells: int | None,
        iterations: int | None,
        kappa: float,
        accept: Literal["all", "iterates"],
    ) -> None:
        for field, value in (("epsilon", epsilon), ("mu", mu)):
            if not value > 0:
                raise ValueError(f"{field} must be > 0 in [0, 1] pixels, got {value}")
        for field, number in (("samples", samples), ("cells", cells), ("iterations", iterations)):
            if number is not None and number < 1:
                raise ValueError(f"{field} must be at least 1, got {number}")
        check_kappa(kappa)
        check_accept(accept)
        self.epsilon, self.samples, self.mu, self.cells = epsilon, samples, mu, cells
        self.iterations, self.kappa, self.accept = iterations, kappa, accept
        self.request = 2 * samples if self.antithetic else samples

    def step_size(self, learning_rate: float | None) -> float:
        """Return the learning rate; 2 epsilon where none is given: a sign step from face to face of the ball."""
        if learning_rate is not None and not learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {learning_rate}")
        return 2 * self.epsilon if learning_rate is None else learning_rate

    def begin(self, trial: Trial) -> dict[str, Tensor]:
        """Make the state that :meth:`descend` keeps for each image; called once a trial."""
        return {}

    @abstractmethod
    def descend(self, trial: Trial, probes: Probes, state: dict[str, Tensor]) -> Tensor:
        """Return the steps (n, D) to subtract from the perturbations of ``probes.rows``."""

    def length(self, dimension: int) -> float:
        """Return how far a probe goes along its unit direction in images of D pixels."""
        return self.mu

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        clean = trial.images.flatten(1)
        delta = torch.zeros_like(clean)
        base = trial.start.clone()
        state = self.begin(trial)
        for iteration in itertools.count():
            rows = trial.active
            if iteration == self.iterations:
                trial.retire(rows, "iterations")
            # One query is kept for the iterate that the probes lead to.
            count = (trial.remaining(rows) - 1).clamp_max(self.request)
            count = count // 2 * 2 if self.antithetic else count
            trial.retire(rows[count < 1], "budget")
            rows, count = trial.keep(rows, count)
            if len(rows) == 0:
                return
            directions, freedom = self._directions(trial, rows)
            answers = trial.query(
                self._probes(trial, clean[rows] + delta[rows], directions), rows, count, iterate=False
            )
            rows, answers, directions = trial.keep(rows, answers, directions)
            if len(rows) == 0:
                continue
            step = self.descend(trial, Probes(rows, base[rows], answers, directions, freedom, iteration), state)
            moved = (clean[rows] + (delta[rows] - step).clamp(-self.epsilon, self.epsilon)).clamp(0, 1)
            delta[rows] = moved - clean[rows]
            base[rows] = trial.query(moved.reshape(len(rows), 1, *trial.images.shape[1:]), rows)[:, 0]

    def gradient(self, probes: Probes, values: Tensor, at_base: Tensor) -> Tensor:
        """Estimate gradients from values at the probes (n, Q[, M]) and at the iterates (n[, M]): (n[, M], D).

        Directions are unit vectors, and the mean of slope x direction is scaled by their freedom, so that the estimate
        of a linear function's gradient is unbiased; with cells, of its projection on images constant on the cells.
        """
        along = slopes(values, at_base, self.length(probes.directions.shape[2]), self.antithetic)
        return combine(probes.directions[:, : along.shape[1]], along, probes.freedom)

    def objective(self, trial: Trial, answers: Tensor, rows: Tensor) -> Tensor:
        """Margin loss of ZO-NGD eq. 2, floored at -kappa: (n, ...)."""
        return hinge(trial, self.kappa)(answers, rows)

    def _directions(self, trial: Trial, rows: Tensor) -> tuple[Tensor, int]:
        """Draw (n, R, D) unit directions; returns them and their freedom."""
        channels, height, width = trial.images.shape[1:]

        def draw(shape: tuple[int, ...]) -> Tensor:
            return trial.randn(rows, shape)

        if self.cells is None or self.cells >= max(height, width):
            dimension = channels * height * width
            return random_directions(draw, self.samples, (dimension,)), dimension
        directions = grid_directions(draw, self.samples, (channels, height, width), self.cells)
        return directions.flatten(2), channels * min(self.cells, height) * min(self.cells, width)

    def _probes(self, trial: Trial, iterates: Tensor, directions: Tensor) -> Callable[[slice], Tensor]:
        mu = self.length(directions.shape[2])

        def make(part: slice) -> Tensor:
            points = probe_points(iterates[part].unsqueeze(1), directions[part], mu, self.antithetic)
            return points.unflatten(2, tuple(trial.images.shape[1:]))

        return make
