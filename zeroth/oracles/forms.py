"""How a perturbation is kept in [0, 1]: by clamping, or in tanh space (ZO-L2L, Ruan et al., ICLR 2020, A.1)."""

from typing import Literal

from torch import Tensor

Form = Literal["clamp", "tanh"]
# Pixels 0 and 1 lie at infinity in tanh space; C&W's published program starts so near to them.
INSIDE = 0.999999


def inner_of(images: Tensor, form: Form) -> Tensor:
    """Return what perturbations are added to: images of any shape, in tanh space where the form is "tanh"."""
    return (INSIDE * (2 * images - 1)).atanh() if form == "tanh" else images


def outer_of(inner: Tensor, form: Form) -> Tensor:
    """Return images in [0, 1] of what perturbations have been added to, of any shape; differentiable."""
    return inner.clamp(0, 1) if form == "clamp" else (inner.tanh() + 1) / 2
