"""EAD against closed forms: its shrinkage, its iterates, and the elastic net's nearest point of a linear victim."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tests.victims import Logging, random_linear
from zeroth.attacks import EAD, CarliniWagner
from zeroth.attacks.whitebox.ead import shrink
from zeroth.oracles import GradientOracle, margin

NET = random_linear(2, 16)
IMAGES = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
IMAGES = IMAGES[NET(IMAGES).diff(dim=1).abs().flatten().argsort()[-4:]]  # not too near the boundary
LABELS = NET(IMAGES).argmax(1)
NEVER = 1e6
SHORT = {"shrinkage": "prox", "constant": 1.0, "searches": 10, "iterations": 150, "learning_rate": 0.05}


def slopes(images, labels):
    """The pixels' weights in the margin (n, 16), and the margin (n,)."""
    weight = NET.weight[labels] - NET.weight[1 - labels]
    return weight, (images.double().flatten(1) * weight).sum(1) + (NET.bias[labels] - NET.bias[1 - labels])


def soft(clean, weight, pull, beta):
    """argmin over the box of |d|_2^2 + beta |d|_1 + pull w d: a soft threshold, clipped."""
    delta = -weight.sign() * (pull * weight.abs() - beta).clamp_min(0) / 2
    return (clean + delta).clamp(0, 1) - clean


def nearest(images, labels, beta):
    """Elastic-net distance of the nearest point with margin 0, (n,): the pull by bisection, in float64."""
    weight, value = slopes(images, labels)
    clean, low = images.double().flatten(1), torch.zeros(len(images), 1, dtype=torch.float64)
    high = low + 1e4
    for _ in range(200):
        pull = (low + high) / 2
        short = (value + (soft(clean, weight, pull, beta) * weight).sum(1) > 0).unsqueeze(1)
        low, high = torch.where(short, pull, low), torch.where(short, high, pull)
    delta = soft(clean, weight, high, beta)
    return (delta.square().sum(1) + beta * delta.abs().sum(1)).float()


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 2, width=32), st.floats(0, 1, width=32), st.floats(0, 0.5, width=32))
def test_shrinkage_is_equation_18_and_a_proximal_step(z, x0, beta):
    got = float(shrink(torch.tensor([z]), torch.tensor([x0]), beta))
    if z - x0 > beta:
        closed = min(z - beta, 1.0)
    elif z - x0 < -beta:
        closed = max(z + beta, 0.0)
    else:
        closed = x0
    assert got == pytest.approx(closed, abs=1e-6)
    # Any proximal step by a numerical minimiser, which knows of no threshold.
    numeric = minimize_scalar(
        lambda u: (u - z) ** 2 / 2 + beta * abs(u - x0), bounds=(0, 1), method="bounded", options={"xatol": 1e-9}
    )
    assert got == pytest.approx(float(numeric.x), abs=2e-5)


@pytest.mark.parametrize("shrinkage", ["beta", "prox"])
@pytest.mark.parametrize("method", ["fista", "ista"])
def test_iterates_on_a_quadratic_against_a_slow_reference(method, shrinkage):
    """The hinge of a linear victim at a large kappa is linear, so g is a quadratic; pixel by pixel, in float64."""
    c, beta, rate0, iterations = 0.05, 0.02, 0.1, 15
    victim = Logging(NET)
    attack = EAD(
        beta=beta, shrinkage=shrinkage, method=method, constant=c, searches=1, iterations=iterations,
        learning_rate=rate0, abort=False, kappa=NEVER,
    )  # fmt: skip
    result = attack(GradientOracle(victim), IMAGES[:1], LABELS[:1], budget=99, seed=0)
    each = 2 if method == "fista" else 1
    assert int(result.queries) == victim.seen == 1 + each * iterations and result.reason == ["searches"]
    weight, _ = slopes(IMAGES[:1], LABELS[:1])
    clean = IMAGES[0].double().flatten().tolist()
    x, y = list(clean), list(clean)
    for k in range(iterations):
        rate = rate0 * (1 - k / iterations) ** 0.5
        threshold = beta * rate if shrinkage == "prox" else beta
        new = []
        for i, x0 in enumerate(clean):
            z = y[i] - rate * (c * float(weight[0, i]) + 2 * (y[i] - x0))
            if z - x0 > threshold:
                new.append(min(z - threshold, 1.0))
            elif z - x0 < -threshold:
                new.append(max(z + threshold, 0.0))
            else:
                new.append(x0)
        push = k / (k + 3) if method == "fista" else 0.0
        y = [min(max(b + push * (b - a), 0.0), 1.0) for a, b in zip(x, new, strict=True)]
        x = new
        asked = victim.asked[1 + each * k :].flatten(1).double()
        assert torch.allclose(asked[0], torch.tensor(x, dtype=torch.float64), atol=1e-5)
        if method == "fista":
            assert torch.allclose(asked[1], torch.tensor(y, dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.3])
def test_the_proximal_step_goes_to_the_clipped_soft_threshold(beta):
    """At a fixed c and an active hinge; some pixels end at 0 or 1, and some stay as they are."""
    images = ((IMAGES - 0.4) * 5).clamp(0, 1)
    labels, c = NET(images).argmax(1), 0.3
    victim = Logging(NET)
    EAD(**SHORT | {"constant": c, "searches": 1, "iterations": 400, "learning_rate": 0.2}, beta=beta, abort=False,
        method="ista", kappa=NEVER)(GradientOracle(victim), images, labels, budget=401, seed=0)  # fmt: skip
    weight, _ = slopes(images, labels)
    expected = soft(images.double().flatten(1), weight, c, beta)
    asked = victim.asked[-4:].flatten(1)
    got = asked - images.flatten(1)
    assert torch.allclose(got.double(), expected, atol=1e-3)
    assert ((asked == 0) | (asked == 1)).any() or beta == 0.3
    assert (got == 0).any() or beta == 0


@pytest.mark.parametrize("method", ["fista", "ista"])
def test_the_nearest_point_of_a_linear_victim_and_less_l1_for_more_beta(method):
    ones = []
    for beta in (0.0, 0.1, 0.5):
        attack = EAD(**SHORT, beta=beta, method=method)
        result = attack(GradientOracle(NET), IMAGES, LABELS, budget=3001, seed=0)
        ratio = result.distance / nearest(IMAGES, LABELS, beta)
        assert result.success.all() and (ratio >= 1 - 1e-4).all() and (ratio <= 1.02).all(), ratio
        ones.append(result.norms()["l1"])
    assert (ones[1] < ones[0]).all() and (ones[2] < ones[1]).all()


def test_without_beta_it_is_carlini_and_wagners_problem():
    ead = EAD(**SHORT, beta=0.0)(GradientOracle(NET), IMAGES, LABELS, budget=3001, seed=0)
    other = CarliniWagner(constant=1.0, iterations=150, learning_rate=0.02)
    peer = other(GradientOracle(NET), IMAGES, LABELS, budget=2000, seed=0)
    assert torch.allclose(ead.distance, ead.norms()["l2"].square())
    assert torch.allclose(ead.norms()["l2"], peer.distance, rtol=0.03)


def test_distances_are_called_what_they_are():
    assert [EAD(rule=rule).distance_name for rule in ("en", "l1")] == ["elastic-net", "l1"]
    assert [CarliniWagner(beta=beta).distance_name for beta in (0.0, 0.1)] == ["l2", "elastic-net"]


def test_the_rules_choose_by_what_they_say():
    options = {"beta": 0.02, "constant": 0.1, "searches": 6, "iterations": 100, "learning_rate": 0.02}
    en, l1 = (
        EAD(**options, rule=rule)(GradientOracle(NET), IMAGES, LABELS, budget=1201, seed=0) for rule in ("en", "l1")
    )
    assert en.success.all() and torch.equal(en.queries, l1.queries)  # the same points were asked
    assert torch.allclose(l1.distance, l1.norms()["l1"])
    assert torch.allclose(en.distance, en.norms()["l2"].square() + 0.02 * en.norms()["l1"])
    assert (l1.norms()["l1"] <= en.norms()["l1"]).all()
    assert (l1.norms()["l2"].square() + 0.02 * l1.norms()["l1"] >= en.distance - 1e-6).all()


@pytest.mark.parametrize("shrinkage", ["beta", "prox"])
def test_every_success_has_the_confidence_that_was_asked_for_and_pays_for_it(shrinkage):
    net = random_linear(4, 144)
    images = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    labels = net(images).argmax(1)
    distances = []
    for kappa in (0.0, 5.0, 20.0):
        attack = EAD(shrinkage=shrinkage, constant=0.1, searches=6, iterations=100, kappa=kappa)
        result = attack(GradientOracle(net), images, labels, budget=1201, seed=0)
        assert result.success.all()
        assert (margin(net(result.adversarial).log_softmax(1), labels) <= -kappa).all()
        distances.append(result.distance)
    assert (distances[0] < distances[1]).all() and (distances[1] < distances[2]).all()


def test_the_papers_convention_looks_at_iterates_only():
    victim = Logging(NET)
    attack = EAD(accept="iterates", constant=1.0, iterations=30, learning_rate=0.05)
    result = attack(GradientOracle(victim), IMAGES[:1], LABELS[:1], budget=301, seed=0)
    # Iterates are the even queries, slacks the odd ones after the first.
    assert result.success.all() and int(result.queries_to_success) % 2 == 0
    place = (victim.asked == result.adversarial[0]).flatten(1).all(1).nonzero()[0]
    assert int(place) % 2 == 1  # counted from 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.1}, "beta must be >= 0, got -0.1"),
        ({"rule": "l2"}, "rule must be 'en' or 'l1', got 'l2'"),
        ({"shrinkage": "alpha"}, "shrinkage must be 'beta' or 'prox', got 'alpha'"),
        ({"method": "adam"}, "method must be 'fista' or 'ista', got 'adam'"),
        ({"accept": "some"}, "accept must be 'all' or 'iterates', got 'some'"),
        ({"constant": 0.0}, "constant must lie in"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"kappa": -1.0}, "kappa must be >= 0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EAD(**options)
