"""The variables in which coordinate descent moves: pixels in their box, or tanh space (thesis section 3.3.2).

Shapes: n rows, D pixels.
"""

from typing import Literal

import torch
from torch import Tensor

Variable = Literal["box", "tanh"]

# Pixels 0 and 1 lie at infinity in tanh space; so near to it the published program starts from them.
INSIDE = 0.9999995


def to_variable(pixels: Tensor, variable: Variable) -> Tensor:
    """Return z of pixels (n, D), float64: in float32 the last digit of tanh depends on the batch."""
    return pixels.double() if variable == "box" else torch.atanh((2 * pixels.double() - 1) * INSIDE)


def to_pixels(z: Tensor, variable: Variable) -> Tensor:
    """Return pixels in [0, 1] of z, float64, of the same shape."""
    return z.clamp(0, 1) if variable == "box" else (1 + z.tanh()) / 2


def distortion(z: Tensor, clean: Tensor, variable: Variable) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the squared l_2 distortion (n,), and its first and second derivatives by each z, (n, D), float64.

    .. math:: (z - x_0)^2 \quad \text{(box, also beyond it: eq. 14)}, \qquad
        (\tfrac{1 + \tanh z}{2} - x_0)^2 \quad \text{(tanh)}

    Args:
        z: (n, D).
        clean: (n, D) pixels x_0.
        variable: "box" or "tanh".
    """
    if variable == "box":
        delta = z - clean
        return delta.square().sum(1), 2 * delta, torch.full_like(delta, 2)
    bent = z.tanh()
    delta, first = (1 + bent) / 2 - clean, (1 - bent.square()) / 2
    return delta.square().sum(1), 2 * delta * first, 2 * first.square() - 4 * delta * bent * first
