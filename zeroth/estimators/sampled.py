"""What estimators of random directions share: how many are asked, and the slopes along them.

Shapes: B problems, q directions, d coordinates.
"""

import torch
from torch import Tensor

from zeroth.estimators.directions import probes, slopes
from zeroth.estimators.estimator import Estimator, Function


class SampledEstimator(Estimator):
    """Differences along q directions that a subclass draws.

    Args:
        q: directions.
        mu: step of the difference, in the units of x.
        antithetic: two evaluations a direction and none at x.

    Raises:
        ValueError: q is below 1, or mu is not positive.
    """

    def __init__(self, *, q: int, mu: float, antithetic: bool = False) -> None:
        if q < 1:
            raise ValueError(f"q must be at least 1 direction, got {q}")
        if not mu > 0:
            raise ValueError(f"mu must be > 0, got {mu}")
        self.q, self.mu, self.antithetic = q, mu, antithetic

    @property
    def needs_value(self) -> bool:
        """One-sided differences take f(x), antithetic pairs do not."""
        return not self.antithetic

    def queries(self, dimension: int) -> int:
        """Return q + 1, or 2 q for antithetic pairs."""
        return 2 * self.q if self.antithetic else self.q + 1

    def slopes_along(self, f: Function, x: Tensor, directions: Tensor, value: Tensor | None) -> Tensor:
        """Ask f at x, where that is needed and not known, and beside it; returns slopes (B, q).

        Args:
            f: as in :meth:`Estimator.__call__`.
            x: (B, d).
            directions: (B, q, d).
            value: (B,) f(x), or None.
        """
        center = x.unsqueeze(1)
        points = probes(center, directions, self.mu, self.antithetic)
        if value is None and self.needs_value:
            values = f(torch.cat([center, points], 1))
            value, values = values[:, 0], values[:, 1:]
        else:
            values = f(points)
            value = values[:, 0] if value is None else value  # antithetic pairs need none
        return slopes(values, value, self.mu, self.antithetic)
