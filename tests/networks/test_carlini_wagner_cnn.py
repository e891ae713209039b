"""The Carlini-Wagner victims: sizes in closed form, refused images."""

import pytest

from tests.networks.counting import conv, dense, parameters
from zeroth.networks import CarliniWagnerCNN


def test_parameters_of_the_mnist_layout() -> None:
    # 28 -4 -> 24, pool -> 12, -4 -> 8, pool -> 4
    head = dense(64 * 4 * 4, 200) + dense(200, 200) + dense(200, 10)
    assert parameters(CarliniWagnerCNN()) == conv(1, 32) + conv(32, 32) + conv(32, 64) + conv(64, 64) + head


def test_parameters_of_the_cifar10_layout() -> None:
    # 32 -4 -> 28, pool -> 14, -4 -> 10, pool -> 5
    head = dense(128 * 5 * 5, 256) + dense(256, 256) + dense(256, 10)
    network = CarliniWagnerCNN(image_shape=(3, 32, 32), channels=(64, 128), hidden=256)
    assert parameters(network) == conv(3, 64) + conv(64, 64) + conv(64, 128) + conv(128, 128) + head


def test_batch_norm_variant_trades_each_bias_for_a_scale_and_a_shift() -> None:
    hidden_units = 32 + 32 + 64 + 64 + 200 + 200
    assert parameters(CarliniWagnerCNN(batch_norm=True)) == parameters(CarliniWagnerCNN()) + hidden_units


def test_images_that_the_second_pool_would_leave_nothing_of_are_refused() -> None:
    with pytest.raises(ValueError, match=r"image_shape=\(1, 15, 28\) is too small.*at least 16$"):
        CarliniWagnerCNN(image_shape=(1, 15, 28))
