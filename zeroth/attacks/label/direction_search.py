"""The loop of the attacks on the distance to the boundary along a ray: start, estimate, line search, smaller probes.

Shapes: B images, n rows, Q directions, C x H x W pixels, D of them.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zeroth.attacks.label.directions import noise, orthogonal
from zeroth.attacks.label.label_attack import LabelAttack
from zeroth.attacks.label.ray_search import along, bisect, crossing, lengths
from zeroth.attacks.label.starts import check_start, find_starts
from zeroth.oracles import Trial

# Trials of a line search in each of its two directions, as in the published programs.
LINE_SEARCH = 15


@dataclass
class State:
    """Where each image stands: theta (B, C, H, W) of norm 1, g = g(theta), step alpha, smoothing beta, (B,) each.

    ``velocity`` (B, C, H, W) is the momentum of the estimates; ``steps`` (B,) the iterations since the start.
    """

    theta: Tensor
    g: Tensor
    alpha: Tensor
    beta: Tensor
    velocity: Tensor
    steps: Tensor


class DirectionSearch(LabelAttack):
    r"""Minimise the distance g(theta) to the boundary over directions theta, on estimates of its gradient.

    .. math:: g(\theta) = \min \{\lambda > 0: f(x_0 + \lambda \theta / \|\theta\|) \ne y_0\} \quad \text{(eq. 1)}

    theta begins at the best of random directions. An iteration takes theta - alpha times the estimate of
    :meth:`estimate`, the one thing in which the attacks differ, alpha by line search: doubled while g falls, else
    quartered until it does. Each candidate is asked at the present distance first, so a rejection costs one query.
    Where no alpha serves, beta falls.

    Args:
        norm: what is made small, "l2" or "linf"; directions have length 1 in it.
        q: Q, directions an estimate; paper 200.
        tries: random directions (targeted, with a pool: images of the target class) of which the best is the first
            theta; paper 100.
        start_cells: first directions are constant on grids of so many cells a side, in turn; None for pixels (paper),
            which leaves one MNIST image in ten without a start.
        directions: "orthogonal", "sphere" (paper), or "gaussian", which are sqrt(D) times as long.
        coarse_cells: in the first ``coarse_steps`` iterations directions are constant on such a grid; None for pixels.
        coarse_steps: iterations with coarse directions; paper 0.
        alpha: first step; paper .2.
        beta: smoothing, the paper's epsilon in eqs. 2 and 3; paper .001.
        smallest_beta: an image whose beta falls below is done, or begins anew; paper 1e-8, which float32 cannot tell.
        resolution: g is known to g beta / resolution. At 100 or more the signs are g's; at less all probes land on one
            side of the boundary. Paper 500.
        momentum: weight of the old estimates; paper 0.
        growth: factor of the bracketing steps, which begin at 1 %; paper 1.
        clip: take the first theta from the clamped image, which is as adversarial and nearer; for l_inf each theta, and
            clip steps to the cube, see :meth:`probe`. In l_2 each would end the search 8 % farther away (mean of 20
            MNIST training images at 8,000 queries). Paper False.
        restart: begin from new random directions when stuck; paper False.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    norm: Literal["l2", "linf"]

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
    ) -> None:
        if norm not in ("l2", "linf"):
            raise ValueError(f"norm must be 'l2' or 'linf', got {norm!r}")
        if directions not in ("sphere", "gaussian", "orthogonal"):
            raise ValueError(f"directions must be 'sphere', 'gaussian' or 'orthogonal', got {directions!r}")
        for field, number in (("q", q), ("coarse_cells", coarse_cells)):
            if number is not None and number < 1:
                raise ValueError(f"{field} must be at least 1, got {number}")
        check_start(tries, start_cells)
        if coarse_steps < 0:
            raise ValueError(f"coarse_steps must be >= 0, got {coarse_steps}")
        if not alpha > 0:
            raise ValueError(f"alpha must be > 0, got {alpha}")
        if not 0 < smallest_beta <= beta:
            raise ValueError(f"smallest_beta must lie in (0, beta = {beta}], got {smallest_beta}")
        for field, factor in (("resolution", resolution), ("growth", growth)):
            if not factor >= 1:
                raise ValueError(f"{field} must be at least 1, got {factor}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        self.norm, self.q, self.tries, self.start_cells, self.directions = norm, q, tries, start_cells, directions
        self.coarse_cells, self.coarse_steps, self.alpha, self.beta = coarse_cells, coarse_steps, alpha, beta
        self.smallest_beta, self.resolution, self.momentum = smallest_beta, resolution, momentum
        self.growth, self.clip, self.restart = growth, clip, restart
        self.request = q
        # The programs' floors: an l_inf step moves every pixel, so it may be smaller.
        self.smallest_alpha = 1e-4 if norm == "l2" else 1e-6

    @abstractmethod
    def estimate(self, trial: Trial, rows: Tensor, state: State) -> Tensor:
        """Estimate the gradient of g at theta up to a positive factor, (n, C, H, W); void in rows that left play."""

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        images = trial.images
        zero, still = images.new_zeros(len(images)), torch.zeros_like(images)
        state = State(still, zero + torch.inf, zero.clone(), zero.clone(), still.clone(), zero.clone())
        self._begin(trial, trial.active, state, "no start")
        while len(rows := trial.active):
            rows, gradient = trial.keep(rows, self.estimate(trial, rows, state))
            if len(rows) == 0:
                continue
            state.velocity[rows] = self.momentum * state.velocity[rows] + (1 - self.momentum) * gradient
            self._line_search(trial, rows, state)
            state.steps[rows] += 1
            stuck = rows[state.alpha[rows] < self.smallest_alpha]
            state.alpha[stuck] = 1.0
            state.beta[stuck] *= 0.1
            # A hundredth: beta falls by tenths, whose product rounds.
            (done,) = trial.keep(stuck[state.beta[stuck] < 0.99 * self.smallest_beta])
            if self.restart:
                self._begin(trial, done, state, "stuck")
            else:
                trial.retire(done, "converged")

    def draw(self, trial: Trial, rows: Tensor, state: State) -> Tensor:
        """Draw the Q directions of an estimate, (n, Q, C, H, W), coarse ones for rows in their first iterations."""
        u = trial.images.new_empty(len(rows), self.q, *trial.images.shape[1:])
        coarse = state.steps[rows] < (0 if self.coarse_cells is None else self.coarse_steps)
        for part, cells in ((coarse, self.coarse_cells), (~coarse, None)):
            if bool(part.any()):
                u[part] = noise(trial, rows[part], self.q, cells)
                if self.directions == "orthogonal":
                    u[part] = orthogonal(u[part], cells)
        if self.directions == "gaussian":
            return u
        return u / lengths(u, self.norm)

    def probe(self, theta: Tensor, step: Tensor) -> Tensor:
        """Return theta + step, (..., C, H, W), at the length where g's derivative is asked.

        That length is 1. For l_inf, near a minimum many pixels share the maximum, g has a kink, and all of a random
        probe that is rescaled to length 1 is farther from the boundary: its sign tells nothing. With ``clip`` probes
        keep the length they have, which tells on which side of the boundary's tangent plane the step leads, and the
        constraint is left to :meth:`moved`.
        """
        points = theta + step
        return points if self.clip and self.norm == "linf" else points / lengths(points, self.norm)

    def moved(self, theta: Tensor, step: Tensor) -> Tensor:
        """Return the direction theta + step, (n, C, H, W), at length 1: rescaled, or for l_inf clipped to the cube."""
        points = theta + step
        if self.clip and self.norm == "linf":
            points = points.clamp(-1, 1)
        return points / lengths(points, self.norm)

    def signs(self, trial: Trial, rows: Tensor, state: State, u: Tensor) -> Tensor:
        """Ask the signs of g(theta + beta u) - g(theta) by one query each (eq. 3), in one request.

        Where the point at the old distance along theta + beta u is adversarial, g is smaller there.

        Args:
            trial: the trial.
            rows: (n,).
            state: where they stand.
            u: (n, Q, C, H, W).

        Returns:
            (n, Q) of -1 and 1, NaN where nothing was asked.
        """
        # Half of what is left at most: an estimate without queries for its line search serves nothing.
        count = ((trial.remaining(rows) + 1) // 2).clamp_max(self.q)
        theta, g = state.theta[rows].unsqueeze(1), state.g[rows].reshape(-1, 1, 1, 1, 1)
        beta = state.beta[rows].reshape(-1, 1, 1, 1, 1)
        clean = trial.images[rows].unsqueeze(1)

        def make(part: slice) -> Tensor:
            return clean[part] + g[part] * self.probe(theta[part], beta[part] * u[part])

        met = trial.adversarial(make, rows, count, iterate=False)
        out = u.new_full(u.shape[:2], torch.nan)
        out[:, : met.shape[1]] = torch.where(met, -1.0, 1.0)
        return out.masked_fill(torch.arange(u.shape[1], device=u.device) >= count.unsqueeze(1), torch.nan)

    def radii(
        self, trial: Trial, rows: Tensor, directions: Tensor, near: Tensor, state: State, limit: Tensor | float
    ) -> Tensor:
        """Return g of directions (n, C, H, W), looked for from ``near`` (n,) on: (n,), inf where beyond the limit."""
        return crossing(
            trial,
            rows,
            along(trial, rows, directions),
            near,
            growth=self.growth,
            limit=limit,
            tolerance=state.beta[rows] / self.resolution,
        )

    def values(self, trial: Trial, rows: Tensor, state: State, u: Tensor) -> Tensor:
        """Search g(theta + beta u) along u (n, Q, C, H, W), one direction after another.

        Returns:
            (n, Q), inf where there is no boundary within the cube's diagonal.
        """
        theta, beta = state.theta[rows], state.beta[rows].reshape(-1, 1, 1, 1)
        limit = trial.images[0].numel() ** 0.5 if self.norm == "l2" else 1.0
        return torch.stack(
            [
                self.radii(trial, rows, self.moved(theta, beta * step), state.g[rows], state, limit)
                for step in u.unbind(1)
            ],
            1,
        )

    def _begin(self, trial: Trial, rows: Tensor, state: State, reason: str) -> None:
        """Put rows at the best of their random directions, g known as finely as beta asks; retire those without one."""
        found = find_starts(
            trial, rows, norm=self.norm, tries=self.tries, cells=self.start_cells, clip=self.clip, pool=self.pool
        )
        trial.retire(rows[found.high.isinf()], reason)
        tolerance = found.high * self.beta / self.resolution
        _, g = bisect(trial, rows, along(trial, rows, found.directions), found.low, found.high, tolerance)
        state.theta[rows], state.g[rows] = found.directions, g
        state.alpha[rows], state.beta[rows] = self.alpha, self.beta
        state.velocity[rows], state.steps[rows] = 0, 0
        self._clamp(trial, rows, state)

    def _line_search(self, trial: Trial, rows: Tensor, state: State) -> None:
        """Double alpha while g falls; where it never fell, quarter alpha until it does."""
        theta, g, alpha = state.theta[rows], state.g[rows], state.alpha[rows]
        nearest, radius = theta.clone(), g.clone()

        def attempt(which: Tensor) -> Tensor:
            """Try the present alpha of some rows: (m,) positions in ``rows`` -> (m,) bool, where g fell."""
            step = -alpha[which].reshape(-1, 1, 1, 1) * state.velocity[rows[which]]
            candidates = self.moved(theta[which], step)
            radii = self.radii(trial, rows[which], candidates, radius[which], state, limit=radius[which])
            better = radii < radius[which]
            nearest[which[better]], radius[which[better]] = candidates[better], radii[better]
            return better

        going = torch.ones_like(rows, dtype=torch.bool)
        for _ in range(LINE_SEARCH):
            which = (going & trial.playing[rows]).nonzero().flatten()
            if len(which) == 0:
                break
            going[which] = attempt(which)
            alpha[which] *= 2
        going = radius >= g
        for _ in range(LINE_SEARCH):
            which = (going & trial.playing[rows]).nonzero().flatten()
            if len(which) == 0:
                break
            alpha[which] *= 0.25
            going[which] = ~attempt(which)
        state.theta[rows], state.g[rows], state.alpha[rows] = nearest, radius, alpha
        if self.norm == "linf":
            self._clamp(trial, rows, state)

    def _clamp(self, trial: Trial, rows: Tensor, state: State) -> None:
        """Let theta lead to the clamped image of its point: the same answer at a smaller distance."""
        if self.clip:
            rows = rows[state.g[rows].isfinite()]
            clean, g = trial.images[rows], state.g[rows].reshape(-1, 1, 1, 1)
            delta = (clean + g * state.theta[rows]).clamp(0, 1) - clean
            # Rounding aside: a direction that needs no clamping stays as it is.
            size = torch.minimum(lengths(delta, self.norm), g)
            state.theta[rows], state.g[rows] = delta / size, size.flatten()
