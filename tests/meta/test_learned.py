"""The meta-gradient of UpdateRNN and QueryRNN against a graph held whole, and against finite differences.

Shapes: n trajectories, T iterations, d coordinates.
"""

import pytest
import torch
from torch import nn

from tests.meta.toys import begun
from zeroth.estimators import LearnedSampling
from zeroth.meta import TBPTT, Task
from zeroth.networks import QueryRNN, UpdateRNN
from zeroth.optimizers import LearnedOptimizer
from zeroth.oracles import ImageStreams
from zeroth.oracles.streams import derived_seed
from zeroth.problems import Quadratics

T, D, PENALTY = 5, 4, 0.1


class Replayed(LearnedSampling):
    """Gives the estimates that it gave at first, whatever it is asked: common draws, and constants to the rule.

    Where a QueryRNN widens the directions, g = |sigma| m: m is the constant, and g goes on changing with sigma.
    """

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.kept, self.place = [], None

    def __call__(self, f, x, **options):
        sigma = options.get("sigma")
        width = torch.ones(()) if sigma is None else sigma.abs()
        if self.place is None:
            self.kept.append((super().__call__(f, x, **options) / width).detach())
        else:
            self.place += 1
            f(x.unsqueeze(1))  # for the value
        return width * self.kept[-1 if self.place is None else (self.place - 1) % len(self.kept)]


class Unmoved(QueryRNN):
    """Sees what it saw at first, as its inputs are constants to a meta-gradient."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.kept, self.place = [], None

    def forward(self, gradient, update, memory):
        if self.place is None:
            self.kept.append((gradient.detach(), update.detach()))
        else:
            self.place += 1
        seen = self.kept[-1 if self.place is None else (self.place - 1) % len(self.kept)]
        return super().forward(*seen, memory)


def setting(trained, kind=LearnedSampling, sampler=QueryRNN):
    torch.manual_seed(0)
    estimator = kind(q=3, mu=1e-2)
    rule = LearnedOptimizer(
        update=UpdateRNN(hidden=3), query=sampler(hidden=3) if trained == "query" else None, estimator=estimator
    )
    with torch.no_grad():  # an untrained network moves by next to nothing
        rule.update.output.weight.mul_(10)
        if rule.query is not None:
            rule.query.output.weight.mul_(10)
    getattr(rule.requires_grad_(False), trained).requires_grad_(True)
    problems = Quadratics(range(3), dimension=D)
    task = Task(rule=rule, problems=problems, window=T, penalty=PENALTY, seed=0)
    return task, begun(rule, problems, [0, 1, 2])


@pytest.mark.parametrize("trained", ["update", "query"])
def test_it_is_the_gradient_of_a_graph_that_holds_the_problems_too(trained):
    task, of = setting(trained)
    outcome = TBPTT()(task, of)
    found = torch.autograd.grad(outcome.loss, task.parameters)
    streams = ImageStreams(derived_seed(0, 11), of.numbers * 2**24, "cpu")
    theta, state = of.copies[0]
    f, total = task.problems.function(of.rows), torch.zeros(3)
    for t in range(1, T + 1):
        step = task.rule.step(
            f, theta, state, iteration=t - 1, draw=lambda shape: streams.randn(torch.arange(3), shape)
        )
        theta, state = step.theta, step.state
        total = total + t * task.problems.evaluate(theta.unsqueeze(1), of.rows, None)[:, 0]
        if step.offset is not None:
            total = total + PENALTY * step.offset.square().sum(1)
    expected = torch.autograd.grad(total.mean(), task.parameters)
    assert torch.allclose(outcome.losses, total, rtol=1e-5)
    for own, whole in zip(found, expected, strict=True):
        assert whole.abs().max() > 1e-3 and torch.allclose(own, whole, rtol=1e-3, atol=1e-4)
    assert (outcome.losses - total).abs().max() < 1e-3 and (trained == "query") == bool(step.offset is not None)


@pytest.mark.parametrize(("trained", "size"), [("update", 51), ("query", 63)])
def test_it_is_the_finite_difference_of_the_meta_loss_with_common_draws(trained, size):
    """Along ten directions of a network's parameters, what the estimates take from the problems being held."""
    task, of = setting(trained, Replayed, Unmoved)
    outcome = TBPTT()(task, of)
    found = nn.utils.parameters_to_vector(torch.autograd.grad(outcome.loss, task.parameters)).double()
    for held in (task.rule.estimator, task.rule.query or task.rule.estimator):
        held.place = 0
    step = 3e-3
    start = nn.utils.parameters_to_vector(task.parameters).detach()
    directions = torch.randn(10, len(start), generator=torch.Generator().manual_seed(1))
    slopes = []
    for direction in directions:
        losses = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(start + sign * step * direction, task.parameters)
            losses.append(TBPTT()(task, of).losses.double().mean())
        slopes.append((losses[0] - losses[1]) / (2 * step))
    along = directions.double() @ found
    assert len(start) == size and along.norm() > 0.1
    assert (torch.stack(slopes) - along).norm() < 0.01 * along.norm()
