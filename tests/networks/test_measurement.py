"""Gaussian measurements: the matrix's moments, its seed, the adjoint, the range of what comes back."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zeroth.networks import GaussianMeasurement

MEASUREMENT = GaussianMeasurement()
D, M = 784, 576


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


def test_the_entries_are_normal_of_variance_one_by_m() -> None:
    entries = MEASUREMENT.matrix.double() * math.sqrt(M)
    assert entries.shape == (D, M)
    number = D * M
    # Six standard errors of the first, second and fourth moment of a standard normal: 0, 1 and 3.
    assert abs(entries.mean()) < 6 / math.sqrt(number)
    assert abs(entries.square().mean() - 1) < 6 * math.sqrt(2 / number)
    assert abs(entries.pow(4).mean() - 3) < 6 * math.sqrt(96 / number)


def test_the_back_projection_is_the_image_and_noise_of_the_sampling() -> None:
    """E[A A^T x] = x, and the noise has total variance (D + 1) / M times the image's square."""
    image = images(1)
    back = torch.cat([(m := GaussianMeasurement(seed=seed)).back_project(m.measure(image)) for seed in range(40)])
    noise, square = (back - image).flatten(1).double(), image.square().sum().item()
    assert noise.square().sum(1).mean() == pytest.approx((D + 1) / M * square, rel=0.05)
    assert noise.mean(0).square().sum() == pytest.approx((D + 1) / M * square / 40, rel=0.15)


def test_back_projection_is_the_adjoint_of_measuring() -> None:
    small = GaussianMeasurement(image_shape=(3, 4, 5), measurements=7, seed=3).double()
    x = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    y = torch.rand(2, 7, dtype=torch.float64)
    assert small.measure(x).shape == (2, 7) and small.back_project(y).shape == (2, 3, 4, 5)
    left = (small.measure(x) * y).sum(1)
    torch.testing.assert_close(left, (x * small.back_project(y)).flatten(1).sum(1))
    # One measurement by hand: the sum of the pixels in the order C, H, W.
    first = sum(x[0].flatten()[i] * small.matrix[i, 0] for i in range(60))
    torch.testing.assert_close(small.measure(x)[0, 0], first)


def test_the_matrix_belongs_to_the_seed_alone_and_is_in_no_file_of_weights() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = GaussianMeasurement()
    assert torch.equal(torch.get_rng_state(), before)  # it draws nothing that others would have drawn
    assert torch.equal(again.matrix, MEASUREMENT.matrix)
    assert not torch.equal(GaussianMeasurement(seed=1).matrix, MEASUREMENT.matrix)
    assert not MEASUREMENT.state_dict() and not list(MEASUREMENT.parameters())
    assert [name for name, _ in MEASUREMENT.named_buffers()] == ["matrix"]  # and so moves by .to()


def test_each_image_comes_back_in_its_own_range() -> None:
    batch = images(3)
    batch[1] = 0.0
    batch[2] *= 1e-3
    back = MEASUREMENT(batch).flatten(1)
    assert back.amin(1).tolist() == [0, 0, 0] and back.amax(1).tolist() == [1, 0, 1]
    plain = MEASUREMENT.back_project(MEASUREMENT.measure(batch))[0]
    torch.testing.assert_close(back[0].view(1, 28, 28), (plain - plain.min()) / (plain.max() - plain.min()))
    for row in range(3):
        torch.testing.assert_close(MEASUREMENT(batch[row : row + 1]).flatten(), back[row], atol=1e-5, rtol=0)


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_brightness_does_not_matter(scale: float, seed: int) -> None:
    image = images(1, seed)
    torch.testing.assert_close(MEASUREMENT(scale * image), MEASUREMENT(image), atol=1e-5, rtol=0)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="measurements must be at least 1, got 0"):
        GaussianMeasurement(measurements=0)
    with pytest.raises(ValueError, match=r"shape \(B, 1, 28, 28\), got \(2, 1, 8, 98\)"):  # as many pixels
        MEASUREMENT(torch.rand(2, 1, 8, 98))
