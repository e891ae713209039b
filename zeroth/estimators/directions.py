"""Random directions, and gradients from differences along them.

Shapes: B problems, Q directions, d coordinates, M functions asked at the same points.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zeroth.estimators.estimator import Draw
from zeroth.oracles.oracle import exact_float32
from zeroth.oracles.streams import unit

Distribution = Literal["sphere", "gaussian"]


def random_directions(draw: Draw, q: int, shape: tuple[int, ...], distribution: Distribution = "sphere") -> Tensor:
    """Draw q directions a problem, (B, q, *shape): uniform on the unit sphere, or standard normal."""
    noise = draw((q, *shape))
    return noise if distribution == "gaussian" else unit(noise)


def grid_directions(draw: Draw, q: int, image: tuple[int, int, int], cells: int) -> Tensor:
    """Draw unit directions that are constant on the cells of a grid of ``cells`` x ``cells`` over the image.

    A victim's gradient has most of its energy in low frequencies, so fewer, coarser unknowns are found with fewer
    queries (the data prior of Bandits, Ilyas et al. 2019).

    Args:
        draw: source of standard normal numbers.
        q: directions a problem.
        image: (C, H, W).
        cells: cells a side; nearest-neighbour upsampling to H x W, sizes that do not divide give cells of unequal size.

    Returns:
        (B, q, C, H, W).
    """
    channels, height, width = image
    coarse = draw((q, channels, cells, cells))
    fine = F.interpolate(coarse.flatten(0, 1), size=(height, width), mode="nearest-exact").reshape(
        *coarse.shape[:3], height, width
    )
    return unit(fine)


def probes(center: Tensor, directions: Tensor, mu: float, antithetic: bool = False) -> Tensor:
    """Make the points center + mu u: center (B, 1, d), directions (B, Q, d) -> (B, Q, d).

    Antithetic pairs center + mu u, center - mu u stand side by side, (B, 2 Q, d), so that a shortened request keeps
    them whole.
    """
    if antithetic:
        return torch.stack([center + mu * directions, center - mu * directions], 2).flatten(1, 2)
    return torch.add(center, directions, alpha=mu)


def slopes(values: Tensor, base: Tensor, mu: float, antithetic: bool = False) -> Tensor:
    """Return directional slopes from the values at :func:`probes` (B, Q or 2 Q[, M]) and at their center (B[, M])."""
    if antithetic:
        pairs = values.unflatten(1, (-1, 2))
        return (pairs[:, :, 0] - pairs[:, :, 1]) / (2 * mu)
    return (values - base.unsqueeze(1)) / mu


def combine(directions: Tensor, along: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Sum directions (B, Q, d) weighted by directional slopes: ``scale`` times the mean of slope x direction.

    Args:
        directions: (B, Q, d).
        along: slopes (B, Q) or, for M functions at once, (B, Q, M); NaN where a direction was not asked, which the mean
            leaves out.
        scale: number or (B,); d for directions on the unit sphere, 1 for Gaussian ones, makes the estimate unbiased on
            linear functions.

    Returns:
        (B, d) or (B, M, d).
    """
    single = along.ndim == 2
    along = along.unsqueeze(2) if single else along
    asked = ~along.isnan()
    weights = (
        along.nan_to_num(nan=0.0)
        * torch.as_tensor(scale, device=along.device).reshape(-1, 1, 1)
        / asked.sum(1, keepdim=True).clamp_min(1)
    )
    with exact_float32(along.device.type):
        gradients = weights.transpose(1, 2) @ directions
    return gradients[:, 0] if single else gradients
