"""A loss of a box's answers behind a decoder: first or zeroth order by one argument (ZO-AE-DS eqs. 6 to 8).

Shapes: B rows of d numbers, b of them at a time, Q points a row, n points asked at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from zeroth.estimators.bridge import RowDraw, black_box
from zeroth.estimators.estimator import Estimator
from zeroth.estimators.first_order import first_order
from zeroth.oracles import Oracle, WhiteBoxOracle


def box_loss(
    oracle: Oracle,
    z: Tensor,
    decode: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    estimator: Estimator | None = None,
    draw: RowDraw | None = None,
) -> Tensor:
    """Ask a box about decoded points, and give the loss of its answers a gradient at z: its own, or an estimate.

    With an estimator the decoder is a part of the box: it is asked, and receives no gradient. Points are decoded a
    batch of the oracle at a time, so that what is held does not grow with the queries.

    Args:
        oracle: the box; white-box access where there is no estimator.
        z: (B, d), with a graph behind it.
        decode: z (n, d) -> images (n, C, H, W).
        loss: called with n answers and the rows (n,), int64, that they belong to; returns (n,).
        estimator: of the gradient; None for the box's own, one query a row.
        draw: as in :func:`black_box`.

    Returns:
        (B,) losses.

    Raises:
        ValueError, FloatingPointError, VictimError: as in :func:`black_box` and :func:`first_order`.
    """
    if estimator is None:
        if not isinstance(oracle, WhiteBoxOracle):
            raise ValueError(
                f"a loss without an estimator takes the box's own gradient, which {type(oracle).__name__} does not "
                "give: choose an estimator, or white-box access"
            )
        return first_order(
            oracle, decode(z), lambda answers, part: loss(answers, torch.arange(part.start, part.stop, device=z.device))
        )

    def losses(points: Tensor, part: slice) -> Tensor:  # (b, Q, d) -> (b, Q)
        rows = torch.arange(part.start, part.stop, device=z.device).repeat_interleave(points.shape[1])
        many = points.flatten(0, 1)
        step = oracle.batch_size(decode(many[:1]))
        asked = zip(many.split(step), rows.split(step), strict=True)
        return torch.cat([loss(oracle(decode(some)), whose) for some, whose in asked]).view(points.shape[:2])

    return black_box(losses, z, estimator, draw=draw)
