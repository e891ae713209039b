import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.attacks import CarliniWagner
from zeroth.oracles import GradientOracle, margin

NET = random_linear(2, 16)
IMAGES = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
IMAGES = IMAGES[NET(IMAGES).diff(dim=1).abs().flatten().argsort()[-4:]]  # not too near the boundary
LABELS = NET(IMAGES).argmax(1)
SHORT = {"constant": 1.0, "searches": 9, "iterations": 150, "learning_rate": 0.02}


def nearest(kappa: float = 0.0) -> torch.Tensor:
    """Distance to the plane where the margin is -kappa, (4,): the box is far away."""
    weight = NET.weight[LABELS] - NET.weight[1 - LABELS]
    bias = NET.bias[LABELS] - NET.bias[1 - LABELS]
    value = (IMAGES.double().flatten(1) * weight).sum(1) + bias
    return ((value + kappa) / weight.norm(dim=1)).float()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_finds_the_nearest_point_of_a_linear_victim(kappa, targeted):
    targets = 1 - LABELS if targeted else None
    result = CarliniWagner(**SHORT, kappa=kappa)(GradientOracle(NET), IMAGES, LABELS, targets, budget=2000, seed=0)
    assert result.success.all()
    ratio = result.distance / nearest(kappa)
    assert (ratio >= 1 - 1e-4).all() and (ratio <= 1.02).all(), ratio


def test_every_success_has_the_confidence_that_was_asked_for_and_pays_for_it():
    net = random_linear(4, 144)
    images = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    labels = net(images).argmax(1)
    distances = []
    for kappa in (0.0, 5.0, 20.0):
        attack = CarliniWagner(constant=0.1, searches=6, iterations=100, learning_rate=0.05, kappa=kappa)
        result = attack(GradientOracle(net), images, labels, budget=601, seed=0)
        assert result.success.all()
        assert (margin(net(result.adversarial).log_softmax(1), labels) <= -kappa).all()
        distances.append(result.distance)
    assert (distances[0] < distances[1]).all() and (distances[1] < distances[2]).all()


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_first_steps_are_those_of_torchs_adam_on_the_stated_loss(beta):
    victim = Logging(NET)
    attack = CarliniWagner(constant=0.3, searches=1, iterations=12, learning_rate=0.03, abort=False, beta=beta)
    result = attack(GradientOracle(victim), IMAGES[:1], LABELS[:1], budget=99, seed=0)
    assert victim.seen == int(result.queries) == 1 + 12 and result.reason == ["searches"]
    clean = IMAGES[:1].double()
    w = torch.atanh((2 * clean - 1) * 0.999999).requires_grad_()
    adam = torch.optim.Adam([w], lr=0.03)
    for step in range(12):
        adam.zero_grad()
        x = (1 + w.tanh()) / 2
        hinge = margin(NET(x).log_softmax(1), LABELS[:1]).clamp_min(0)
        ((x - clean).square().sum() + beta * (x - clean).abs().sum() + 0.3 * hinge.sum()).backward()
        adam.step()
        assert torch.allclose(victim.asked[1 + step].double(), ((1 + w.tanh()) / 2)[0], atol=2e-4)


def test_a_search_begins_anew_and_asks_a_query_an_iteration():
    victim = Logging(NET)
    attack = CarliniWagner(constant=1e-3, searches=3, iterations=5, learning_rate=1e-3, abort=False)
    result = attack(GradientOracle(victim), IMAGES[:1], LABELS[:1], budget=99, seed=0)
    assert result.reason == ["searches"] and int(result.queries) == 1 + 3 * 5 and not result.success.any()
    # Every first step of Adam is the learning rate times a sign, whatever c is.
    first = victim.asked[[1, 6, 11]]
    assert torch.allclose(first, first[:1], atol=2e-5)


def test_with_beta_the_best_is_that_of_least_elastic_net_distance():
    results = [CarliniWagner(**SHORT, beta=b)(GradientOracle(NET), IMAGES, LABELS, budget=2000, seed=0) for b in (0, 1)]
    norms = results[1].norms()
    assert torch.allclose(results[1].distance, norms["l2"].square() + norms["l1"])
    assert (norms["l1"] < results[0].norms()["l1"]).all() and (norms["l2"] > results[0].norms()["l2"]).all()


def test_larger_budgets_never_make_it_worse():
    results = [CarliniWagner()(GradientOracle(NET), IMAGES, LABELS, budget=b, seed=0) for b in (100, 300, 900)]
    assert (results[1].distance <= results[0].distance).all() and (results[2].distance <= results[1].distance).all()
    assert (results[2].queries == 900).all() and results[2].reason == ["budget"] * 4


def test_pixels_at_the_ends_of_the_box_are_no_trouble():
    images = IMAGES.round()
    labels = NET(images).argmax(1)
    result = CarliniWagner()(GradientOracle(NET), images, labels, budget=400, seed=0)
    assert result.adversarial.isfinite().all() and result.success.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"constant": 0.0}, "constant must lie in"),
        ({"searches": 0}, "searches must be at least 1"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be > 0"),
        ({"kappa": -1.0}, "kappa must be >= 0"),
        ({"beta": -1.0}, "beta must be >= 0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CarliniWagner(**options)
