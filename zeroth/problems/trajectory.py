"""Optimizers at work on batches of problems: whole trajectories, and windows of them that can be differentiated.

Shapes: n problems, T iterations, d coordinates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zeroth.estimators.estimator import Draw
from zeroth.optimizers.zeroth_order import State, Step, ZerothOrder
from zeroth.oracles import ImageStreams
from zeroth.problems.problems import Problems

# Is shown the points (n, d) before an iteration, and the iteration.
Watch = Callable[[Tensor, Step], None]


@dataclass
class Window:
    """Some iterations of n problems.

    Attributes:
        thetas: (n, T, d), the points after each iteration, with graphs to the rule's parameters where those are on.
        offsets: (n,), the sum of the squares of a QueryRNN's outputs over iterations and coordinates; zero without one.
        state: after the last iteration.
    """

    thetas: Tensor
    offsets: Tensor
    state: State


@dataclass
class Curves:
    """Whole trajectories of n problems.

    Attributes:
        losses: (n, T + 1), at the starting points and after each iteration; of stochastic problems over all their data.
        theta: (n, d), the last points.
        reached: (n, T + 1) bool, whether the points reach their problem's goal; None where it has none.
        queries: what a problem was asked by the optimizer; the last loss is measured beside that, as are those of
            stochastic problems and of optimizers that do not ask at their own points.
    """

    losses: Tensor
    theta: Tensor
    queries: int
    reached: Tensor | None = None


def unroll(
    rule: ZerothOrder,
    problems: Problems,
    rows: Tensor,
    theta: Tensor,
    state: State,
    *,
    iterations: Tensor,
    minibatches: Tensor,
    steps: int,
    draw: Draw,
) -> Window:
    """Take some iterations of problems of any ages.

    Args:
        rule: not one that has epochs, where the ages differ.
        problems: asked by their functions alone.
        rows: (n,) int64.
        theta: (n, d).
        state: of the rule.
        iterations: (n,) int64, taken so far.
        minibatches: (n,) int64, of the first of the iterations, see :meth:`Problems.function`; the others' follow.
        steps: T.
        draw: as in :meth:`ZerothOrder.step`.

    Raises:
        ValueError: the ages differ and the rule has epochs, or it takes stochastic problems for others.
    """
    if rule.has_epochs and len(iterations.unique()) > 1:
        raise ValueError(f"the epochs of {type(rule).__name__} want problems of one age: take one slot")
    thetas, offsets = [], torch.zeros(len(rows), device=problems.device)
    for step in _steps(rule, problems, rows, theta, state, int(iterations[0]), minibatches, steps, draw):
        thetas.append(step.theta)
        state = step.state
        if step.offset is not None:
            offsets = offsets + step.offset.square().sum(1)
    return Window(thetas=torch.stack(thetas, 1), offsets=offsets, state=state)


@torch.no_grad()
def minimize(
    rule: ZerothOrder,
    problems: Problems,
    rows: Tensor,
    *,
    iterations: int,
    seed: int,
    watch: Watch | None = None,
) -> Curves:
    """Run an optimizer from the problems' starting points on.

    Args:
        rule: in eval mode, but where its chance of standard directions is to be left out.
        problems: asked by their functions; losses are measured beside them.
        rows: (n,) int64.
        iterations: T.
        seed: decides the directions; those of a problem depend on its index, not on its neighbours.
        watch: looks on; what it asks of the problems is counted as theirs.

    Raises:
        ValueError: the rule takes stochastic problems for others.
    """
    theta, state = problems.start[rows.to(problems.device)], rule.begin(len(rows), problems.dimension, problems.device)
    streams = ImageStreams(seed, problems.indices[rows.cpu()], problems.device)
    everyone, losses, reached = torch.arange(len(rows)), list[Tensor](), list[Tensor]()

    def tell(point: Tensor, value: Tensor) -> None:
        losses.append(value)
        if (goal := problems.reached(value, point, rows)) is not None:
            reached.append(goal)

    # The rule has asked for all losses but the last, unless it sees samples, or the surroundings of its points alone.
    beside = problems.stochastic or not rule.estimator.needs_value
    minibatches = torch.zeros(len(rows), dtype=torch.int64)
    for step in _steps(
        rule, problems, rows, theta, state, 0, minibatches, iterations, lambda shape: streams.randn(everyone, shape)
    ):
        tell(theta, problems.loss(theta, rows) if beside else step.value)
        if watch is not None:
            watch(theta, step)
        theta = step.theta
    tell(theta, problems.loss(theta, rows))
    queries = sum(rule.queries(problems.dimension, number) for number in range(iterations))
    goals = torch.stack(reached, 1) if reached else None
    return Curves(losses=torch.stack(losses, 1), theta=theta, queries=queries, reached=goals)


def _steps(
    rule: ZerothOrder,
    problems: Problems,
    rows: Tensor,
    theta: Tensor,
    state: State,
    first: int,
    minibatches: Tensor,
    count: int,
    draw: Draw,
) -> Iterator[Step]:
    if problems.stochastic and not getattr(rule, "stochastic", True):
        raise ValueError(
            f"{type(rule).__name__} takes what it knows of one iteration's function for that of another, and "
            f"{type(problems).__name__} has another minibatch in each: give it stochastic: true"
        )
    for number in range(count):
        f = problems.function(rows, minibatches + number)
        step = rule.step(f, theta, state, iteration=first + number, draw=draw)
        theta, state = step.theta, step.state
        yield step
