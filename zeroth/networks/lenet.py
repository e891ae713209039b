"""LeNet (LeCun et al., Proc. IEEE 1998) with the layers of its Caffe version, which small MNIST programs took over."""

from torch import Tensor, nn

from zeroth.networks._normalize import Normalize


class LeNet(nn.Module):
    """Two unpadded 5x5 convolutions, each with ReLU and a pool, one hidden fully connected layer.

    The victim of ZO-L2L's published program (Ruan et al., ICLR 2020). Takes images (B, 1, 28, 28) in [0, 1], gives
    logits (B, num_classes).

    Args:
        channels: channels of the two convolutions.
        hidden: width of the hidden fully connected layer.
        num_classes: number of classes K.
    """

    image_shape = (1, 28, 28)

    def __init__(self, *, channels: tuple[int, int] = (20, 50), hidden: int = 500, num_classes: int = 10) -> None:
        super().__init__()
        self.channels = channels
        self.hidden = hidden
        self.num_classes = num_classes
        first, second = channels
        self.normalize = Normalize(mean=[0.1307], std=[0.3081])  # pixel statistics of MNIST's training images
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 5),  # 28x28 -> 24x24
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5),  # 12x12 -> 8x8
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * 4 * 4, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(self.normalize(images)))
