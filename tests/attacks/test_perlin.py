"""Perlin noise against a slow reference."""

import math

import pytest
import torch

from zeroth.attacks.label.perlin import perlin_directions
from zeroth.oracles import ImageStreams

ROWS = torch.tensor([0, 1])


def draw_from(seed: int):
    streams = ImageStreams(seed, [0, 1])
    return lambda shape: streams.randn(ROWS, shape)


@pytest.mark.parametrize(("image", "frequency"), [((2, 9, 7), 3), ((1, 28, 28), 5), ((1, 1, 1), 3), ((3, 4, 4), 9)])
def test_it_is_perlins_noise(image, frequency):
    """Corner by corner and pixel by pixel, as Perlin writes it: ramps, lerped along x, then along y."""
    found = perlin_directions(draw_from(3), 2, image, frequency)
    gradients = draw_from(3)((2, image[0], frequency + 1, frequency + 1, 2)).double()
    gradients = gradients / gradients.norm(dim=-1, keepdim=True)
    assert found.shape == (2, 2, *image)

    def lerp(a, b, t):
        return a + (6 * t**5 - 15 * t**4 + 10 * t**3) * (b - a)

    _, height, width = image
    expected = torch.zeros(2, 2, *image, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) * frequency / height, (x + 0.5) * frequency / width
            i, j = math.floor(v), math.floor(u)
            v, u = v - i, u - j
            ramp = {
                (a, b): gradients[:, :, :, i + a, j + b, 0] * (v - a) + gradients[:, :, :, i + a, j + b, 1] * (u - b)
                for a in (0, 1)
                for b in (0, 1)
            }
            expected[..., y, x] = lerp(lerp(ramp[0, 0], ramp[0, 1], u), lerp(ramp[1, 0], ramp[1, 1], u), v)
    size = expected.flatten(2).norm(dim=2)
    assert torch.allclose(found.double(), expected / size.reshape(2, 2, 1, 1, 1), atol=1e-5)


def test_it_is_of_low_frequency_and_every_pixel_moves():
    """At 4 cells a side of 32 pixels nearly all energy lies below 8 waves a side."""
    noise = perlin_directions(draw_from(0), 200, (1, 32, 32), 4)[:, :, 0]
    power = torch.fft.fft2(noise).abs().square().sum((0, 1))
    wave = torch.fft.fftfreq(32, 1 / 32).abs()
    low = (wave.unsqueeze(1) <= 8) & (wave <= 8)
    assert float(power[low].sum() / power.sum()) > 0.97 and float(low.float().mean()) < 0.3
    assert torch.allclose(noise.flatten(2).norm(dim=2), torch.ones(2, 200), atol=1e-5)
    assert float(noise.std((0, 1)).min()) > 0.1 * float(noise.std())
