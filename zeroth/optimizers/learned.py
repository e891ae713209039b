"""ZO-LSTM: the learned zeroth-order optimizer (Ruan et al., ICLR 2020).

Shapes: B problems, d coordinates.
"""

import math

import torch
from torch import Tensor

from zeroth.estimators.estimator import Estimator
from zeroth.networks.query_rnn import QueryRNN
from zeroth.networks.update_rnn import UpdateRNN
from zeroth.optimizers.zeroth_order import State, ZerothOrder


class LearnedOptimizer(ZerothOrder):
    r"""Moves by an UpdateRNN, :math:`\theta_t = \theta_{t-1} + \alpha\,\mathrm{UpdateRNN}(\hat g_t)` (eq. 2).

    The ablations of the paper are choices of parts:

    * ZO-LSTM: ``LearnedOptimizer(update=UpdateRNN(), query=QueryRNN(), estimator=LearnedSampling(q=20, mu=1e-5))``;
    * no query: the same without ``query``, whose directions are standard normal;
    * Guided ES: ``LearnedOptimizer(update=UpdateRNN(), estimator=GuidedES(q=20, mu=1e-5, scaling="zo_l2l"))``;
    * no update: ``ZOSGD(delta=4, query=QueryRNN(), estimator=LearnedSampling(q=20, mu=1e-5))``.

    The UpdateRNN learns through its updates and hidden states alone: its input has a graph to sigma and to nothing
    else. ``parameters()``, ``train()``, ``to(device)`` and ``state_dict()`` are those of both networks.

    Args:
        update: the update rule.
        estimator: see :class:`ZerothOrder`, as for the two below.
        query: the sampling rule, or None.
        p: probability that it is followed in eval mode.
        alpha: factor of the updates, tuned where a network is brought to another task (sect. 4.3). Paper 1 on its own.

    Raises:
        ValueError: alpha is not positive and finite, and as :class:`ZerothOrder`.
    """

    def __init__(
        self,
        *,
        update: UpdateRNN,
        estimator: Estimator,
        query: QueryRNN | None = None,
        p: float = 0.5,
        alpha: float = 1.0,
    ) -> None:
        super().__init__(estimator=estimator, query=query, p=p)
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"alpha, the factor of the updates, must be > 0 and finite, got {alpha}")
        self.update, self.alpha = update, alpha

    def begin(
        self,
        batch: int,
        dimension: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> State:
        """See :class:`ZerothOrder`; adds the memory of the UpdateRNN."""
        hidden, cell = self.update.begin(batch, dimension, device)
        return super().begin(batch, dimension, device, dtype) | {"update_h": hidden, "update_c": cell}

    def learning_rate(self, dimension: int) -> float:
        """Return alpha."""
        return self.alpha

    def move(self, gradient: Tensor, state: State, *, iteration: int) -> Tensor:
        """Show the estimate to the UpdateRNN."""
        memory = (state["update_h"], state["update_c"])
        move, (state["update_h"], state["update_c"]) = self.update(gradient, memory)
        return move
