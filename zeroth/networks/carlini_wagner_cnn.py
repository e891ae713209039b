"""The victims of Carlini & Wagner, "Towards Evaluating the Robustness of Neural Networks" (S&P 2017), table I."""

from torch import Tensor, nn

from zeroth.networks._normalize import Normalize


class CarliniWagnerCNN(nn.Module):
    """Conv, conv, pool, conv, conv, pool, three fully connected layers (table I of the paper).

    All convolutions are 3x3, unpadded, with ReLU. Takes images (B, C, H, W) in [0, 1], gives logits (B, num_classes).
    The defaults are the MNIST layout; CIFAR-10's is `image_shape=(3, 32, 32), channels=(64, 128), hidden=256`.

    Args:
        image_shape: (C, H, W) of the images. H and W must be at least 16, or the second pool has nothing to pool.
        channels: channels of the first and of the second pair of convolutions.
        hidden: width of the two hidden fully connected layers.
        dropout: share dropped between them (paper: .5).
        batch_norm: the BatchNorm variant: a BatchNorm between each hidden convolution or linear layer and its ReLU
            (their biases, which it would cancel, are then left out).
        num_classes: number of classes K.

    Raises:
        ValueError: image_shape is too small.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        channels: tuple[int, int] = (32, 64),
        hidden: int = 200,
        dropout: float = 0.5,
        batch_norm: bool = False,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        depth, height, width = image_shape
        if min(height, width) < 16:
            raise ValueError(f"image_shape={tuple(image_shape)} is too small: height and width must be at least 16")
        self.image_shape = (depth, height, width)
        self.channels = channels
        self.hidden = hidden
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.num_classes = num_classes

        def conv(before: int, after: int) -> list[nn.Module]:
            layers: list[nn.Module] = [nn.Conv2d(before, after, 3, bias=not batch_norm)]
            return [*layers, *([nn.BatchNorm2d(after)] if batch_norm else []), nn.ReLU(inplace=True)]

        def dense(before: int, after: int) -> list[nn.Module]:
            layers: list[nn.Module] = [nn.Linear(before, after, bias=not batch_norm)]
            return [*layers, *([nn.BatchNorm1d(after)] if batch_norm else []), nn.ReLU(inplace=True)]

        def side(length: int) -> int:  # after two rounds of two unpadded convolutions and a pool
            return ((length - 4) // 2 - 4) // 2

        first, second = channels
        self.normalize = Normalize(mean=[0.5] * depth, std=[1.0] * depth)  # the paper's pixels are in [-.5, .5]
        self.features = nn.Sequential(
            *conv(depth, first),
            *conv(first, first),
            nn.MaxPool2d(2),
            *conv(first, second),
            *conv(second, second),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            *dense(second * side(height) * side(width), hidden),
            nn.Dropout(dropout),
            *dense(hidden, hidden),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(self.normalize(images)))
