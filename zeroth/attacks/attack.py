"""The one engine of all attacks: checks the input, opens trials in slices, joins the results.

Shapes: B images, C x H x W pixels, K classes.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from zeroth.attacks.result import AttackResult
from zeroth.oracles import (
    Ball,
    Goal,
    GradientOracle,
    ImageStreams,
    Journal,
    LabelOracle,
    Oracle,
    ProgressUpdate,
    Rules,
    Trial,
    distance,
)
from zeroth.oracles.oracle import exact_float32

# Pixels that the points of one request may hold (128 MiB in float32); the images of a call are attacked in slices
# below it.
SLICE_PIXELS = 2**25


class Attack(ABC):
    """Base of every attack: keyword-only hyperparameters and one method, :meth:`run`, over a trial.

    Attributes:
        oracle_type: the access the attack needs; GradientOracle serves score attacks too.
        norm: the distance that is reported and, for minimum-norm attacks, made small: "linf", "l2" or "l1".
        epsilon: radius of the norm ball that a perturbation must stay in, [0, 1] pixels; None for no ball.
        kappa: confidence: a point is adversarial once its margin is at most -kappa.
        accept: "all" takes the best of all asked points, "iterates" only of those the attack calls iterates (the
            papers' convention).
        stop_at_success: whether an image leaves play at its first adversarial point.
        request: how many points an image asks at once; bounds the slices.
    """

    oracle_type: ClassVar[type[Oracle]]
    norm: Literal["linf", "l2", "l1"] = "linf"
    epsilon: float | None = None
    kappa: float = 0.0
    accept: Literal["all", "iterates"] = "all"
    stop_at_success: ClassVar[bool] = True
    request: int = 1

    @abstractmethod
    def run(self, trial: Trial) -> None:
        """Attack the images in play until none is; the trial keeps the books."""

    def distance(self, delta: Tensor) -> Tensor:
        """Size of perturbations (N, C, H, W): (N,), in [0, 1] pixels; the norm unless an attack has its own."""
        return distance(delta, self.norm)

    @property
    def distance_name(self) -> str:
        """What :meth:`distance` is called in reports and pictures: the norm, or the words of an attack with its own."""
        return self.norm

    @property
    def rules(self) -> Rules:
        """What the attack asks of a trial."""
        ball = None if self.epsilon is None else Ball(self.norm, self.epsilon)
        return Rules(self.distance, ball, self.accept, self.stop_at_success)

    def __call__(
        self,
        oracle: Oracle,
        images: Tensor,
        labels: Tensor,
        targets: Tensor | Literal["least_likely"] | None = None,
        *,
        budget: int | Tensor,
        seed: int,
        indices: Tensor | Sequence[int] | None = None,
        journal: Journal | None = None,
        progress: Callable[[ProgressUpdate], None] | None = None,
    ) -> AttackResult:
        """Attack a batch of images.

        Args:
            oracle: the black box, of the kind the attack needs.
            images: (B, C, H, W) in [0, 1].
            labels: (B,) true labels.
            targets: (B,) wanted labels, for a targeted attack. "least_likely" takes the wrong class of the least
                log-probability in the answer of each image's first check, at no further query.
            budget: queries each image may spend, its first check included: one number or (B,).
            seed: with an image's dataset index it fixes all its random draws.
            indices: (B,) distinct dataset indices, default 0..B-1. To attack an image toward several targets at once,
                give its rows numbers of their own.
            journal: answers of an earlier run of the same call, and where new ones are kept.
            progress: called after each request.

        Raises:
            ValueError: input that cannot be attacked; names the field, the value and the remedy.
            VictimError: the victim's answer cannot be read.
        """
        if not isinstance(oracle, self.oracle_type):
            raise ValueError(
                f"{type(self).__name__} needs a {self.oracle_type.__name__}, got {type(oracle).__name__}: "
                f"wrap the model in {self.oracle_type.__name__}(model)"
            )
        if journal is not None and isinstance(oracle, GradientOracle):
            raise ValueError(
                "journal must be None under a GradientOracle: gradients are not journalled, a killed batch is run again"
            )
        if by_answer := isinstance(targets, str):
            check_least_likely(targets, type(oracle))
            targets = None
        images, size = images.detach(), len(images)
        labels = _integers("labels", labels, size)
        targets = None if targets is None else _integers("targets", targets, size)
        keys = torch.arange(size) if indices is None else _integers("indices", torch.as_tensor(indices), size)
        budgets = torch.as_tensor(budget)
        budgets = _integers("budget", budgets.expand(size) if budgets.ndim == 0 else budgets, size)
        _check(images, labels, targets, keys, budgets)
        parts: list[AttackResult] = []
        step = max(1, SLICE_PIXELS // (self.request * images[0].numel()))
        spent = finished = won = 0

        def report(queries: int, out: int, successes: int) -> None:
            if progress is not None:
                progress(ProgressUpdate(spent + queries, finished + out, won + successes, size))

        for start in range(0, size, step):
            part = slice(start, start + step)
            with torch.no_grad(), exact_float32(oracle.device.type):
                trial = Trial(
                    oracle,
                    images[part].to(oracle.device, torch.float32),
                    Goal(
                        labels[part].to(oracle.device),
                        None if targets is None else targets[part].to(oracle.device),
                        self.kappa,
                        by_answer,
                    ),
                    self.rules,
                    budget=budgets[part].to(oracle.device),
                    streams=ImageStreams(seed, keys[part], oracle.device),
                    journal=journal,
                    # Each report waits for the device: none is made that nobody reads.
                    progress=report if progress is not None else None,
                )
                self.run(trial)
            trial.retire(trial.active, "gave up")
            parts.append(AttackResult.from_trial(trial, keys[part]))
            spent += int(parts[-1].queries.sum())
            finished += len(parts[-1])
            won += int(parts[-1].success.sum())
        return AttackResult.concatenate(parts)

    def __repr__(self) -> str:
        """Show the class and every hyperparameter."""
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def check_accept(accept: str) -> None:
    """Raise ValueError for points that count by another word."""
    if accept not in ("all", "iterates"):
        raise ValueError(f"accept must be 'all' or 'iterates', got {accept!r}")


def check_least_likely(targets: str, oracle_type: type[Oracle]) -> None:
    """Raise ValueError for targets by another word, or to be read off answers that are labels alone."""
    if targets != "least_likely":
        raise ValueError(f"targets must be (B,) class numbers, 'least_likely' or None, got {targets!r}")
    if issubclass(oracle_type, LabelOracle):
        raise ValueError(
            "targets 'least_likely' are read off the scores of the first answer, and a LabelOracle tells labels alone: "
            "give the targets as class numbers (--targeted next, random or all), or take an attack that sees scores"
        )


def _integers(field: str, values: Tensor, size: int) -> Tensor:
    values = torch.as_tensor(values)
    if values.shape != (size,) or values.is_floating_point() or values.dtype == torch.bool:
        raise ValueError(
            f"{field} must be integers of shape ({size},), one an image, "
            f"got {values.dtype} of shape {tuple(values.shape)}"
        )
    return values.to("cpu", torch.int64)


def _check(images: Tensor, labels: Tensor, targets: Tensor | None, indices: Tensor, budgets: Tensor) -> None:
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        raise ValueError(
            f"images must be floating point (B >= 1, C, H, W), got {images.dtype} of shape {tuple(images.shape)}"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got values in [{low:.4g}, {high:.4g}]: "
            "divide bytes by 255 and leave normalisation to the model"
        )
    for field, values in (
        ("labels", labels),
        ("targets", targets),
    ):  # the upper end is checked against the first answer
        if values is not None and int(values.min()) < 0:
            raise ValueError(f"{field} must be class numbers >= 0, got {int(values.min())}")
    if targets is not None and bool((targets == labels).any()):
        row = int((targets == labels).nonzero()[0])
        raise ValueError(
            f"targets must differ from labels, "
            f"got target {int(targets[row])} = label for image {row} (index {int(indices[row])})"
        )
    if len(indices.unique()) != len(indices):
        raise ValueError("indices must be distinct: two images with one index would share their random draws")
    if int(budgets.min()) < 1:
        raise ValueError(f"budget must be at least 1 query an image, got {int(budgets.min())}")
