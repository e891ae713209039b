"""Estimators against their closed forms. f(x) = x'Ax/2 + b'x, so the gradient is Ax + b."""

import pytest
import torch

from zeroth.estimators import CGE, RGE, combine, grid_directions

DIMENSION = 6


def quadratic(seed: int = 0, dimension: int = DIMENSION):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    a, b = root @ root.T / dimension, torch.randn(dimension, generator=generator, dtype=torch.float64)
    return a, b, lambda points: (points @ a * points).sum(-1) / 2 + points @ b


def counted(f):
    def wrapped(points):
        wrapped.asked += points.shape[1]
        return f(points)

    wrapped.asked = 0
    return wrapped


def drawing(batch: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("estimator", "full", "known"),
    [
        (RGE(q=7, mu=0.1), 8, 7),
        (RGE(q=7, mu=0.1, distribution="gaussian"), 8, 7),
        (RGE(q=7, mu=0.1, antithetic=True), 14, 14),
        (CGE(mu=0.1), 7, 6),
        (CGE(mu=0.1, scheme="central"), 12, 12),
    ],
)
def test_queries_are_what_is_asked(estimator, full, known):
    x = torch.zeros(3, DIMENSION, dtype=torch.float64)
    for value, expected in ((None, full), (torch.zeros(3, dtype=torch.float64), known)):
        f = counted(quadratic()[2])
        estimator(f, x, value=value)
        assert f.asked == expected
    assert estimator.queries(DIMENSION) == full


def test_cge_is_exact_on_linear_functions():
    b = torch.randn(4, DIMENSION, dtype=torch.float64)
    x = torch.randn(4, DIMENSION, dtype=torch.float64)
    for scheme in ("forward", "central"):
        estimate = CGE(mu=0.5, scheme=scheme)(lambda p: torch.einsum("bqd,bd->bq", p, b), x)
        assert torch.allclose(estimate, b, atol=1e-12)


@pytest.mark.parametrize("antithetic", [False, True])
def test_rge_projects_a_linear_gradient_exactly(antithetic):
    """On b'x the slope along u is b'u whatever mu, so the estimate is (d / q) sum (b'u) u to rounding."""
    b = torch.randn(2, DIMENSION, dtype=torch.float64)
    draw = drawing(2)
    noise = drawing(2)((5, DIMENSION))
    u = noise / noise.norm(dim=2, keepdim=True)
    expected = DIMENSION / 5 * torch.einsum("bqd,bq->bd", u, torch.einsum("bqd,bd->bq", u, b))
    estimator = RGE(q=5, mu=3.0, antithetic=antithetic)
    assert torch.allclose(
        estimator(lambda p: torch.einsum("bqd,bd->bq", p, b), torch.zeros_like(b), draw=draw), expected
    )


@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("central", 2)])
def test_cge_error_has_its_order_in_mu(scheme, order):
    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    exact = torch.exp(x) + torch.cos(x)
    errors = [
        float((CGE(mu=mu, scheme=scheme)(lambda p: (torch.exp(p) + torch.sin(p)).sum(-1), x) - exact).norm())
        for mu in (1e-2, 1e-3)
    ]
    assert errors[0] / errors[1] == pytest.approx(10**order, rel=0.05)


@pytest.mark.parametrize("distribution", ["sphere", "gaussian"])
@pytest.mark.parametrize("antithetic", [False, True])
def test_rge_mean_and_variance_are_the_closed_forms(distribution, antithetic):
    a, b, f = quadratic()
    trials, q, mu = 200_000, 3, 0.8
    x = torch.linspace(-1, 1, DIMENSION, dtype=torch.float64)
    g = a @ x + b
    estimator = RGE(q=q, mu=mu, distribution=distribution, antithetic=antithetic)
    estimates = estimator(f, x.expand(trials, -1), draw=drawing(trials))
    curvature = a.trace() ** 2 + 2 * (a @ a).trace()
    d = DIMENSION
    if distribution == "sphere":
        variance = ((d - 1) * g @ g + mu**2 * d / (4 * (d + 2)) * curvature * (not antithetic)) / q
    else:
        # E (u'Au)^2 |u|^2 = (d + 4)(tr^2 A + 2 tr A^2) for standard normal u
        variance = ((d + 1) * g @ g + mu**2 / 4 * (d + 4) * curvature * (not antithetic)) / q
    error = estimates - g
    assert float(error.mean(0).norm()) < 4 * float((variance / trials).sqrt())
    assert float(error.square().sum(1).mean()) == pytest.approx(float(variance), rel=0.02)


def test_rows_are_estimated_apart():
    _, _, f = quadratic()
    x = torch.randn(3, DIMENSION, dtype=torch.float64)
    noise = drawing(3)((4, DIMENSION))
    whole = RGE(q=4, mu=0.1)(f, x, draw=lambda shape: noise)
    for row in range(3):
        alone = RGE(q=4, mu=0.1)(f, x[row : row + 1], draw=lambda shape, row=row: noise[row : row + 1])
        assert torch.allclose(alone[0], whole[row])


def test_combine_leaves_out_what_was_not_asked():
    directions = torch.randn(1, 4, DIMENSION)
    slopes = torch.tensor([[1.0, 2.0, torch.nan, torch.nan]])
    expected = (directions[0, 0] + 2 * directions[0, 1]) / 2
    assert torch.allclose(combine(directions, slopes)[0], expected)
    many = combine(directions, torch.stack([slopes, 3 * slopes], 2), 10.0)
    assert torch.allclose(many[0], torch.stack([10 * expected, 30 * expected]), atol=1e-5)


def test_grid_directions_are_flat_in_cells_and_unit():
    u = grid_directions(drawing(2), 3, (2, 6, 6), 3)
    assert u.shape == (2, 3, 2, 6, 6)
    assert torch.allclose(u.flatten(2).norm(dim=2), torch.ones(2, 3, dtype=u.dtype))
    blocks = u.unfold(3, 2, 2).unfold(4, 2, 2).flatten(5)
    assert torch.equal(blocks.amax(-1), blocks.amin(-1))
    assert len(u[0, 0].unique()) == 18
    uneven = grid_directions(drawing(1), 1, (1, 28, 28), 5)
    assert len(uneven.unique()) == 25 and float(uneven.norm()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RGE(q=0, mu=1), "q must be at least 1 direction, got 0"),
        (lambda: RGE(q=1, mu=0), "mu must be > 0, got 0"),
        (lambda: RGE(q=1, mu=1, distribution="cube"), "distribution must be 'sphere' or 'gaussian', got 'cube'"),
        (lambda: CGE(mu=-1), "mu must be > 0, got -1"),
        (lambda: CGE(mu=1, scheme="backward"), "scheme must be 'forward' or 'central', got 'backward'"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
