"""Gradient estimates along directions drawn towards surrogate gradients (Maheswaranathan et al., ICML 2019).

Shapes: B problems, q directions, d coordinates, k surrogates.
"""

from typing import Literal

import torch
from torch import Tensor

from zeroth.estimators.directions import combine
from zeroth.estimators.estimator import Draw, Function, standard_normal
from zeroth.estimators.sampled import SampledEstimator
from zeroth.oracles.oracle import exact_float32
from zeroth.oracles.streams import unit

Scaling = Literal["original", "zo_l2l"]

# Sine of the angle between two surrogates below which they count as one: rounding, not the second of them, would
# choose the other row. An update of ZO-SGD is its estimate times a number.
DEPENDENT = 1e-3


class GuidedES(SampledEstimator):
    r"""Guided evolutionary strategies: directions of normal distribution with covariance C, E|u|^2 = tr C = d.

    With U an orthonormal basis (d, k) of what the surrogates span,

    * "original" (Maheswaranathan et al., eq. 2): :math:`C = \alpha I + (1 - \alpha) \frac dk U U^\top`; the share
      1 - alpha of a direction's energy is drawn in the subspace whatever d. In the paper's symbols this is
      :math:`\Sigma / \sigma^2` times d, mu is :math:`\sigma / \sqrt d` and beta is d.
    * "zo_l2l" (Ruan et al., ICLR 2020, eq. 7): :math:`C \propto \alpha I + (1 - \alpha) U U^\top`, brought to trace d.
      Its share (1 - alpha) k / (alpha d + (1 - alpha) k) vanishes with d: at d = 784, k = 2, alpha = .5 there is .5 %
      of the energy in the subspace, against 50 %.

    .. math:: \hat g = \frac1q \sum_{i=1}^q \frac{f(x + \mu u_i) - f(x)}{\mu} u_i

    whose mean on a linear f is C g. Without surrogates, or where all of a problem's are zero, C = I; where they are
    linearly dependent, k is their rank.

    Args:
        q: directions.
        mu: step of the difference, in the units of x.
        alpha: share of the full space, in (0, 1]; paper .5.
        scaling: "original" or "zo_l2l".
        antithetic: two evaluations a direction and none at x, as in Maheswaranathan et al.; ZO-L2L takes one.
    """

    def __init__(
        self, *, q: int, mu: float, alpha: float = 0.5, scaling: Scaling = "original", antithetic: bool = False
    ) -> None:
        super().__init__(q=q, mu=mu, antithetic=antithetic)
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha, the share of the full space, must be in (0, 1], got {alpha}")
        if scaling not in ("original", "zo_l2l"):
            raise ValueError(f"scaling must be 'original' or 'zo_l2l', got {scaling!r}")
        self.alpha, self.scaling = alpha, scaling

    def __call__(
        self,
        f: Function,
        x: Tensor,
        *,
        value: Tensor | None = None,
        draw: Draw | None = None,
        surrogates: Tensor | None = None,
    ) -> Tensor:
        """See :class:`Estimator`.

        Args:
            f: as there.
            x: as there.
            value: as there.
            draw: as there.
            surrogates: (B, k, d), directions that are thought to resemble the gradient, of any length.
        """
        u = self.directions(x, draw or standard_normal(x), surrogates)
        return combine(u, self.slopes_along(f, x, u, value))

    def directions(self, x: Tensor, draw: Draw, surrogates: Tensor | None) -> Tensor:
        """Draw q directions a problem, (B, q, d), of covariance C."""
        dimension = x.shape[1]
        full = draw((self.q, dimension))
        if surrogates is None:
            return full
        basis = orthonormal(surrogates.to(x))
        rank = basis.square().sum((1, 2)).round()  # (B,), in 0 ... k
        guided = draw((self.q, basis.shape[1]))
        # C = a I + b U U^T with a d + b rank = d; nothing to follow leaves a = 1.
        if self.scaling == "original":
            a = torch.full_like(rank, self.alpha)
            b = (1 - self.alpha) * dimension / rank.clamp_min(1)
        else:
            a = self.alpha * dimension / (self.alpha * dimension + (1 - self.alpha) * rank)
            b = a * (1 - self.alpha) / self.alpha
        a = torch.where(rank > 0, a, 1.0)
        with exact_float32(x.device.type):
            within = guided @ basis  # (B, q, d)
        return a.sqrt().view(-1, 1, 1) * full + b.sqrt().view(-1, 1, 1) * within


def orthonormal(vectors: Tensor) -> Tensor:
    """Return rows (B, min(k, d), d) that span what the vectors (B, k, d) do, orthonormal; zero where these depend."""
    # A problem that has diverged must not end its neighbours: the decomposition refuses what is not finite.
    vectors = torch.where(vectors.isfinite().all(2, keepdim=True), vectors, 0.0)
    # Estimates and updates differ by orders of magnitude, which says nothing about their dependence.
    _, sizes, rows = torch.linalg.svd(unit(vectors), full_matrices=False)
    return rows * (sizes > DEPENDENT).unsqueeze(2)
