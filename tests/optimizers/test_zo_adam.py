"""ZO-ADAM against torch's Adam, whose steps it takes where its estimate is the gradient."""

import torch

from zeroth.estimators import CGE
from zeroth.optimizers import ZOAdam


def test_its_steps_are_those_of_torch_on_linear_losses():
    """A loss that is linear, and another in each step; CGE is exact on it whatever mu. Rows are problems."""
    d, slopes = 5, torch.randn(20, 3, 5, dtype=torch.float64)
    rule = ZOAdam(delta=0.3, estimator=CGE(mu=0.5), betas=(0.8, 0.97), eps=1e-3)
    theta, state = torch.ones(3, d, dtype=torch.float64), rule.begin(3, d, dtype=torch.float64)
    theirs = theta.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.3 / d, betas=(0.8, 0.97), eps=1e-3)
    for iteration, b in enumerate(slopes):
        step = rule.step(
            lambda points, b=b: torch.einsum("bqd,bd->bq", points, b),
            theta,
            state,
            iteration=iteration,
            draw=torch.empty,
        )
        theta, state = step.theta, step.state
        theirs.grad = b
        adam.step()
        torch.testing.assert_close(theta, theirs.detach(), rtol=1e-11, atol=1e-12)
    assert float((theta - 1).abs().min()) > 1e-4


def test_problems_of_different_ages_are_corrected_each_by_its_own():
    """The first step of Adam is the sign of the estimate, whatever its neighbours have behind them."""
    rule, slopes = ZOAdam(delta=1.0, estimator=CGE(mu=0.5), eps=1e-12), torch.tensor([[2.0, -3.0, 0.5, 8.0]])

    def step(theta, state, iteration):
        f = lambda points: points @ slopes[0]  # noqa: E731
        return rule.step(f, theta, state, iteration=iteration, draw=torch.empty, lr=1.0)

    old = step(torch.zeros(1, 4), rule.begin(1, 4), 0)
    state = {name: torch.cat([held, rule.begin(1, 4)[name]]) for name, held in old.state.items()}
    both = step(torch.zeros(2, 4), state, 1)
    torch.testing.assert_close(both.update[1:], -slopes.sign(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both.update[:1], step(torch.zeros(1, 4), old.state, 1).update)
