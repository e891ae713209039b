"""RayS on victims whose nearest adversarial point has a closed form."""

import pytest
import torch

from tests.attacks import label_promises
from tests.attacks.label_promises import GREY, HALF_SPACE, IMAGES, LABELS, NET, SHAPE, WEIGHT, D
from tests.victims import Logging
from zeroth.attacks import RayS
from zeroth.attacks.label.rays import pixel_order
from zeroth.attacks.label.starts import Pool
from zeroth.oracles import LabelOracle

PAPER = {"blocks": "rows", "step": 0.5, "tolerance": 2e-4}


@pytest.mark.parametrize(("options", "budget"), [({}, 500), (PAPER, 1000)], ids=["ours", "paper"])
def test_the_minimal_distance_of_a_linear_victim_is_reached(options, budget):
    """|margin| / ||w||_1 along sign(w): after one pass over single pixels every sign is right."""
    images = torch.cat([GREY, 0.5 + 0.1 * (torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) - 0.5)])
    result = RayS(**options)(LabelOracle(HALF_SPACE), images, torch.zeros(2).long(), budget=budget, seed=0)
    ratio = result.distance / (-HALF_SPACE(images)[:, 1].float() / WEIGHT.abs().sum())
    assert bool((ratio > 1 - 1e-5).all()) and bool((ratio < 1.02).all()), ratio


def test_an_image_whose_radius_no_longer_falls_is_done():
    done = RayS()(LabelOracle(HALF_SPACE), GREY, torch.zeros(1).long(), budget=2000, seed=0)
    assert done.reason == ["converged"] and int(done.queries) < 1000
    assert float(done.distance) < 1.012 * 0.5 / float(WEIGHT.abs().sum())  # the tolerance, and what it lets pass


@pytest.mark.parametrize("options", [{}, PAPER], ids=["ours", "paper"])
def test_what_is_asked_is_that_of_the_slow_reference(options):
    victim, attack = Logging(HALF_SPACE), RayS(**options)
    attack(LabelOracle(victim), GREY, torch.zeros(1).long(), budget=700, seed=0)
    asked, answers = victim.asked.flatten(1), (HALF_SPACE(victim.asked).argmax(1) == 1).tolist()
    order, at = pixel_order(attack.blocks, *SHAPE), 1

    def met(signs, radius):
        nonlocal at
        assert torch.allclose(asked[at], (0.5 + radius * signs).clamp(0, 1), atol=1e-6), at
        at += 1
        return answers[at - 1]

    signs, best, size = torch.ones(D), None, D
    while size >= 1:
        for start in range(0, D, size):
            flipped = signs.clone()
            flipped[order[start : start + size]] *= -1
            if not met(flipped, best or 1):
                continue
            signs, best, low, step = flipped, best or 1.0, 0.0, attack.step
            while best - low > 1.001 * attack.tolerance * best:
                middle = (low + best) / 2 if low else best * (1 - step)
                step = min(0.5, 2 * step)
                low, best = (low, middle) if met(signs, middle) else (middle, best)
        size //= 2
    assert 130 < at < 700 and float(best) < 1.02 * 0.5 / float(WEIGHT.abs().sum())


def test_orders_of_pixels():
    assert pixel_order("rows", 2, 3, 5).tolist() == list(range(30))
    squares = pixel_order("squares", 1, 4, 4)
    assert squares.tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert pixel_order("squares", 3, 1, 2).tolist() == [0, 2, 4, 1, 3, 5]  # the channels of a pixel together
    assert sorted(pixel_order("squares", 3, 7, 5).tolist()) == list(range(105))
    upper = pixel_order("squares", 1, 28, 28)[:392]
    assert int(upper.max()) < 392  # the first of two blocks is the upper half, though 28 is no power of two


@pytest.mark.parametrize("options", [{}, PAPER], ids=["ours", "paper"])
@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101, 1000])
def test_the_ledger_agrees_with_the_victims_own_count(budget, options):
    label_promises.counts_exactly(RayS(**options), budget, {"converged"})


def test_a_budget_that_ends_a_search_keeps_the_best():
    label_promises.keeps_the_best(RayS(), range(2, 30))


def test_targets_start_from_the_pool():
    targets = (LABELS + 1) % 5
    corners = (torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    pool = Pool(NET(corners).argmax(1), corners.__getitem__)
    assert len(pool.labels.unique()) == 5
    attack = RayS(tries=3)
    attack.pool = pool
    result = attack(LabelOracle(NET), IMAGES, LABELS, targets, budget=600, seed=0)
    assert bool(result.success.all()) and torch.equal(NET(result.adversarial).argmax(1), targets)
    assert result.queries_to_success.tolist() == [2] * 6  # these images are their own black and white versions
    plain = RayS()(LabelOracle(NET), IMAGES, LABELS, targets, budget=600, seed=0)
    assert bool((result.distance <= plain.distance + 0.05).all())


def test_images_do_not_depend_on_their_batch():
    label_promises.attacks_each_image_alone(RayS(), 300)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 4, 4), (1, 2, 5)])
def test_odd_images_end(shape):
    label_promises.ends_on_odd_images(RayS(), shape, 2000, {"converged", "no start"})


def test_a_constant_victim_is_reported():
    # The first check, and one pass: 1 + 2 + 4 + 8 + 16 blocks of 16 pixels.
    label_promises.reports_a_constant_victim(RayS(), 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": "hexagons"}, "blocks must be 'rows' or 'squares', got 'hexagons'"),
        ({"step": 0.6}, r"step must lie in \(0, .5\], a share of the radius, got 0.6"),
        ({"tolerance": 0}, r"tolerance must lie in \(0, 1\), a share of the radius, got 0"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RayS(**options)
