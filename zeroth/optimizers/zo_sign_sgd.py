"""ZO-signSGD: descent by the signs of estimates (Liu et al., ICLR 2019).

Shapes: B problems, d coordinates.
"""

from torch import Tensor

from zeroth.optimizers.zeroth_order import Descent, State


class ZOSignSGD(Descent):
    r""":math:`\theta \leftarrow \theta - \frac{\delta}{d} \mathrm{sign}(\hat g)`.

    Args: as :class:`Descent`; delta is 8 for ZO-L2L's MNIST attack.
    """

    def move(self, gradient: Tensor, state: State, *, iteration: int) -> Tensor:
        """Go against the signs of the estimate; NaN stays NaN, of which torch says that its sign is 0."""
        return -gradient.sign().where(~gradient.isnan(), gradient)
