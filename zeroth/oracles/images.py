"""Oracles of a box that answers images, such as a reconstructor.

Shapes: N images asked of C x H x W pixels, answers of C' x H' x W' pixels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zeroth.oracles.journal import Journal
from zeroth.oracles.oracle import Oracle, WhiteBoxOracle
from zeroth.oracles.scores import VictimError, as_tensor, name_of


class ImageOracle(Oracle):
    """Answers images (N, C', H', W'), float32, finite and of one shape; their range is the model's own.

    Args:
        model: any callable images (N, C, H, W) -> images (N, C', H', W').
        max_batch, max_queries, device, clamp: as in :class:`Oracle`.

    Attributes:
        answer_shape: (C', H', W') of its answers, None before the first.

    Raises:
        ValueError: a bad option, or a module whose dropout or batch norm is in training mode.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        *,
        max_batch: int | None = None,
        max_queries: int | None = None,
        device: torch.device | str | None = None,
        clamp: bool = True,
    ) -> None:
        super().__init__(model, max_batch=max_batch, max_queries=max_queries, device=device, clamp=clamp)
        self.answer_shape: tuple[int, ...] | None = None

    def ask(self, batch: Tensor, journal: Journal | None = None) -> Tensor:
        """Answer one prepared batch by one forward; journals hold scores and labels alone, so none is taken."""
        if journal is not None:
            raise ValueError(
                f"journal must be None for an {type(self).__name__}, got one at {journal.path}: "
                "a journal keeps labels or scores, not images"
            )
        return super().ask(batch)

    def read(self, scores: Any, images: int) -> Tensor:
        """See :class:`Oracle`."""
        answers = as_tensor(scores, self.model)
        shape = self.answer_shape
        if answers.ndim != 4 or len(answers) != images or shape not in (None, tuple(answers.shape[1:])):
            expected = f"({images}, {', '.join(map(str, shape)) if shape else 'C, H, W'})"
            raise VictimError(
                f"victim {name_of(self.model)} returned images of shape {tuple(answers.shape)}, expected {expected}"
            )
        finite = answers.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            raise VictimError(
                f"victim {name_of(self.model)} returned NaN or infinite pixels for {int((~finite).sum())} of {images} "
                "images"
            )
        self.answer_shape = tuple(answers.shape[1:])
        # A copy: the model may use its output buffer again.
        return answers.to(self.device, torch.float32, copy=True)


class ImageGradientOracle(WhiteBoxOracle, ImageOracle):
    """White-box access to a box that answers images: those, and gradients of objectives of them."""
