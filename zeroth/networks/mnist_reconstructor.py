"""The reconstruction network of ZO-AE-DS's MNIST experiment (Zhang et al., ICLR 2022, section 5.3; Raj et al. 2020)."""

from torch import nn

from zeroth.networks._reconstructor import Reconstructor


class MNISTReconstructor(Reconstructor):
    """Recovers images from the back-projections of their measurements, (B, 1, 28, 28) -> (B, 1, 28, 28).

    Four convolutions, 28 -> 28 -> 10 -> 4 -> 2, and three transposed ones, 2 -> 5 -> 15 -> 28; ReLU after each, tanh
    after the last. What it takes is in [0, 1], as GaussianMeasurement gives it; what it gives is in (-1, 1) and is
    trained towards images in [0, 1].

    Raises:
        ValueError: it is called on images of another shape.
    """

    image_shape = (1, 28, 28)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=1, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 16, 3, stride=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 8, 3, stride=3, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(8, 16, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(16, 8, 5, stride=3, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(8, 1, 2, stride=2, padding=1),
            nn.Tanh(),
        )
