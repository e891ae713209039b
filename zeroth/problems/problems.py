"""What every batch of problems promises.

Shapes: B problems, n of them at a time, Q points a problem, T iterations, d coordinates.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from zeroth.estimators.estimator import Function
from zeroth.oracles import ImageStreams
from zeroth.oracles.oracle import exact_float32
from zeroth.oracles.streams import derived_seed

# What a seed is derived for: the draws of one must not be those of another.
START, MINIBATCH, DATA = 1, 2, 3
# More problems than there are: the draws of one are keyed by index + MOST * a number.
MOST = 2**24


class Problems(ABC):
    """B problems of d coordinates, each a function of a point: minimised through their values, asked together.

    A problem is named by its index: the dataset index of its image, or the number of its synthetic data. What is drawn
    for it depends on its index and the seed alone, not on its neighbours. Values are float32, computed without TF32
    and outside autocast; every value is counted.

    Args:
        indices: (B,) names of the problems, >= 0.
        dimension: d.
        start_scale: standard deviation of the normal starting points.
        seed: decides starting points, and minibatches of stochastic problems.
        device: where points and values live.

    Attributes:
        start: (B, d), from which every optimizer starts.
        queries: values asked so far, gradients among them, one each.

    Raises:
        ValueError: there is no problem, or an argument is out of range.
    """

    stochastic: ClassVar[bool] = False

    def __init__(
        self,
        *,
        indices: Tensor | Sequence[int],
        dimension: int,
        start_scale: float,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.indices = torch.as_tensor(indices, dtype=torch.int64).cpu()
        if self.indices.ndim != 1 or len(self.indices) == 0:
            raise ValueError(f"indices must name at least one problem, (B >= 1,), got {tuple(self.indices.shape)}")
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1 coordinate, got {dimension}")
        if not start_scale >= 0:
            raise ValueError(f"start_scale must be 0 or more, got {start_scale}")
        self.dimension, self.seed, self.device, self.queries = dimension, seed, torch.device(device), 0
        self.start_scale = start_scale
        self.start = self.starts(torch.arange(self.count), 0)

    @property
    def count(self) -> int:
        """B."""
        return len(self.indices)

    def starts(self, rows: Tensor, rounds: Tensor | int) -> Tensor:
        """Return starting points (n, d) of problems ``rows`` (n,), those of round 0 being ``start``.

        Args:
            rows: (n,) int64, on the CPU.
            rounds: (n,) int64 below 2^24, or one for all: how often the problems have begun before.
        """
        # Drawn on the CPU, whose generator is another than a GPU's: runs on both start from the same points.
        streams = ImageStreams(derived_seed(self.seed, START), self.indices[rows] + MOST * rounds)
        return (self.start_scale * streams.randn(torch.arange(len(rows)), (self.dimension,))).to(self.device)

    @abstractmethod
    def evaluate(self, points: Tensor, rows: Tensor, iterations: Tensor | None) -> Tensor:
        """Return the values (n, Q) at points (n, Q, d) of problems ``rows`` (n,), differentiable where grad is enabled.

        Args:
            points: finite.
            rows: (n,) int64, on the CPU; a problem may stand more than once.
            iterations: (n,) int64 below 2^39, on the CPU: which minibatch of a stochastic problem; None for all of its
                data.
        """

    def reached(self, values: Tensor, theta: Tensor, rows: Tensor) -> Tensor | None:
        """Whether points (n, d) of values (n,) reach their problem's goal, (n,) bool, if it has one; asks nothing."""
        return None

    def function(self, rows: Tensor, iterations: Tensor | int = 0) -> Function:
        """Return the function (n, Q, d) -> (n, Q) of problems ``rows`` (n,); NaN at a point that is not finite.

        Args:
            rows: (n,) int64.
            iterations: (n,) int64 or one for all: a stochastic problem has one minibatch an iteration, the same at all
                points.
        """
        rows = rows.cpu()
        told = torch.as_tensor(iterations).cpu().expand(len(rows))
        return lambda points: self._values(points, rows, told)

    def loss(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return the losses (n,) at points (n, d) of problems ``rows``; of a stochastic one over all of its data."""
        return self._values(theta.detach().unsqueeze(1), rows.cpu(), None)[:, 0]

    def gradient(self, theta: Tensor, rows: Tensor, iterations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values (n, T) and true gradients (n, T, d) at points (n, T, d): for meta-training and analysis.

        Args:
            theta: (n, T, d); a value or gradient is NaN where a point is not finite.
            rows: (n,) int64.
            iterations: (n, T) int64.

        Raises:
            ValueError: the box behind the problems gives no gradients.
        """
        shape, many = theta.shape[:2], rows.cpu().repeat_interleave(theta.shape[1])
        with torch.inference_mode(False), torch.enable_grad():
            points = theta.detach().clone().reshape(-1, 1, self.dimension).requires_grad_()
            values = self._values(points, many, iterations.cpu().flatten())
            (gradients,) = torch.autograd.grad(values.nan_to_num(nan=0.0).sum(), points)
        bad = ~values.detach().isfinite()
        return values.detach().view(shape), gradients.masked_fill(bad.unsqueeze(2), torch.nan).view(theta.shape)

    def _values(self, points: Tensor, rows: Tensor, iterations: Tensor | None) -> Tensor:
        """Count and ask; a box is not shown what is not finite, which may make it fail on all points together."""
        self.queries += points.shape[0] * points.shape[1]
        points = points.to(self.device, torch.float32)
        finite = points.isfinite().all(2)
        with exact_float32(self.device.type):
            values = self.evaluate(torch.where(finite.unsqueeze(2), points, 0.0), rows, iterations)
        return values.masked_fill(~finite, torch.nan)
