"""Stochastic non-convex problems on synthetic data.

Shapes: B problems, n of them at a time, Q points a problem, d coordinates, N samples of data, b of them a minibatch.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from zeroth.oracles import ImageStreams
from zeroth.oracles.streams import derived_seed
from zeroth.problems.problems import DATA, MINIBATCH, MOST, Problems


class BinaryClassification(Problems):
    r"""Least squares of a sigmoid on separable data (Liu et al., ICLR 2019; ZO-L2L, Ruan et al., ICLR 2020, sect. 4.2).

    .. math:: f(\theta) = \frac1N \sum_{i=1}^N \left(y_i - \frac{1}{1 + e^{-\theta^T x_i}}\right)^2,
              \qquad x_i \sim N(0, I), \; y_i = [\theta^{*T} x_i > 0], \; \theta^* \sim N(0, I)

    The optimizer sees the mean over b samples instead, drawn anew in each iteration without replacement.

    Args:
        indices: (B,) numbers of the problems; a number is the same data under every seed.
        dimension: d; paper 100.
        samples: N; paper 2,000.
        minibatch: b; paper 64.
        start_scale: standard deviation of the starting points; the paper says "random initialization" alone.
        seed: decides starting points and minibatches.
        device: where data, points and values live.

    Raises:
        ValueError: an argument is out of range.
    """

    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        indices: Tensor | Sequence[int],
        *,
        dimension: int = 100,
        samples: int = 2000,
        minibatch: int = 64,
        start_scale: float = 1.0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 1 <= minibatch <= samples:
            raise ValueError(f"minibatch must be between 1 and samples={samples}, got {minibatch}")
        super().__init__(indices=indices, dimension=dimension, start_scale=start_scale, seed=seed, device=device)
        self.samples, self.minibatch = samples, minibatch
        noise = ImageStreams(derived_seed(0, DATA), self.indices).randn(
            torch.arange(self.count), (samples + 1, dimension)
        )
        truth, data = noise[:, 0], noise[:, 1:]
        self.data = data.to(self.device)  # (B, N, d)
        self.labels = (data @ truth.unsqueeze(2))[..., 0].gt(0).float().to(self.device)  # (B, N)

    def evaluate(self, points: Tensor, rows: Tensor, iterations: Tensor | None) -> Tensor:
        """See :class:`~zeroth.problems.Problems`."""
        keys = rows.to(self.device).unsqueeze(1)  # (n, 1)
        if iterations is None:
            data, labels = self.data[keys[:, 0]], self.labels[keys[:, 0]]
        else:
            chosen = self.chosen(rows, iterations)
            data, labels = self.data[keys, chosen], self.labels[keys, chosen]
        errors = labels.unsqueeze(1) - torch.sigmoid(points @ data.mT)  # (n, Q, b)
        return errors.square().mean(2)

    def chosen(self, rows: Tensor, iterations: Tensor) -> Tensor:
        """Return the samples of minibatches, (n, b) int64: of problems ``rows`` (n,) at ``iterations`` (n,)."""
        keys = self.indices[rows] + MOST * iterations
        # On the CPU, so that the minibatches do not depend on the device.
        order = ImageStreams(derived_seed(self.seed, MINIBATCH), keys).rand(torch.arange(len(keys)), (self.samples,))
        return order.topk(self.minibatch).indices.to(self.device)
