"""Bandits against a slow reference, and its prior against the gradient it is to find."""

import math

import pytest
import torch

from tests.attacks.promises import an_image_stands_alone, successes_hold
from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import Bandits
from zeroth.oracles import ImageStreams, ScoreOracle

NET = random_linear(5, 36)
IMAGES = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
LABELS = NET(IMAGES).argmax(1)
ATTACKS = {"linf": Bandits(epsilon=0.2), "l2": Bandits(norm="l2", epsilon=0.8, learning_rate=0.2)}
both = pytest.mark.parametrize("norm", ATTACKS)


def hopeless(images):
    return torch.tensor([[9.0, 0, 0]]).expand(len(images), 3)


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
@pytest.mark.parametrize(("norm", "delta", "alpha"), [("linf", 1.0, 2.0), ("l2", 0.1, 0.3)])
def test_it_asks_what_a_slow_reference_asks(norm, delta, alpha, loss):
    """Algorithms 2 and 3 tile by tile in float64, with the exponentiated-gradient step as it is printed."""
    net, cells, mu, rate, epsilon, steps = random_linear(4, 2 * 6 * 6), 3, 0.3, 0.05, 0.12, 6
    epsilon = epsilon if norm == "linf" else 0.2
    image = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(3))
    label, victim = net(image).argmax(1), Logging(net)
    options = {"learning_rate": rate, "prior_rate": alpha, "exploration": delta, "cells": cells, "loss": loss}
    attack = Bandits(norm=norm, epsilon=epsilon, mu=mu, kappa=1e3, **options)
    attack(ScoreOracle(victim), image, label, budget=1 + 3 * steps, seed=0)

    def rise(x: torch.Tensor) -> torch.Tensor:
        log_p = net(x.clamp(0, 1)[None]).log_softmax(1)[0]
        t = int(label)
        return -log_p[t] + (torch.cat([log_p[:t], log_p[t + 1 :]]).max() if loss == "margin" else 0)

    def tiles(v: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(2, 6, 6, dtype=torch.float64)
        for r in range(6):
            for c in range(6):
                out[:, r, c] = v[:, r // 2, c // 2]
        return out

    draws, dimension = ImageStreams(0, [0]), 2 * cells * cells
    clean = image[0].double()
    x, v, expected = clean, torch.zeros(2, cells, cells, dtype=torch.float64), [clean]
    for _ in range(steps):
        u = draws.randn(torch.zeros(1, dtype=torch.int64), (2, cells, cells))[0].double() / math.sqrt(dimension)
        plus, minus = tiles(v + delta * u), tiles(v - delta * u)
        probe = [x + mu * q / q.norm() for q in (plus, minus)]
        g = (rise(probe[0]) - rise(probe[1])) / mu * u
        if norm == "linf":
            share = (v + 1) / 2
            up, down = share * torch.exp(alpha * g), (1 - share) * torch.exp(-alpha * g)
            v = 2 * up / (up + down) - 1
            x = clean + (x + rate * tiles(v).sign() - clean).clamp(-epsilon, epsilon)
        else:
            v = v + alpha * g
            moved = x + rate * tiles(v) / tiles(v).norm() - clean
            x = clean + moved * min(1.0, epsilon / float(moved.norm()))
        x = x.clamp(0, 1)
        expected += [*probe, x]
    assert torch.allclose(victim.asked.double(), torch.stack(expected).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize(("norm", "options"), [("linf", {}), ("l2", {"exploration": 0.1, "prior_rate": 0.1})])
def test_the_cosine_of_the_prior_and_the_gradient_rises_on_a_smooth_victim(norm, options):
    """A linear victim with weights flat on 4 x 4 cells, watched over 300 steps of 8 images."""
    coarse = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smooth = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1).flatten() / 8
    net = Linear(torch.stack([smooth, -smooth]), torch.tensor([0.0, 0.0]))
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    labels, cosines = net(images).argmax(1), []
    falls = torch.where(labels == 0, -1.0, 1.0)[:, None] * smooth  # where the margin falls

    class Watching(Bandits):
        def move(self, images, delta, direction):
            cosines.append(torch.cosine_similarity(direction.flatten(1).double(), falls, dim=1).mean())
            return super().move(images, delta, direction)

    attack = Watching(norm=norm, epsilon=0.3, learning_rate=0.01, cells=4, kappa=1e3, **options)
    attack(ScoreOracle(net), images, labels, budget=1 + 3 * 300, seed=0)
    thirds = [float(torch.stack(part).mean()) for part in (cosines[:10], cosines[10:60], cosines[200:])]
    assert len(cosines) == 300 and thirds[0] < thirds[1] < thirds[2] and thirds[2] > 0.8


@both
@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101])
@pytest.mark.parametrize("check", [1, 4])
def test_queries_are_counted_exactly(norm, budget, check):
    victim, attack = Logging(NET), ATTACKS[norm]
    attack = Bandits(norm=norm, epsilon=attack.epsilon, learning_rate=attack.learning_rate, check=check)
    result = attack(ScoreOracle(victim), IMAGES, LABELS, budget=budget, seed=0)
    assert victim.seen == int(result.queries.sum())
    assert (result.queries <= budget).all()
    spent = attack(ScoreOracle(hopeless), IMAGES, torch.zeros(4, dtype=torch.int64), budget=budget, seed=0)
    left = {1: {1: 0, 2: 1, 99: 2, 100: 0, 101: 1}, 4: {1: 0, 2: 1, 99: 1, 100: 0, 101: 1}}[check][budget]
    assert (spent.queries == budget - left).all() and spent.reason == ["budget"] * 4


def test_the_last_unchecked_iterate_is_asked_with_what_is_left():
    victim = Logging(NET)
    attack = Bandits(epsilon=1e-4, check=100)
    result = attack(ScoreOracle(victim), IMAGES[:1], LABELS[:1], budget=12, seed=0)
    assert int(result.queries) == victim.seen == 12  # 1 + 5 x 2 + 1
    distances = (victim.asked - IMAGES[0]).abs().flatten(1).amax(1)
    assert distances[-1] <= 1e-4 + 1e-6 and (distances[1:-1] > 1e-3).all()


@both
def test_solved_images_stop_moving(norm):
    """Under the papers' convention an image's last query is its success, and no later point of it is asked."""
    attack = ATTACKS[norm]
    attack = Bandits(norm=norm, epsilon=attack.epsilon, learning_rate=0.005, accept="iterates")
    victim = Logging(NET)
    result = attack(ScoreOracle(victim), IMAGES, LABELS, budget=1000, seed=0)
    won = result.success
    assert won.any() and len(result.queries[won].unique()) > 1
    assert torch.equal(result.queries[won], result.queries_to_success[won])
    assert ((result.queries[won] - 1) % 3 == 0).all()
    assert victim.seen == int(result.queries.sum())


@both
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 9, 5), (1, 1, 1), (3, 1, 1), (2, 2, 3)])
def test_iterates_stay_in_ball_and_box(norm, shape):
    net = random_linear(4, math.prod(shape))
    images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(2))
    labels = net(images).argmax(1)
    victim = Logging(net)
    attack = ATTACKS[norm]
    far = Bandits(norm=norm, epsilon=attack.epsilon, learning_rate=attack.learning_rate, kappa=1e3)
    far(ScoreOracle(victim), images[:1], labels[:1], budget=100, seed=0)
    order = math.inf if norm == "linf" else 2
    iterates = victim.asked[3::3]
    assert torch.linalg.vector_norm((iterates - images[0]).flatten(1), order, 1).max() <= attack.epsilon + 1e-6
    assert victim.asked.min() >= 0 and victim.asked.max() <= 1
    successes_hold(attack, net, images, labels, budget=100)


@both
def test_an_image_stands_alone(norm):
    an_image_stands_alone(ATTACKS[norm], NET, IMAGES, LABELS, budget=150)


@both
def test_a_constant_victim_gives_no_nan(norm):
    """No slope, no prior, no step: every iterate is the clean image."""
    victim = Logging(lambda x: torch.tensor([[9.0, 0, 0]]).expand(len(x), 3))
    ATTACKS[norm](ScoreOracle(victim), IMAGES[:1], torch.tensor([0]), budget=31, seed=0)
    assert torch.equal(victim.asked[3::3], IMAGES[:1].expand(10, -1, -1, -1))
    assert not victim.asked.isnan().any()


def test_targeted_finds_the_target():
    targets = (LABELS + 1) % 5
    attack = Bandits(epsilon=0.9, learning_rate=0.1)
    result = attack(ScoreOracle(NET), IMAGES, LABELS, targets, budget=3000, seed=0)
    assert result.success.all() and torch.equal(result.predicted, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "norm must be 'linf' or 'l2', got 'l1'"),
        ({"epsilon": 0.0}, r"epsilon must be > 0 in \[0, 1\] pixels, got 0.0"),
        ({"mu": 0.0}, r"mu must be > 0 in \[0, 1\] pixels, got 0.0"),
        ({"learning_rate": 0}, "learning_rate must be > 0, got 0"),
        ({"prior_rate": -1}, "prior_rate must be > 0, got -1"),
        ({"exploration": 0}, "exploration must be > 0, got 0"),
        ({"cells": 0}, "cells must be at least 1, got 0"),
        ({"check": 0}, "check must be at least 1, got 0"),
        ({"loss": "hinge"}, "loss must be 'cross_entropy' or 'margin', got 'hinge'"),
        ({"kappa": -1}, "kappa must be >= 0, got -1"),
        ({"accept": "some"}, "accept must be 'all' or 'iterates', got 'some'"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Bandits(**options)
