"""The learned sampling rule of ZO-L2L (Ruan et al., ICLR 2020, sect. 3.1, eq. 3).

Shapes: B problems, d coordinates.
"""

import torch
from torch import Tensor

from zeroth.networks._coordinatewise import CoordinatewiseLSTM, Memory


class QueryRNN(CoordinatewiseLSTM):
    r"""Predicts along which coordinates to ask, from the estimate and the update of the iteration before.

    With outputs o, the standard deviations are :math:`\sigma = \sqrt d\,(1 + o) / \|1 + o\|`, so that
    :math:`E\|u\|^2 = \mathrm{tr}\,\Sigma = \|\sigma\|^2 = d` as for standard normal directions, whatever o. The paper
    speaks of a covariance; that what is predicted is its square root is its program's doing. Sigma may be negative:
    the absolute value is taken where directions are drawn (:class:`~zeroth.estimators.LearnedSampling`). 490 parameters
    at 10 hidden units.

    Args:
        hidden: hidden units; paper 10.

    Raises:
        ValueError: hidden is below 1, or loaded weights have another hidden size.
    """

    def __init__(self, *, hidden: int = 10) -> None:
        super().__init__(inputs=2, hidden=hidden)

    def forward(self, gradient: Tensor, update: Tensor, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        """Predict the standard deviations of the next directions.

        Args:
            gradient: (B, d) estimate of the last iteration, zeros at the first; no gradient flows back into it.
            update: (B, d) what was added to theta in the last iteration, likewise.
            memory: hidden and cell state, (B, hidden, d) each; :meth:`begin` makes the first.

        Returns:
            sigma (B, d), the outputs o (B, d) that a regulariser keeps small, and the memory of the next iteration.
        """
        offset, memory = self.advance(torch.stack([gradient, update], 1).detach(), memory)
        raw = 1 + offset
        norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True).clamp_min(1e-12)
        return raw * (raw.shape[1] ** 0.5 / norm), offset, memory
