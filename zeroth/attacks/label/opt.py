"""OPT: descent on the distance to the boundary by randomized gradient-free differences (Cheng et al., ICLR 2019).

Shapes: n rows, Q directions, C x H x W pixels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zeroth.attacks.label.direction_search import DirectionSearch, State
from zeroth.estimators import combine
from zeroth.oracles import Trial


class OPT(DirectionSearch):
    r"""Descend along the mean of random directions, each with the difference of g along it (RGF).

    .. math:: \hat g = \tfrac1Q \sum_q \frac{g(\theta + \beta u_q) - g(\theta)}{\beta} u_q

    Each value of g costs a search of its own, tens of queries. The nearest probe becomes theta where it is nearer, and
    the line search begins there.

    The parameters are :class:`DirectionSearch`'s; the defaults are ours, ``configs/attack/opt_paper.yaml`` has the
    paper's and its program's. Only the number of directions differs from the other attacks':

    Args:
        norm: see :class:`DirectionSearch`, as for all below.
        q: Q, directions an estimate; paper 20, program 10.
        tries: random first directions.
        start_cells: cells a side of the grids that they are constant on.
        directions: "orthogonal", "sphere" or "gaussian".
        coarse_cells: cells of the grid of the directions in the first ``coarse_steps`` iterations.
        coarse_steps: iterations with coarse directions.
        alpha: first step.
        beta: smoothing.
        smallest_beta: an image whose beta falls below is done, or begins anew.
        resolution: g is known to g beta / resolution, so a difference to about g / resolution.
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
        q: int = 10,
        tries: int = 100,
        start_cells: Sequence[int] | None = (7, 4, 2),
        directions: Literal["sphere", "gaussian", "orthogonal"] = "orthogonal",
        coarse_cells: int | None = 14,
        coarse_steps: int = 10,
        alpha: float = 0.2,
        beta: float = 1e-2,
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
        """Return g_hat, and move to the nearest probe."""
        u = self.draw(trial, rows, state)
        theta, g, beta = state.theta[rows], state.g[rows], state.beta[rows]
        values = self.values(trial, rows, state, u)
        nearest = values.min(1)
        probes = self.moved(
            theta, beta.reshape(-1, 1, 1, 1) * u[torch.arange(len(u), device=u.device), nearest.indices]
        )
        nearer = nearest.values < g
        state.theta[rows[nearer]], state.g[rows[nearer]] = probes[nearer], nearest.values[nearer]
        # A direction without a boundary has no difference: it is left out of the mean, as one not asked.
        slopes = (values - g.unsqueeze(1)) / beta.unsqueeze(1)
        return combine(u.flatten(2), slopes.masked_fill(slopes.isinf(), torch.nan)).unflatten(1, u.shape[2:])
