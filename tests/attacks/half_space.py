"""A victim whose boundary is a plane, and the estimates that attacks on the distance to it make."""

import torch
from torch import Tensor

from tests.victims import Linear
from zeroth.attacks.attack import Attack
from zeroth.attacks.label.direction_search import DirectionSearch, State
from zeroth.oracles import LabelOracle

SIDE, D = 8, 64


def half_space(distance: float, seed: int = 0) -> tuple[Linear, Tensor]:
    """Class 0 at the grey image, whose boundary lies at l_2 distance ``distance``; and the weight, of norm 1."""
    weight = torch.randn(D, generator=torch.Generator().manual_seed(seed))
    weight = weight / weight.norm()
    bias = -(0.5 * weight.sum() + distance)
    return Linear(torch.stack([torch.zeros(D), weight]), torch.stack([torch.zeros(()), bias])), weight


def grey(count: int) -> Tensor:
    return torch.full((count, 1, SIDE, SIDE), 0.5)


def radius(theta: Tensor, weight: Tensor, distance: float = 0.4) -> Tensor:
    """g of directions (..., D), in float64."""
    return distance * theta.double().norm(dim=-1) / (theta.double() @ weight.double())


def gradient(theta: Tensor, weight: Tensor, distance: float = 0.4) -> Tensor:
    """Gradient of g(theta) = distance |theta| / (w theta) at unit vectors theta (..., D)."""
    along = theta @ weight
    return distance * (theta / along.unsqueeze(-1) - weight / (along**2).unsqueeze(-1))


class Estimating(Attack):
    """Asks an attack for one estimate at given unit directions, which it knows the distance along."""

    oracle_type = LabelOracle
    norm = "l2"
    stop_at_success = False

    def __init__(self, attack: DirectionSearch, theta: Tensor, g: Tensor) -> None:
        self.attack, self.theta, self.g = attack, theta, g

    def run(self, trial):
        one = torch.ones_like(self.g)
        shape = trial.images.shape
        self.state = State(
            self.theta.reshape(shape).clone(), self.g.clone(), one, self.attack.beta * one, torch.zeros(shape), 99 * one
        )
        drawn = self.attack.draw

        def draw(*arguments):
            self.u = drawn(*arguments)
            return self.u

        self.attack.draw = draw
        self.out = self.attack.estimate(trial, trial.active, self.state)


def estimate(attack: DirectionSearch, distance: float = 0.4, count: int = 3, budget: int = 10_000):
    """Return estimates (n, D), directions (n, Q, D), theta (n, D) before and state after, the weight, the result."""
    victim, weight = half_space(distance)
    noise = torch.randn(count, D, generator=torch.Generator().manual_seed(5)) * 0.2 + weight
    theta = noise / noise.norm(dim=1, keepdim=True)
    probe = Estimating(attack, theta, distance / (theta @ weight))
    result = probe(LabelOracle(victim), grey(count), torch.zeros(count).long(), budget=budget, seed=0)
    return probe.out.flatten(1), probe.u.flatten(2), theta, probe.state, weight, result
