"""Rules of which everything is known, and trajectories to try meta-gradients on."""

import torch
from torch import Tensor, nn

from zeroth.estimators import CGE
from zeroth.meta import Task, Trajectories
from zeroth.optimizers.zeroth_order import Step
from zeroth.problems import Quadratics


class Momentum(nn.Module):
    """theta - exp(w_0) m with m = sigmoid(w_1) m + g; central differences are a quadratic's gradient itself."""

    has_epochs = False

    def __init__(self, log_lr: float = -2.5, momentum: float = 0.5) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([log_lr, momentum]))
        self.estimator = CGE(mu=0.1, scheme="central")

    def begin(self, batch: int, dimension: int, device="cpu", dtype=torch.float32) -> dict[str, Tensor]:
        return {"m": torch.zeros(batch, dimension)}

    def queries(self, dimension: int, iteration: int) -> int:
        return self.estimator.queries(dimension)

    def step(self, f, theta, state, *, iteration, draw, value=None, lr=None) -> Step:
        with torch.no_grad():
            gradient = self.estimator(f, theta.detach())
        m = self.w[1].sigmoid() * state["m"] + gradient
        update = -self.w[0].exp() * m
        return Step(
            theta=theta + update, state={"m": m}, gradient=gradient, update=update, value=f(theta[:, None])[:, 0]
        )


def slow_meta_loss(w: Tensor, problems: Quadratics, row: int, horizon: int, detached: bool) -> Tensor:
    """The sum of t f(theta_t) of Momentum in float64, with a graph to w."""
    weight, target = problems.weight[row].double(), problems.target[row].double()
    theta, m = problems.start[row].double(), torch.zeros(problems.dimension, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(1, horizon + 1):
        gradient = 2 * weight.T @ (weight @ theta - target)
        m = w[1].sigmoid() * m + (gradient.detach() if detached else gradient)
        theta = theta - w[0].exp() * m
        total = total + t * (weight @ theta - target).square().sum()
    return total


def begun(rule, problems, rows: list[int], *, copies: int = 1, parameters: int = 0, first: int = 0) -> Trajectories:
    """Trajectories at their start, one a row."""
    theta, n = problems.start[rows], len(rows)
    return Trajectories(
        slots=torch.arange(n),
        rows=torch.tensor(rows),
        numbers=first + torch.arange(n),
        ages=torch.zeros(n, dtype=torch.int64),
        copies=[(theta, rule.begin(n, problems.dimension)) for _ in range(copies)],
        memory=torch.zeros(n, parameters),
    )


def task_of(rule, problems, *, window: int, penalty: float = 0.0, seed: int = 0) -> Task:
    return Task(rule=rule, problems=problems, window=window, penalty=penalty, seed=seed)
