"""The digits victim: its size, its pixel statistics."""

import math

from sklearn.datasets import load_digits

from tests.networks.counting import conv, dense, parameters
from zeroth.networks import DigitsCNN


def test_parameters() -> None:
    expected = conv(1, 32) + conv(32, 32) + conv(32, 64) + dense(64 * 2 * 2, 128) + dense(128, 10)
    assert parameters(DigitsCNN()) == expected


def test_statistics_are_those_of_the_images() -> None:
    pixels = load_digits().images / 16
    assert math.isclose(DigitsCNN().normalize.mean.item(), pixels.mean(), abs_tol=2e-3)
    assert math.isclose(DigitsCNN().normalize.std.item(), pixels.std(), abs_tol=2e-3)
