"""CIFAR ResNets of He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2."""

import torch.nn.functional as F
from torch import Tensor, nn

from zeroth.networks._normalize import Normalize


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut, ReLU after the sum.

    (B, before, H, W) -> (B, after, H / stride, W / stride).
    Where the shape changes the shortcut is a 1x1 convolution with BatchNorm ("option B" of the paper).
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(maps)), inplace=True)
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(maps), inplace=True)


class CIFARResNet(nn.Module):
    """ResNet of depth 6 n + 2: three stages of n BasicBlocks, widths 16, 32, 64, then average pooling.

    Takes images (B, 3, H, W) in [0, 1], gives logits (B, num_classes). Depth 20 has .27 M parameters; depth 110, the
    victim of denoised smoothing (Salman et al. 2020) and ZO-AE-DS (Zhang et al. 2022), has 1.7 M.

    Args:
        depth: 20, 32, 44, 56, 110, ... (6 n + 2).
        num_classes: number of classes K.
        mean: pixel mean of each channel (default CIFAR-10's); its length sets the number of input channels.
        std: pixel standard deviation of each channel.

    Raises:
        ValueError: depth is not 6 n + 2.
    """

    def __init__(
        self,
        *,
        depth: int = 20,
        num_classes: int = 10,
        mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465),
        std: tuple[float, ...] = (0.2470, 0.2435, 0.2616),
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6 n + 2 (20, 32, 44, 56, 110, ...), got depth={depth}")
        blocks = (depth - 2) // 6
        self.depth = depth
        self.num_classes = num_classes
        self.mean = mean
        self.std = std
        self.normalize = Normalize(mean, std)
        self.stem = nn.Sequential(
            nn.Conv2d(len(mean), 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(
            _stage(16, 16, blocks, stride=1), _stage(16, 32, blocks, stride=2), _stage(32, 64, blocks, stride=2)
        )
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.stages(self.stem(self.normalize(images))))


def _stage(before: int, after: int, blocks: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _BasicBlock(before, after, stride), *(_BasicBlock(after, after, stride=1) for _ in range(blocks - 1))
    )
