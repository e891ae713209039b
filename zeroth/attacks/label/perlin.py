"""Perlin noise: random directions of low frequency (Perlin, SIGGRAPH 1985 and 2002).

Shapes: B problems, Q directions, C x H x W pixels, F cells a side.
"""

import torch
from torch import Tensor

from zeroth.estimators.estimator import Draw
from zeroth.oracles.streams import unit


def perlin_directions(draw: Draw, q: int, image: tuple[int, int, int], frequency: int) -> Tensor:
    r"""Draw unit directions of Perlin noise on a lattice of ``frequency`` x ``frequency`` cells over the image.

    Each corner k of the lattice has a random unit gradient g_k, and each pixel takes its four corners' ramps, blended
    by the fade of 2002:

    .. math:: \sum_k w(|o_k^x|) w(|o_k^y|) \, g_k \cdot o_k, \quad w(t) = 1 - (6 t^5 - 15 t^4 + 10 t^3)

    where o_k leads from the corner to the pixel's centre, in cells. Channels have gradients of their own.

    Args:
        draw: source of standard normal numbers.
        q: directions a problem.
        image: (C, H, W).
        frequency: F, cells a side, whatever the image's proportions.

    Returns:
        (B, q, C, H, W).
    """
    channels, height, width = image
    gradients = draw((q, channels, frequency + 1, frequency + 1, 2))
    gradients = gradients / torch.linalg.vector_norm(gradients, dim=-1, keepdim=True).clamp_min(1e-12)
    down, above = _cells(height, frequency, gradients)
    across, left = _cells(width, frequency, gradients)
    noise = gradients.new_zeros(*gradients.shape[:3], height, width)
    for below in (0, 1):
        offset_down = (above - below).unsqueeze(1)  # (H, 1)
        for right in (0, 1):
            offset_across = left - right  # (W,)
            corner = gradients[..., down + below, :, :][..., across + right, :]  # (B, q, C, H, W, 2)
            ramp = corner[..., 0] * offset_down + corner[..., 1] * offset_across
            noise += _weight(offset_down) * _weight(offset_across) * ramp
    return unit(noise)


def _cells(pixels: int, frequency: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cell of each pixel's centre, and where in the cell it lies; each (pixels,)."""
    # Centres, since noise is 0 at the lattice's corners: a pixel on one would never move, as the first of theirs does.
    places = (torch.arange(pixels, device=like.device, dtype=like.dtype) + 0.5) * frequency / pixels
    cells = places.floor()
    return cells.long(), places - cells


def _weight(offset: Tensor) -> Tensor:
    away = offset.abs()
    return 1 - away**3 * (away * (6 * away - 15) + 10)
