"""Random directions, and gradients from differences along them.

Shapes: B problems, Q directions, d coordinates, M functions asked at the same points.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zeroth.estimators.estimator import Draw
from zeroth.oracles.oracle import exact_float32

Distribution = Literal["sphere", "gaussian"]


def random_directions(draw: Draw, q: int, shape: tuple[int, ...], distribution: Distribution = "sphere") -> Tensor:
    """Draw q directions a problem, (B, q, *shape): uniform on the unit sphere, or standard normal."""
    noise = draw((q, *shape))
    return noise if distribution == "gaussian" else _unit(noise)


def grid_directions(
    draw: Draw, q: int, image: tuple[int, int, int], cells: int, distribution: Distribution = "sphere"
) -> Tensor:
    """Draw directions that are constant on the cells of a grid of ``cells`` x ``cells`` over the image.

    A victim's gradient has most of its energy in low frequencies, so fewer, coarser unknowns are found with fewer
    queries (the data prior of Bandits, Ilyas et al. 2019).

    Args:
        draw: source of standard normal numbers.
        q: directions a problem.
        image: (C, H, W).
        cells: cells a side; nearest-neighbour upsampling to H x W, sizes that do not divide give cells of unequal size.
        distribution: sphere: each upsampled direction has unit l_2 norm over all C x H x W pixels.

    Returns:
        (B, q, C, H, W).
    """
    channels, height, width = image
    coarse = draw((q, channels, cells, cells))
    fine = F.interpolate(coarse.flatten(0, 1), size=(height, width), mode="nearest-exact").reshape(
        *coarse.shape[:3], height, width
    )
    return fine if distribution == "gaussian" else _unit(fine)


def combine(directions: Tensor, slopes: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Sum directions (B, Q, d) weighted by directional slopes: ``scale`` times the mean of slope x direction.

    Args:
        directions: (B, Q, d).
        slopes: (B, Q) or, for M functions at once, (B, Q, M); NaN where a direction was not asked, which the mean
            leaves out.
        scale: number or (B,); d for directions on the unit sphere, 1 for Gaussian ones, makes the estimate unbiased on
            linear functions.

    Returns:
        (B, d) or (B, M, d).
    """
    single = slopes.ndim == 2
    slopes = slopes.unsqueeze(2) if single else slopes
    asked = ~slopes.isnan()
    weights = (
        slopes.nan_to_num(nan=0.0)
        * torch.as_tensor(scale, device=slopes.device).reshape(-1, 1, 1)
        / asked.sum(1, keepdim=True).clamp_min(1)
    )
    with exact_float32():
        gradients = weights.transpose(1, 2) @ directions
    return gradients[:, 0] if single else gradients


def _unit(directions: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(directions.flatten(2), dim=2).clamp_min(1e-12)
    return directions / norms.reshape(*norms.shape, *[1] * (directions.ndim - 2))
