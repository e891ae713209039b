"""Random directions of label attacks: noise on a grid of cells, orthonormal ones.

Shapes: n rows, Q directions, C x H x W pixels.
"""

import torch
from torch import Tensor

from zeroth.estimators import grid_directions
from zeroth.oracles import Trial


def noise(trial: Trial, rows: Tensor, count: int, cells: int | None) -> Tensor:
    """Draw noise of variance 1, (n, count, C, H, W), constant on a grid of cells a side; None for pixels."""
    channels, height, width = trial.images.shape[1:]
    if cells is None or cells >= max(height, width):
        return trial.randn(rows, (count, channels, height, width))
    directions = grid_directions(lambda shape: trial.randn(rows, shape), count, (channels, height, width), cells)
    return directions * (channels * height * width) ** 0.5


def orthogonal(u: Tensor, cells: int | None) -> Tensor:
    """Make the first of random directions (n, Q, C, H, W) orthonormal, as many as can be; of noise on a grid, fewer."""
    channels, height, width = u.shape[2:]
    freedom = channels * min(cells or height, height) * min(cells or width, width)
    first = u[:, :freedom]
    basis = torch.linalg.qr(first.flatten(2).mT).Q.mT.reshape(first.shape)
    return torch.cat([basis, u[:, freedom:]], 1)
