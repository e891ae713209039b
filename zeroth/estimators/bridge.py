"""Values of a black box that can be differentiated: autograd meets gradient estimates (ZO-AE-DS eqs. 7 and 8).

Shapes: B rows, b of them at a time, Q points a row, d coordinates.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zeroth.estimators.estimator import Estimator
from zeroth.oracles.oracle import exact_float32

RowFunction = Callable[[Tensor, slice], Tensor]  # (b, Q, d) points, their slice of the B rows -> (b, Q) values
RowDraw = Callable[[Tensor, tuple[int, ...]], Tensor]  # rows (b,), shape -> (b, *shape) standard normal numbers

# Numbers that the points of a group of rows hold by default: 64 MiB in float32.
GROUP_NUMBERS = 2**24


class _Given(torch.autograd.Function):
    """Values (B,) whose gradient at x (B, ...) was found elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
        ctx.save_for_backward(gradients)
        ctx.dtype = x.dtype
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        # once_differentiable would refuse only where grad_output itself takes a gradient. That of a plain sum takes
        # none, and the second derivative would silently lack what the box contributes.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a box is differentiated once: its gradient is a number without a graph behind it, so backward through "
                "it takes no create_graph=True; leave that out, or take gradient penalties of other terms"
            )
        (gradients,) = ctx.saved_tensors
        weights = grad_output.reshape(-1, *[1] * (gradients.ndim - 1))
        return (weights * gradients).to(ctx.dtype), None, None


def with_gradient(x: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
    """Give values (B,) the gradients (B, ...) at x (B, ...), row by row, for autograd to go on from.

    Backward hands x the gradients times what arrives at the values, in x's dtype; it is refused with a RuntimeError
    under ``create_graph=True``.
    """
    return _Given.apply(x, values, gradients)


def black_box(
    f: RowFunction,
    x: Tensor,
    estimator: Estimator,
    *,
    draw: RowDraw | None = None,
    rows: int | None = None,
) -> Tensor:
    r"""Ask a black box for values that backpropagate by an estimate of its gradient (ZO-AE-DS eq. 8).

    With :math:`a = \hat\nabla_x f(x)`, backward goes on from x as from :math:`a^\top x`, so that whatever made x is
    trained: for z = encoder(denoiser(images)) the gradient in the weights is :math:`\nabla_\theta\, a^\top z(\theta)`.
    The estimate is taken at once, since its queries hold the values too; where the estimator does not need f(x)
    (antithetic pairs, central differences) the values are the means of those at its points, f(x) + O(mu^2).

    A row costs ``estimator.queries(d)`` evaluations where x takes a gradient, and one, f(x) itself, where it takes none
    or gradients are off. Nothing that f holds receives a gradient. Points, differences and estimates are in float32
    (float64 for a float64 x), without TF32 and outside autocast; the gradient has x's dtype.

    Args:
        f: called with points (b, Q, d) and the slice of the B rows that they belong to; returns (b, Q) values. It
            splits what it makes of b x Q points into batches of its own, as an oracle does.
        x: (B, d), with or without a graph behind it.
        estimator: says how many points are asked, and what they tell.
        draw: standard normal numbers (b, *shape) for rows (b,), int64 on the CPU, and a shape. ``ImageStreams.randn``
            is one: with it an image's directions depend on the seed and the image's index, not on ``rows`` nor on the
            batch. Default torch's global generator.
        rows: rows whose points exist together. Without a gradient each asks one point, so that as many more rows are
            taken together. Default as many as hold 2^24 numbers. Values and gradients do not depend on it.

    Returns:
        (B,) values, float32 (float64).

    Raises:
        ValueError: x is no (B, d) of floating-point numbers, rows is below 1, or f returns another shape than (b, Q).
        FloatingPointError: x or an answer of f is NaN or infinite. Nothing is asked about such an x.
    """
    if x.ndim != 2 or x.numel() == 0 or not x.is_floating_point():
        raise ValueError(f"x must be floating-point numbers (B >= 1, d >= 1), got {x.dtype} of shape {tuple(x.shape)}")
    if rows is not None and rows < 1:
        raise ValueError(f"rows must be at least 1 or None, got {rows}")
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if bad := int((~wide.isfinite()).any(1).sum()):
        raise FloatingPointError(
            f"x is NaN or infinite in {bad} of {len(x)} rows, so the box was not asked: what makes x has diverged, "
            "lower its learning rate"
        )
    size, dimension = x.shape
    queries = estimator.queries(dimension)
    group = max(1, GROUP_NUMBERS // (queries * dimension)) if rows is None else rows
    takes_gradient = torch.is_grad_enabled() and x.requires_grad
    if not takes_gradient:
        group *= queries
    values, gradients = [], []
    with torch.no_grad(), exact_float32(x.device.type):
        for start in range(0, size, group):
            part = slice(start, min(start + group, size))
            if takes_gradient:
                value, gradient = _estimate(f, wide[part], part, estimator, draw)
                gradients.append(gradient)
            else:
                value = _answers(f, wide[part].unsqueeze(1), part)[:, 0]
            values.append(value)
    if not takes_gradient:
        return torch.cat(values)
    return with_gradient(x, torch.cat(values), torch.cat(gradients))


def _estimate(
    f: RowFunction, x: Tensor, part: slice, estimator: Estimator, draw: RowDraw | None
) -> tuple[Tensor, Tensor]:
    """Return the values (b,) and the estimated gradients (b, d) at x (b, d), the rows ``part`` of all."""
    seen: list[Tensor] = []

    def kept(points: Tensor) -> Tensor:
        seen.append(_answers(f, points, part))
        return seen[-1]

    rows = torch.arange(part.start, part.stop)
    gradients = estimator(kept, x, draw=None if draw is None else lambda shape: draw(rows, shape).to(x))
    values = torch.cat(seen, 1)  # (b, queries)
    return values[:, 0] if estimator.needs_value else values.mean(1), gradients


def _answers(f: RowFunction, points: Tensor, part: slice) -> Tensor:
    """Ask points (b, Q, d) of the rows ``part``: (b, Q) in their dtype. A NaN would pass for a point not asked."""
    answers = f(points, part)
    if answers.shape != points.shape[:2]:
        raise ValueError(
            f"f must return one value a point, {tuple(points.shape[:2])} for points {tuple(points.shape)}, "
            f"got {tuple(answers.shape)}"
        )
    if bad := int((~answers.isfinite()).sum()):
        raise FloatingPointError(
            f"f is NaN or infinite at {bad} of {answers.numel()} points (rows {part.start} to {part.stop - 1}): "
            "look at what the box, and the loss on its answers, make of these points"
        )
    return answers.to(points)
