"""HopSkipJump: gradients at the decision boundary from labels (Chen, Jordan and Wainwright, IEEE S&P 2020).

Shapes: B images, n rows, Q directions, C x H x W pixels, D of them.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from zeroth.attacks.label.label_attack import LabelAttack
from zeroth.attacks.label.ray_search import Place, ask, bisect, lengths
from zeroth.attacks.label.starts import check_start, find_starts
from zeroth.oracles import Trial
from zeroth.oracles.streams import unit

# Directions drawn and asked at once; the estimate is summed over such requests, so all of them never have to exist.
TOGETHER = 200
# Halvings of a step: by then it is a billionth of the distance, and the point has not moved.
HALVINGS = 30


class HopSkipJump(LabelAttack):
    r"""Walk along the boundary: estimate its normal, step off it, come back to it by bisection.

    At the boundary point x of iteration t, phi = 1 where a probe is adversarial and -1 where not:

    .. math:: v = \sum_q (\phi_q - \bar\phi) u_q, \quad \phi_q = \phi(x + \delta u_q)

    then x + xi v / ||v|| (sign(v) for l_inf) with xi = distance / sqrt(t), halved until it is adversarial; delta =
    gamma distance / D, by the distance before the return to the boundary.

    The defaults are ours; ``configs/attack/hop_skip_jump_paper.yaml`` has the paper's.

    Args:
        norm: what is made small, "l2" or "linf".
        evaluations: directions of the first iteration; iteration t asks sqrt(t) as many; paper 100.
        most: largest number of directions; paper 10,000.
        gamma: the boundary is found to gamma / D^1.5 of the distance (l_inf: gamma / D^2); paper 1.
        first_delta: probe length of the first iteration, [0, 1] pixels; paper .1.
        tries: random directions of which the best is the start; the paper takes the first that is adversarial.
        start_cells: these are constant on grids of so many cells a side, in turn; None for white noise (paper).

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    norm: Literal["l2", "linf"]
    request = TOGETHER

    def __init__(
        self,
        *,
        norm: Literal["l2", "linf"] = "l2",
        evaluations: int = 50,
        most: int = 10_000,
        gamma: float = 10.0,
        first_delta: float = 0.1,
        tries: int = 30,
        start_cells: Sequence[int] | None = (7, 4, 2),
    ) -> None:
        if norm not in ("l2", "linf"):
            raise ValueError(f"norm must be 'l2' or 'linf', got {norm!r}")
        if evaluations < 1:
            raise ValueError(f"evaluations must be at least 1, got {evaluations}")
        if most < evaluations:
            raise ValueError(f"most must be at least evaluations = {evaluations}, got {most}")
        for field, value in (("gamma", gamma), ("first_delta", first_delta)):
            if not value > 0:
                raise ValueError(f"{field} must be > 0, got {value}")
        check_start(tries, start_cells)
        self.norm, self.evaluations, self.most, self.gamma = norm, evaluations, most, gamma
        self.first_delta, self.tries, self.start_cells = first_delta, tries, start_cells

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        images = trial.images
        points = images.clone()  # adversarial, at the boundary
        # A first probe is as long as theirs, whatever the distance; it is the only one.
        delta = images.new_full((len(images),), self.first_delta)
        rows = trial.active
        found = find_starts(trial, rows, norm=self.norm, tries=self.tries, cells=self.start_cells, pool=self.pool)
        trial.retire(rows[found.high.isinf()], "no start")
        rows, low, high, directions = trial.keep(rows, found.low, found.high, found.directions)
        # The start is known to lie at the boundary of its ray, but not at that of its cube.
        low = low if self.norm == "l2" else torch.zeros_like(low)
        points[rows] = self._to_boundary(trial, rows, images[rows] + high.reshape(-1, 1, 1, 1) * directions, low)
        for step in itertools.count(1):  # each iteration costs queries, so the budget ends it
            rows = trial.active
            if len(rows) == 0:
                return
            normal = self._normal(trial, rows, points[rows], delta[rows], step)
            rows, normal = trial.keep(rows, normal)
            moved, found_one = self._jump(trial, rows, points[rows], normal, step)
            rows, moved, found_one = trial.keep(rows, moved, found_one)
            delta[rows] = self.gamma * self._size(moved - images[rows]) / images[0].numel()
            rows, moved = rows[found_one], moved[found_one]
            points[rows] = self._to_boundary(trial, rows, moved, torch.zeros_like(delta[rows]))

    def _size(self, perturbations: Tensor) -> Tensor:
        return lengths(perturbations, self.norm).flatten()

    def _normal(self, trial: Trial, rows: Tensor, points: Tensor, delta: Tensor, step: int) -> Tensor:
        """Estimate the normal of the boundary at points (n, C, H, W), towards the other side; norm 1, or signs."""
        wanted = min(self.most, int(self.evaluations * math.sqrt(step)))
        # Half of what is left at most: a normal without queries for its step serves nothing.
        count = ((trial.remaining(rows) + 1) // 2).clamp_max(wanted)
        # (n, C, H, W): the sums of u and of phi u; (n,): that of phi.
        plain, signed, total = torch.zeros_like(points), torch.zeros_like(points), torch.zeros_like(delta)
        centre, length = points.unsqueeze(1), delta.reshape(-1, 1, 1, 1, 1)
        for first in range(0, wanted, TOGETHER):
            number = (count - first).clamp(0, TOGETHER)
            # As many for every row, whatever it can afford: what an image draws may not depend on its neighbours.
            u = self._draw(trial, rows, min(TOGETHER, wanted - first))
            probes = (centre + length * u).clamp(0, 1)
            met = trial.adversarial(probes, rows, number, iterate=False)
            asked = torch.arange(met.shape[1], device=met.device) < number.unsqueeze(1)
            phi = torch.where(met, 1.0, -1.0) * asked
            u = (probes - centre) / length  # what was asked, after clamping
            plain += (u * asked.reshape(*asked.shape, 1, 1, 1)).sum(1)
            signed += (u * phi.reshape(*phi.shape, 1, 1, 1)).sum(1)
            total += phi.sum(1)
        mean = (total / count).reshape(-1, 1, 1, 1)
        # All probes on one side: phi - mean would be 0 throughout, so the mean direction of that side is taken.
        normal = torch.where(mean.abs() < 1, signed - mean * plain, signed)
        return normal.sign() if self.norm == "linf" else normal / lengths(normal, "l2")

    def _draw(self, trial: Trial, rows: Tensor, count: int) -> Tensor:
        """Draw (n, count, C, H, W) directions of l_2 norm 1: uniform on the sphere, or from the cube for l_inf."""
        shape = (count, *trial.images.shape[1:])
        return trial.sphere(rows, shape) if self.norm == "l2" else unit(2 * trial.streams.rand(rows, shape) - 1)

    def _jump(self, trial: Trial, rows: Tensor, points: Tensor, normal: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Step along the normals, by less where that is not adversarial: points (n, C, H, W), and which moved, (n,)."""
        size = self._size(points - trial.images[rows]) / math.sqrt(step)
        moved, done = points.clone(), torch.zeros_like(rows, dtype=torch.bool)
        for _ in range(HALVINGS):
            which = (~done & trial.playing[rows]).nonzero().flatten()
            if len(which) == 0:
                break
            there = (points[which] + size[which].reshape(-1, 1, 1, 1) * normal[which]).clamp(0, 1)
            met = ask(trial, rows[which], there)
            moved[which] = torch.where(met.reshape(-1, 1, 1, 1), there, moved[which])
            done[which] = met
            size[which] /= 2
        return moved, done

    def _to_boundary(self, trial: Trial, rows: Tensor, outside: Tensor, low: Tensor) -> Tensor:
        """Bisect between images and adversarial points (n, C, H, W): a blend for l_2, a clamp to a cube for l_inf.

        At distances ``low`` (n,) they are known not to be adversarial.
        """
        clean, dimension = trial.images[rows], outside[0].numel() if len(outside) else 1
        delta = outside - clean
        high = self._size(delta)

        def blend(which: Tensor, radii: Tensor) -> Tensor:
            return clean[which] + (radii / high[which]).reshape(-1, 1, 1, 1) * delta[which]

        def cube(which: Tensor, radii: Tensor) -> Tensor:
            radii = radii.reshape(-1, 1, 1, 1)
            return clean[which] + delta[which].clamp(-radii, radii)

        place: Place = blend if self.norm == "l2" else cube
        # A hundredth at most: in images of few pixels theirs would be no bisection at all.
        theta = min(0.01, self.gamma / dimension ** (1.5 if self.norm == "l2" else 2))
        tolerance = theta * (high if self.norm == "l2" else high.clamp_max(1))
        _, radii = bisect(trial, rows, place, low, high, tolerance)
        return place(torch.arange(len(rows), device=rows.device), radii)
