"""SVM-OPT: Sign-OPT's signs, put together by a support vector machine (Cheng et al., ICLR 2020, algorithm 2).

Shapes: n rows, Q directions, C x H x W pixels, D of them.
"""

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from zeroth.attacks.label.direction_search import DirectionSearch, State
from zeroth.attacks.label.ray_search import lengths
from zeroth.estimators import combine
from zeroth.oracles import Trial


class SVMOPT(DirectionSearch):
    r"""Descend along the shortest vector that agrees with all the signs.

    .. math:: \min_z z^T z \quad \text{s.t.} \quad y_q z^T u_q \ge 1, \quad y_q =
        \mathrm{sign}(g(\theta + \beta u_q) - g(\theta))

    Eq. 5 has z^T u_q >= y_q, which is misprinted: z = 0 would do for y_q = -1 and any length of z for +1. An estimate
    has length 1, because the line search finds its scale. Where no vector agrees with all the signs, as where some are
    wrong, or the solver gives up, the mean of Sign-OPT is taken.

    The signs cost what Sign-OPT's do, and the parameters are :class:`DirectionSearch`'s; the defaults are ours,
    ``configs/attack/svm_opt_paper.yaml`` has the paper's and its program's.

    Attributes:
        fallbacks: estimates, over images and iterations of all calls so far, for which the mean was taken.
    """

    fallbacks: int = 0

    def estimate(self, trial: Trial, rows: Tensor, state: State) -> Tensor:
        """Return z, of length 1."""
        u = self.draw(trial, rows, state)
        signs = self.signs(trial, rows, state, u)
        out = combine(u.flatten(2), signs)  # (n, D)
        playing = trial.playing[rows].nonzero().flatten()
        agreeing = signs[playing].nan_to_num(nan=0.0).unsqueeze(2) * u[playing].flatten(2)  # (m, Q, D), y_q u_q
        # z lies in the span of the y_q u_q, so the programme needs their triangular factor alone, not their D pixels.
        factors = torch.linalg.qr(agreeing.double().mT, mode="r").R.cpu().numpy()
        counts = (~signs[playing].isnan()).sum(1).tolist()  # those asked come first
        for row, vectors, factor, count in zip(playing.tolist(), agreeing, factors, counts, strict=True):
            weights = support(factor[:, :count])
            if weights is None:
                self.fallbacks += 1
            else:
                out[row] = torch.as_tensor(weights, dtype=out.dtype, device=out.device) @ vectors[:count]
        gradient = out.unflatten(1, u.shape[2:])
        return gradient / lengths(gradient, self.norm)


def support(vectors: np.ndarray) -> np.ndarray | None:
    """Solve min z^T z s.t. vectors^T z >= 1 by its dual, z = vectors a with a >= 0, up to a factor.

    This is least-distance programming, which Lawson and Hanson (Solving Least Squares Problems, ch. 23) turn into
    non-negative least squares.

    Args:
        vectors: (d, Q).

    Returns:
        (Q,) weights a of sum 1, or None where the programme has no solution or the solver gives up.
    """
    system = np.vstack([vectors, np.ones(vectors.shape[1])])
    try:
        weights, _ = scipy.optimize.nnls(system, np.eye(len(system))[-1])
    except RuntimeError:  # more iterations than its limit
        return None
    # Without a solution the residual is 0, and what is left of z rounding.
    if not (vectors.T @ (vectors @ weights)).min() > 1e-12:
        return None
    return weights / weights.sum()
