"""The learned update rule of ZO-L2L (Ruan et al., ICLR 2020, sect. 3.1, eq. 2).

Shapes: B problems, d coordinates.
"""

from torch import Tensor

from zeroth.networks._coordinatewise import CoordinatewiseLSTM, Memory


class UpdateRNN(CoordinatewiseLSTM):
    r"""Turns gradient estimates into updates, :math:`\theta_t = \theta_{t-1} + \mathrm{UpdateRNN}(\hat\nabla f)`.

    Every coordinate runs the same LSTM with its own hidden state, so one network serves problems of any dimension.
    Estimates go in as they are, without preprocessing: 450 parameters at 10 hidden units.

    Args:
        hidden: hidden units; paper 10.

    Raises:
        ValueError: hidden is below 1, or loaded weights have another hidden size.
    """

    def __init__(self, *, hidden: int = 10) -> None:
        super().__init__(inputs=1, hidden=hidden)

    def forward(self, gradient: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Propose an update.

        Args:
            gradient: (B, d) estimate. What graph it carries is gone on with: see ``LearnedOptimizer``.
            memory: hidden and cell state, (B, hidden, d) each; :meth:`begin` makes the first.

        Returns:
            (B, d) to add to theta, and the memory of the next iteration.
        """
        return self.advance(gradient.unsqueeze(1), memory)
