"""Sign-OPT: descent on the distance to the boundary, one label a derivative (Cheng et al., ICLR 2020).

Shapes: n rows, Q directions, C x H x W pixels.
"""

from torch import Tensor

from zeroth.attacks.label.direction_search import DirectionSearch, State
from zeroth.estimators import combine
from zeroth.oracles import Trial


class SignOPT(DirectionSearch):
    r"""Descend along the mean of random directions, each with the sign of g's derivative along it (algorithm 1).

    .. math:: \hat g = \tfrac1Q \sum_q \mathrm{sign}(g(\theta + \beta u_q) - g(\theta)) u_q \quad \text{(eqs. 3, 4)}

    One query tells a sign. What g is, what becomes of the estimate, and the parameters are :class:`DirectionSearch`'s;
    the defaults are ours, ``configs/attack/sign_opt_paper.yaml`` has the paper's and its program's.
    """

    def estimate(self, trial: Trial, rows: Tensor, state: State) -> Tensor:
        """Return g_hat."""
        u = self.draw(trial, rows, state)
        return combine(u.flatten(2), self.signs(trial, rows, state, u)).unflatten(1, u.shape[2:])
