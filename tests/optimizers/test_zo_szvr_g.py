"""ZO-SZVR-G: what it asks, what its estimate is on average, and what common directions cancel."""

import pytest
import torch

from zeroth.estimators import RGE
from zeroth.optimizers import ZOSZVRG


def gaussian(q: int, mu: float = 0.5) -> RGE:
    return RGE(q=q, mu=mu, distribution="gaussian")


@pytest.mark.parametrize(("stochastic", "epoch"), [(False, 511), (True, 521)])
def test_an_epoch_asks_what_the_paper_counts(stochastic, epoch):
    rule = ZOSZVRG(delta=0.1, estimator=gaussian(20), snapshot=gaussian(100), stochastic=stochastic)
    asked, theta, state = [], torch.zeros(2, 3), rule.begin(2, 3)

    def f(points):
        asked[-1] += points.shape[1]
        return points.square().sum(2)

    for iteration in range(20):
        asked.append(0)
        step = rule.step(f, theta, state, iteration=iteration, draw=lambda shape: torch.randn(2, *shape))
        theta, state = step.theta, step.state
        assert asked[-1] == rule.queries(3, iteration)
    assert asked[0] == asked[10] == epoch - 9 * asked[1]
    assert sum(asked[:10]) == sum(asked[10:]) == epoch
    assert (
        ZOSZVRG(
            delta=0.1, estimator=RGE(q=20, mu=1.0, antithetic=True), snapshot=RGE(q=100, mu=1.0, antithetic=True)
        ).queries(3, 1)
        == 80
    )


def test_its_mean_is_the_gradient_of_the_smoothed_function():
    """Of sum x^3, smoothed by mu u with u standard normal, this is 3 x^2 + 3 mu^2."""
    trials, mu = 100_000, 0.5
    rule = ZOSZVRG(delta=1.0, estimator=gaussian(2, mu), snapshot=gaussian(3, mu))
    generator = torch.Generator().manual_seed(0)

    def step(theta, state, iteration):
        return rule.step(
            lambda points: points.pow(3).sum(2),
            theta.expand(trials, -1),
            state,
            iteration=iteration,
            draw=lambda shape: torch.randn(trials, *shape, generator=generator, dtype=torch.float64),
        )

    snapshot = torch.tensor([0.4, -0.3], dtype=torch.float64)
    theta = torch.tensor([0.6, 0.1], dtype=torch.float64)
    first = step(snapshot, rule.begin(trials, 2, dtype=torch.float64), 0)
    estimates = step(theta, first.state, 1).gradient
    expected = 3 * theta.square() + 3 * mu**2
    error = estimates.std(0) / trials**0.5
    assert float(((estimates.mean(0) - expected) / error).abs().max()) < 4
    assert float(((estimates.mean(0) - 3 * theta.square()) / error).min()) > 20


@pytest.mark.parametrize("stochastic", [False, True])
def test_common_directions_cancel_where_f_is_linear(stochastic):
    """The two estimates of an iteration are equal then, whatever theta: the snapshot's noise is all that is left."""
    b, generator = torch.randn(3, 4, dtype=torch.float64), torch.Generator().manual_seed(0)
    rule = ZOSZVRG(delta=1.0, estimator=gaussian(2), snapshot=gaussian(5), epoch=4, stochastic=stochastic)
    theta, state, taken = torch.zeros(3, 4, dtype=torch.float64), rule.begin(3, 4, dtype=torch.float64), []
    for iteration in range(8):
        # Another sample of a stochastic f: here it is shifted as a whole, which no difference may show.
        shift = 1e3 * iteration * stochastic
        step = rule.step(
            lambda points, shift=shift: torch.einsum("bqd,bd->bq", points, b) + shift,
            theta,
            state,
            iteration=iteration,
            draw=lambda shape: torch.randn(3, *shape, generator=generator, dtype=torch.float64),
        )
        theta, state = step.theta, step.state
        taken.append(step.gradient)
        torch.testing.assert_close(step.gradient, state["snapshot_gradient"], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(taken[3], taken[0])
    assert float((taken[4] - taken[0]).abs().min()) > 1e-3


def test_a_snapshot_that_smooths_otherwise_is_refused():
    with pytest.raises(ValueError, match=r"snapshot must smooth as the estimator does, whose mu is 0.5, got 0.1"):
        ZOSZVRG(delta=0.1, estimator=gaussian(20), snapshot=gaussian(100, mu=0.1))
    with pytest.raises(ValueError, match="whose distribution is gaussian, got sphere"):
        ZOSZVRG(delta=0.1, estimator=gaussian(20), snapshot=RGE(q=100, mu=0.5))
