"""VGG-16 with BatchNorm for small images (Simonyan & Zisserman, ICLR 2015, configuration D)."""

import torch.nn.functional as F
from torch import Tensor, nn

from zeroth.networks._normalize import Normalize

LAYOUT = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # a pool after each group


class VGG16BN(nn.Module):
    """Thirteen padded 3x3 convolutions with BatchNorm in five groups, each ended by a pool, then Linear(512, K).

    Takes images (B, C, H, W) in [0, 1] with H, W <= 32 and gives logits (B, num_classes). Smaller images are padded
    with black to 32x32, evenly on both sides (28 -> 32 for MNIST), because five pools need 32 pixels.

    Args:
        num_classes: number of classes K.
        mean: pixel mean of each channel (default MNIST's); its length sets the number of input channels.
        std: pixel standard deviation of each channel.

    Raises:
        ValueError: an image larger than 32x32 is asked.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        mean: tuple[float, ...] = (0.1307,),
        std: tuple[float, ...] = (0.3081,),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.mean = mean
        self.std = std
        self.normalize = Normalize(mean, std)
        layers: list[nn.Module] = []
        before = len(mean)
        for group in LAYOUT:
            for after in group:
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
                before = after
            layers += [nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(512, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height > 32 or width > 32:
            raise ValueError(f"VGG16BN takes at most 32x32 pixels, got {height}x{width}: resize the images")
        top, left = (32 - height) // 2, (32 - width) // 2
        # Padded before the normalisation: the border is black in pixels, as the rest of an MNIST image's border.
        padded = F.pad(images, (left, 32 - width - left, top, 32 - height - top))
        return self.classifier(self.features(self.normalize(padded)))
