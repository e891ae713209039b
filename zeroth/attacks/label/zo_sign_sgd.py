"""ZO-SignSGD on the distance to the boundary (Liu et al., ICLR 2019; its hard-label form: Cheng et al., ICLR 2020).

Shapes: n rows, Q directions, C x H x W pixels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zeroth.attacks.label.direction_search import DirectionSearch, State
from zeroth.estimators import combine
from zeroth.oracles import Trial


class ZOSignSGD(DirectionSearch):
    r"""Descend along the mean of the signs of single-direction estimates, pixel by pixel (section 4.4, A.2).

    .. math:: \bar g = \tfrac1Q \sum_q \mathrm{sign}\big((g(\theta + \beta u_q) - g(\theta)) u_q\big)

    Sign-OPT's estimate without the sizes of the directions' pixels: what it is compared with, to tell what these add.

    The parameters but the last are :class:`DirectionSearch`'s; the defaults are ours,
    ``configs/attack/zo_sign_sgd_paper.yaml`` has the paper's and its program's.

    Args:
        norm: see :class:`DirectionSearch`, as for all below but the last.
        q: Q, directions an estimate.
        tries: random first directions.
        start_cells: cells a side of the grids that they are constant on.
        directions: "orthogonal", "sphere" or "gaussian".
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
        single_query: ask a sign by one query (eq. 3), as Sign-OPT does; False searches g along each direction, tens of
            queries a sign.

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
        directions: Literal["sphere", "gaussian", "orthogonal"] = "orthogonal",
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
        single_query: bool = True,
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
        self.single_query = single_query

    def estimate(self, trial: Trial, rows: Tensor, state: State) -> Tensor:
        """Return the mean of the signs."""
        u = self.draw(trial, rows, state)
        if self.single_query:
            signs = self.signs(trial, rows, state, u)
        else:
            g = state.g[rows].unsqueeze(1)
            values = self.values(trial, rows, state, u)
            signs = torch.where(values < g, -1.0, 1.0)
        return combine(u.sign().flatten(2), signs).unflatten(1, u.shape[2:])
