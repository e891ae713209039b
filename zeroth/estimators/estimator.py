"""What every gradient estimator promises.

Shapes: B problems, Q evaluations of each, d coordinates.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]  # (B, Q, d) points -> (B, Q) values
Draw = Callable[[tuple[int, ...]], Tensor]  # shape -> (B, *shape) standard normal numbers


def standard_normal(x: Tensor) -> Draw:
    """Return draws for B problems at x (B, d) from torch's global generator, in x's dtype and on its device."""
    return lambda shape: torch.randn(len(x), *shape, device=x.device, dtype=x.dtype)


class Estimator(ABC):
    """Estimates the gradient of a batch of functions from their values alone."""

    @property
    @abstractmethod
    def needs_value(self) -> bool:
        """Whether an estimate uses the value at the point itself; unless it is given, x is the first point asked."""

    @abstractmethod
    def queries(self, dimension: int) -> int:
        """Return the evaluations of one estimate, the value at the point itself included where it is needed."""

    @abstractmethod
    def __call__(self, f: Function, x: Tensor, *, value: Tensor | None = None, draw: Draw | None = None) -> Tensor:
        """Estimate the gradient of ``f`` at ``x``.

        Args:
            f: values (B, Q) at points (B, Q, d); row b is the b-th function.
            x: (B, d) float32.
            value: (B,) f(x) where it is known already; saves one evaluation where the estimator needs it.
            draw: source of standard normal numbers, (B, *shape) for a shape; default torch's global generator.

        Returns:
            (B, d) gradients.
        """
