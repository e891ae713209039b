"""Victims and attacks that the tests know everything about."""

import torch
from torch import Tensor, nn

from zeroth.attacks import Attack
from zeroth.oracles import LabelOracle, Oracle, ScoreOracle, Trial


class Linear(nn.Module):
    """Logits W x + b in float64, image by image: no rounding depends on the batch."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = weight.double()
        self.bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()

    def forward(self, images: Tensor) -> Tensor:
        flat = images.double().flatten(1)
        return torch.stack([(flat * w).sum(1) for w in self.weight], 1) + self.bias


def random_linear(classes: int, dimension: int, seed: int = 0) -> Linear:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, dimension, generator=generator)
    return Linear(weight, -weight.sum(1) / 2)  # centred: every class wins somewhere in the unit cube


class Moody(nn.Module):
    """Answers NaN around one image (C, H, W), though not at it."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.model, self.image = model, image

    def forward(self, images: Tensor) -> Tensor:
        apart = (images.detach() - self.image).flatten(1).abs().amax(1)
        return self.model(images).masked_fill(((apart > 0) & (apart < 0.2)).unsqueeze(1), torch.nan)


class Logging(nn.Module):
    """Counts and keeps what it is asked, as a victim with its own books would."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen, self.batches = model, 0, []

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        self.batches.append(images.detach().clone())
        return self.model(images)

    @property
    def asked(self) -> Tensor:
        return torch.cat(self.batches)


class Scatter(Attack):
    """Asks ragged requests of random points and gives up at random: every path of a trial, nothing clever."""

    def __init__(
        self,
        *,
        oracle_type: type[Oracle] = ScoreOracle,
        width: int = 4,
        scale: float = 0.5,
        norm: str = "l2",
        epsilon: float | None = None,
        stop: bool = True,
        lazy: bool = False,
        quits: float = 0.0,
    ) -> None:
        self.oracle_type, self.request, self.scale, self.norm, self.epsilon = oracle_type, width, scale, norm, epsilon
        self.stop_at_success, self.lazy, self.quits = stop, lazy, quits

    def run(self, trial: Trial) -> None:
        while len(rows := trial.active):
            count = (trial.streams.rand(rows, (1,))[:, 0] * (self.request + 1)).long()
            points = trial.images[rows].unsqueeze(1) + self.scale * trial.randn(
                rows, (self.request, *trial.images.shape[1:])
            )
            gone = trial.streams.rand(rows, (1,))[:, 0] < self.quits
            trial.query((lambda part, points=points: points[part]) if self.lazy else points, rows, count)
            trial.retire(rows[gone], "bored")


def label_scatter(**options) -> Scatter:
    return Scatter(oracle_type=LabelOracle, **options)


class Shrink(Attack):
    """A minimum-norm attack: random points around the image, one request an image; refuses some parameters."""

    oracle_type = ScoreOracle
    stop_at_success = False
    norm = "l2"

    def __init__(self, *, scale: float = 0.5, width: int = 8, word: str = "a") -> None:
        if scale * width > 20:
            raise ValueError(f"scale * width must be at most 20, got {scale * width}")
        self.scale, self.width, self.word = scale, width, word
        self.request = width

    def run(self, trial: Trial) -> None:
        if self.word == "b":
            raise FloatingPointError("a step is not finite")
        rows = trial.active
        noise = trial.randn(rows, (self.width, *trial.images.shape[1:]))
        trial.query(trial.images[rows].unsqueeze(1) + self.scale * noise, rows)
