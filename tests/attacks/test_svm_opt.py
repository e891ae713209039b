"""SVM-OPT: the programme's solutions against its optimality conditions, and what happens without one."""

import numpy as np
import pytest
import scipy.optimize
import torch

from tests.attacks.half_space import estimate, gradient, grey, half_space
from zeroth.attacks import SVMOPT
from zeroth.attacks.label.svm_opt import support
from zeroth.oracles import LabelOracle


@pytest.mark.parametrize(("dimension", "count"), [(3, 2), (20, 12), (20, 60), (5, 5)])
def test_the_solution_is_that_of_the_quadratic_programme(dimension, count):
    rng = np.random.default_rng(count)
    vectors = rng.normal(size=(dimension, count))
    vectors *= np.sign(rng.normal(size=dimension) @ vectors)  # one vector agrees with all
    weights = support(vectors)
    assert weights.min() >= 0 and weights.sum() == pytest.approx(1)
    z = vectors @ weights
    z /= (vectors.T @ z).min()  # eq. 5: the least of z^T u is 1
    slow = scipy.optimize.minimize(
        lambda x: x @ x,
        z * 2,
        jac=lambda x: 2 * x,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: vectors.T @ x - 1, "jac": lambda x: vectors.T},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    assert slow.success and z @ z == pytest.approx(slow.fun, rel=1e-5)
    assert np.allclose(weights * (vectors.T @ z - 1), 0, atol=1e-8)  # complementary slackness


def test_a_programme_without_a_solution_is_told():
    vectors = np.array([[1.0, -1.0, 0.5], [0.0, 0.0, 1.0]])
    assert support(vectors) is None and support(vectors[:, :1]) is not None


def test_a_solver_that_gives_up_is_told(monkeypatch):
    def stop(*_):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(scipy.optimize, "nnls", stop)
    assert support(np.eye(2)) is None
    out, u, theta, _, weight, result = estimate(SVMOPT(q=20))
    mean = ((u @ gradient(theta, weight).unsqueeze(2)).sign() * u).mean(1)
    assert {name: counts.tolist() for name, counts in result.tallies.items()} == {
        "programmes": [1, 1, 1],
        "fallbacks": [1, 1, 1],
    }
    assert torch.allclose(out, mean / mean.norm(dim=1, keepdim=True), atol=1e-5)


def test_an_estimate_agrees_with_every_sign_and_beats_the_mean():
    out, u, theta, _, weight, result = estimate(SVMOPT(q=150))
    true = gradient(theta, weight)
    signs = (u @ true.unsqueeze(2))[..., 0].sign()
    assert result.tallies["fallbacks"].tolist() == [0] * 3 and result.queries.tolist() == [151] * 3
    assert bool((signs * (u @ out.unsqueeze(2))[..., 0] > 0).all())
    assert torch.allclose(out.norm(dim=1), torch.ones(3), atol=1e-5)
    mean = (signs.unsqueeze(2) * u).mean(1)
    assert bool((torch.cosine_similarity(out, true) > torch.cosine_similarity(mean, true)).all())


def test_a_poor_row_is_solved_for_what_it_asked():
    out, u, theta, _, weight, result = estimate(SVMOPT(q=50), budget=21)
    signs = (u[:, :10] @ gradient(theta, weight).unsqueeze(2))[..., 0].sign()
    assert result.queries.tolist() == [11] * 3 and bool((signs * (u[:, :10] @ out.unsqueeze(2))[..., 0] > 0).all())


def test_signs_that_contradict_one_another_are_counted():
    """A victim that answers by a pixel's last bits: no plane agrees with it, the attack goes on by means."""

    def noisy(images):
        return ((images.flatten(1).double() * 2**20).sum(1).long() % 2).where(images.mean((1, 2, 3)) != 0.5, 0)

    # Of 200 random signs on 64 pixels hardly any set has a plane (Cover's counting).
    result = SVMOPT(q=200, tries=10)(LabelOracle(noisy), grey(2), torch.zeros(2).long(), budget=900, seed=0)
    fallbacks, programmes = result.tallies["fallbacks"], result.tallies["programmes"]
    assert result.queries.tolist() == [900, 900] and int(fallbacks.min()) >= 1
    assert bool((fallbacks <= programmes).all())


def test_the_minimal_distance_of_a_linear_victim_is_reached():
    victim, _ = half_space(0.5)
    result = SVMOPT()(LabelOracle(victim), grey(1), torch.zeros(1).long(), budget=2500, seed=0)
    assert 1 - 1e-5 < float(result.distance) / 0.5 < 1.02
