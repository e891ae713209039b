"""The Boundary Attack against a slow reference, and on victims whose nearest adversarial point has a closed form."""

from collections import deque

import pytest
import torch

from tests.attacks.label_promises import attacks_each_image_alone, counts_exactly, ends_on_odd_images
from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import Boundary
from zeroth.attacks.label import boundary
from zeroth.attacks.label.boundary import Window
from zeroth.oracles import ImageStreams, LabelOracle

D, SHAPE = 64, (1, 8, 8)
WEIGHT = torch.randn(D, generator=torch.Generator().manual_seed(0))
WEIGHT = WEIGHT / WEIGHT.norm()
HALF_SPACE = Linear(torch.stack([torch.zeros(D), WEIGHT]), torch.stack([torch.zeros(()), -(0.5 * WEIGHT.sum() + 0.5)]))
GREY, ZEROS = torch.full((3, *SHAPE), 0.5), torch.zeros(3).long()
PAPER = {"spherical_step": 0.01, "candidates": 25, "test_every": 10, "windows": (100, 30), "start_cells": None}


@pytest.mark.parametrize(
    ("options", "budget"),
    [pytest.param({}, 2000, id="ours"), pytest.param(PAPER, 10_000, id="paper", marks=pytest.mark.slow)],
)
def test_the_minimal_distance_of_a_linear_victim_is_reached(options, budget):
    result = Boundary(**options)(LabelOracle(HALF_SPACE), GREY, ZEROS, budget=budget, seed=0)
    ratio = result.distance / 0.5
    assert bool((ratio > 1 - 1e-5).all()) and bool((ratio < 1.1).all()), ratio


def test_it_asks_what_a_slow_reference_asks(monkeypatch):
    """Replay the log of one image as the authors' program goes, with windows as deques; the start is taken as it is."""
    spent, real = [], boundary.walk

    def walk(trial, rows, starts, *rest):
        spent.append(int(trial.ledger.queries))
        real(trial, rows, starts, *rest)

    monkeypatch.setattr(boundary, "walk", walk)
    victim, image = Logging(HALF_SPACE), torch.full((1, *SHAPE), 0.45)
    options = {"spherical_step": 0.2, "source_step": 0.05, "adaptation": 1.4, "candidates": 6, "test_every": 3}
    attack = Boundary(**options, windows=(12, 5), tries=40, start_cells=None)
    attack(LabelOracle(victim), image, ZEROS[:1], budget=1500, seed=0)
    clean, asked = image[0].double(), victim.asked.double()
    hit = (HALF_SPACE(victim.asked).argmax(1) == 1).tolist()
    at, draws, row = spent[0], ImageStreams(0, [0]), torch.zeros(1).long()
    for _ in range(4):  # the start's
        draws.randn(row, (10, *SHAPE))
    x = min((asked[i] for i in range(at) if hit[i]), key=lambda point: float((point - clean).norm()))
    wide, near, on_sphere, on_candidates = 0.2, 0.05, deque(maxlen=12), deque(maxlen=5)
    turns = {0: 0, 1: 0, -1: 0}
    step = 0
    while at < 1500:
        step += 1
        for _ in range(6):
            d = (x - clean).norm()
            source = (clean - x) / d
            eta = draws.randn(row, SHAPE)[0].double()
            eta = eta - (eta * source).sum() * source
            eta = eta * wide * d / eta.norm()
            sphere = (clean + (eta + x - clean) / (wide**2 + 1) ** 0.5).clamp(0, 1)
            length = max(0.0, near * d + (clean - sphere).norm() - d) / (clean - sphere).norm()
            candidate = sphere + length * (clean - sphere)
            if step % 3 == 0 and at < 1500:
                assert torch.allclose(asked[at], sphere, atol=1e-5)
                on_sphere.append(hit[at])
                at += 1
                if not hit[at - 1]:
                    continue
            if at == 1500:
                break
            assert torch.allclose(asked[at], candidate, atol=1e-5)
            if step % 3 == 0:
                on_candidates.append(hit[at])
            at += 1
            if hit[at - 1]:
                x = asked[at - 1]
                break
        for window, both in ((on_sphere, True), (on_candidates, False)):
            if len(window) == window.maxlen:
                share = sum(window) / len(window)
                turn = (share > 0.5) - (share < 0.2)
                turns[turn] += 1
                wide, near = wide * 1.4 ** (turn * both), near * 1.4**turn
                if turn:
                    window.clear()
    assert min(turns.values()) >= 3, turns  # all three were met


def test_a_window_counts_the_last_answers_of_each_image():
    window, rows = Window(2, 4, torch.device("cpu")), torch.tensor([0, 1])
    for first, second in [(1, 0), (1, 0), (0, 1)]:
        window.add(rows, torch.tensor([first, second]) > 0)
    assert window.turn(rows).tolist() == [0, 0]  # not full
    window.add(rows, torch.tensor([True, False]))
    assert window.turn(rows).tolist() == [1, 0]  # 3 / 4 and 1 / 4
    window.add(rows[1:], torch.tensor([False]))  # 1 / 4 still, the oldest was 0
    window.add(rows[:1], torch.tensor([True]))
    assert window.turn(rows).tolist() == [0, 0]  # the first begins anew
    for _ in range(2):
        window.add(rows[1:], torch.tensor([False]))
    assert window.turn(rows).tolist() == [0, -1]


def test_steps_too_small_for_float32_begin_again():
    """A boundary that cannot be passed, at the start's own distance: every candidate towards the image fails."""

    def shell(images):
        away = (images.double() - 0.5).flatten(1).norm(dim=1)
        return (away > 0.8).long()

    log = Logging(shell)
    attack = Boundary(spherical_step=0.01, source_step=0.01, adaptation=3.0, test_every=1, windows=(1000, 2))
    result = attack(LabelOracle(log), GREY[:1], ZEROS[:1], budget=1500, seed=0)
    away = (log.asked.double() - 0.5).flatten(1).norm(dim=1)
    assert float(result.distance) < 0.8 * 1.001
    steps = 1 - away[-600:] / float(result.distance)
    assert float(steps.max()) > 0.005 and bool((steps[steps > 0] < 2e-5).any())


NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
LABELS = NET(IMAGES).argmax(1)


@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101, 1000])
def test_the_ledger_agrees_with_the_victims_own_count(budget):
    counts_exactly(Boundary(), budget, set())


def test_targets_are_reached_and_kept():
    targets = (LABELS + 1) % 5
    result = Boundary(tries=100)(LabelOracle(NET), IMAGES, LABELS, targets, budget=600, seed=0)
    assert int(result.success.sum()) >= 5
    assert bool((NET(result.adversarial).argmax(1) == targets)[result.success].all())


def test_draws_belong_to_the_image():
    attacks_each_image_alone(Boundary(), 500)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 4, 4), (1, 2, 5)])
def test_odd_images_end(shape):
    ends_on_odd_images(Boundary(), shape, 300, {"budget", "no start"})


def test_an_image_without_a_start_and_a_wrong_one_leave_the_others_as_they_are():
    def victim(points):
        return NET(points).argmax(1)

    images, labels = torch.cat([IMAGES[:4], IMAGES[:2]]), torch.cat([LABELS[:4], LABELS[:1], (LABELS[1:2] + 1) % 5])
    targets = torch.cat([(LABELS[:4] + 1) % 5, torch.tensor([9]), LABELS[1:2]])  # nothing is ever classified as 9
    attack = Boundary(tries=60)
    together = attack(LabelOracle(victim), images, labels, targets, budget=400, seed=0)
    alone = attack(LabelOracle(victim), images[:4], labels[:4], targets[:4], budget=400, seed=0)
    assert together.reason[4:] == ["no start", "already_target"] and together.queries[4:].tolist() == [61, 1]
    assert not together.success[4:].any() and bool(alone.success.any())
    assert torch.equal(together.queries[:4], alone.queries)
    assert torch.allclose(together.distance[:4], alone.distance, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spherical_step": 0}, r"spherical_step must lie in \(0, 1\), a share of the distance, got 0"),
        ({"source_step": 1}, r"source_step must lie in \(0, 1\), a share of the distance, got 1"),
        ({"adaptation": 1}, "adaptation must be > 1, got 1"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"test_every": 0}, "test_every must be at least 1, got 0"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
        ({"windows": (100, 0)}, r"windows must be two numbers of answers >= 1, got \(100, 0\)"),
        ({"start_cells": []}, "start_cells must be sides of grids >= 1"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Boundary(**options)
