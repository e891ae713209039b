"""Normalisation as a layer, so that a victim takes plain pixels and the rest of the project knows only [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(images - mean) / std per channel, for images (B, C, H, W) in [0, 1].

    mean and std are buffers: they travel with the state_dict, so a checkpoint cannot be paired with other statistics.

    Args:
        mean: C values in [0, 1] pixels.
        std: C positive values in [0, 1] pixels.

    Raises:
        ValueError: mean and std differ in length, or a std is not positive.
    """

    mean: Tensor  # (1, C, 1, 1)
    std: Tensor  # (1, C, 1, 1)

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or len(mean) == 0:
            raise ValueError(f"mean and std need one value a channel, got mean={list(mean)} and std={list(std)}")
        if min(std) <= 0:
            raise ValueError(f"std must be positive in every channel, got std={list(std)}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
