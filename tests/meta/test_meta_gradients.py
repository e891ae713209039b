"""Meta-gradients against the whole graph, finite differences and each other, on quadratics.

Shapes: n trajectories, T iterations, d coordinates.
"""

import pytest
import torch

from tests.meta.toys import Momentum, begun, slow_meta_loss, task_of
from zeroth.estimators import CGE, RGE
from zeroth.meta import PES, TBPTT, TruncatedES
from zeroth.optimizers import ZOSGD
from zeroth.problems import BinaryClassification, Quadratics

D, HORIZON = 4, 6


def gradient_of(outcome, rule):
    return torch.autograd.grad(outcome.loss, rule.w)[0].double()


def slow_gradient(rule, problems, row, *, detached):
    w = rule.w.detach().double().requires_grad_()
    return torch.autograd.grad(slow_meta_loss(w, problems, row, HORIZON, detached), w)[0]


def test_backpropagation_through_a_whole_trajectory_is_that_of_its_graph():
    """Of the rule's own graph: what it is shown is a constant to it, as in the paper's program."""
    problems, rule = Quadratics(range(3), dimension=D), Momentum()
    outcome = TBPTT()(task_of(rule, problems, window=HORIZON), begun(rule, problems, [0, 1, 2]))
    expected = torch.stack([slow_gradient(rule, problems, row, detached=True) for row in range(3)])
    assert torch.allclose(gradient_of(outcome, rule), expected.mean(0), rtol=2e-4)
    losses = [slow_meta_loss(rule.w.detach().double(), problems, row, HORIZON, True) for row in range(3)]
    assert torch.allclose(outcome.losses.double(), torch.stack(losses), rtol=1e-4)
    # Truncated, the parts sum up to less: what a parameter does to later windows is lost.
    task, of, parts = task_of(rule, problems, window=2), begun(rule, problems, [0, 1, 2]), []
    for _ in range(HORIZON // 2):
        outcome = TBPTT()(task, of)
        parts.append(gradient_of(outcome, rule))
        of = outcome.after
    assert (torch.stack(parts).sum(0) / expected.mean(0) - 1).abs().max() > 0.2
    assert of.ages.tolist() == [HORIZON] * 3 and not of.copies[0][0].requires_grad


@pytest.mark.parametrize(
    ("estimator", "tolerance", "each"),
    [
        (CGE(mu=0.1, scheme="central"), 1e-3, 2 * D),  # eq. 5, exact on quadratics
        (RGE(q=4000, mu=0.1, antithetic=True), 0.1, 8000),
        (None, 2e-4, 1),
    ],
    ids=["cge", "rge", "true"],
)
def test_the_problems_gradient_may_be_estimated_and_is_counted(estimator, tolerance, each):
    problems, rule = Quadratics(range(2), dimension=D), Momentum()
    outcome = TBPTT(estimator=estimator)(task_of(rule, problems, window=HORIZON), begun(rule, problems, [0, 1]))
    expected = torch.stack([slow_gradient(rule, problems, row, detached=True) for row in range(2)]).mean(0)
    assert (gradient_of(outcome, rule) - expected).norm() < tolerance * expected.norm()
    assert problems.queries == 2 * HORIZON * (2 * D + 1 + each)


def trajectory_gradients(method, seeds, window):
    """(seeds, 2): a method's gradients of a whole trajectory of one problem, summed over its windows."""
    problems, rule, sums = Quadratics([3], dimension=D), Momentum(), []
    for seed in range(seeds):
        of = begun(rule, problems, [0], copies=method.copies, parameters=2 if method.remembers else 0)
        task, parts = task_of(rule, problems, window=window, seed=seed), []
        while int(of.ages[0]) < HORIZON:
            outcome = method(task, of)
            parts.append(gradient_of(outcome, rule))
            of = outcome.after
        sums.append(torch.stack(parts).sum(0))
    found = torch.stack(sums)
    return found.mean(0), found.std(0) / seeds**0.5, slow_gradient(rule, problems, 0, detached=False)


def test_persistent_evolution_is_unbiased_and_the_truncated_one_is_not():
    """PES tells the derivative of the whole trajectory, through the estimates too, which a rule's graph leaves out."""
    mean, error, expected = trajectory_gradients(PES(sigma=0.02, pairs=1), seeds=120, window=3)
    assert ((mean - expected).abs() < 3 * error).all()
    assert error[0] < 0.15 * expected[0].abs()
    mean, error, expected = trajectory_gradients(TruncatedES(sigma=0.02, pairs=1), seeds=120, window=3)
    assert ((mean - expected).abs() > 5 * error).any()


@pytest.mark.parametrize(
    ("estimator", "differentiate"),
    [(None, False), (None, True), (CGE(mu=0.1), True)],
    ids=["values", "true gradients", "estimates"],
)
def test_points_are_valued_by_samples_that_did_not_lead_to_them(estimator, differentiate):
    """Else a rule would be trained to fit the minibatch that it has just asked."""
    problems = BinaryClassification(range(2), dimension=D, samples=40, minibatch=5)
    rule = ZOSGD(delta=9.0, estimator=CGE(mu=0.1))
    task, of = task_of(rule, problems, window=3), begun(rule, problems, [1, 0], first=6)
    window = task.unroll(of)
    known = task.losses(of, window, estimator, differentiate)
    for n, (row, number) in enumerate(((1, 6), (0, 7))):
        expected = 0.0
        for t, theta in enumerate(window.thetas[n], start=1):
            chosen = problems.chosen(torch.tensor([row]), torch.tensor([number * 2**15 + t]))[0]
            guess = torch.sigmoid(problems.data[row][chosen] @ theta)
            expected += t * (problems.labels[row][chosen] - guess).square().mean()
        assert known[n].item() == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("method", "runs"), [(PES(pairs=2), 2), (TruncatedES(pairs=2), 3)], ids=["pes", "es"])
def test_evolution_asks_values_alone_and_leaves_the_parameters_as_they_were(method, runs):
    problems, rule = Quadratics(range(5), dimension=D), Momentum()
    before = rule.w.detach().clone()
    of = begun(rule, problems, [4, 3, 2, 1, 0], copies=method.copies, parameters=2 if method.remembers else 0)
    outcome = method(task_of(rule, problems, window=3), of)
    assert torch.equal(rule.w.detach(), before)
    assert problems.queries == 5 * 3 * (runs * (2 * D + 1) + 2)  # two of the windows are valued
    assert outcome.after.rows.tolist() == [4, 3, 2, 1, 0] and outcome.losses.shape == (5,)
    # Trajectories of one pair share its perturbation, the others have their own.
    if method.remembers:
        memory = outcome.after.memory
        assert torch.equal(memory[0], memory[2]) and torch.equal(memory[1], memory[3])
        assert not torch.equal(memory[0], memory[1])
        assert not torch.equal(outcome.after.copies[0][0], outcome.after.copies[1][0])


@pytest.mark.parametrize("method", [TBPTT(), TBPTT(estimator=RGE(q=3, mu=0.1))], ids=["true", "rge"])
def test_a_trajectory_does_not_depend_on_its_neighbours(method):
    problems, rule = Quadratics(range(3), dimension=D), Momentum()
    task, of = task_of(rule, problems, window=3), begun(rule, problems, [2, 0, 1])
    whole, one = method(task, of), method(task, of.select(torch.tensor([1])))
    assert torch.equal(whole.losses[1:2], one.losses)
    assert torch.equal(whole.after.copies[0][0][1:2], one.after.copies[0][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sigma": 0.0}, "sigma must be > 0, got 0.0"), ({"pairs": 0}, "pairs must be at least 1, got 0")],
    ids=["sigma", "pairs"],
)
@pytest.mark.parametrize("kind", [PES, TruncatedES])
def test_wrong_arguments_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)
