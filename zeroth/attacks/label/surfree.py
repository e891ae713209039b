"""SurFree: a walk along the boundary on circles, without gradients (Maho, Furon and Le Merrer, CVPR 2021).

Shapes: B images, n rows, L directions, C x H x W pixels, D of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.fft import dct
from torch import Tensor

from zeroth.attacks.label.label_attack import LabelAttack
from zeroth.attacks.label.ray_search import ask, bisect, lengths
from zeroth.attacks.label.starts import check_start, find_starts
from zeroth.oracles import Trial

# A largest angle beyond it leaves no room for a second one below a right angle.
WIDEST = 45.0
# By a smaller one a point comes nearer by less than 4e-5 of its distance: what rounding says of the boundary.
NARROWEST = 0.5
# The weakest weight of a coefficient: a blank image has none but its mean, and needs directions too.
LEAST_WEIGHT = 0.05
# Share of a direction that must be left when others are taken out of it; less is rounding.
LEAST_PART = 1e-3


@dataclass
class State:
    """Where each image stands.

    ``points`` (B, C, H, W) are adversarial, at the boundary; ``basis`` (B, L, D) holds the last directions,
    orthonormal, 0 before they are drawn, ``drawn`` (B,) counts them; ``theta`` (B,) is the largest angle, in degrees.
    """

    points: Tensor
    basis: Tensor
    drawn: Tensor
    theta: Tensor


class SurFree(LabelAttack):
    r"""Turn from the direction u of the boundary point towards random directions v, on a circle through the image.

    .. math:: z(\theta) = x_0 + d \cos\theta\, (u \cos\theta + v \sin\theta), \quad x_b = x_0 + d u, \quad v \perp u

    is at distance d cos(theta): where the boundary is a plane, the circle crosses it again at its nearest point of the
    plane of u and v. The angles theta_max, -theta_max and smaller ones are tried until one is adversarial; then the
    angle grows by steps until it no longer is, and a bisection of the distance d cos(theta) ends at the new point.
    theta_max is divided by rho where a direction serves, else multiplied by it, down to half a degree.

    A direction has random coefficients -1, 0, 1 at the low frequencies of the image's DCT, from which u and the last L
    directions are projected out (Gram-Schmidt). Where these would be more than half of the coefficients, fewer are
    kept; otherwise nothing new would be left.

    The published program bisects a positive angle on both sides; ours stays on the side that was met.

    The defaults are ours, set by hand on MNIST training images; ``configs/attack/surfree_paper.yaml`` has the paper's.

    Args:
        tries: random directions (targeted, with a pool: images of the target class) of which the best is the start;
            the program takes the first adversarial image under white noise.
        start_cells: first directions are constant on grids of so many cells a side, in turn; None for pixels (paper).
        frequencies: share of the coefficients of the DCT that are low; paper .5.
        weights: of the coefficients: "constant" (the program's example), or "tanh", of their sizes in the image.
        angles: T, tried on each side, theta_max i / T; the program's example 3.
        theta: theta_max at first, in degrees; paper 30.
        rho: factor of theta_max, in (0, 1); paper .98.
        orthogonal: L, last directions that new ones are orthogonal to; paper 100.
        tolerance: relative width at which the bisection ends; the paper's gamma, .01.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    norm: Literal["l2"] = "l2"

    def __init__(
        self,
        *,
        tries: int = 30,
        start_cells: Sequence[int] | None = (7, 4, 2),
        frequencies: float = 0.5,
        weights: Literal["constant", "tanh"] = "tanh",
        angles: int = 1,
        theta: float = 30.0,
        rho: float = 0.9,
        orthogonal: int = 100,
        tolerance: float = 0.01,
    ) -> None:
        if weights not in ("constant", "tanh"):
            raise ValueError(f"weights must be 'constant' or 'tanh', got {weights!r}")
        for field, number, least in (("angles", angles, 1), ("orthogonal", orthogonal, 0)):
            if number < least:
                raise ValueError(f"{field} must be at least {least}, got {number}")
        for field, value, most in (
            ("frequencies", frequencies, 1.0),
            ("theta", theta, WIDEST),
            ("tolerance", tolerance, 1.0),
        ):
            if not 0 < value <= most:
                raise ValueError(f"{field} must lie in (0, {most:g}], got {value}")
        if not 0 < rho < 1:
            raise ValueError(f"rho must lie in (0, 1), a factor of theta, got {rho}")
        check_start(tries, start_cells)
        self.tries, self.start_cells, self.frequencies, self.weights = tries, start_cells, frequencies, weights
        self.angles, self.theta, self.rho, self.orthogonal, self.tolerance = angles, theta, rho, orthogonal, tolerance
        # An image asks one point at once, but keeps L directions.
        self.request = max(tries, orthogonal)

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        images, rows = trial.images, trial.active
        channels, height, width = images.shape[1:]
        found = find_starts(trial, rows, norm="l2", tries=self.tries, cells=self.start_cells, pool=self.pool)
        trial.retire(rows[found.high.isinf()], "no start")
        if images[0].numel() == 1:
            trial.retire(rows, "converged")  # there is no second direction
        rows, high, directions = trial.keep(rows, found.high, found.directions)
        points = images.clone()
        points[rows] = (images[rows] + high.reshape(-1, 1, 1, 1) * directions).clamp(0, 1)
        low = low_frequencies(height, width, self.frequencies).to(images.device)
        kept = min(self.orthogonal, (channels * int(low.sum()) - 1) // 2)
        state = State(
            points=points,
            basis=images.new_zeros(len(images), kept, images[0].numel()),
            drawn=torch.zeros_like(trial.budget),
            theta=images.new_full((len(images),), self.theta),
        )
        down, across = dct_matrix(height).to(images.device), dct_matrix(width).to(images.device)
        weights = low.expand_as(images).float()
        if self.weights == "tanh":
            weights = weights * (down @ images @ across.T).abs().tanh().clamp_min(LEAST_WEIGHT)
        while len(rows := trial.active):
            coefficients = weights[rows] * ((3 * trial.streams.rand(rows, images.shape[1:])).floor() - 1)
            self._turn(trial, rows, state, self._project(trial, rows, state, down.T @ coefficients @ across))

    def _project(self, trial: Trial, rows: Tensor, state: State, drawn: Tensor) -> Tensor:
        """Take u and the last directions out of new ones (n, C, H, W); of length 1, and kept as the last."""
        # A copy of all that is kept costs as much as the victim's answers do.
        basis = state.basis if len(rows) == len(state.basis) else state.basis[rows]
        away = (state.points[rows] - trial.images[rows]).flatten(1)
        radial, rest = _without(basis, torch.stack([away, _unit(drawn.flatten(1))], 1)).split(1, dim=1)
        radial = _unit(radial)
        direction = _without(radial, rest)[:, 0]
        spent = (torch.linalg.vector_norm(direction, dim=1) < LEAST_PART).nonzero().flatten()
        if len(spent):  # these lie in the span of the others: white noise does not
            noise = _unit(trial.randn(rows[spent], (1, direction.shape[1])))
            direction[spent] = _without(radial[spent], _without(basis[spent], noise))[:, 0]
        direction = _unit(direction)
        if basis.shape[1]:
            state.basis[rows, state.drawn[rows] % basis.shape[1]] = direction
            state.drawn[rows] += 1
        return direction.reshape(drawn.shape)

    def _turn(self, trial: Trial, rows: Tensor, state: State, directions: Tensor) -> None:
        """Move each point to where its circle towards a direction (n, C, H, W) crosses the boundary again."""
        clean = trial.images[rows]
        away = state.points[rows] - clean
        size = lengths(away, "l2")
        radial, size = away / size, size.flatten()
        side = torch.ones_like(size)

        def place(which: Tensor, radii: Tensor) -> Tensor:
            cosine = (radii / size[which]).reshape(-1, 1, 1, 1)
            sine = side[which].reshape(-1, 1, 1, 1) * (1 - cosine**2).clamp_min(0).sqrt()
            return clean[which] + radii.reshape(-1, 1, 1, 1) * (cosine * radial[which] + sine * directions[which])

        largest = state.theta[rows].deg2rad()
        step = largest / self.angles
        inner = torch.zeros_like(size)  # the largest angle that is adversarial
        for share in range(self.angles, 0, -1):
            for sign in (1.0, -1.0):
                which = ((inner == 0) & trial.playing[rows]).nonzero().flatten()
                if len(which):
                    side[which] = sign
                    angle = step[which] * share
                    met = ask(trial, rows[which], place(which, size[which] * angle.cos()))
                    inner[which] = torch.where(met, angle, 0)
        hit = inner > 0
        factor = torch.where(hit, 1 / self.rho, self.rho)
        state.theta[rows] = (state.theta[rows] * factor).clamp(min(NARROWEST, self.theta), WIDEST)
        outer = inner + step
        # What lies beyond the largest angle is not known yet; at a right angle it is the image itself.
        growing = hit & (inner > largest - step / 2)
        while len(which := (growing & (outer < math.pi / 2) & trial.playing[rows]).nonzero().flatten()):
            met = ask(trial, rows[which], place(which, size[which] * outer[which].cos()))
            inner[which] = torch.where(met, outer[which], inner[which])
            outer[which] = torch.where(met, outer[which] + step[which], outer[which])
            growing[which] = met
        low = size * outer.clamp_max(math.pi / 2).cos().clamp_min(0)
        high = torch.where(hit, size * inner.cos(), torch.inf)
        _, high = bisect(trial, rows, place, low, high, self.tolerance * size)
        which = hit.nonzero().flatten()
        state.points[rows[which]] = place(which, high[which]).clamp(0, 1)


def dct_matrix(size: int) -> Tensor:
    """Return the orthonormal DCT-II as a matrix, (size, size) from places to frequencies, so that it runs anywhere."""
    return torch.from_numpy(dct(torch.eye(size, dtype=torch.float64).numpy(), axis=0, norm="ortho")).float()


def low_frequencies(height: int, width: int, share: float) -> Tensor:
    """Return which coefficients of the DCT are the lowest, (H, W) bool: by diagonals from the mean, at least one."""
    diagonal = torch.arange(height).unsqueeze(1) + torch.arange(width)
    order = diagonal.flatten().argsort(stable=True)
    low = torch.zeros(height * width, dtype=torch.bool)
    low[order[: max(1, int(share * height * width))]] = True
    return low.reshape(height, width)


def _unit(vectors: Tensor) -> Tensor:
    """Scale vectors (..., D) to length 1; zero stays zero."""
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(1e-12)


def _without(basis: Tensor, vectors: Tensor) -> Tensor:
    """Take the parts along orthonormal vectors (n, L, D) out of vectors (n, k, D)."""
    return vectors - vectors @ basis.mT @ basis
