"""ZO-SGD: gradient descent along estimates (Ghadimi and Lan, SIAM J. Optim. 2013).

Shapes: B problems, d coordinates.
"""

from torch import Tensor

from zeroth.optimizers.zeroth_order import Descent, State


class ZOSGD(Descent):
    r""":math:`\theta \leftarrow \theta - \frac{\delta}{d} \hat g`.

    With ``query`` this is ZO-L2L's ablation without UpdateRNN.

    Args: as :class:`Descent`; delta is 4 for ZO-L2L's MNIST attack.
    """

    def move(self, gradient: Tensor, state: State, *, iteration: int) -> Tensor:
        """Go against the estimate."""
        return -gradient
