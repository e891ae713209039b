"""Gradient estimates along directions whose variances are given, coordinate by coordinate (ZO-L2L, sect. 3).

Shapes: B problems, q directions, d coordinates.
"""

import torch
from torch import Tensor

from zeroth.estimators.directions import combine
from zeroth.estimators.estimator import Draw, Function, standard_normal
from zeroth.estimators.sampled import SampledEstimator


class LearnedSampling(SampledEstimator):
    r"""Forward differences along :math:`u = |\sigma| z`, z standard normal (Ruan et al., ICLR 2020, eq. 1, sect. 3.3).

    .. math:: \hat g = \frac1q \sum_{i=1}^q \frac{f(x + \mu u_i) - f(x)}{\mu} u_i = |\sigma| \odot m

    On a linear f its mean is :math:`\sigma^2 \odot g`: the bias that sigma brings with it. The estimate carries a graph
    to sigma through the last product alone: m is a constant to autograd, so no graph of f is held and memory does not
    grow with q. The program of the paper does the same.

    Args:
        q: directions; paper 20 (MNIST) and 50 (CIFAR-10).
        mu: step of the difference, in the units of x. Paper's program 1e-6, in float64; in float32 1e-5 is as good, and
            from 1e-4 on kinks of the attack loss spoil the estimate.
    """

    def __init__(self, *, q: int, mu: float) -> None:
        super().__init__(q=q, mu=mu)

    def __call__(
        self,
        f: Function,
        x: Tensor,
        *,
        value: Tensor | None = None,
        draw: Draw | None = None,
        sigma: Tensor | None = None,
    ) -> Tensor:
        """See :class:`Estimator`.

        Args:
            f: as there.
            x: (B, d); no gradient flows back into it.
            value: as there.
            draw: as there.
            sigma: (B, d) standard deviations, of either sign; default ones, standard normal directions.
        """
        with torch.no_grad():
            z = (draw or standard_normal(x))((self.q, x.shape[1]))
            u = z if sigma is None else sigma.abs().unsqueeze(1) * z
            mean = combine(z, self.slopes_along(f, x.detach(), u, value))  # m of the class's docstring
        return mean if sigma is None else sigma.abs() * mean
