"""The small MNIST victim: its size."""

import pytest

from tests.networks.counting import dense, parameters
from zeroth.networks import LeNet


def conv5(before: int, after: int) -> int:
    """Parameters of a 5x5 convolution with bias."""
    return 25 * before * after + after


@pytest.mark.parametrize(("channels", "hidden", "classes"), [((20, 50), 500, 10), ((3, 4), 7, 5)])
def test_parameters(channels: tuple[int, int], hidden: int, classes: int) -> None:
    # 28 -4 -> 24, pool -> 12, -4 -> 8, pool -> 4
    head = dense(channels[1] * 4 * 4, hidden) + dense(hidden, classes)
    network = LeNet(channels=channels, hidden=hidden, num_classes=classes)
    assert parameters(network) == conv5(1, channels[0]) + conv5(*channels) + head


def test_the_defaults_are_those_of_the_program() -> None:
    assert parameters(LeNet()) == 520 + 25_050 + 400_500 + 5_010
