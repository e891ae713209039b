"""VGG-16 with BatchNorm: its size against torchvision's, its padding."""

import pytest
import torch

from tests.networks.counting import parameters
from zeroth.networks import VGG16BN


def test_parameters() -> None:
    rgb = VGG16BN(mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
    assert parameters(rgb) == 14_728_266  # 14,723,136 in torchvision's vgg16_bn().features, 5,130 in Linear(512, 10)
    assert parameters(VGG16BN()) == 14_728_266 - 2 * 64 * 9


def test_two_black_pixels_are_padded_on_each_side() -> None:
    network = VGG16BN().eval()
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    framed = torch.zeros(1, 1, 32, 32)
    framed[..., 2:30, 2:30] = image
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(framed), rtol=0, atol=0)


def test_larger_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 32x32 pixels, got 33x32: resize the images$"):
        VGG16BN()(torch.rand(1, 1, 33, 32))
