"""What ZOO is made of: spaces, draws, derivatives with their noise, solvers, each against a slow or closed form."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.victims import random_linear
from zeroth.attacks import ZOO
from zeroth.attacks.score.attack_space import AttackSpace, draw_coordinates
from zeroth.attacks.score.coordinate_solvers import CoordinateSolver
from zeroth.attacks.score.coordinate_variables import to_pixels, to_variable
from zeroth.attacks.score.zoo import _Descent
from zeroth.oracles import ScoreOracle

CPU = torch.device("cpu")
SHAPE = (2, 9, 7)
# Half a unit in the last place of a float32 between 8 and 16.
ROUNDING = 2.0**-21


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 13), st.integers(1, 13))
def test_a_coordinate_touches_the_pixels_that_upscaling_spreads_it_to(side, height, width):
    space = AttackSpace(side, (2, height, width), CPU)
    dense = space.upscale(torch.eye(space.size))  # (m, D)
    pixels, weights = space.touched(torch.arange(space.size).unsqueeze(0))
    rebuilt = torch.zeros_like(dense).scatter_(1, pixels[0], weights[0])
    assert torch.allclose(rebuilt, dense, atol=1e-6)
    images = torch.rand(3, *space.shape)
    expected = F.interpolate(images, size=(height, width), mode="bilinear").flatten(1)
    assert torch.allclose(images.flatten(1) @ dense, expected, atol=1e-5)
    assert space.whole == (side >= max(height, width))


def test_enlarging_keeps_the_picture():
    small, large = AttackSpace(4, (1, 32, 32), CPU), AttackSpace(8, (1, 32, 32), CPU)
    y = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    larger = small.enlarge(y, large)
    assert torch.equal(larger, F.interpolate(y.reshape(2, 1, 4, 4), size=(8, 8), mode="bilinear").flatten(1))
    assert (small.upscale(y) - large.upscale(larger)).abs().mean() < 0.03  # of pixels that spread by .3


def test_importance_against_a_slow_reference():
    space = AttackSpace(32, (3, 64, 64), CPU)
    y = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0]).reshape(
        2, 1, 1, 1
    )
    got = space.importance(y.flatten(1)).reshape(2, 3, 32, 32)
    for channel in range(3):
        for row in range(32):
            for column in range(32):
                top, left = row // 4 * 4, column // 4 * 4
                most = max(abs(float(v)) for v in y[0, channel, top : top + 4, left : left + 4].flatten())
                assert float(got[0, channel, row, column]) == pytest.approx(most / float(got_total(y[0])), rel=1e-4)
    assert torch.allclose(got[1], torch.tensor(1 / 3072))  # nothing has changed yet
    assert got.flatten(1).sum(1).tolist() == pytest.approx([1, 1], abs=1e-5)


def got_total(y: torch.Tensor) -> torch.Tensor:
    """Sum of the unnormalised importance: 16 coordinates share each region's maximum."""
    return 16 * y.abs().reshape(3, 8, 4, 8, 4).amax((2, 4)).sum()


def test_draws_are_without_replacement_and_follow_the_probabilities():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0])
    uniform = torch.rand(40_000, 4, generator=torch.Generator().manual_seed(0))
    drawn = draw_coordinates(uniform, 4, p.expand(40_000, 4))
    assert (drawn.sort(1).values == torch.arange(4)).all() and (drawn[:, 3] == 3).all()
    first = torch.bincount(drawn[:, 0], minlength=4) / 40_000
    assert torch.allclose(first, p, atol=0.01)  # four standard errors
    second = ((drawn[:, 0] == 0) & (drawn[:, 1] == 1)).float().mean()
    assert float(second) == pytest.approx(0.5 * 0.3 / 0.5, abs=0.01)
    plain = torch.bincount(draw_coordinates(uniform, 1)[:, 0]) / 40_000
    assert torch.allclose(plain, torch.tensor(0.25), atol=0.01)


class Halted(ZOO):
    """Opens its trial and stops there, so that a test may go on by hand."""

    def run(self, trial):
        self.descent = _Descent(self, trial)


def halted(net, images, **options):
    attack = Halted(**{"constant": 1.0, "coordinates": 10_000} | options)
    attack(ScoreOracle(net), images, net(images).argmax(1), budget=10**6, seed=0)
    attack.descent.trial.playing[:] = True  # leaving run gave it up
    return attack.descent


def measure(descent, y):
    """Ask all probes around y; return first and second derivatives (1, m), and the victim's loss as a function of y."""
    rows, space = torch.zeros(1, dtype=torch.int64), descent.spaces[0]
    descent.y[rows] = y
    point = to_pixels(descent.position(rows, space), descent.attack.variable).float().reshape(1, 1, *SHAPE)
    descent.value[rows] = descent.hinge(descent.trial.query(point, rows), rows)[:, 0]
    descent.search.iteration[rows] = 1  # as after an iterate
    coordinates = torch.arange(space.size).unsqueeze(0)
    answers = descent.trial.query(descent.probes(rows, space, coordinates), rows, 2 * space.size)
    return descent.derivatives(rows, space, coordinates, descent.hinge(answers, rows).unflatten(1, (-1, 2)))


def exact(descent, net, y):
    """The same derivatives by autograd in float64."""
    space, variable = descent.spaces[0], descent.attack.variable
    sign = 1 if int(descent.trial.goal.labels[0]) == 0 else -1

    def loss(y):
        image = descent.clean.double()
        z = to_variable(image, variable) + (
            y if space.whole else F.interpolate(y.reshape(1, *space.shape), size=SHAPE[1:], mode="bilinear").flatten(1)
        )
        x = z if variable == "box" else (1 + z.tanh()) / 2
        logits = net(x)[0]
        return (x - image).square().sum() + sign * (logits[0] - logits[1])

    y = y.double()
    gradient = torch.autograd.functional.jacobian(loss, y)
    return gradient, torch.autograd.functional.hessian(loss, y)[0, :, 0].diagonal().unsqueeze(0)


@pytest.mark.parametrize("side", [None, 4])
@pytest.mark.parametrize("variable", ["box", "tanh"])
def test_derivatives_and_their_noise_are_those_stated(variable, side):
    """The 2-class margin is linear in the pixels, so all that the differences miss is float32's rounding."""
    net = random_linear(2, math.prod(SHAPE))
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    y = 0.1 * torch.randn(1, AttackSpace(side, SHAPE, CPU).size, generator=torch.Generator().manual_seed(2))
    net.bias[0] += 11 - float(net(image) @ torch.tensor([1.0, -1.0], dtype=torch.float64))
    for h in (1e-4, 1e-2):
        descent = halted(net, image, variable=variable, spaces=None if side is None else [side], h=h)
        gradient, curvature = measure(descent, y)
        wanted, bend = exact(descent, net, y)
        weight = 3e-4 * 1e-4 / h * net.weight.diff(dim=0).abs().max() * (1 if side is None else 9)
        bound, second = 4 * ROUNDING / (2 * h) + weight, 8 * ROUNDING / h**2 + 4 * weight / h
        smooth = 0.0 if variable == "box" else 20 * h**2 * float(wanted.abs().max())  # the error O(h^2) of eq. 12
        assert (gradient - wanted).abs().max() <= bound + smooth
        assert (curvature - bend).abs().max() <= second + 100 * smooth
        if h == 1e-4:
            assert (gradient - wanted).abs().max() > bound / 30 and (curvature - bend).abs().max() > second / 30


def test_pixels_at_the_ends_of_the_box_have_their_slope_from_one_side():
    net = random_linear(2, math.prod(SHAPE))
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)).round()
    descent = halted(net, image, h=1e-2)
    gradient, curvature = measure(descent, torch.zeros(1, math.prod(SHAPE)))
    wanted, _ = exact(descent, net, torch.zeros(1, math.prod(SHAPE)))
    assert torch.allclose(gradient, wanted, atol=2e-3) and torch.equal(curvature, torch.full_like(curvature, 2))


def test_the_first_curvature_in_tanh_space_is_that_of_the_distortion():
    """The clean image and x(y = 0) differ by float32's last digits, which h = 1e-4 would make a curvature of -1,000."""
    net, zero = random_linear(2, math.prod(SHAPE)), torch.zeros(1, dtype=torch.int64)
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)).round() * 0.6 + 0.4  # .4 and 1
    descent = halted(net, image, variable="tanh", h=1e-4)
    space, coordinates = descent.spaces[0], torch.arange(math.prod(SHAPE)).unsqueeze(0)
    answers = descent.trial.query(descent.probes(zero, space, coordinates), zero, 2 * space.size)
    _, curvature = descent.derivatives(zero, space, coordinates, descent.hinge(answers, zero).unflatten(1, (-1, 2)))
    assert torch.allclose(curvature, 2 * ((1 - (2 * image.double() - 1) ** 2) / 2).flatten(1) ** 2, atol=1e-5)


def test_adam_against_a_slow_reference():
    generator = torch.Generator().manual_seed(0)
    solver = CoordinateSolver("adam", learning_rate=0.03, size=3, coordinates=7, device=CPU)
    moments = {(row, i): [0.0, 0.0, 0] for row in range(3) for i in range(7)}
    for turn in range(40):
        rows = torch.tensor([[0, 2], [0, 1, 2], [1]][turn % 3])
        coordinates = torch.stack([torch.randperm(7, generator=generator)[:4] for _ in rows])
        gradient = torch.randn(len(rows), 4, generator=generator)
        known = torch.rand(len(rows), 4, generator=generator) < 0.8
        change = solver.move(rows, coordinates, gradient, torch.ones(len(rows), 4), known)
        for n, row in enumerate(rows.tolist()):
            for q, i in enumerate(coordinates[n].tolist()):
                wanted = 0.0
                if known[n, q]:
                    m, v, t = moments[row, i]
                    g, t = float(gradient[n, q]), t + 1
                    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                    moments[row, i] = [m, v, t]
                    wanted = -0.03 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
                assert float(change[n, q]) == pytest.approx(wanted, rel=1e-4, abs=1e-7)
    solver.reset(torch.tensor([1]))
    assert solver.steps.sum(1).tolist() == [sum(moments[r, i][2] for i in range(7)) * (r != 1) for r in range(3)]


def test_newton_solves_a_quadratic_in_one_step_and_guards_flat_and_concave_coordinates():
    rows, coordinates = torch.tensor([0]), torch.arange(5).unsqueeze(0)
    solver = CoordinateSolver("newton", learning_rate=1.0, size=1, coordinates=5, device=CPU)
    gradient = torch.tensor([[3.0, -1.0, 2.0, 2.0, 7.0]])
    curvature = torch.tensor([[6.0, 0.5, 0.01, -5.0, 1.0]])
    known = torch.tensor([[True, True, True, True, False]])
    change = solver.move(rows, coordinates, gradient, curvature, known)
    assert change[0].tolist() == pytest.approx([-0.5, 2.0, -20.0, -2.0, 0.0])
    mixed = CoordinateSolver("newton_adam", learning_rate=1.0, size=1, coordinates=5, device=CPU)
    change = mixed.move(rows, coordinates, gradient, curvature, known)
    assert change[0].tolist() == pytest.approx([-0.5, 2.0, -20.0, -1.0, 0.0])  # Adam's first step is eta times a sign
    assert mixed.steps[0].tolist() == [0, 0, 0, 1, 0]
