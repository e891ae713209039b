"""Black-box attacks on images as problems of an optimizer (ZO-L2L, Ruan et al., ICLR 2020, A.1).

Shapes: B problems, n of them at a time, Q points a problem, d coordinates, C x H x W pixels, K classes.
"""

from collections.abc import Sequence
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from zeroth.estimators import first_order
from zeroth.oracles import ScoreOracle, WhiteBoxOracle, distance, margin
from zeroth.oracles.forms import Form, inner_of, outer_of
from zeroth.oracles.goal import Norm
from zeroth.problems.problems import Problems

# Of a distortion that is summed again: the order of the sum may be another.
ROUNDING = 1e-5


class AttackProblems(Problems):
    r"""One untargeted attack an image: the hinge of the margin of log-probabilities, and the distortion (eq. 6).

    .. math:: f(\theta) = \max\{\log p_t(x) - \max_{j \ne t} \log p_j(x), 0\} + c \|x - x_0\|_p

    where :math:`x = \text{clip}(x_0 + \theta, 0, 1)` ("clamp", the paper's program) or
    :math:`x = (1 + \tanh(w_0 + \theta)) / 2` ("tanh", the paper's text), :math:`w_0` being the image in tanh space.
    With ``size``, theta is smaller than the image and scaled up bilinearly before it is added (appendix C.1).

    A value costs one query of the oracle, which counts and may bound them; gradients are the box's own, one query each.
    Where the victim's scores cannot be read, the value is NaN if the oracle says so (``unreadable="nan"``); else the
    run ends.

    Args:
        oracle: of the victim; a :class:`~zeroth.oracles.GradientOracle` where true gradients are wanted.
        images: (B, C, H, W) in [0, 1], which the victim classifies right.
        labels: (B,) true labels t.
        indices: (B,) dataset indices of the images.
        form: "clamp" or "tanh".
        c: weight of the distortion; paper .1 for MNIST, .25 for CIFAR-10.
        norm: p: "l1" (paper), "l2" or "linf".
        size: (h, w) of theta, a channel; None for the image's own.
        start_scale: standard deviation of the starting points; the paper's program 1e-4.
        seed: decides the starting points.

    Raises:
        ValueError: an argument is out of range, or shapes do not fit.
    """

    def __init__(
        self,
        oracle: ScoreOracle,
        images: Tensor,
        labels: Tensor,
        *,
        indices: Tensor | Sequence[int] | None = None,
        form: Form = "clamp",
        c: float = 0.1,
        norm: Norm = "l1",
        size: tuple[int, int] | None = None,
        start_scale: float = 1e-4,
        seed: int = 0,
    ) -> None:
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"images must be (B, C, H, W) and labels (B,), got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        if form not in get_args(Form):
            raise ValueError(f"form must be 'clamp' or 'tanh', got {form!r}")
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        if not c >= 0:
            raise ValueError(f"c must be 0 or more, got {c}")
        size = (images.shape[2], images.shape[3]) if size is None else (size[0], size[1])
        if min(size) < 1:
            raise ValueError(f"size must be (h >= 1, w >= 1), got {size}")
        super().__init__(
            indices=range(len(images)) if indices is None else indices,
            dimension=images.shape[1] * size[0] * size[1],
            start_scale=start_scale,
            seed=seed,
            device=oracle.device,
        )
        if self.count != len(images):
            raise ValueError(f"indices must be as many as images, {len(images)}, got {self.count}")
        self.oracle, self.form, self.c, self.norm, self.size = oracle, form, c, norm, size
        self.images = images.to(self.device, torch.float32)
        self.labels = labels.to(self.device)
        self._inner = inner_of(self.images, form)

    def images_of(self, points: Tensor, rows: Tensor) -> Tensor:
        """Return the images (m, C, H, W) that points (m, d) of problems ``rows`` (m,) stand for; differentiable."""
        channels, height, width = self.images.shape[1:]
        added = points.view(len(points), channels, *self.size)
        if self.size != (height, width):
            added = F.interpolate(added, size=(height, width), mode="bilinear", align_corners=False)
        return outer_of(self._inner[rows.to(self.device)] + added, self.form)

    def evaluate(self, points: Tensor, rows: Tensor, iterations: Tensor | None) -> Tensor:
        """See :class:`~zeroth.problems.Problems`; images are made a batch of the oracle at a time."""
        flat, every = points.flatten(0, 1), rows.repeat_interleave(points.shape[1])
        step = self.oracle.batch_size(self.images)
        parts = zip(flat.split(step), every.split(step), strict=True)
        return torch.cat([self._losses(some, whose) for some, whose in parts]).view(points.shape[:2])

    def reached(self, values: Tensor, theta: Tensor, rows: Tensor) -> Tensor:
        """Whether the hinge in values (n,) at points (n, d) is zero: another class is as likely as the true one."""
        change = self.images_of(theta, rows) - self.images[rows.to(self.device)]
        return values <= (1 + ROUNDING) * self.c * distance(change, self.norm)

    def _losses(self, points: Tensor, rows: Tensor) -> Tensor:
        """Values (m,) at points (m, d) of problems ``rows`` (m,)."""
        places = rows.to(self.device)
        images, labels = self.images_of(points, rows), self.labels[places]
        distortion = distance(images - self.images[places], self.norm)
        if images.requires_grad and torch.is_grad_enabled():
            if not isinstance(self.oracle, WhiteBoxOracle):
                raise ValueError(
                    f"true gradients need a GradientOracle, got a {type(self.oracle).__name__}: give one, or take an "
                    "estimate of them (CGE, RGE)"
                )
            hinge = first_order(self.oracle, images, lambda answers, part: margin(answers, labels[part]).clamp_min(0))
        else:
            hinge = margin(self.oracle(images), labels).clamp_min(0)
        return hinge + self.c * distortion
