"""The attack on reconstructors against closed forms, and what it asks.

Shapes: B inputs of 1 x 2 x 3 pixels.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.victims import Logging
from zeroth.defenses.reconstruction_attack import mean_answer, reconstruction_pgd
from zeroth.oracles import ImageGradientOracle, ImageOracle, ImageStreams

B, SHAPE = 5, (1, 2, 3)
ROWS = torch.arange(B)
INPUTS = 0.4 + 0.2 * torch.rand(B, *SHAPE, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(6, generator=torch.Generator().manual_seed(1))


class Sum(nn.Module):
    """Answers one pixel, a weighted sum of the input's: its gradient has one direction."""

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ WEIGHT).reshape(-1, 1, 1, 1)


class Curved(nn.Module):
    """Answers 1 x 2 x 2 pixels, smooth and not linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Tanh(), nn.Unflatten(1, (1, 2, 2)))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def streams(seed: int = 3) -> ImageStreams:
    return ImageStreams(seed, ROWS + 10)


@pytest.mark.parametrize(("far", "sign"), [(-50.0, 1.0), (50.0, -1.0)])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_on_a_linear_reconstructor_it_walks_in_a_plane(far, sign, steps):
    """Away from the true value along the weights, in the plane of start and end: steps of 2 / T of the radius, back
    onto the circle wherever one leaves it."""
    epsilon, box = 0.2, Logging(Sum())
    oracle = ImageGradientOracle(box, max_batch=2)
    truth = torch.full((B, 1, 1, 1), far)
    found = reconstruction_pgd(oracle, INPUTS, truth, epsilon=epsilon, streams=streams(), steps=steps)
    start, goal = streams().sphere(ROWS, (1, *SHAPE))[:, 0].flatten(1), sign * WEIGHT / WEIGHT.norm()
    for moved, begun in zip((found - INPUTS).flatten(1), start, strict=True):
        across = begun - (begun @ goal) * goal
        side, along = float(across.norm()), float(begun @ goal)
        for _ in range(steps):
            along += 2 / steps
            outside = max(1.0, math.hypot(side, along))
            side, along = side / outside, along / outside
        expected = epsilon * (along * goal + side * across / across.norm())
        torch.testing.assert_close(moved, expected, atol=2e-6, rtol=0)
    assert oracle.queries == box.seen == steps * B


def test_forty_steps_come_near_the_worst_of_the_ball():
    """The largest answer in the ball is w x + epsilon |w|; the walk of total length 2 epsilon gets most of it."""
    truth = torch.full((B, 1, 1, 1), -50.0)
    found = reconstruction_pgd(ImageGradientOracle(Sum()), INPUTS, truth, epsilon=0.2, streams=streams())
    gain = ((found - INPUTS).flatten(1) @ WEIGHT) / (0.2 * WEIGHT.norm())
    assert float(gain.min()) > 0.9 and float(gain.max()) <= 1 + 1e-5


@settings(max_examples=25, deadline=None)
@given(
    epsilon=st.floats(0.01, 3), seed=st.integers(0, 1000), steps=st.integers(1, 4), noises=st.sampled_from([0, 1, 3])
)
def test_nothing_asked_leaves_the_ball_or_the_pixels_and_all_is_counted(epsilon, seed, steps, noises):
    generator = torch.Generator().manual_seed(seed)
    inputs, truth = torch.rand(B, *SHAPE, generator=generator), torch.rand(B, 1, 2, 2, generator=generator)
    box = Logging(Curved())
    oracle = ImageGradientOracle(box, clamp=False, max_batch=7)
    noise = {"sigma": 0.0} if noises == 0 else {"sigma": 0.5, "noises": noises}
    found = reconstruction_pgd(oracle, inputs, truth, epsilon=epsilon, streams=streams(seed), steps=steps, **noise)
    assert float((found - inputs).flatten(1).norm(dim=1).max()) <= epsilon * (1 + 1e-5)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert oracle.queries == box.seen == B * steps * max(1, noises)
    if noises == 0:
        asked = box.asked.view(steps, B, *SHAPE)  # the copies of a chunk are in order
        assert float((asked - inputs).flatten(2).norm(dim=2).max()) <= epsilon * (1 + 1e-5)
        assert float(asked.min()) >= 0 and float(asked.max()) <= 1


def test_its_gradient_is_that_of_the_mean_answers_error():
    """One step over three draws of noise, in batches that hold two inputs each, beside autograd's."""
    box, truth = Curved(), torch.rand(B, 1, 2, 2, generator=torch.Generator().manual_seed(4))
    epsilon, sigma = 0.1, 0.3
    oracle = ImageGradientOracle(box, clamp=False, max_batch=7)
    found = reconstruction_pgd(
        oracle, INPUTS, truth, epsilon=epsilon, streams=streams(), steps=1, sigma=sigma, noises=3
    )
    drawn = streams()
    start = INPUTS + epsilon * drawn.sphere(ROWS, (1, *SHAPE))[:, 0]
    noise = sigma * drawn.randn(ROWS, (3, *SHAPE))
    point = start.clone().requires_grad_()
    mean = torch.stack([box(point + noise[:, k]) for k in range(3)]).mean(0)
    (gradient,) = torch.autograd.grad((mean - truth).square().mean((1, 2, 3)).sum(), point)
    moved = (start - INPUTS + 2 * epsilon * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).flatten(1)
    expected = moved * (epsilon / moved.norm(dim=1, keepdim=True)).clamp_max(1)
    torch.testing.assert_close((found - INPUTS).flatten(1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fresh", [True, False])
def test_noise_is_drawn_at_each_step_or_once(fresh):
    box, truth = Logging(Curved()), torch.zeros(B, 1, 2, 2)
    oracle = ImageGradientOracle(box, clamp=False)
    reconstruction_pgd(oracle, INPUTS, truth, epsilon=0.1, streams=streams(), steps=3, sigma=0.3, noises=2, fresh=fresh)
    asked = box.asked.view(3, B, 2, *SHAPE)
    apart = asked[:, :, 1] - asked[:, :, 0]  # the point of a step drops out
    assert float(apart.std()) == pytest.approx(0.3 * 2**0.5, rel=0.25)
    assert torch.allclose(apart[0], apart[1], atol=1e-6) != fresh and torch.allclose(apart[0], apart[2]) != fresh


def test_what_an_input_becomes_is_its_own_affair():
    truth = torch.zeros(B, 1, 2, 2)
    noise = {"epsilon": 0.3, "steps": 4, "sigma": 0.2, "noises": 2}
    whole = reconstruction_pgd(ImageGradientOracle(Curved(), clamp=False), INPUTS, truth, streams=streams(), **noise)
    alone = reconstruction_pgd(
        ImageGradientOracle(Curved(), clamp=False), INPUTS[2:3], truth[2:3], streams=ImageStreams(3, [12]), **noise
    )
    torch.testing.assert_close(whole[2:3], alone, atol=1e-6, rtol=0)


def test_a_radius_of_zero_asks_nothing():
    oracle = ImageGradientOracle(Sum())
    assert torch.equal(reconstruction_pgd(oracle, INPUTS, INPUTS, epsilon=0.0, streams=streams()), INPUTS)
    assert oracle.queries == 0


def test_a_defended_output_is_the_mean_over_noise():
    """Of a linear box it is the answer at the mean of the noisy inputs."""
    box = Logging(Sum())
    oracle = ImageOracle(box, clamp=False, max_batch=3)
    found = mean_answer(oracle, INPUTS, streams=streams(), sigma=0.5, noises=8)
    drawn = streams()
    noise = torch.stack([drawn.randn(ROWS, SHAPE) for _ in range(8)]).mean(0)
    torch.testing.assert_close(found, Sum()(INPUTS + 0.5 * noise), atol=1e-5, rtol=0)
    assert oracle.queries == box.seen == 8 * B
    torch.testing.assert_close(mean_answer(oracle, INPUTS), Sum()(INPUTS))
    assert oracle.queries == 9 * B


def test_bad_input_is_named():
    free, truth = ImageGradientOracle(Sum(), clamp=False, max_batch=4), torch.zeros(B, 1, 1, 1)
    for oracle, inputs, arguments, message in (
        (free, INPUTS, {"epsilon": -1.0}, r"epsilon must be 0 or more in \[0, 1\] pixels, got -1.0"),
        (free, INPUTS, {"steps": 0}, "steps must be at least 1, got 0"),
        (free, INPUTS * 3, {}, r"inputs must be in \[0, 1\], got 1.2"),
        (free, INPUTS, {"sigma": 0.1, "noises": 5}, "noises=5 copies .* takes 4 images at once: raise max_batch"),
        (free, INPUTS, {"noises": 2}, r"noises must be at least 1, and 1 without noise \(sigma = 0\), got 2"),
        (free, INPUTS, {"sigma": -0.1}, r"sigma must be 0 or more"),
        (ImageGradientOracle(Sum()), INPUTS, {"sigma": 0.1}, "make it with clamp=False"),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruction_pgd(oracle, inputs, truth, **{"epsilon": 0.1, "streams": streams(), **arguments})
        assert oracle.queries == 0
    with pytest.raises(ValueError, match="streams must be given where sigma > 0"):
        mean_answer(free, INPUTS, sigma=0.1)
