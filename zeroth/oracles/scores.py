"""What a victim may answer, and how its answers are read.

Shapes: N images, K classes.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Output = Literal["logits", "probabilities", "log_probabilities"]
# What becomes of scores that cannot be read, see unreadable(): an error, or a row of NaN among those of other images.
Unreadable = Literal["raise", "nan"]

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


def as_tensor(answer: Any, model: Any) -> Tensor:
    """Return what a victim answered as a tensor of real numbers, or raise VictimError naming the model."""
    try:
        tensor = torch.as_tensor(answer)
    except (RuntimeError, TypeError, ValueError) as error:
        raise VictimError(
            f"victim {name_of(model)} returned a {type(answer).__name__}, expected a tensor or array of scores (N, K)"
        ) from error
    if tensor.is_complex():
        raise VictimError(f"victim {name_of(model)} returned complex numbers, expected real scores (N, K)")
    return tensor


def check_scores(
    scores: Any, images: int, classes: int | None, model: Any, *, unreadable_rows: Unreadable = "raise"
) -> Tensor:
    """Return ``scores`` as a tensor (N, K) of its own dtype, or raise VictimError naming the model and the fault.

    Args:
        scores: what the victim returned: a tensor or array.
        images: N, how many images it was asked.
        classes: K of its earlier answers, None before the first.
        model: the victim, for the message.
        unreadable_rows: "nan" leaves them to the caller.
    """
    scores = as_tensor(scores, model)
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
    bad = unreadable(scores)
    if unreadable_rows == "raise" and bool(bad.any()):
        kind = "NaN" if bool(scores.isnan().any()) else "infinite"
        raise VictimError(f"victim {name_of(model)} returned {kind} scores for {int(bad.sum())} of {images} images")
    return scores


def unreadable(scores: Tensor) -> Tensor:
    """(N,) bool: rows of scores (N, K) with NaN or +inf, or nothing but -inf (one -inf only rules its class out)."""
    return ~scores.amax(1).isfinite()


def classes_of(answers: Tensor) -> Tensor:
    """(N,) int64: the classes of log-probabilities (N, K), -1 where they are NaN."""
    return answers.argmax(1).masked_fill(answers.isnan().any(1), -1)


def check_declared(scores: Tensor, output: Output, model: Any) -> None:
    """Raise VictimError when finite ``scores`` (N, K) are not of the declared kind.

    Log-probabilities declared as logits pass: the log-softmax leaves them as they are.
    """
    eps = torch.finfo(scores.dtype).eps if scores.is_floating_point() else 0.0
    tolerance = max(SUM_TOLERANCE, 8 * eps)  # half precision cannot sum to 1 any better
    sums = scores.double().sum(1)
    unit = bool(((scores >= -tolerance) & (scores <= 1 + tolerance)).all())
    if output == "logits" and unit and bool(((sums - 1).abs() < 1e-5).all()):
        raise VictimError(
            f"victim {name_of(model)} was declared to return logits, but each row lies in [0, 1] and sums to 1: "
            "declare output='probabilities', or return the scores before the softmax"
        )
    if output == "probabilities" and not (unit and bool(((sums - 1).abs() < tolerance).all())):
        raise VictimError(
            f"victim {name_of(model)} was declared to return probabilities, but its rows lie in "
            f"[{float(scores.min()):.4g}, {float(scores.max()):.4g}] and sum to "
            f"{float(sums.min()):.4g}..{float(sums.max()):.4g} instead of 1: "
            "declare output='logits' or 'log_probabilities'"
        )
    if output == "log_probabilities":
        total = scores.double().logsumexp(1)
        if not bool((total.abs() < tolerance).all()):
            raise VictimError(
                f"victim {name_of(model)} was declared to return log-probabilities, but exp of its rows sums to "
                f"{float(total.exp().min()):.4g}..{float(total.exp().max()):.4g} instead of 1: "
                "declare output='logits' or 'probabilities'"
            )


def to_log_probabilities(scores: Tensor, output: Output) -> Tensor:
    """Turn scores (N, K) of the declared kind into finite log-probabilities (N, K), a new tensor; differentiable."""
    if output == "probabilities":
        return scores.clamp_min(SMALLEST_PROBABILITY).log()
    # In float64, since a sure victim's log p = -1e-9 is 0 in float32, and all differences of it with it (MPS has none).
    wide = scores if scores.device.type == "mps" else scores.double()
    log_probabilities = wide.log_softmax(1).float() if output == "logits" else scores
    return log_probabilities.nan_to_num(neginf=math.log(SMALLEST_PROBABILITY))
