"""Coordinatewise gradient estimation.

Shapes: B problems, d coordinates.
"""

from typing import Literal

import torch
from torch import Tensor

from zeroth.estimators.estimator import Draw, Estimator, Function


class CGE(Estimator):
    r"""Coordinatewise finite differences (ZO-AE-DS eq. 4).

    Forward: :math:`\hat g_i = (f(x + \mu e_i) - f(x)) / \mu`, error of order mu, d + 1 evaluations. Central:
    :math:`(f(x + \mu e_i) - f(x - \mu e_i)) / 2\mu`, error of order mu squared, 2 d evaluations. Both are
    deterministic.

    Args:
        mu: step of the difference, in the units of x.
        scheme: "forward" or "central".
    """

    def __init__(self, *, mu: float, scheme: Literal["forward", "central"] = "forward") -> None:
        if not mu > 0:
            raise ValueError(f"mu must be > 0, got {mu}")
        if scheme not in ("forward", "central"):
            raise ValueError(f"scheme must be 'forward' or 'central', got {scheme!r}")
        self.mu, self.scheme = mu, scheme

    @property
    def needs_value(self) -> bool:
        """Forward differences take f(x), central ones do not."""
        return self.scheme == "forward"

    def queries(self, dimension: int) -> int:
        """Return d + 1 (forward) or 2 d (central)."""
        return dimension + 1 if self.scheme == "forward" else 2 * dimension

    def __call__(self, f: Function, x: Tensor, *, value: Tensor | None = None, draw: Draw | None = None) -> Tensor:
        """See :class:`Estimator`; nothing is drawn."""
        dimension = x.shape[1]
        steps = self.mu * torch.eye(dimension, device=x.device, dtype=x.dtype)
        center = x.unsqueeze(1)
        if self.scheme == "central":
            values = f(torch.cat([center + steps, center - steps], 1)).unflatten(1, (2, dimension))
            return (values[:, 0] - values[:, 1]) / (2 * self.mu)
        if value is None:
            values = f(torch.cat([center, center + steps], 1))
            return (values[:, 1:] - values[:, :1]) / self.mu
        return (f(center + steps) - value.unsqueeze(1)) / self.mu
