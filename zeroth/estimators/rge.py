"""Randomized gradient estimation.

Shapes: B problems, q directions, d coordinates.
"""

import torch
from torch import Tensor

from zeroth.estimators.directions import Distribution, combine, probes, random_directions, slopes
from zeroth.estimators.estimator import Draw, Estimator, Function, standard_normal


class RGE(Estimator):
    r"""Randomized gradient estimate (ZO-AE-DS eq. 3; ZO-NGD eq. 16).

    .. math:: \hat g = \frac{\phi}{q} \sum_{i=1}^q \frac{f(x + \mu u_i) - f(x)}{\mu} u_i

    with :math:`\phi = d` for directions uniform on the unit sphere and 1 for standard normal ones; antithetic pairs
    take :math:`(f(x + \mu u) - f(x - \mu u)) / 2\mu` instead. On a quadratic with gradient g and
    Hessian A both are unbiased; with spherical directions the total variance is

    .. math:: \frac1q \left((d - 1)\|g\|^2 + \frac{\mu^2 d}{4 (d + 2)} (\mathrm{tr}^2 A + 2\, \mathrm{tr} A^2)\right)

    and antithetic pairs drop its second term.

    Args:
        q: directions.
        mu: step of the difference, in the units of x.
        distribution: "sphere" or "gaussian".
        antithetic: two evaluations a direction and none at x.
    """

    def __init__(self, *, q: int, mu: float, distribution: Distribution = "sphere", antithetic: bool = False) -> None:
        if q < 1:
            raise ValueError(f"q must be at least 1 direction, got {q}")
        if not mu > 0:
            raise ValueError(f"mu must be > 0, got {mu}")
        if distribution not in ("sphere", "gaussian"):
            raise ValueError(f"distribution must be 'sphere' or 'gaussian', got {distribution!r}")
        self.q, self.mu, self.distribution, self.antithetic = q, mu, distribution, antithetic

    @property
    def needs_value(self) -> bool:
        """One-sided differences take f(x), antithetic pairs do not."""
        return not self.antithetic

    def queries(self, dimension: int) -> int:
        """Return q + 1, or 2 q for antithetic pairs."""
        return 2 * self.q if self.antithetic else self.q + 1

    def __call__(self, f: Function, x: Tensor, *, value: Tensor | None = None, draw: Draw | None = None) -> Tensor:
        """See :class:`Estimator`."""
        dimension = x.shape[1]
        u = random_directions(draw or standard_normal(x), self.q, (dimension,), self.distribution)
        center = x.unsqueeze(1)
        points = probes(center, u, self.mu, self.antithetic)
        if value is None and not self.antithetic:
            values = f(torch.cat([center, points], 1))
            value, values = values[:, 0], values[:, 1:]
        else:
            values = f(points)
            value = values[:, 0] if value is None else value  # antithetic pairs need none
        return combine(
            u, slopes(values, value, self.mu, self.antithetic), dimension if self.distribution == "sphere" else 1.0
        )
