"""Guessing Smart: without its priors the Boundary Attack, with them what a slow reference asks."""

import pytest
import torch

from tests.attacks.label_promises import attacks_each_image_alone, counts_exactly, ends_on_odd_images
from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import Boundary, GuessingSmart
from zeroth.attacks.label import guessing_smart
from zeroth.attacks.label.guessing_smart import CycleSteps
from zeroth.attacks.label.perlin import perlin_directions
from zeroth.oracles import ImageStreams, LabelOracle

D, SHAPE = 64, (1, 8, 8)
WEIGHT = torch.randn(D, generator=torch.Generator().manual_seed(0))
WEIGHT = WEIGHT / WEIGHT.norm()
HALF_SPACE = Linear(torch.stack([torch.zeros(D), WEIGHT]), torch.stack([torch.zeros(()), -(0.5 * WEIGHT.sum() + 0.5)]))
GREY, ZEROS = torch.full((3, *SHAPE), 0.5), torch.zeros(3).long()
NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
LABELS = NET(IMAGES).argmax(1)
UNBIASED = {"frequency": None, "mask_power": 0.0}


class BoundaryInCycles(Boundary):
    """Boundary, but for its step sizes."""

    def steps(self, trial):
        return CycleSteps(trial, spherical_step=0.1, source_step=0.02, cycle=20)


@pytest.mark.parametrize("targets", [None, (LABELS + 1) % 5], ids=["untargeted", "targeted"])
def test_without_priors_it_is_boundary_with_its_step_sizes_row_for_row(targets):
    victims = Logging(NET), Logging(NET)
    smart = GuessingSmart(spherical_step=0.1, source_step=0.02, cycle=20, tries=40, **UNBIASED)
    results = [
        attack(LabelOracle(victim), IMAGES, LABELS, targets, budget=700, seed=0)
        for attack, victim in zip((smart, BoundaryInCycles(tries=40)), victims, strict=True)
    ]
    assert torch.equal(victims[0].asked, victims[1].asked)
    assert torch.equal(results[0].adversarial, results[1].adversarial) and bool(results[0].success.any())
    assert torch.equal(results[0].distance, results[1].distance) and results[0].reason == results[1].reason
    for ours, theirs in zip(results[0].events, results[1].events, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("frequency", [None, 3])
def test_it_asks_what_a_slow_reference_asks(monkeypatch, frequency):
    """Replay the log of one image, priors and cycles as the authors' program has them; the start is taken as it is."""
    spent, real = [], guessing_smart.walk

    def walk(trial, rows, starts, *rest):
        spent.append(int(trial.ledger.queries))
        real(trial, rows, starts, *rest)

    monkeypatch.setattr(guessing_smart, "walk", walk)
    victim, image, power = Logging(HALF_SPACE), torch.full((1, *SHAPE), 0.45), 0.7
    options = {"spherical_step": 0.3, "source_step": 0.05, "cycle": 7, "frequency": frequency, "start_cells": None}
    attack = GuessingSmart(**options, mask_power=power, mask_floor=0.2, tries=40)
    attack(LabelOracle(victim), image, ZEROS[:1], budget=500, seed=0)
    clean, asked = image[0].double(), victim.asked.double()
    hit = (HALF_SPACE(victim.asked).argmax(1) == 1).tolist()
    draws, row = ImageStreams(0, [0]), torch.zeros(1).long()
    for _ in range(4):  # the start's
        draws.randn(row, (10, *SHAPE))
    x = min((asked[i] for i in range(spent[0]) if hit[i]), key=lambda point: float((point - clean).norm()))
    failed, kept, longest = 0, 0, 0
    for at in range(spent[0], 500):
        if frequency is None:
            eta = draws.randn(row, SHAPE)[0].double()
        else:
            eta = perlin_directions(lambda s: draws.randn(row, s), 1, SHAPE, frequency)[0, 0].double()
        d = (x - clean).norm()
        source = (clean - x) / d
        mask = (((x - clean).abs() / (x - clean).abs().max()) ** power).clamp_min(0.2)
        eta = (eta - (eta * source).sum() * source) * mask
        scale = 1 - failed / 7 + 0.3
        wide, near = 0.3 * scale, 0.05 * scale
        sphere = (clean + (wide * d * eta / eta.norm() + x - clean) / (wide**2 + 1) ** 0.5).clamp(0, 1)
        back = (clean - sphere) / (clean - sphere).norm()
        # Theirs takes (1 - near) d alone, away from the image where clamping had brought the point nearer.
        reach = min((1 - near) * d, (clean - sphere).norm())
        assert torch.allclose(asked[at], clean - reach * back, atol=1e-5)
        if hit[at]:
            x, failed, kept = asked[at], 0, kept + 1
        else:
            failed = (failed + 1) % 7
            longest = max(longest, failed)
    assert kept > 10 and longest == 6


def test_the_minimal_distance_of_a_linear_victim_is_reached_without_priors():
    result = GuessingSmart(**UNBIASED)(LabelOracle(HALF_SPACE), GREY, ZEROS, budget=1500, seed=0)
    ratio = result.distance / 0.5
    assert bool((ratio > 1 - 1e-5).all()) and bool((ratio < 1.1).all()), ratio


def test_low_frequencies_are_ahead_where_the_boundary_is_smooth():
    """Weights that rise from one side to the other."""
    weight = torch.linspace(-1, 1, 8).repeat(8)
    weight = weight / weight.norm()
    victim = Linear(torch.stack([torch.zeros(D), weight]), torch.stack([torch.zeros(()), -torch.tensor(0.5)]))
    grey = torch.full((8, *SHAPE), 0.5)
    excess = {
        frequency: GuessingSmart(frequency=frequency, mask_power=0.0)(
            LabelOracle(victim), grey, torch.zeros(8).long(), budget=300, seed=0
        ).distance.mean()
        - 0.5
        for frequency in (2, None)
    }
    assert 0 < float(excess[2]) < 0.7 * float(excess[None])


@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101, 1000])
def test_the_ledger_agrees_with_the_victims_own_count(budget):
    counts_exactly(GuessingSmart(), budget, set())


def test_draws_belong_to_the_image():
    attacks_each_image_alone(GuessingSmart(), 400)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 4, 4), (1, 2, 5)])
def test_odd_images_end(shape):
    ends_on_odd_images(GuessingSmart(), shape, 300, {"budget", "no start"})


def test_a_constant_victim_is_reported():
    attack = GuessingSmart(tries=20)
    result = attack(LabelOracle(lambda x: torch.zeros(len(x)).long()), IMAGES[:2], ZEROS[:2], budget=400, seed=0)
    assert result.reason == ["no start"] * 2 and result.queries.tolist() == [21, 21] and not result.success.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spherical_step": 0}, r"spherical_step must lie in \(0, 0.769\), a share of the distance, got 0"),
        ({"source_step": 0.8}, r"source_step must lie in \(0, 0.769\), a share of the distance, got 0.8"),
        ({"cycle": 0}, "cycle must be at least 1, got 0"),
        ({"frequency": 0}, "frequency must be at least 1, got 0"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
        ({"mask_power": -1}, "mask_power must be >= 0, got -1"),
        ({"mask_floor": 1}, r"mask_floor must lie in \[0, 1\), a weight beside the largest of 1, got 1"),
        ({"start_cells": [4, 0]}, "start_cells must be sides of grids >= 1"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GuessingSmart(**options)
