"""Thompson: corners of the ball by the signs of sampled smooth gradients, fitted to every answer so far. Ours.

Shapes: B images, n active rows, M observations of a row, C x H x W pixels, C x h x w cells, d = C h w.
"""

import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zeroth.attacks.attack import Attack
from zeroth.attacks.losses import Loss, check_kappa, check_loss, loss_values
from zeroth.attacks.score.square import share, square_side, stripes, window
from zeroth.oracles import Oracle, ScoreOracle, Trial


def kernel_root(size: int, length: float) -> Tensor:
    r"""Return the symmetric root R of :math:`K_{ij} = \exp(-(i - j)^2 / (2 \ell^2))`, R R = K: (size, size)."""
    places = torch.arange(size, dtype=torch.float64)
    values, vectors = torch.linalg.eigh((-0.5 * ((places.unsqueeze(1) - places) / length) ** 2).exp())
    return ((vectors * values.clamp_min(0).sqrt()) @ vectors.T).float()


def posterior_sample(
    features: Tensor, gram: Tensor, values: Tensor, noise: float, prior: Tensor, errors: Tensor
) -> Tensor:
    r"""Draw the weights of a Bayesian linear regression, divided by the scale of their prior.

    With :math:`y = Z w + e`, :math:`w \sim N(0, s^2 I)`, :math:`e \sim N(0, s^2 \lambda I)`, lambda = ``noise`` times
    the mean squared length of the rows of Z, and s the value that makes y most likely, the sample is (Matheron's rule)

    .. math:: w / s = \xi + Z^T (Z Z^T + \lambda I)^{-1} (y / s - Z \xi - \sqrt{\lambda}\, \varepsilon), \quad
        s^2 = y^T (Z Z^T + \lambda I)^{-1} y / M

    Args:
        features: Z, (n, M, d).
        gram: Z Z^T, (n, M, M).
        values: y, (n, M).
        noise: > 0.
        prior: xi, (n, d) standard normal numbers.
        errors: epsilon, (n, M) standard normal numbers.

    Returns:
        (n, d).
    """
    lambdas = noise * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)  # (n,)
    guess = _along(features, prior) + lambdas.sqrt().unsqueeze(1) * errors
    system = gram + torch.diag_embed(lambdas.unsqueeze(1).expand_as(values))
    solved = torch.linalg.solve(system, torch.stack([values, guess], 2))
    scale = ((values * solved[:, :, 0]).mean(1).clamp_min(0).sqrt()).clamp_min(1e-12)
    weights = solved[:, :, 0] / scale.unsqueeze(1) - solved[:, :, 1]
    return prior + (weights.unsqueeze(1) @ features).squeeze(1)


class Thompson(Attack):
    r"""Propose the corner that a sampled gradient asks for inside one square, keep what lowers the loss.

    One query an iteration. From Square Attack (Andriushchenko et al., ECCV 2020) are the start from vertical stripes of
    +-epsilon, the corners of the ball, the squares, their schedule, and that only improvements are kept. Instead of one
    random sign a square takes the signs

    .. math:: \delta_W \leftarrow -\epsilon \operatorname{sign} g_W, \quad g = R w R, \quad
        w \sim p(w \mid \text{what the last M proposals changed and by how much the loss moved})

    of a linear model of the loss around the best point (:func:`posterior_sample`): a proposal that was refused teaches
    as much as one that was kept. Its prior is smooth over the grid (R of :func:`kernel_root`), since gradients of
    networks are (the data prior of Bandits, Ilyas et al., ICLR 2019, here correlated and not only tiled); drawing the
    gradient instead of taking its mean is Thompson sampling (1933), which tries what is not known yet. BayesOpt attack
    (Ru et al., ICLR 2020) fits a Gaussian process too, to the loss itself over a few coordinates. A proposal that would
    change nothing turns its square over instead.

    Beside its queries an iteration costs O(M d + M^3) an image. The defaults are ours, set by hand on MNIST training
    images; settings tuned on 100 of them (40 trials) were no better on 300 others.

    Args:
        epsilon: radius of the l_inf ball, [0, 1] pixels.
        p: share of the pixels that a square covers at first.
        schedule: iterations over which p falls as Square Attack's does.
        memory: M, the latest proposals that are fitted.
        cells: the gradient is modelled on a grid of cells x cells, which bounds time and memory; None for pixels, as
            are smaller images.
        length: standard deviation of the prior's Gaussian covariance, in widths of the image.
        noise: variance of what the linear model leaves unexplained, relative to what it explains.
        loss: "margin" or "cross_entropy".
        kappa: confidence of an adversarial point.

    Raises:
        ValueError: a hyperparameter out of its range.
    """

    oracle_type: ClassVar[type[Oracle]] = ScoreOracle
    epsilon: float

    def __init__(
        self,
        *,
        epsilon: float = 0.4,
        p: float = 0.3,
        schedule: int = 10_000,
        memory: int = 100,
        cells: int | None = 32,
        length: float = 0.07,
        noise: float = 0.01,
        loss: Loss = "margin",
        kappa: float = 0.0,
    ) -> None:
        if not epsilon > 0:
            raise ValueError(f"epsilon must be > 0 in [0, 1] pixels, got {epsilon}")
        if not 0 < p <= 1:
            raise ValueError(f"p must lie in (0, 1], a share of the pixels, got {p}")
        for field, number in (("schedule", schedule), ("memory", memory), ("cells", cells)):
            if number is not None and number < 1:
                raise ValueError(f"{field} must be at least 1, got {number}")
        for field, value in (("length", length), ("noise", noise)):
            if not value > 0:
                raise ValueError(f"{field} must be > 0, got {value}")
        check_loss(loss)
        check_kappa(kappa)
        self.epsilon, self.p, self.schedule, self.memory = epsilon, p, schedule, memory
        self.cells, self.length, self.noise, self.kappa = cells, length, noise, kappa
        self.loss: Loss = loss
        self.request = memory  # what is kept of the proposals holds no more numbers than so many images

    def run(self, trial: Trial) -> None:
        """See :class:`Attack`."""
        images = trial.images
        channels, height, width = images.shape[1:]
        cells = self.cells or max(height, width)
        grid = (channels, min(cells, height), min(cells, width))
        roots = [kernel_root(size, self.length * size).to(images.device) for size in grid[1:]]
        rows = trial.active
        # Kept for rows in play alone: looked up in what all images have, it would be copied in each iteration.
        corner = torch.zeros_like(images[rows])  # signs of the best point's perturbation
        # Anything is better than the clean image: the start is taken whatever its loss.
        best = images.new_full((len(rows),), torch.inf)
        # What the latest proposals changed, and by how much the loss moved. Rows in play have all asked as often.
        features = images.new_zeros(len(rows), self.memory, grid[0] * grid[1] * grid[2])
        gram = images.new_zeros(len(rows), self.memory, self.memory)
        moved = images.new_zeros(len(rows), self.memory)
        for iteration in itertools.count(-1):
            if len(rows) == 0:
                return
            if iteration < 0:
                proposed = stripes(trial, rows)
            else:
                known = slice(0, min(iteration, self.memory))
                seen = features[:, known], gram[:, known, known], moved[:, known]
                proposed = self._propose(trial, rows, corner, self._gradient(trial, rows, seen, grid, roots), iteration)
            points = self._points(trial, rows, proposed)
            answers = trial.query(points.unsqueeze(1), rows)[:, 0]
            rows, answers, proposed, points, corner, best, features, moved, gram = trial.keep(
                rows, answers, proposed, points, corner, best, features, moved, gram
            )
            values = loss_values(trial, answers, rows, self.loss)
            if iteration >= 0:
                change = (points - self._points(trial, rows, corner)) / self.epsilon
                # Means over cells; a factor common to all is lost in the scale of the model.
                fresh = _between(roots, F.adaptive_avg_pool2d(change, grid[1:])).flatten(1)
                slot = iteration % self.memory
                features[:, slot], moved[:, slot] = fresh, values - best
                gram[:, slot] = gram[:, :, slot] = _along(features, fresh)
            better = values < best
            corner = torch.where(better[:, None, None, None], proposed, corner)
            best = torch.where(better, values, best)

    def _points(self, trial: Trial, rows: Tensor, corner: Tensor) -> Tensor:
        """Return the images (n, C, H, W) at corners of the ball, inside the box."""
        return (trial.images[rows] + self.epsilon * corner).clamp(0, 1)

    def _gradient(
        self,
        trial: Trial,
        rows: Tensor,
        seen: tuple[Tensor, Tensor, Tensor],
        grid: tuple[int, int, int],
        roots: list[Tensor],
    ) -> Tensor:
        """Draw a gradient on the grid, (n, C, h, w), up to a factor, given Z, Z Z^T and y of what was seen."""
        count, size = seen[0].shape[1:]
        normal = trial.randn(rows, (size + count,))
        weights = normal[:, :size]
        if count:
            weights = posterior_sample(*seen, self.noise, weights, normal[:, size:])
        return _between(roots, weights.reshape(-1, *grid))

    def _propose(self, trial: Trial, rows: Tensor, corner: Tensor, gradient: Tensor, iteration: int) -> Tensor:
        """Return corners (n, C, H, W) that differ from ``corner`` in a square of each image."""
        height, width = corner.shape[2:]
        side = square_side(share(self.p, iteration, self.schedule), height, width)
        uniform = trial.streams.rand(rows, (2,))
        inside = window(uniform[:, 0], uniform[:, 1], side, height, width)
        wanted = torch.where(F.interpolate(gradient, size=(height, width), mode="nearest-exact") > 0, -1.0, 1.0)
        proposed = torch.where(inside, wanted, corner)
        same = (proposed == corner).flatten(1).all(1)[:, None, None, None]
        return torch.where(same & inside, -corner, proposed)


def _along(features: Tensor, direction: Tensor) -> Tensor:
    """Return Z v, (n, M, d) and (n, d) -> (n, M); on CPU some times faster from the left than from the right."""
    return (direction.unsqueeze(1) @ features.transpose(1, 2)).squeeze(1)


def _between(roots: list[Tensor], grid: Tensor) -> Tensor:
    """Smooth grids (n, C, h, w) by the roots of the covariances along both sides."""
    return roots[0] @ grid @ roots[1]
