"""HopSkipJump on victims whose nearest adversarial point has a closed form."""

import pytest
import torch

from tests.attacks.label_promises import attacks_each_image_alone, counts_exactly, ends_on_odd_images
from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import HopSkipJump
from zeroth.oracles import LabelOracle

D, SHAPE = 64, (1, 8, 8)
WEIGHT = torch.randn(D, generator=torch.Generator().manual_seed(0))
WEIGHT = WEIGHT / WEIGHT.norm()
HALF_SPACE = Linear(torch.stack([torch.zeros(D), WEIGHT]), torch.stack([torch.zeros(()), -(0.5 * WEIGHT.sum() + 0.5)]))
GREY, ZEROS = torch.full((3, *SHAPE), 0.5), torch.zeros(3).long()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_minimal_distance_of_a_linear_victim_is_reached(norm):
    result = HopSkipJump(norm=norm)(LabelOracle(HALF_SPACE), GREY, ZEROS, budget=5000, seed=0)
    least = 0.5 if norm == "l2" else 0.5 / float(WEIGHT.abs().sum())
    ratio = result.distance / least
    assert bool((ratio > 1 - 1e-5).all()) and bool((ratio < 1.1).all()), ratio


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("evaluations", [50, 250], ids=["one request", "several requests"])
def test_an_iteration_is_that_of_the_slow_reference(norm, evaluations):
    """Replay the log of one image: probes, mean baseline, step and its halvings, return to the boundary."""
    victim, budget = Logging(HALF_SPACE), 12 * evaluations
    attack = HopSkipJump(norm=norm, evaluations=evaluations, gamma=1.5, first_delta=0.05, tries=40)
    result = attack(LabelOracle(victim), GREY[:1], ZEROS[:1], budget=budget, seed=0)
    asked, clean = victim.asked.flatten(1).double(), torch.full((D,), 0.5, dtype=torch.float64)
    answers = HALF_SPACE(victim.asked).argmax(1) == 1
    order = 2 if norm == "l2" else torch.inf
    # Before the first probes, points of one l_2 distance from a point asked before, it is asked 10 at most.
    place = next(i for i, batch in enumerate(victim.batches) if len(batch) >= 50)
    at = sum(len(batch) for batch in victim.batches[:place])
    x = asked[:at][answers[:at]]
    sizes = (x - clean).norm(order, dim=1)
    before, x, theta = sizes.min(), x[sizes.argmin()], 1.5 / D ** (1.5 if norm == "l2" else 2)
    for step in range(1, 4):
        count = int(evaluations * step**0.5)
        probes, phi = asked[at : at + count], torch.where(answers[at : at + count], 1.0, -1.0).double()
        delta = 0.05 if step == 1 else 1.5 * before / D
        u = (probes - x) / delta
        if step == 1:
            assert torch.allclose(u.norm(dim=1), torch.ones(count).double(), atol=1e-4)
        normal = ((phi - phi.mean()).unsqueeze(1) * u).sum(0)
        normal = normal.sign() if norm == "linf" else normal / normal.norm()
        at, size = at + count, (x - clean).norm(order) / step**0.5
        while True:
            there = (x + size * normal).clamp(0, 1)
            assert torch.allclose(asked[at], there, atol=1e-4)
            at, size = at + 1, size / 2
            if answers[at - 1]:
                break
        outside = asked[at - 1]
        before = (outside - clean).norm(order)
        low, high, tolerance = 0.0, 1.0, theta
        while high - low > tolerance:
            middle = (low + high) / 2
            radius = middle * before
            point = clean + (middle * (outside - clean) if norm == "l2" else (outside - clean).clamp(-radius, radius))
            assert torch.allclose(asked[at], point, atol=1e-4)
            low, high, at = (low, middle, at + 1) if answers[at] else (middle, high, at + 1)
        radius = high * before
        x = clean + (high * (outside - clean) if norm == "l2" else (outside - clean).clamp(-radius, radius))
    assert int(result.queries) == budget and at <= budget


NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
LABELS = NET(IMAGES).argmax(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101, 1000])
def test_the_ledger_agrees_with_the_victims_own_count(budget, norm):
    counts_exactly(HopSkipJump(norm=norm), budget, set())


def test_targets_are_reached_and_kept():
    targets = (LABELS + 1) % 5
    result = HopSkipJump(tries=100)(LabelOracle(NET), IMAGES, LABELS, targets, budget=1500, seed=0)
    assert int(result.success.sum()) >= 5
    assert bool((NET(result.adversarial).argmax(1) == targets)[result.success].all())


def test_draws_belong_to_the_image():
    attacks_each_image_alone(HopSkipJump(), 700)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 4, 4)])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_odd_images_end(shape, norm):
    ends_on_odd_images(HopSkipJump(norm=norm), shape, 500, {"budget", "no start"})


def test_a_constant_victim_is_reported_and_wrong_images_never_enter():
    def partly(images):  # a black image is a class of its own
        return torch.where(images[:, 0].sum((1, 2)) == 0, 9, NET(images).argmax(1))

    wrong = torch.cat([IMAGES[:4], IMAGES[:1]])
    labels = torch.cat([LABELS[:4], (LABELS[:1] + 1) % 5])
    together = HopSkipJump()(LabelOracle(partly), wrong, labels, budget=400, seed=0)
    alone = HopSkipJump()(LabelOracle(partly), IMAGES[:4], LABELS[:4], budget=400, seed=0)
    assert together.reason[4] == "misclassified" and int(together.queries[4]) == 1
    assert torch.equal(together.queries[:4], alone.queries)
    assert torch.allclose(together.distance[:4], alone.distance, rtol=1e-3)
    attack = HopSkipJump(tries=20)
    constant = attack(LabelOracle(lambda x: torch.zeros(len(x)).long()), IMAGES[:2], LABELS[:2] * 0, budget=400, seed=0)
    assert constant.reason == ["no start"] * 2 and constant.queries.tolist() == [21, 21]
    assert not constant.success.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "norm must be 'l2' or 'linf', got 'l1'"),
        ({"evaluations": 0}, "evaluations must be at least 1, got 0"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
        ({"most": 10}, "most must be at least evaluations = 50, got 10"),
        ({"gamma": 0}, "gamma must be > 0, got 0"),
        ({"first_delta": -1}, "first_delta must be > 0, got -1"),
        ({"start_cells": []}, "start_cells must be sides of grids >= 1"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        HopSkipJump(**options)
