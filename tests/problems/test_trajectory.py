"""Optimizers on problems: curves, books, and neighbours that make no difference.

Shapes: n problems, T iterations, d coordinates.
"""

import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.estimators import CGE, RGE, LearnedSampling
from zeroth.networks import QueryRNN, UpdateRNN
from zeroth.optimizers import ZOSGD, ZOSZVRG, LearnedOptimizer
from zeroth.oracles import ScoreOracle
from zeroth.problems import AttackProblems, BinaryClassification, Quadratics, minimize, unroll

NET = random_linear(3, 9)
IMAGES = torch.rand(3, 1, 3, 3, generator=torch.Generator().manual_seed(0))
ROWS = torch.tensor([2, 0])


def learned(seed=0, **options):
    torch.manual_seed(seed)
    rule = LearnedOptimizer(
        update=UpdateRNN(hidden=3), query=QueryRNN(hidden=3), estimator=LearnedSampling(q=4, mu=1e-3), **options
    )
    return rule.eval()


def test_descent_by_exact_gradients_is_the_closed_form():
    """Central differences of a quadratic are its gradient, so the trajectory is a matrix power."""
    problems, lr = Quadratics(range(3), dimension=4), 0.1
    curves = minimize(
        ZOSGD(delta=4 * lr, estimator=CGE(mu=0.1, scheme="central")), problems, ROWS, iterations=5, seed=0
    )
    for n, row in enumerate(ROWS.tolist()):
        weight, target = problems.weight[row].double(), problems.target[row].double()
        theta, losses = problems.start[row].double(), []
        for _ in range(5):
            losses.append((weight @ theta - target).square().sum())
            theta = theta - lr * 2 * weight.T @ (weight @ theta - target)
        assert torch.allclose(curves.theta[n].double(), theta, atol=1e-4)
        last = (weight @ theta - target).square().sum()
        assert curves.losses[n, -1].item() == pytest.approx(last.item(), rel=1e-3)
        # Central differences do not ask at the point itself: the curve is measured beside them.
        assert torch.allclose(curves.losses[n, :5].double(), torch.stack(losses), rtol=1e-4)
    assert curves.losses.shape == (2, 6) and curves.queries == 5 * 8


def test_the_victim_is_asked_the_optimizers_queries_and_one_more():
    victim = Logging(NET)
    problems = AttackProblems(ScoreOracle(victim), IMAGES, NET(IMAGES).argmax(1))
    curves = minimize(learned(), problems, torch.arange(3), iterations=4, seed=0)
    assert curves.queries == 4 * 5
    assert victim.seen == problems.queries == 3 * (4 * 5 + 1)
    # The curve is f at each point of the trajectory: from the shared start to the last point.
    assert torch.allclose(curves.losses[:, 0], problems.loss(problems.start, torch.arange(3)), atol=1e-6)
    assert torch.allclose(curves.losses[:, -1], problems.loss(curves.theta, torch.arange(3)), atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "rounding"),
    [(learned(), 1e-5), (ZOSGD(delta=0.4, estimator=RGE(q=3, mu=1e-3)), 0.0)],  # the LSTM's last bits may differ
    ids=["learned", "sgd"],
)
@pytest.mark.parametrize(
    "problems",
    [
        Quadratics(range(3), dimension=8),
        BinaryClassification(range(3), dimension=8, samples=40, minibatch=5),
        AttackProblems(ScoreOracle(NET), IMAGES, NET(IMAGES).argmax(1)),
    ],
    ids=["quadratics", "classification", "attacks"],
)
def test_a_trajectory_does_not_depend_on_its_neighbours(rule, rounding, problems):
    both = minimize(rule, problems, ROWS, iterations=6, seed=1)
    one = minimize(rule, problems, ROWS[:1], iterations=6, seed=1)
    assert torch.allclose(both.losses[:1], one.losses, rtol=rounding, atol=0)
    assert torch.allclose(both.theta[:1], one.theta, rtol=rounding, atol=rounding)
    again = minimize(rule, problems, ROWS[:1], iterations=6, seed=2)
    assert torch.equal(again.losses[:, 0], one.losses[:, 0]) and not torch.equal(again.theta, one.theta)


def test_a_stochastic_problems_curve_is_of_all_its_data():
    problems = BinaryClassification(range(2), dimension=6, samples=40, minibatch=5)
    rule = ZOSGD(delta=6.0, estimator=RGE(q=3, mu=1e-3))
    curves = minimize(rule, problems, torch.arange(2), iterations=60, seed=0)
    assert torch.equal(curves.losses[:, -1], problems.loss(curves.theta, torch.arange(2)))
    assert curves.queries == 60 * 4 and (curves.losses[:, -1] < curves.losses[:, 0]).all()


def test_a_rule_that_keeps_values_is_told_that_functions_change():
    """What ZO-SZVR-G knows of f(snapshot) is of one minibatch, its probes of another."""
    problems, estimator = BinaryClassification(range(2), dimension=6, samples=40, minibatch=5), RGE(q=3, mu=1e-3)
    rule = ZOSZVRG(delta=1.0, estimator=estimator, snapshot=RGE(q=9, mu=1e-3), epoch=3)
    with pytest.raises(ValueError, match="has another minibatch in each: give it stochastic: true"):
        minimize(rule, problems, torch.arange(2), iterations=2, seed=0)
    assert problems.queries == 0
    rule.stochastic = True
    assert minimize(rule, problems, torch.arange(2), iterations=2, seed=0).queries == (10 + 8) + 8
    with pytest.raises(ValueError, match="the epochs of ZOSZVRG want problems of one age"):
        unroll(
            rule,
            problems,
            torch.arange(2),
            problems.start,
            rule.begin(2, 6),
            iterations=torch.tensor([0, 1]),
            minibatches=torch.zeros(2, dtype=torch.int64),
            steps=1,
            draw=lambda shape: torch.randn(2, *shape),
        )
