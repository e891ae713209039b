"""How far coordinate descent moves a coordinate, given its first and second difference (thesis Algorithms 2 and 3).

Shapes: B images, m coordinates an image, n rows, Q coordinates a row.
"""

from typing import Literal

import torch
from torch import Tensor

from zeroth.attacks.adam import adam_step

Solver = Literal["adam", "newton", "newton_adam"]

# The published program takes no curvature below it: a step would have no bound.
LEAST_CURVATURE = 0.1


class CoordinateSolver:
    r"""Moves single coordinates; each has its own Adam moments M, v and number of steps T.

    .. math:: \delta_i = -\eta \frac{\hat M_i}{\sqrt{\hat v_i} + 10^{-8}} \quad \text{("adam")}, \qquad
        \delta_i = -\eta \frac{\hat g_i}{\hat h_i} \quad \text{("newton")}

    Newton's step takes curvature 1 where it is not positive, which is the gradient step of Algorithm 3, and at least .1
    elsewhere (the program). "newton_adam" makes Adam's step where the loss is concave, Newton's elsewhere.

    Args:
        solver: "adam", "newton" or "newton_adam".
        learning_rate: eta.
        size: B.
        coordinates: m, of the largest space.
        device: of the images.
    """

    def __init__(
        self, solver: Solver, *, learning_rate: float, size: int, coordinates: int, device: torch.device
    ) -> None:
        self.solver, self.learning_rate = solver, learning_rate
        # Newton's method has no memory.
        shape = (size, 0 if solver == "newton" else coordinates)
        self.first, self.second = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        self.steps = torch.zeros(shape, dtype=torch.int32, device=device)

    def reset(self, rows: Tensor) -> None:
        """Forget what was learnt of rows (n,)."""
        self.first[rows], self.second[rows], self.steps[rows] = 0, 0, 0

    def move(self, rows: Tensor, coordinates: Tensor, gradient: Tensor, curvature: Tensor, known: Tensor) -> Tensor:
        """Return how far coordinates go, (n, Q).

        Args:
            rows: (n,) distinct.
            coordinates: (n, Q), distinct in a row.
            gradient: (n, Q) first derivatives.
            curvature: (n, Q) second derivatives.
            known: (n, Q) bool: the others were not asked; they stay, and their T too.
        """
        if self.solver == "adam":
            return self._adam(rows, coordinates, gradient, known)
        scale = torch.where(curvature > 0, curvature.clamp_min(LEAST_CURVATURE), 1)
        newton = torch.where(known, -self.learning_rate * gradient / scale, 0)
        if self.solver == "newton":
            return newton
        concave = known & (curvature <= 0)
        return torch.where(concave, self._adam(rows, coordinates, gradient, concave), newton)

    def _adam(self, rows: Tensor, coordinates: Tensor, gradient: Tensor, known: Tensor) -> Tensor:
        place = (rows.unsqueeze(1), coordinates)
        steps = self.steps[place] + known
        before = self.first[place], self.second[place]
        move, first, second = adam_step(gradient, *before, steps.clamp_min(1), self.learning_rate)
        self.first[place] = torch.where(known, first, before[0])
        self.second[place] = torch.where(known, second, before[1])
        self.steps[place] = steps
        return torch.where(known, -move, 0)
