"""SurFree on victims whose nearest adversarial point has a closed form."""

import math

import pytest
import torch
from scipy.fft import dctn

from tests.attacks import label_promises
from tests.attacks.label_promises import GREY, HALF_SPACE, IMAGES, LABELS, NET
from tests.victims import Logging
from zeroth.attacks import SurFree
from zeroth.attacks.label.starts import Pool
from zeroth.attacks.label.surfree import dct_matrix, low_frequencies
from zeroth.oracles import LabelOracle

HIGH = torch.kron(dct_matrix(8), dct_matrix(8)).double()[~low_frequencies(8, 8, 0.5).flatten()]
CONSTANT = {"weights": "constant", "frequencies": 1.0, "orthogonal": 20}


@pytest.mark.parametrize("angles", [1, 3])
def test_the_minimal_distance_of_a_linear_victim_is_reached(angles):
    """Each circle ends at the nearest point of its plane, so 63 directions in turn leave nothing but rounding."""
    attack = SurFree(**CONSTANT, angles=angles)
    result = attack(LabelOracle(HALF_SPACE), GREY.expand(2, -1, -1, -1), torch.zeros(2).long(), budget=1500, seed=0)
    ratio = result.distance / 0.5
    assert bool((ratio > 1 - 1e-5).all()) and bool((ratio < 1.03).all()), ratio


def test_the_transform_is_orthonormal_and_scipys():
    images = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    down, across = dct_matrix(7), dct_matrix(5)
    assert torch.allclose(down @ down.T, torch.eye(7), atol=1e-6)
    ours = down @ images @ across.T
    assert torch.allclose(ours, torch.from_numpy(dctn(images.numpy(), axes=(2, 3), norm="ortho")), atol=1e-5)
    assert torch.allclose(down.T @ ours @ across, images, atol=1e-5)


def test_low_frequencies_are_those_of_the_first_diagonals():
    assert low_frequencies(4, 4, 0.4).int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert int(low_frequencies(28, 28, 0.5).sum()) == 392 and int(low_frequencies(1, 1, 0.5).sum()) == 1
    assert bool(low_frequencies(3, 5, 1.0).all())


def test_what_is_asked_is_that_of_the_slow_reference():
    """Replay the log of one image: directions, angles on both sides, growth, bisection, new point."""
    victim, clean = Logging(HALF_SPACE), GREY.flatten().double()
    attack = SurFree(weights="constant", frequencies=0.5, orthogonal=6, angles=2, theta=20.0, rho=0.8, tolerance=0.003)
    attack(LabelOracle(victim), GREY, torch.zeros(1).long(), budget=500, seed=0)
    asked, answers = victim.asked.flatten(1).double() - clean, (HALF_SPACE(victim.asked).argmax(1) == 1).tolist()
    # The start: its last adversarial point is the nearest. Where the walk begins is where its first angle fits.
    theta, lasts, turns, sides = 20.0, [], 0, set()
    for begin in range(40, 100):
        met = [number for number in range(begin) if answers[number]]
        point = asked[min(met, key=lambda number: float(asked[number].norm()))]
        cosine = float(asked[begin] @ point / asked[begin].norm() / point.norm())
        if abs(cosine - math.cos(math.radians(theta))) < 1e-5:
            break
    at = begin
    while at < 480:
        size, radial = point.norm(), point / point.norm()
        # The first point is at theta_max on the positive side and tells the direction.
        first = asked[at] - (asked[at] @ radial) * radial
        direction = first / first.norm()
        assert all(abs(float(direction @ last)) < 1e-4 for last in lasts)
        # What was drawn has low frequencies only: the high ones of the direction come from u and the last directions.
        high = HIGH @ torch.stack([radial, *lasts]).T
        assert torch.allclose(high @ torch.linalg.lstsq(high, HIGH @ direction).solution, HIGH @ direction, atol=1e-4)
        lasts = [*lasts, direction][-6:]

        def there(angle, size=size, radial=radial, direction=direction):
            angle = math.radians(angle)
            return size * math.cos(angle) * (radial * math.cos(angle) + direction * math.sin(angle))

        def met(angle, there=there):
            nonlocal at
            assert torch.allclose(asked[at], there(angle), atol=2e-5), (at, angle)
            at += 1
            return answers[at - 1]

        inner = next((angle for angle in (theta, -theta, theta / 2, -theta / 2) if met(angle)), None)
        if inner is None:
            theta *= 0.8
            continue
        side, step = math.copysign(1, inner), theta / 2
        outer = inner + side * step
        while abs(inner) >= theta and abs(outer) < 90 and met(outer):
            inner, outer = outer, outer + side * step
        bounds = [math.cos(math.radians(min(90, abs(outer)))), math.cos(math.radians(inner))]
        while bounds[1] - bounds[0] > 0.003:
            middle = sum(bounds) / 2
            bounds[met(side * math.degrees(math.acos(middle)))] = middle
        point = there(side * math.degrees(math.acos(bounds[1])))
        theta, turns = min(45.0, theta / 0.8), turns + 1
        sides.add(side)
    assert turns >= 10 and sides == {-1.0, 1.0}


@pytest.mark.parametrize("options", [{}, {"weights": "constant", "angles": 3}], ids=["ours", "paper"])
@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101, 1000])
def test_the_ledger_agrees_with_the_victims_own_count(budget, options):
    label_promises.counts_exactly(SurFree(**options), budget, set())


def test_a_budget_that_ends_a_search_keeps_the_best():
    label_promises.keeps_the_best(SurFree(), range(100, 130, 3))


def test_targets_are_reached_from_the_pool():
    targets = (LABELS + 1) % 5
    images = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    attack = SurFree(tries=10)
    attack.pool = Pool(NET(images).argmax(1), images.__getitem__)
    result = attack(LabelOracle(NET), IMAGES, LABELS, targets, budget=500, seed=0)
    assert bool(result.success.all()) and torch.equal(NET(result.adversarial).argmax(1), targets)


def test_draws_belong_to_the_image():
    label_promises.attacks_each_image_alone(SurFree(), 300)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 2), (3, 1, 1), (3, 4, 4), (1, 2, 5)])
@pytest.mark.parametrize("weights", ["constant", "tanh"])
def test_odd_images_end(shape, weights):
    ends = {"no start", "converged" if shape == (1, 1, 1) else "budget"}  # one pixel has no second direction
    label_promises.ends_on_odd_images(SurFree(weights=weights), shape, 200, ends)


def test_a_constant_victim_is_reported():
    label_promises.reports_a_constant_victim(SurFree(tries=20), 21)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tries": 0}, "tries must be at least 1, got 0"),
        ({"angles": 0}, "angles must be at least 1, got 0"),
        ({"orthogonal": -1}, "orthogonal must be at least 0, got -1"),
        ({"weights": "sign"}, "weights must be 'constant' or 'tanh', got 'sign'"),
        ({"frequencies": 1.5}, r"frequencies must lie in \(0, 1\], got 1.5"),
        ({"theta": 60.0}, r"theta must lie in \(0, 45\], got 60.0"),
        ({"tolerance": 0}, r"tolerance must lie in \(0, 1\], got 0"),
        ({"rho": 1}, r"rho must lie in \(0, 1\), a factor of theta, got 1"),
        ({"start_cells": []}, "start_cells must be sides of grids >= 1"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SurFree(**options)
