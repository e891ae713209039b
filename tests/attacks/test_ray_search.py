"""Bracketing, bisection and starts on a linear victim, where g(theta) has a closed form."""

import pytest
import torch

from tests.victims import Linear, Logging
from zeroth.attacks.attack import Attack
from zeroth.attacks.label.ray_search import along, ask, bisect, bracket, lengths
from zeroth.attacks.label.starts import Pool, find_starts
from zeroth.oracles import LabelOracle

D = 64
WEIGHT = torch.randn(D, generator=torch.Generator().manual_seed(3))
WEIGHT = WEIGHT / WEIGHT.norm()
SHAPE = (1, 8, 8)


def half_space(distance: float) -> Linear:
    """Class 0 at the grey image, whose boundary lies ``distance`` away along the weight."""
    bias = -(0.5 * WEIGHT.sum() + distance)
    return Linear(torch.stack([torch.zeros(D), WEIGHT]), torch.stack([torch.zeros(()), bias]))


class Probe(Attack):
    """Runs a function over the trial."""

    oracle_type = LabelOracle
    norm = "l2"
    stop_at_success = False

    def __init__(self, function, norm="l2"):
        self.function, self.norm = function, norm

    def run(self, trial):
        self.out = self.function(trial)


def probe(function, victim, count=3, budget=1000, targets=None):
    attack = Probe(function)
    images = torch.full((count, *SHAPE), 0.5)
    result = attack(LabelOracle(victim), images, torch.zeros(count).long(), targets, budget=budget, seed=0)
    return attack.out, result


def directions(count):
    noise = torch.randn(count, D, generator=torch.Generator().manual_seed(5)) * 0.3 + WEIGHT
    return (noise / noise.norm(dim=1, keepdim=True)).reshape(count, *SHAPE)


@pytest.mark.parametrize("factor", [0.7, 0.99, 1.02, 1.4])
@pytest.mark.parametrize("growth", [1.0, 2.0])
def test_bracketing_and_bisection_reach_the_closed_form(factor, growth):
    victim, theta, tolerance = Logging(half_space(0.4)), directions(3), 1e-4
    true = 0.4 / (theta.flatten(1) @ WEIGHT)

    def search(trial):
        rows = trial.active
        place, radius = along(trial, rows, theta), factor * true
        met = ask(trial, rows, place(rows, radius))
        low, high = bracket(trial, rows, place, radius, met, step=0.01, growth=growth, limit=10.0)
        return met, low, high, *bisect(trial, rows, place, low, high, tolerance)

    (met, low, high, below, above), result = probe(search, victim)
    assert bool((met == (factor > 1)).all()) and bool(((low < true) & (true <= high)).all())
    assert bool(((below < true + 1e-6) & (true - 1e-6 <= above) & (above - below <= tolerance + 1e-6)).all())
    assert torch.allclose(result.distance, above, atol=1e-6)
    assert victim.seen == int(result.queries.sum())
    if growth == 1:  # the widest of a bracket is one step of 1 %
        assert bool((high / low < 1.0102).all())
    else:  # the steps grow: 30 % take 5 of them, not 30
        bisections = ((high - low) / tolerance).log2().ceil()
        assert bool((result.queries <= 2 + 6 + bisections).all())


def test_a_bisection_halves_ragged_widths_and_counts_them():
    theta = directions(3)
    true = 0.2 / (theta.flatten(1) @ WEIGHT)
    tolerance = torch.tensor([0.1, 0.01, 1.0])

    def search(trial):
        rows = trial.active
        return bisect(trial, rows, along(trial, rows, theta), torch.zeros(3), torch.full((3,), 0.8), tolerance)

    (low, high), result = probe(search, half_space(0.2))
    assert result.queries.tolist() == [1 + 3, 1 + 7, 1]  # .8 / 2^3 = .1; .8 / 2^7 < .01; .8 < 1
    assert bool(((low < true) & (true <= high))[:2].all())


def test_a_bisection_ends_where_float32_does():
    theta = directions(1)

    def search(trial):
        rows = trial.active
        return bisect(trial, rows, along(trial, rows, theta), torch.zeros(1), torch.ones(1), 0.0)

    (low, high), result = probe(search, half_space(0.4), count=1)
    assert int(result.queries) < 26 and float(high - low) < 1e-6


def test_a_budget_that_ends_inside_a_bisection_keeps_the_best_point():
    theta = directions(1)
    true = float(0.4 / (theta.flatten(1) @ WEIGHT))

    def search(trial):
        rows = trial.active
        return bisect(trial, rows, along(trial, rows, theta), torch.zeros(1), torch.ones(1), 1e-6)

    (_, high), result = probe(search, half_space(0.4), count=1, budget=6)
    assert int(result.queries) == 6 and result.reason == ["budget"]
    width = 2.0**-5
    assert true <= float(result.distance) <= true + width and float(result.distance) == pytest.approx(float(high))


def test_a_ray_without_a_boundary_ends_at_the_limit():
    theta = -directions(2)  # away from the other class

    def search(trial):
        rows = trial.active
        low, high = bracket(
            trial,
            rows,
            along(trial, rows, theta),
            torch.ones(2),
            torch.zeros(2).bool(),
            step=0.01,
            growth=2.0,
            limit=5.0,
        )
        before = trial.ledger.queries.clone()
        bisect(trial, rows, along(trial, rows, theta), low, high, 1e-3)
        return low, high, before

    (low, high, before), result = probe(search, half_space(0.4), count=2)
    assert bool(high.isinf().all()) and low.tolist() == [5.0, 5.0] and torch.equal(before, result.queries)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("clip", [False, True])
def test_the_start_is_the_nearest_of_its_directions(norm, clip):
    victim = Logging(half_space(0.4))
    found, result = probe(
        lambda trial: find_starts(trial, trial.active, norm=norm, tries=40, clip=clip, tolerance=0.001), victim, count=4
    )
    assert victim.seen == int(result.queries.sum()) < 4 * 130
    assert torch.allclose(lengths(found.directions, norm).flatten(), torch.ones(4), atol=1e-5)
    if clip:  # such directions have their boundary inside the unit cube
        true = 0.4 / (found.directions.flatten(1) @ WEIGHT)
        assert torch.allclose(found.high, true, rtol=0.002)
        tried = torch.cat(victim.batches)[4:].flatten(1) - 0.5  # the whole request of the first directions
        first = tried[:10] / lengths(tried[:10].reshape(-1, *SHAPE), norm).flatten(1)
        reach = 0.4 / (first @ WEIGHT)
        assert float(found.high[0]) <= float(reach[reach > 0].min()) * 1.002


def test_an_image_without_a_start_is_told_apart_and_costs_its_tries():
    found, result = probe(
        lambda trial: find_starts(trial, trial.active, norm="l2", tries=25, cells=(4, 2)), half_space(1e6), count=2
    )
    assert bool(found.high.isinf().all()) and result.queries.tolist() == [26, 26] and not result.success.any()


@pytest.mark.parametrize("budget", [1, 2, 7, 11, 12, 30])
def test_starts_end_with_the_budget(budget):
    victim = Logging(half_space(0.4))
    _, result = probe(lambda trial: find_starts(trial, trial.active, norm="l2", tries=40), victim, budget=budget)
    assert result.queries.tolist() == [budget] * 3 and victim.seen == 3 * budget


def test_a_pool_gives_images_of_the_target_class_in_their_order():
    """Class 1 beyond the boundary: its nearest image wins, and only as many are asked as there are."""
    steps = torch.tensor([0.9, 0.6, 0.8])
    images = 0.5 + steps.reshape(3, 1, 1, 1) * WEIGHT.reshape(1, *SHAPE)
    pool = Pool(torch.tensor([1, 1, 0]), images.clamp(0, 1).__getitem__)
    picked, there = pool.of(torch.tensor([1, 0]), 0, 2)
    assert (
        there.tolist() == [2, 1]
        and torch.equal(picked[0], images.clamp(0, 1)[:2])
        and torch.equal(picked[1, 0], images[2])
    )
    assert pool.of(torch.tensor([1]), 2, 4)[1].tolist() == [0]
    found, result = probe(
        lambda trial: find_starts(trial, trial.active, norm="l2", tries=100, pool=pool),
        half_space(0.4),
        targets=torch.ones(3).long(),
    )
    assert bool(result.success.all()) and torch.allclose(found.high, torch.full((3,), 0.4), rtol=0.02)
