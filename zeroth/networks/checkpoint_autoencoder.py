"""The autoencoder of a checkpoint as a module.

Shapes: B images, C x H x W pixels, c x h x w maps of the code, d_z = c h w numbers of it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from zeroth.networks._checkpoints import read_network
from zeroth.networks._trying import trying

JOB = "train-autoencoder"


class CheckpointAutoencoder(nn.Module):
    """The autoencoder that train.py trained (stage 1 of ZO-AE-DS): images (B, C, H, W) in [0, 1] -> the same, decoded.

    It starts from the checkpoint's weights and is trained on like any module: the second stage fine-tunes the encoder.
    Its owner freezes what is to stay.

    Args:
        checkpoint: file that train.py wrote, runs/train-autoencoder/<name>/checkpoints/best.ckpt; or that of a defense,
            whose training may have changed the encoder.

    Attributes:
        network: the module that was trained.
        encoder: images (B, C, H, W) -> z (B, d_z).
        decoder: z (B, d_z) -> images (B, C, H, W).
        image_shape: (C, H, W).
        latent_shape: (c, h, w), what z is a flat view of; (d_z, 1, 1) where the network does not tell.
        features: d_z.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint of train.py, its network cannot be built or is no autoencoder, or the network's
            encoder and decoder do not fit.
    """

    answers = "images"  # no victim of attacks

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        network: Any  # anybody's module that has the three below
        network, _ = read_network(checkpoint, part="autoencoder", job=JOB)
        lacking = [name for name in ("encoder", "decoder", "image_shape") if getattr(network, name, None) is None]
        if lacking:
            raise ValueError(
                f"checkpoint {checkpoint} holds no autoencoder: its {type(network).__name__} has no "
                f"{' and no '.join(lacking)}; give one that train.py wrote for the system Autoencoder, "
                f"runs/{JOB}/<name>/checkpoints/best.ckpt"
            )
        self.network = network
        self.image_shape: tuple[int, ...] = tuple(network.image_shape)
        try:
            with trying(self):
                self.features = self._try()
        except ValueError as error:
            raise ValueError(f"checkpoint {checkpoint} holds no usable {type(network).__name__}: {error}") from error
        self.latent_shape: tuple[int, ...] = tuple(getattr(network, "latent_shape", (self.features, 1, 1)))

    # Properties: as attributes the two would be in the state_dict a second time.
    @property
    def encoder(self) -> nn.Module:
        return self.network.encoder

    @property
    def decoder(self) -> nn.Module:
        return self.network.decoder

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))

    def _try(self) -> int:
        """Send one black image through; return d_z.

        Raises:
            ValueError: the parts do not fit each other or the image.
        """
        try:
            z = self.encoder(torch.zeros(1, *self.image_shape))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"its encoder does not take images of shape {self.image_shape}: {error}") from error
        if z.ndim != 2:
            raise ValueError(f"its encoder must give z of shape (B, d_z), got {tuple(z.shape)}: end it by nn.Flatten()")
        told = f"its encoder and decoder do not fit: for images of shape {self.image_shape} the encoder gives d_z = "
        try:
            made = tuple(self.decoder(z).shape[1:])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{told}{z.shape[1]}, which the decoder does not take: {error}") from error
        if made != self.image_shape:
            raise ValueError(f"{told}{z.shape[1]}, of which the decoder makes images of shape {made}")
        return z.shape[1]
