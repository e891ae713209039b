"""The true gradient of a box whose inside is open, behind the same door as the estimates of a closed one.

Shapes: B images of C x H x W pixels, n of them at a time.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from zeroth.estimators.bridge import with_gradient
from zeroth.oracles import WhiteBoxOracle
from zeroth.oracles.oracle import exact_float32


def first_order(
    oracle: WhiteBoxOracle,
    images: Tensor,
    objective: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    """Ask a white box for values that backpropagate by its true gradient: FO-DS and FO-AE-DS of ZO-AE-DS, counted.

    An image costs one query, with or without a gradient. What is asked is ``oracle.prepare(images)``, and gradients
    flow through that too: a pixel that it clamped receives none. The box's parameters receive none either.

    Args:
        oracle: white-box access, to a classifier or to a box that answers images.
        images: (B, C, H, W); a denoiser, encoder and decoder may stand behind them.
        objective: called with n answers, log-probabilities (n, K) or images, and their slice of the B images; returns
            (n,), one value an image.

    Returns:
        (B,) values, float32.

    Raises:
        ValueError: images have another shape, or the objective's values are not (n,).
        FloatingPointError: an image is NaN or infinite; none is asked then.
        VictimError: the box answers what cannot be read, or cannot be differentiated.
        QueryCapError: the oracle may not answer as many.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must have shape (B >= 1, C, H, W), got {tuple(images.shape)}")
    if bad := int((~images.detach().flatten(1).isfinite()).any(1).sum()):
        raise FloatingPointError(
            f"images are NaN or infinite in {bad} of {len(images)} rows, so the box was not asked: what makes them has "
            "diverged, lower its learning rate"
        )
    values: list[Tensor] = []

    def kept(answers: Tensor, part: slice) -> Tensor:
        own = objective(answers, part)
        if own.shape != answers.shape[:1]:
            raise ValueError(
                f"objective must return one value an image, ({len(answers)},) for {len(answers)} answers, "
                f"got {tuple(own.shape)}"
            )
        values.append(own.detach())
        return own

    if not (torch.is_grad_enabled() and images.requires_grad):
        with torch.no_grad(), exact_float32(oracle.device.type):
            return kept(oracle(images), slice(0, len(images)))
    asked = oracle.prepare(images)
    _, gradients = oracle.differentiate(asked.detach(), kept)
    return with_gradient(asked, torch.cat(values), gradients)
