"""A small CNN for scikit-learn's 8x8 digits: seconds to train on a laptop, yet a real image model."""

from torch import Tensor, nn

from zeroth.networks._normalize import Normalize


class DigitsCNN(nn.Module):
    """Two 3x3 convolutions, a pool, one more convolution, a pool, two fully connected layers.

    Takes images (B, 1, 8, 8) in [0, 1], gives logits (B, num_classes).

    Args:
        num_classes: number of classes K.
        width: channels of the first two convolutions; the third has twice as many.
    """

    image_shape = (1, 8, 8)

    def __init__(self, *, num_classes: int = 10, width: int = 32) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.width = width
        # Pixel statistics of the 1,797 digits; the images are 0..16 levels divided by 16.
        self.normalize = Normalize(mean=[0.305], std=[0.376])
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # 8x8 -> 4x4
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),  # 4x4 -> 2x2
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2 * width * 2 * 2, 4 * width),
            nn.ReLU(inplace=True),
            nn.Dropout(0.25),
            nn.Linear(4 * width, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(self.normalize(images)))
