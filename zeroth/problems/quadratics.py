"""Convex problems whose solution and gradients are known, for tests.

Shapes: B problems, n of them at a time, Q points a problem, d coordinates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from zeroth.oracles import ImageStreams
from zeroth.oracles.streams import derived_seed
from zeroth.problems.problems import DATA, Problems


class Quadratics(Problems):
    r"""Random least squares (Andrychowicz et al., NeurIPS 2016, sect. 3.1, their W divided by the root of d).

    .. math:: f(\theta) = \|W \theta - y\|_2^2, \qquad W_{ij} \sim N(0, 1/d), \; y_i \sim N(0, 1)

    Args:
        indices: (B,) numbers of the problems; a number is the same problem under every seed.
        dimension: d.
        start_scale: standard deviation of the starting points.
        seed: decides the starting points.
        device: where points and values live.
    """

    def __init__(
        self,
        indices: Tensor | Sequence[int],
        *,
        dimension: int = 10,
        start_scale: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(indices=indices, dimension=dimension, start_scale=start_scale, seed=seed, device=device)
        noise = ImageStreams(derived_seed(0, DATA), self.indices).randn(
            torch.arange(self.count), (dimension + 1, dimension)
        )
        self.weight = (noise[:, 1:] / dimension**0.5).to(self.device)  # (B, d, d)
        self.target = noise[:, 0].to(self.device)  # (B, d)

    def evaluate(self, points: Tensor, rows: Tensor, iterations: Tensor | None) -> Tensor:
        """See :class:`~zeroth.problems.Problems`."""
        rows = rows.to(self.device)
        residuals = points @ self.weight[rows].mT - self.target[rows].unsqueeze(1)  # (n, Q, d)
        return residuals.square().sum(2)
