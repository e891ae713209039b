"""The reconstructor of a checkpoint as a module."""

import torch
from torch import Tensor, nn

from zeroth.networks._checkpoints import read_network


class CheckpointReconstructor(nn.Module):
    """The reconstructor that train.py trained: what it takes (B, C, H, W) in [0, 1] -> images (B, C', H', W').

    The box of a defense. It stays in eval mode whatever its owner does, and its parameters take no gradient; images do.

    Args:
        checkpoint: file that train.py wrote for the system Reconstruction.

    Attributes:
        network: the module that was trained.
        image_shape: (C, H, W) of what it takes, None where the network does not tell.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of train.py, its network cannot be built, or does not answer images.
    """

    answers = "images"  # no victim of attacks

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.network, _ = read_network(checkpoint)
        self.image_shape = getattr(self.network, "image_shape", None)
        self.requires_grad_(False)
        self.eval()
        if self.image_shape is not None:
            with torch.no_grad():
                answered = self.network(torch.zeros(1, *self.image_shape))
            if answered.ndim != 4:
                raise ValueError(
                    f"checkpoint {checkpoint} holds a {type(self.network).__name__}, which answers an image by "
                    f"{tuple(answered.shape)} and not by an image: give one that train.py wrote for the system "
                    "Reconstruction"
                )

    def train(self, mode: bool = True) -> "CheckpointReconstructor":
        """Stay in eval mode: a module that holds this one trains itself alone."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)
