"""What the networks that recover measured images have in common."""

from typing import ClassVar

from torch import Tensor, nn


class Reconstructor(nn.Module):
    """Recovers images of one shape from the back-projections of their measurements, (B, C, H, W) -> (B, C, H, W).

    Attributes:
        image_shape: (C, H, W).
        layers: what it does.

    Raises:
        ValueError: it is called on images of another shape.
    """

    image_shape: ClassVar[tuple[int, int, int]]
    layers: nn.Sequential

    answers = "images"  # no victim of attacks

    def forward(self, images: Tensor) -> Tensor:
        # Strides round: images of neighbouring sizes would come out in the right one too.
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"{type(self).__name__} takes back-projections of shape {self.image_shape}, got "
                f"{tuple(images.shape[1:])}"
            )
        return self.layers(images)
