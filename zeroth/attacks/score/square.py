"""Square Attack: random search by squares on the boundary of the ball (Andriushchenko et al., ECCV 2020).

Shapes: B images, n active rows, C x H x W pixels, s pixels the side of a square.
"""

import itertools
from bisect import bisect_left
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zeroth.attacks.attack import Attack
from zeroth.attacks.losses import Loss, check_kappa, check_loss, loss_values
from zeroth.oracles import Oracle, ScoreOracle, Trial

# Iterations whose squares are drawn at once: each image has a stream of its own, and to ask all of them takes time.
AHEAD = 32
# The iterations after which p is halved, of a schedule of 10,000 (section "Square Size Selection").
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
SCHEDULE = 10_000
# The l_2 attack starts from a grid of so many bumps along the shorter side.
BUMPS = 5
# Squares of the l_2 attack are not smaller: a bump and its opposite need room.
SMALLEST_BUMP = 3


def share(p: float, iteration: int, schedule: int = SCHEDULE) -> float:
    """Return the share of pixels that iteration 0, 1, ... changes: p halved at :data:`HALVINGS`, stretched to N.

    Beyond the schedule p / 512 stays (the published program falls back to p).
    """
    return float(p / 2 ** bisect_left(HALVINGS, iteration * SCHEDULE // schedule))


def square_side(part: float, height: int, width: int) -> int:
    """Return the side of the square that holds a share of the pixels, at least one and inside the image."""
    return min(max(round((part * height * width) ** 0.5), 1), height, width)


def bump(side: int) -> Tensor:
    r"""Make the unit l_2 pattern of an s x s square (eq. 2): a bump above, its opposite below, (s, s).

    .. math:: \eta_{r,c} = \sum_{k=m+1}^{M} \frac{1}{k^2}, \quad m = \max(|r - \lfloor h/2 \rfloor|,
        |c - \lfloor w/2 \rfloor|), \quad M = 1 + \max(\lfloor h/2 \rfloor, \lfloor w/2 \rfloor)

    in each half of h x w pixels.
    """
    halves = []
    for height, sign in ((side // 2, 1.0), (side - side // 2, -1.0)):
        reach = 1 + max(height // 2, side // 2)
        tails = torch.arange(1, reach + 1, dtype=torch.float64).pow(-2).flip(0).cumsum(0).flip(0)  # m = 0..M-1
        down = (torch.arange(height) - height // 2).abs()
        across = (torch.arange(side) - side // 2).abs()
        halves.append(sign * tails[torch.maximum(down.unsqueeze(1), across)])
    pattern = torch.cat(halves)
    return (pattern / torch.linalg.vector_norm(pattern)).float()


def stripes(trial: Trial, rows: Tensor) -> Tensor:
    """Draw vertical stripes of random signs, (n, C, H, W): the start of the l_inf attack."""
    channels, height, width = trial.images.shape[1:]
    return _signs(trial.streams.rand(rows, (channels, 1, width))).expand(-1, -1, height, -1)


def window(down: Tensor, across: Tensor, side: int, height: int, width: int) -> Tensor:
    """Place a square by uniform numbers (n,), anywhere inside the image: mask (n, 1, H, W)."""

    def span(uniform: Tensor, size: int) -> Tensor:
        begin = (uniform * (size - side + 1)).long().clamp_max(size - side).unsqueeze(1)
        pixels = torch.arange(size, device=uniform.device)
        return (pixels >= begin) & (pixels < begin + side)

    return (span(down, height).unsqueeze(2) & span(across, width).unsqueeze(1)).unsqueeze(1)


def _norm(delta: Tensor, dims: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(delta, dim=dims, keepdim=True)


def _signs(uniform: Tensor) -> Tensor:
    return torch.where(uniform < 0.5, -1.0, 1.0)


class Square(Attack):
    r"""Change one square at a time, keep what lowers the loss; one query an iteration.

    l_inf (algorithm 2): the start is vertical stripes of +-epsilon; a square takes one sign times epsilon per channel.
    One that would change nothing has all its signs turned over instead (the published program draws again).

    l_2 (algorithm 3): the start is a grid of bumps; the square W1 takes the norm of a second square W2 and what of the
    radius is not used:

    .. math:: \nu_i = \rho_i \eta + \delta_{W_1,i} / \lVert \delta_{W_1,i} \rVert, \quad
        \delta_{W_2} \leftarrow 0, \quad \delta_{W_1,i} \leftarrow \frac{\nu_i}{\lVert \nu_i \rVert}
        \sqrt{\lVert \delta_{W_1 \cup W_2,i} \rVert^2 + (\epsilon^2 - \lVert \delta \rVert^2)_+ / C}

    with rho +-1 per channel i and eta of :func:`bump`, transposed at random. Each image has its own squares, which
    reach the last row and column too (the program's never do).

    The default p is ours, set by hand on MNIST training images, and the best there of 40 tuning trials too;
    ``configs/attack/square_paper.yaml`` has the paper's.

    Args:
        norm: of the ball: "linf" or "l2".
        epsilon: radius of the ball, [0, 1] pixels; paper .05 (l_inf) and 5 (l_2) on ImageNet, .3 and 2 on MNIST.
        p: share of the pixels that a square changes at first; paper .05 (l_inf) and .1 (l_2), more on robust victims.
        schedule: N, the iterations over which p falls; the published program takes its limit of queries.
        loss: "margin" (paper, untargeted) or "cross_entropy" (paper, targeted).
        kappa: confidence of an adversarial point; paper 0.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = ScoreOracle
    epsilon: float

    def __init__(
        self,
        *,
        norm: Literal["linf", "l2"] = "linf",
        epsilon: float = 0.4,
        p: float = 0.15,
        schedule: int = SCHEDULE,
        loss: Loss = "margin",
        kappa: float = 0.0,
    ) -> None:
        if norm not in ("linf", "l2"):
            raise ValueError(f"norm must be 'linf' or 'l2', got {norm!r}")
        if not epsilon > 0:
            raise ValueError(f"epsilon must be > 0 in [0, 1] pixels, got {epsilon}")
        if not 0 < p <= 1:
            raise ValueError(f"p must lie in (0, 1], a share of the pixels, got {p}")
        if schedule < 1:
            raise ValueError(f"schedule must be at least 1 iteration, got {schedule}")
        check_loss(loss)
        check_kappa(kappa)
        self.norm: Literal["linf", "l2", "l1"] = norm
        self.epsilon, self.p, self.schedule, self.loss, self.kappa = epsilon, p, schedule, loss, kappa

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        images = trial.images
        delta = torch.zeros_like(images)
        # Anything is better than the clean image: the start is taken whatever its loss.
        best = images.new_full((len(images),), torch.inf)
        # Five numbers place and turn the squares (two and one suffice for l_inf); the others are the signs.
        draws = images.new_empty(len(images), AHEAD, 5 + images.shape[1])
        for iteration in itertools.count(-1):
            rows = trial.active
            if len(rows) == 0:
                return
            if iteration < 0:
                proposed = self._start(trial, rows)
            else:
                if iteration % AHEAD == 0:
                    draws[rows] = trial.streams.rand(rows, (*draws.shape[1:],))
                proposed = self._propose(trial, rows, delta[rows], draws[rows, iteration % AHEAD], iteration)
            answers = trial.query((images[rows] + proposed).unsqueeze(1), rows)[:, 0]
            rows, answers, proposed = trial.keep(rows, answers, proposed)
            values = loss_values(trial, answers, rows, self.loss)
            better = values < best[rows]
            delta[rows[better]], best[rows[better]] = proposed[better], values[better]

    def side(self, iteration: int, height: int, width: int) -> int:
        """Return the side of the squares of iteration 0, 1, ..."""
        side = square_side(share(self.p, iteration, self.schedule), height, width)
        if self.norm == "l2":
            side = max(side, SMALLEST_BUMP) // 2 * 2 + 1  # odd
        return min(side, height, width)

    def _start(self, trial: Trial, rows: Tensor) -> Tensor:
        """Return stripes (l_inf) or a grid of bumps (l_2), (n, C, H, W)."""
        if self.norm == "linf":
            return self.epsilon * stripes(trial, rows)
        channels, height, width = trial.images.shape[1:]
        side = max(1, min(height, width) // BUMPS)
        down, across = height // side, width // side
        uniform = trial.streams.rand(rows, (channels + 1, down, across, 1, 1))
        pattern = bump(side).to(uniform.device)
        tiles = _signs(uniform[:, :-1]) * torch.where(uniform[:, -1:] < 0.5, pattern, pattern.T)
        grid = tiles.transpose(3, 4).reshape(len(rows), channels, down * side, across * side)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        spread = F.pad(grid, (left, width - across * side - left, top, height - down * side - top))
        return self._bounded(trial, rows, spread)

    def _propose(self, trial: Trial, rows: Tensor, delta: Tensor, uniform: Tensor, iteration: int) -> Tensor:
        """Return perturbations (n, C, H, W) that differ from ``delta`` in a square of each image."""
        channels, height, width = delta.shape[1:]
        side = self.side(iteration, height, width)
        first = window(uniform[:, 0], uniform[:, 1], side, height, width)
        signs = _signs(uniform[:, 5:])[:, :, None, None]
        if self.norm == "linf":
            square = self.epsilon * signs
            proposed = torch.where(first, square, delta)
            same = (proposed == delta).flatten(1).all(1)[:, None, None, None]
            return torch.where(same & first, -square, proposed)
        second = window(uniform[:, 2], uniform[:, 3], side, height, width)
        inside = _norm(delta * first, (2, 3))
        turn = uniform[:, 4, None, None] < 0.5
        pattern = bump(side).to(delta.device)
        placed = torch.zeros_like(delta[:, :1])
        # A window's pixels are in row-major order in both, so they match.
        placed[first] = torch.where(turn, pattern, pattern.T).flatten()
        fresh = signs * placed + delta * first / inside.clamp_min(1e-10)
        unused = (self.epsilon**2 - _norm(delta, (1, 2, 3)) ** 2).clamp_min(0) / channels
        available = (_norm(delta * (first | second), (2, 3)) ** 2 + unused).sqrt()
        fresh = fresh / _norm(fresh, (2, 3)).clamp_min(1e-10) * available
        return self._bounded(trial, rows, torch.where(first, fresh, delta * ~second))

    def _bounded(self, trial: Trial, rows: Tensor, delta: Tensor) -> Tensor:
        """Scale to the l_2 radius, then clamp the pixels: (n, C, H, W)."""
        clean = trial.images[rows]
        return (clean + delta * (self.epsilon / _norm(delta, (1, 2, 3)).clamp_min(1e-10))).clamp(0, 1) - clean
