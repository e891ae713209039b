"""DnCNN, the denoiser of denoised smoothing (Zhang et al., "Beyond a Gaussian Denoiser", IEEE TIP 2017).

Shapes: B images, C x H x W pixels.
"""

from torch import Tensor, nn

# The published defence gives BatchNorm a momentum of .95, meant as the share of the past that is kept. In torch it is
# the share of the new batch, which would make the statistics of eval mode nearly those of the last batch alone.
BN_EPS, BN_MOMENTUM = 1e-4, 0.1


class DnCNN(nn.Module):
    """Predicts the noise in an image by 3x3 convolutions and subtracts it: images (B, C, H, W) -> (B, C, H, W).

    A convolution with ReLU, depth - 2 convolutions with BatchNorm and ReLU, a last convolution. All are padded, so any
    H x W will do; the noisy images may leave [0, 1], and so may the denoised ones. The convolutions start orthogonal
    and the last one at zero: before its training the network is the identity.

    The denoiser of Salman et al. (NeurIPS 2020) and of ZO-AE-DS (Zhang et al., ICLR 2022) has depth 17 and width 64,
    .56 M parameters; their "wide" one has width 128, 2.2 M.

    Args:
        channels: C of the images.
        depth: number of convolutions.
        width: channels between them.

    Raises:
        ValueError: depth is less than 2, channels or width less than 1.
    """

    answers = "images"  # no victim of attacks

    def __init__(self, *, channels: int = 3, depth: int = 17, width: int = 64) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth must be at least 2, a first and a last convolution, got depth={depth}")
        if min(channels, width) < 1:
            raise ValueError(f"channels and width must be at least 1, got channels={channels} and width={width}")
        self.channels = channels
        self.depth = depth
        self.width = width
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [
                nn.Conv2d(width, width, 3, padding=1, bias=False),  # the BatchNorm's shift is the bias
                nn.BatchNorm2d(width, eps=BN_EPS, momentum=BN_MOMENTUM),
                nn.ReLU(inplace=True),
            ]
        last = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.noise = nn.Sequential(*layers, last)
        for module in self.noise:
            if isinstance(module, nn.Conv2d):
                nn.init.orthogonal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(last.weight)

    def forward(self, images: Tensor) -> Tensor:
        return images - self.noise(images)
