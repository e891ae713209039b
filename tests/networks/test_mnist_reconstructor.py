"""The reconstruction network of MNIST: sizes by hand, its maps, what its last layers do, refused images."""

import pytest
import torch
from torch import nn

from tests.networks.counting import conv, parameters
from zeroth.networks import GaussianMeasurement, MNISTReconstructor


def test_parameters() -> None:
    down = conv(1, 16) + conv(16, 32) + conv(32, 16) + conv(16, 8)
    up = (8 * 16 * 9 + 16) + (16 * 8 * 25 + 8) + (8 * 1 * 4 + 1)
    assert parameters(MNISTReconstructor()) == down + up == 14_993


def test_the_maps_between_the_layers() -> None:
    maps, shapes = torch.rand(2, 1, 28, 28), []
    for layer in MNISTReconstructor().layers:
        maps = layer(maps)
        if isinstance(layer, nn.ReLU):
            assert maps.min() >= 0
            shapes += [tuple(maps.shape[1:])]
    assert shapes == [(16, 28, 28), (32, 10, 10), (16, 4, 4), (8, 2, 2), (16, 5, 5), (8, 15, 15)]
    assert maps.shape == (2, 1, 28, 28)


def test_the_output_is_a_tanh_of_the_last_layer_alone() -> None:
    network = MNISTReconstructor()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[-2].bias.fill_(-0.7)  # a ReLU after it would give 0
    expected = torch.tensor(-0.7).tanh().expand(3, 1, 28, 28)
    torch.testing.assert_close(network(torch.rand(3, 1, 28, 28)), expected)


def test_it_takes_what_the_measurement_gives_and_lets_its_gradient_through() -> None:
    torch.manual_seed(0)
    network, measurement = MNISTReconstructor().eval(), GaussianMeasurement()
    images = torch.rand(2, 1, 28, 28, requires_grad=True)
    network(measurement(images))[0].sum().backward()
    # A measurement mixes all pixels of its own image.
    assert images.grad[0].count_nonzero() > 700 and not images.grad[1].any()


@pytest.mark.parametrize("shape", [(2, 1, 27, 27), (2, 1, 29, 28), (2, 3, 28, 28), (1, 28, 28), (2, 784)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes back-projections of shape \(1, 28, 28\), got \("):
        MNISTReconstructor()(torch.rand(shape))
