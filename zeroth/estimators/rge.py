"""Randomized gradient estimation.

Shapes: B problems, q directions, d coordinates.
"""

from torch import Tensor

from zeroth.estimators.directions import Distribution, combine, random_directions
from zeroth.estimators.estimator import Draw, Function, standard_normal
from zeroth.estimators.sampled import SampledEstimator


class RGE(SampledEstimator):
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
        super().__init__(q=q, mu=mu, antithetic=antithetic)
        if distribution not in ("sphere", "gaussian"):
            raise ValueError(f"distribution must be 'sphere' or 'gaussian', got {distribution!r}")
        self.distribution = distribution

    def __call__(self, f: Function, x: Tensor, *, value: Tensor | None = None, draw: Draw | None = None) -> Tensor:
        """See :class:`Estimator`."""
        dimension = x.shape[1]
        u = random_directions(draw or standard_normal(x), self.q, (dimension,), self.distribution)
        return combine(u, self.slopes_along(f, x, u, value), dimension if self.distribution == "sphere" else 1.0)
