"""What a victim may answer, and how its answers are read.

Shapes: N images, K classes.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

Output = Literal["logits", "probabilities", "log_probabilities"]

# Smallest probability that is told apart from zero: log(1e-30), the constant of the published ZOO program. It keeps the
# margin of a saturated victim finite.
SMALLEST_PROBABILITY = 1e-30
SUM_TOLERANCE = 1e-3


class VictimError(RuntimeError):
    """The victim answered something that cannot be read: NaN, a wrong shape, or other scores than declared."""


def name_of(model: Any) -> str:
    """Name a victim in messages: a module by its class, a function by its name."""
    return getattr(model, "__name__", None) or type(model).__name__


def check_output(output: str) -> None:
    """Raise ValueError unless ``output`` is one of the kinds of scores that can be declared."""
    if output not in get_args(Output):
        raise ValueError(f"output must be one of {', '.join(get_args(Output))}, got {output!r}")


def check_scores(scores: Any, images: int, classes: int | None, model: Any) -> Tensor:
    """Return ``scores`` as a float32 tensor (N, K), or raise VictimError naming the model and the fault.

    Args:
        scores: what the victim returned: a tensor or array.
        images: N, how many images it was asked.
        classes: K of its earlier answers, None before the first.
        model: the victim, for the message.
    """
    scores = torch.as_tensor(scores)
    if (
        scores.ndim != 2
        or len(scores) != images
        or scores.shape[1] < 2
        or (classes or scores.shape[1]) != scores.shape[1]
    ):
        expected = f"({images}, {classes or 'number of classes >= 2'})"
        raise VictimError(
            f"victim {name_of(model)} returned scores of shape {tuple(scores.shape)}, expected {expected}"
        )
    scores = scores.float()
    if bool(scores.isnan().any()):
        bad = int(scores.isnan().any(1).sum())
        raise VictimError(f"victim {name_of(model)} returned NaN scores for {bad} of {images} images")
    return scores


def check_declared(scores: Tensor, output: Output, model: Any) -> None:
    """Raise VictimError when finite ``scores`` (N, K) are not of the declared kind.

    Log-probabilities declared as logits pass: the log-softmax leaves them as they are.
    """
    sums = scores.double().sum(1)
    unit = bool(((scores >= -SUM_TOLERANCE) & (scores <= 1 + SUM_TOLERANCE)).all())
    if output == "logits" and unit and bool(((sums - 1).abs() < 1e-5).all()):
        raise VictimError(
            f"victim {name_of(model)} was declared to return logits, but each row lies in [0, 1] and sums to 1: "
            "declare output='probabilities', or return the scores before the softmax"
        )
    if output == "probabilities" and not (unit and bool(((sums - 1).abs() < SUM_TOLERANCE).all())):
        raise VictimError(
            f"victim {name_of(model)} was declared to return probabilities, but its rows lie in "
            f"[{float(scores.min()):.4g}, {float(scores.max()):.4g}] and sum to "
            f"{float(sums.min()):.4g}..{float(sums.max()):.4g} instead of 1: "
            "declare output='logits' or 'log_probabilities'"
        )
    if output == "log_probabilities":
        total = scores.double().logsumexp(1)
        if not bool((total.abs() < SUM_TOLERANCE).all()):
            raise VictimError(
                f"victim {name_of(model)} was declared to return log-probabilities, but exp of its rows sums to "
                f"{float(total.exp().min()):.4g}..{float(total.exp().max()):.4g} instead of 1: "
                "declare output='logits' or 'probabilities'"
            )


def to_log_probabilities(scores: Tensor, output: Output) -> Tensor:
    """Turn scores (N, K) of the declared kind into log-probabilities (N, K); differentiable."""
    if output == "logits":
        return scores.log_softmax(1)
    if output == "probabilities":
        return scores.clamp_min(SMALLEST_PROBABILITY).log()
    return scores
