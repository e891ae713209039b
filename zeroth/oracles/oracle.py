"""Oracles: the only way to a black box. They clamp, chunk, place, count and check.

Shapes: N images asked, C x H x W pixels, K classes.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from zeroth.oracles.journal import Journal
from zeroth.oracles.scores import (
    Output,
    Unreadable,
    VictimError,
    as_tensor,
    check_declared,
    check_output,
    check_scores,
    name_of,
    to_log_probabilities,
    unreadable,
)

# Measured: on CPU larger batches fall out of the cache and are slower; a GPU wants thousands of small images.
MAX_BATCH = {"cpu": 128, "cuda": 4096}
# Pixels of a batch (256 MiB in float32): 446 images at 3 x 224 x 224, whose activations take many times that.
BATCH_PIXELS = 2**26


@contextmanager
def exact_float32(device_type: str = "cpu") -> Iterator[None]:
    """Compute without TF32 and outside autocast, whose rounding swamps differences of queries at small mu."""
    backends: Any = torch.backends
    settings = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def _is_random(module: nn.Module) -> bool:
    """Whether a module answers at random, or by the batch, in training mode; torchvision's one is told by its name."""
    return isinstance(module, _BatchNorm | _DropoutNd) or type(module).__name__ == "StochasticDepth"


def check_eval(model: Any) -> None:
    """Raise ValueError for a module whose dropout or batch norm is in training mode: its answers would be random."""
    if isinstance(model, nn.Module) and any(m.training and _is_random(m) for m in model.modules()):
        raise ValueError(
            f"model {name_of(model)} has dropout or batch norm in training mode, so its answers would be random: "
            "call model.eval() first"
        )


class QueryCapError(RuntimeError):
    """An oracle was asked for more images than its ``max_queries``."""


class Oracle(ABC):
    """A black box that answers images in [0, 1], counted and capped.

    Args:
        model: any callable images (N, C, H, W) -> scores (N, K): a module in eval mode, a function
            around an ONNX session, an HTTP client.
        output: what the scores are; checked on the first answer.
        max_batch: largest batch the model is asked at once; default 128 on CPU, 4,096 on a GPU.
        max_queries: cap on the images answered over all calls, None for none.
        device: where the model wants its images; default that of its parameters, else the CPU.
        clamp: clamp images to [0, 1] before they are asked. Off only where noise on top of pixels is meant (smoothing).

    Raises:
        ValueError: a bad option, or a module whose dropout or batch norm is in training mode.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        *,
        output: Output = "logits",
        max_batch: int | None = None,
        max_queries: int | None = None,
        device: torch.device | str | None = None,
        clamp: bool = True,
    ) -> None:
        if not callable(model):
            raise ValueError(f"model must be callable on images, got {type(model).__name__}")
        check_output(output)
        for field, value in (("max_batch", max_batch), ("max_queries", max_queries)):
            if value is not None and value < 1:
                raise ValueError(f"{field} must be at least 1 or None, got {value}")
        check_eval(model)
        self.model, self.output, self.clamp = model, output, clamp
        held = itertools.chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else iter(())
        first = next((tensor for tensor in held if tensor.is_floating_point()), torch.empty(0))
        device = first.device if device is None else device
        self.dtype = first.dtype
        self.device = torch.device(device)
        self.max_batch = max_batch or MAX_BATCH.get(self.device.type, MAX_BATCH["cuda"])
        self.max_queries = max_queries
        self.queries = 0
        self.num_classes: int | None = None
        self._declared = False  # whether an answer has been seen to be of the declared kind

    @property
    def remaining(self) -> int | None:
        """Images that may still be asked under ``max_queries``; None without a cap."""
        return None if self.max_queries is None else self.max_queries - self.queries

    def count(self, images: int) -> None:
        """Enter images in the books, before they are answered."""
        self._room(images)
        self.queries += images

    def _room(self, images: int) -> None:
        if self.remaining is not None and images > self.remaining:
            raise QueryCapError(
                f"query cap max_queries={self.max_queries} reached: "
                f"{self.queries} images were answered, {images} more were asked"
            )

    def prepare(self, images: Tensor) -> Tensor:
        """Place images (N, C, H, W) on the device as float32, clamped to [0, 1]."""
        images = images.to(self.device, torch.float32)
        return images.clamp(0, 1) if self.clamp else images

    def __call__(self, images: Tensor) -> Tensor:
        """Answer images (N, C, H, W), in batches, every one counted."""
        if images.ndim != 4 or len(images) == 0:
            raise ValueError(f"images must have shape (N >= 1, C, H, W), got {tuple(images.shape)}")
        self._room(len(images))  # none is asked unless all may be
        return torch.cat([self.ask(self.prepare(part)) for part in images.split(self.batch_size(images))])

    def batch_size(self, images: Tensor) -> int:
        """Return how many of images (N, C, H, W) are asked at once: ``max_batch``, fewer where they are large."""
        return min(self.max_batch, max(1, BATCH_PIXELS // images.shape[1:].numel()))

    def ask(self, batch: Tensor, journal: Journal | None = None) -> Tensor:
        """Answer one prepared batch from the journal, where it is there, else by one forward; counted either way."""
        self.count(len(batch))
        if journal is not None and (stored := journal.replay(batch)) is not None:
            if stored.ndim == 2:  # a resumed oracle knows its classes as one that has asked
                self.num_classes = self.num_classes or stored.shape[1]
            return stored
        # no_grad and not inference_mode: inference tensors cannot be saved for a later backward (the autograd bridge).
        with torch.no_grad(), exact_float32(self.device.type):
            answers = self.read(self._forward(batch), len(batch))
        if journal is not None:
            journal.append(batch, answers)
        return answers

    def _forward(self, batch: Tensor) -> Any:
        """Run the model on a copy of its own, which it may change in place, in the dtype of its parameters."""
        try:
            return self.model(batch.to(self.dtype, copy=True))
        except (torch.OutOfMemoryError, VictimError, QueryCapError, OSError):  # these tell what to do themselves
            raise
        except Exception as error:  # a victim is anybody's code: whatever it raises, its name belongs to it
            raise VictimError(
                f"victim {name_of(self.model)} failed on {len(batch)} images of shape {tuple(batch.shape[1:])}: "
                f"{type(error).__name__}: {error}"
            ) from error

    @abstractmethod
    def read(self, scores: Any, images: int) -> Tensor:
        """Turn what the model returned for ``images`` images into this oracle's answers."""

    def _check(self, scores: Any, images: int, declared: bool = True, unreadable_rows: Unreadable = "raise") -> Tensor:
        scores = check_scores(scores, images, self.num_classes, self.model, unreadable_rows=unreadable_rows)
        if declared and not self._declared and len(readable := scores.detach()[~unreadable(scores)]):
            check_declared(readable, self.output, self.model)
            self._declared = True
        self.num_classes = scores.shape[1]
        return scores


class ScoreOracle(Oracle):
    """Answers log-probabilities (N, K), float32.

    Args:
        model: see :class:`Oracle`.
        unreadable: what becomes of scores with NaN or +inf: "raise" a VictimError, or a row of "nan" in the answer,
            where the images are problems of their own and one is not to end the others.
        options: of :class:`Oracle`.
    """

    def __init__(self, model: Callable[[Tensor], Any], *, unreadable: Unreadable = "raise", **options: Any) -> None:
        super().__init__(model, **options)
        if unreadable not in get_args(Unreadable):
            raise ValueError(f"unreadable must be 'raise' or 'nan', got {unreadable!r}")
        self.unreadable: Unreadable = unreadable

    def read(self, scores: Any, images: int) -> Tensor:
        """See :class:`Oracle`."""
        scores = self._check(scores, images, unreadable_rows=self.unreadable)
        answers = to_log_probabilities(scores.float(), self.output)
        if self.unreadable == "nan":
            answers = answers.masked_fill(unreadable(scores).unsqueeze(1), torch.nan)
        return answers.to(self.device)


class LabelOracle(Oracle):
    """Answers labels (N,), int64: the arg max of the scores, or the labels that the model itself returns."""

    def read(self, scores: Any, images: int) -> Tensor:
        """See :class:`Oracle`."""
        labels = as_tensor(scores, self.model)
        if labels.ndim == 1 and len(labels) == images and not labels.is_floating_point():
            if int(labels.min()) < 0:
                raise VictimError(
                    f"victim {name_of(self.model)} returned label {int(labels.min())}: labels must be class numbers "
                    ">= 0; give an abstention a class of its own"
                )
            return labels.to(self.device, torch.int64, copy=True)
        # Any kind of score has the same arg max, so what was declared does not matter here. It is that of the victim's
        # own numbers: rounded to float32, classes that float64 tells apart would be equal.
        return self._check(scores, images, declared=False).argmax(1).to(self.device)


class WhiteBoxOracle(Oracle):
    """White-box access: answers, and the gradient of an objective of them. One query either way."""

    def differentiate(self, images: Tensor, objective: Callable[[Tensor, slice], Tensor]) -> tuple[Tensor, Tensor]:
        """Answer images and the gradient of an objective, in batches, each image one query.

        Args:
            images: (N, C, H, W).
            objective: called for each chunk with its n answers, log-probabilities (n, K) of a classifier, and its slice
                of the N images; returns (n,), one value an image.

        Returns:
            answers, log-probabilities (N, K) of a classifier, and gradients (N, C, H, W).
        """
        answers, gradients = [], []
        step = self.batch_size(images)
        for start in range(0, len(images), step):
            part = slice(start, min(start + step, len(images)))
            batch = self.prepare(images[part]).detach().requires_grad_()
            self.count(len(batch))
            with torch.enable_grad(), exact_float32(self.device.type):
                got = self.read(self._forward(batch), len(batch))
                if not got.requires_grad:
                    raise VictimError(
                        f"victim {name_of(self.model)} answered without a gradient: "
                        f"{type(self).__name__} needs a differentiable model"
                    )
                (gradient,) = torch.autograd.grad(objective(got, part).sum(), batch)
            answers.append(got.detach())
            gradients.append(gradient)
        return torch.cat(answers), torch.cat(gradients)


class GradientOracle(WhiteBoxOracle, ScoreOracle):
    """White-box access to a classifier: log-probabilities (N, K), and gradients of objectives of them."""
