"""ZO-ADAM: Adam on estimates (Chen et al., AISec 2017; Kingma and Ba, ICLR 2015).

Shapes: B problems, d coordinates.
"""

import torch
from torch import Tensor

from zeroth.estimators.estimator import Estimator
from zeroth.networks.query_rnn import QueryRNN
from zeroth.optimizers.zeroth_order import Descent, State


class ZOAdam(Descent):
    r"""Adam with learning rate delta / d; torch.optim.Adam's steps where the estimate is the gradient.

    Args:
        delta: see :class:`Descent`, as for the three below; 8 for ZO-L2L's MNIST attack.
        estimator: of the gradient.
        query: the sampling rule, or None.
        p: probability that it is followed in eval mode.
        betas: decay of the means of estimates and of their squares; ZO-L2L's program (.9, .996), its paper tunes
            over {.9, .99} and {.99, .996, .999}.
        eps: added to the root of the second mean.

    Raises:
        ValueError: a beta outside [0, 1), eps that is not positive, and as :class:`Descent`.
    """

    def __init__(
        self,
        *,
        delta: float,
        estimator: Estimator,
        query: QueryRNN | None = None,
        p: float = 0.5,
        betas: tuple[float, float] = (0.9, 0.996),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(delta=delta, estimator=estimator, query=query, p=p)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {tuple(betas)}")
        if not eps > 0:
            raise ValueError(f"eps must be > 0, got {eps}")
        self.betas, self.eps = betas, eps

    def begin(
        self,
        batch: int,
        dimension: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> State:
        """See :class:`ZerothOrder`; adds the two means, of zeros, and how many estimates they are of."""
        zeros = torch.zeros(batch, dimension, device=device, dtype=dtype)
        taken = torch.zeros(batch, 1, device=device, dtype=torch.float64)
        return super().begin(batch, dimension, device, dtype) | {"mean": zeros, "square": zeros.clone(), "taken": taken}

    def move(self, gradient: Tensor, state: State, *, iteration: int) -> Tensor:
        """Go against the mean of estimates, over the root of the mean of their squares, both without bias."""
        (beta1, beta2), taken = self.betas, state["taken"] + 1  # in float64: 1 - beta^taken loses digits
        mean = beta1 * state["mean"] + (1 - beta1) * gradient
        square = beta2 * state["square"] + (1 - beta2) * gradient.square()
        scale = (square / (1 - beta2**taken).to(square)).sqrt() + self.eps
        state |= {"mean": mean, "square": square, "taken": taken}
        return -mean / ((1 - beta1**taken).to(mean) * scale)
