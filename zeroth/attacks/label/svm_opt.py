"""SVM-OPT: Sign-OPT's signs, put together by a support vector machine (Cheng et al., ICLR 2020, algorithm 2).

Shapes: n rows, Q directions, C x H x W pixels, D of them.
"""

from collections.abc import Sequence
from typing import Literal

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
    wrong, or the solver gives up, the mean of Sign-OPT is taken; how often is tallied as ``fallbacks``, beside
    ``programmes``, the estimates in all.

    The signs cost what Sign-OPT's do, and the parameters are :class:`DirectionSearch`'s; the defaults are ours,
    ``configs/attack/svm_opt_paper.yaml`` has the paper's and its program's.

    Args:
        norm: see :class:`DirectionSearch`, as for all below.
        q: Q, directions an estimate; program 100.
        tries: random first directions.
        start_cells: cells a side of the grids that they are constant on.
        directions: "sphere", "gaussian", or "orthogonal", of which the shortest vector is the mean: Sign-OPT's.
        coarse_cells: cells of the grid of the directions in the first ``coarse_steps`` iterations.
        coarse_steps: iterations with coarse directions.
        alpha: first step.
        beta: smoothing.
        smallest_beta: an image whose beta falls below is done, or begins anew.
        resolution: g is known to g beta / resolution.
        momentum: weight of the old estimates.
        growth: factor of the bracketing steps.
        clip: take the first theta from the clamped image; and clip l_inf steps.
        restart: begin from new random directions when stuck.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    def __init__(
        self,
        *,
        norm: Literal["l2", "linf"] = "l2",
        q: int = 100,
        tries: int = 100,
        start_cells: Sequence[int] | None = (7, 4, 2),
        directions: Literal["sphere", "gaussian", "orthogonal"] = "sphere",
        coarse_cells: int | None = 14,
        coarse_steps: int = 10,
        alpha: float = 0.2,
        beta: float = 1e-3,
        smallest_beta: float = 1e-5,
        resolution: float = 100.0,
        momentum: float = 0.0,
        growth: float = 2.0,
        clip: bool = True,
        restart: bool = True,
    ) -> None:
        super().__init__(
            norm=norm,
            q=q,
            tries=tries,
            start_cells=start_cells,
            directions=directions,
            coarse_cells=coarse_cells,
            coarse_steps=coarse_steps,
            alpha=alpha,
            beta=beta,
            smallest_beta=smallest_beta,
            resolution=resolution,
            momentum=momentum,
            growth=growth,
            clip=clip,
            restart=restart,
        )

    def estimate(self, trial: Trial, rows: Tensor, state: State) -> Tensor:
        """Return z, of length 1."""
        u = self.draw(trial, rows, state)
        signs = self.signs(trial, rows, state, u)
        out = combine(u.flatten(2), signs)  # (n, D)
        playing = trial.playing[rows].nonzero().flatten()
        solved = self.solve(u[playing].flatten(2), signs[playing])
        failed = solved.isnan().any(1)
        out[playing] = out[playing].where(failed.unsqueeze(1), solved)
        trial.ledger.tally("programmes", rows[playing], torch.ones_like(playing))
        trial.ledger.tally("fallbacks", rows[playing], failed.long())
        gradient = out.unflatten(1, u.shape[2:])
        return gradient / lengths(gradient, self.norm)

    def solve(self, u: Tensor, signs: Tensor) -> Tensor:
        """Solve eq. 5 image by image.

        Args:
            u: (m, Q, D).
            signs: (m, Q), NaN where nothing was asked; those asked come first.

        Returns:
            (m, D), any positive multiple of z; NaN where the mean is to be taken.
        """
        agreeing = signs.nan_to_num(nan=0.0).unsqueeze(2) * u  # (m, Q, D), y_q u_q
        # z lies in the span of the y_q u_q, so the programme needs their triangular factor alone, not their D pixels.
        factors = torch.linalg.qr(agreeing.double().mT, mode="r").R.cpu().numpy()
        out = torch.full_like(u[:, 0], torch.nan)
        for row, (factor, count) in enumerate(zip(factors, (~signs.isnan()).sum(1).tolist(), strict=True)):
            if (weights := support(factor[:, :count])) is not None:
                out[row] = torch.as_tensor(weights, dtype=out.dtype, device=out.device) @ agreeing[row, :count]
        return out


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
