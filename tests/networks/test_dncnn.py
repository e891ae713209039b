"""DnCNN: sizes and cost in closed form, the identity at the start, what is subtracted, how far a pixel reaches."""

import pytest
import torch
from torch import nn

from tests.networks.counting import conv, parameters
from zeroth.networks import DnCNN


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(
    ("channels", "depth", "width", "expected"),
    [(3, 17, 64, 558_400), (3, 17, 128, 2_222_720), (1, 5, 16, 7_312), (1, 2, 4, 4 * 10 + 36)],
)
def test_parameters(channels: int, depth: int, width: int, expected: int) -> None:
    # In the middle a BatchNorm's scale and shift stand for the bias; the last convolution has none.
    middle = conv(width, width) - width + 2 * width
    assert conv(channels, width) + (depth - 2) * middle + conv(width, channels) - channels == expected
    network = DnCNN(channels=channels, depth=depth, width=width)
    assert parameters(network) == expected
    assert len(convolutions(network)) == depth


@pytest.mark.parametrize(("width", "published"), [(64, 0.570e9), (128, 2.27e9)])
def test_multiplications_of_a_cifar_image_are_those_measured_of_the_published_networks(
    width: int, published: float
) -> None:
    weights = sum(module.weight.numel() for module in convolutions(DnCNN(width=width)))
    assert 32 * 32 * weights == pytest.approx(published, rel=3e-3)  # each weight once a pixel


@pytest.mark.parametrize("training", [True, False])
def test_it_starts_as_the_identity(training: bool) -> None:
    images = 3 * torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))  # noisy ones leave [0, 1]
    assert torch.equal(DnCNN(depth=4, width=6).train(training)(images), images)


def test_the_other_convolutions_start_orthogonal() -> None:
    torch.manual_seed(0)
    first, *middle, last = convolutions(DnCNN(depth=4, width=40))
    tall = first.weight.flatten(1)  # (40, 27)
    torch.testing.assert_close(tall.T @ tall, torch.eye(27), atol=1e-5, rtol=0)
    for wide in (module.weight.flatten(1) for module in middle):  # (40, 360)
        torch.testing.assert_close(wide @ wide.T, torch.eye(40), atol=1e-5, rtol=0)
    assert len(middle) == 2 and not last.weight.any() and not first.bias.any()


def test_batch_norm_follows_the_middle_convolutions_and_forgets_slowly() -> None:
    torch.manual_seed(0)
    network = DnCNN(channels=1, depth=3, width=4)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.eps for norm in norms] == [1e-4]
    images = torch.rand(8, 1, 6, 6)
    with torch.no_grad():
        before = network.noise[2](network.noise[1](network.noise[0](images)))
        network.train()(images)
    torch.testing.assert_close(norms[0].running_mean, 0.1 * before.mean((0, 2, 3)))  # .9 of the past, which is 0


def test_what_it_predicts_is_subtracted() -> None:
    network = DnCNN(channels=1, depth=2, width=1)
    first, last = convolutions(network)
    with torch.no_grad():
        first.weight.zero_()[0, 0, 1, 1] = 2.0  # the pixel itself
        first.bias.fill_(-0.5)
        last.weight.zero_()[0, 0, 1, 1] = 3.0
    images = torch.tensor([[[[0.0, 0.25, 0.5], [0.75, 1.0, -1.0]]]])
    expected = images - 3 * (2 * images - 0.5).relu()
    torch.testing.assert_close(network(images), expected)


def test_a_pixel_reaches_as_far_as_there_are_convolutions() -> None:
    torch.manual_seed(0)
    network = DnCNN(channels=1, depth=5, width=8).eval()
    nn.init.normal_(convolutions(network)[-1].weight)
    images = torch.rand(1, 1, 21, 21)
    moved = images.clone()
    moved[..., 10, 10] += 1.0
    with torch.no_grad():
        changed = (network(moved) != network(images))[0, 0].nonzero()
    assert changed.amin(0).tolist() == [5, 5] and changed.amax(0).tolist() == [15, 15]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 1}, "depth must be at least 2.*got depth=1"),
        ({"width": 0}, "channels and width must be at least 1, got channels=3 and width=0"),
        ({"channels": 0}, "got channels=0 and width=64"),
    ],
)
def test_sizes_that_make_no_network(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DnCNN(**options)
