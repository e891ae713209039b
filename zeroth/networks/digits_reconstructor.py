"""A reconstruction network for images of 8x8 pixels."""

from torch import nn

from zeroth.networks._reconstructor import Reconstructor


class DigitsReconstructor(Reconstructor):
    """Recovers scikit-learn's digits from the back-projections of their measurements, (B, 1, 8, 8) -> (B, 1, 8, 8).

    The small sister of MNISTReconstructor, ours: three convolutions, 8 -> 8 -> 4 -> 2, and two transposed ones,
    2 -> 4 -> 8; ReLU after each, tanh after the last. It takes images in [0, 1] and gives them in (-1, 1).

    Raises:
        ValueError: it is called on images of another shape.
    """

    image_shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )
