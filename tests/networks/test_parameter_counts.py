"""Sizes of the victims against closed forms and published numbers."""

import pytest
import torch
from torch import nn

from zeroth.networks import VGG16BN, CarliniWagnerCNN, CIFARResNet, DigitsCNN, TorchvisionClassifier


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def conv(before: int, after: int) -> int:
    return 9 * before * after + after


def dense(before: int, after: int) -> int:
    return before * after + after


def test_carlini_wagner_mnist() -> None:
    # 28 -4 -> 24, pool -> 12, -4 -> 8, pool -> 4
    head = dense(64 * 4 * 4, 200) + dense(200, 200) + dense(200, 10)
    assert parameters(CarliniWagnerCNN()) == conv(1, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64) + head


def test_carlini_wagner_cifar10() -> None:
    # 32 -4 -> 28, pool -> 14, -4 -> 10, pool -> 5
    head = dense(128 * 5 * 5, 256) + dense(256, 256) + dense(256, 10)
    network = CarliniWagnerCNN(image_shape=(3, 32, 32), channels=(64, 128), hidden=256)
    assert parameters(network) == conv(3, 64) + conv(64, 64) + conv(64, 128) + conv(128, 128) + head


def test_batch_norm_variant_trades_each_bias_for_a_scale_and_a_shift() -> None:
    hidden_units = 32 + 32 + 64 + 64 + 200 + 200
    assert parameters(CarliniWagnerCNN(batch_norm=True)) == parameters(CarliniWagnerCNN()) + hidden_units


def test_digits() -> None:
    expected = conv(1, 32) + conv(32, 32) + conv(32, 64) + dense(64 * 2 * 2, 128) + dense(128, 10)
    assert parameters(DigitsCNN()) == expected


@pytest.mark.parametrize(
    ("depth", "published"),
    # He et al., table 6, counts identity shortcuts; two 1x1 convolutions with BatchNorm come on top.
    [(20, 269_722), (32, 464_154), (110, 1_727_962)],
)
def test_cifar_resnet(depth: int, published: int) -> None:
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert parameters(CIFARResNet(depth=depth)) == published + shortcuts
    # The depth counts the stem, two convolutions a block and the last layer.
    main_path = [m for m in CIFARResNet(depth=depth).modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(main_path) + 1 == depth


def test_vgg16_bn() -> None:
    rgb = VGG16BN(mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    assert parameters(rgb) == 14_728_266  # 14,723,136 in torchvision's vgg16_bn().features, 5,130 in Linear(512, 10)
    assert parameters(VGG16BN()) == 14_728_266 - 2 * 64 * 9


def test_torchvision_resnet18() -> None:
    with torch.device("meta"):  # counts need no weights
        assert parameters(TorchvisionClassifier("resnet18")) == 11_689_512
        assert parameters(TorchvisionClassifier("resnet18", num_classes=10)) == 11_689_512 - 990 * 513
