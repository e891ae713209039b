"""Sampling by given variances: its directions and their mean in closed form, and the graph that runs through sigma."""

import pytest
import torch

from zeroth.estimators import RGE, LearnedSampling


def drawing(batch: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


SIGMA = torch.tensor([[1.5, -0.5, 1.0, -2.0, 0.1, 0.7]], dtype=torch.float64)
SIGMA = SIGMA * 6**0.5 / SIGMA.norm()


def test_covariance_norm_and_mean_are_the_closed_forms():
    """u has covariance diag(sigma^2) and E|u|^2 = d; on b'x the estimate has mean sigma^2 b."""
    q, mu, b = 100_000, 0.5, torch.linspace(-1, 2, 6, dtype=torch.float64)
    seen = []

    def f(points):
        seen.append(points)
        return points @ b

    x = torch.ones(1, 6, dtype=torch.float64)
    estimate = LearnedSampling(q=q, mu=mu)(f, x, draw=drawing(1), sigma=SIGMA)[0]
    u = ((seen[0] - x) / mu)[0, 1:]
    variance = SIGMA[0].square()
    assert float(u.square().sum(1).mean()) == pytest.approx(6, rel=0.02)
    spread = (torch.outer(variance, variance) + variance.square().diag()).sqrt() / q**0.5
    assert float(((u.T @ u / q - variance.diag()) / spread).abs().max()) < 4.5
    # (b'u) u_i has variance sigma_i^2 sum_j sigma_j^2 b_j^2 + sigma_i^4 b_i^2
    error = (variance * (variance @ b.square()) + (variance * b).square()).sqrt() / q**0.5
    assert float(((estimate - variance * b) / error).abs().max()) < 4.5
    assert float(((estimate - b) / error).abs().max()) > 100  # the bias that sigma brings


def test_without_sigma_it_is_the_gaussian_estimate():
    def f(points):
        return points.square().sum(2)

    x = torch.ones(2, 5, dtype=torch.float64)
    plain = RGE(q=4, mu=0.1, distribution="gaussian")(f, x, draw=drawing(2))
    sampling = LearnedSampling(q=4, mu=0.1)
    assert torch.equal(sampling(f, x, draw=drawing(2)), plain)
    assert torch.equal(sampling(f, x, draw=drawing(2), sigma=-torch.ones_like(x)), plain)
    assert torch.equal(sampling(f, x, draw=drawing(2), value=f(x.unsqueeze(1))[:, 0]), plain)


def test_the_graph_runs_through_sigma_alone():
    """The estimate is |sigma| m with m a constant: its derivative in sigma is sign(sigma) m, and f is not in it."""
    weight = torch.ones(6, dtype=torch.float64, requires_grad=True)
    x = torch.ones(1, 6, dtype=torch.float64, requires_grad=True)
    sigma = SIGMA.clone().requires_grad_()
    estimate = LearnedSampling(q=3, mu=0.1)(lambda p: (p.square() * weight).sum(2), x, draw=drawing(1), sigma=sigma)
    m = estimate.detach() / sigma.detach().abs()
    found = torch.autograd.grad(estimate.sum(), (sigma, weight, x), allow_unused=True)
    torch.testing.assert_close(found[0], sigma.detach().sign() * m)
    assert found[1:] == (None, None)


def test_what_is_kept_for_backward_does_not_grow_with_q():
    kept = []
    for q in (2, 200):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            LearnedSampling(q=q, mu=0.1)(
                lambda p: p.square().sum(2), torch.ones(1, 6, dtype=SIGMA.dtype), sigma=SIGMA.clone().requires_grad_()
            )
        kept.append(sum(sizes))
    assert kept[0] == kept[1] <= 18


def test_queries_are_what_is_asked():
    asked = []

    def f(points):
        asked.append(points.shape[1])
        return points.sum(2)

    x = torch.zeros(2, 5)
    LearnedSampling(q=7, mu=0.1)(f, x)
    LearnedSampling(q=7, mu=0.1)(f, x, value=torch.zeros(2))
    assert asked == [8, 7] and LearnedSampling(q=7, mu=0.1).queries(5) == 8


@pytest.mark.parametrize(("changes", "message"), [({"q": 0}, "got 0"), ({"mu": -1.0}, "mu must be > 0, got -1.0")])
def test_bad_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        LearnedSampling(**{"q": 2, "mu": 0.1} | changes)
