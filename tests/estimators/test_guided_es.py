"""Guided-ES: covariance and norm of its directions in closed form, both scalings, and what surrogates do."""

import pytest
import torch

from zeroth.estimators import RGE, GuidedES
from zeroth.estimators.guided_es import orthonormal


def drawing(batch: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn(batch, *shape, generator=generator, dtype=torch.float64)


def directions(estimator: GuidedES, surrogates: torch.Tensor) -> torch.Tensor:
    batch, _, dimension = surrogates.shape
    return estimator.directions(torch.zeros(batch, dimension, dtype=surrogates.dtype), drawing(batch), surrogates)


@pytest.mark.parametrize("alpha", [0.5, 0.2, 1.0])
@pytest.mark.parametrize("scaling", ["original", "zo_l2l"])
def test_covariance_and_norm_are_the_closed_forms(scaling, alpha):
    d, k, q = 6, 2, 100_000
    surrogates = torch.randn(1, k, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    projector = torch.linalg.pinv(surrogates[0]) @ surrogates[0]
    if scaling == "original":
        covariance = d * (alpha / d * torch.eye(d) + (1 - alpha) / k * projector)
    else:
        covariance = alpha * torch.eye(d) + (1 - alpha) * projector
        covariance = covariance * d / covariance.trace()
    u = directions(GuidedES(q=q, mu=1.0, alpha=alpha, scaling=scaling), surrogates)[0]
    assert float(covariance.trace()) == pytest.approx(d)
    assert float(u.square().sum(1).mean()) == pytest.approx(d, rel=0.02)
    # An entry's estimate has standard error sqrt((C_ii C_jj + C_ij^2) / q).
    spread = (torch.outer(covariance.diag(), covariance.diag()) + covariance.square()).sqrt() / q**0.5
    assert float(((u.T @ u / q - covariance) / spread).abs().max()) < 4.5
    assert float((u.mean(0) / (covariance.diag() / q).sqrt()).abs().max()) < 4.5


@pytest.mark.parametrize(("scaling", "share"), [("original", 0.5 + 0.5 * 2 / 784), ("zo_l2l", 2 / 393)])
def test_how_much_is_guided_at_the_size_of_mnist(scaling, share):
    """The paper's own scaling leaves .5 % of the energy in the subspace of two surrogates."""
    surrogates = torch.randn(1, 2, 784, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = directions(GuidedES(q=3000, mu=1.0, scaling=scaling), surrogates)[0]
    within = u @ orthonormal(surrogates)[0].T
    assert float(within.square().sum() / u.square().sum()) == pytest.approx(share, rel=0.08)


@pytest.mark.parametrize("antithetic", [False, True])
def test_a_linear_gradient_is_projected_on_the_directions(antithetic):
    b, surrogates = drawing(2)((5,)), drawing(2, 1)((2, 5))
    estimator = GuidedES(q=4, mu=3.0, antithetic=antithetic)
    u = directions(estimator, surrogates)
    expected = torch.einsum("bqd,bq->bd", u, torch.einsum("bqd,bd->bq", u, b)) / 4
    asked = []

    def f(points):
        asked.append(points.shape[1])
        return torch.einsum("bqd,bd->bq", points, b)

    found = estimator(f, torch.zeros_like(b), draw=drawing(2), surrogates=surrogates)
    torch.testing.assert_close(found, expected)
    assert sum(asked) == estimator.queries(5) == (8 if antithetic else 5)
    estimator(f, torch.zeros_like(b), value=torch.zeros(2, dtype=b.dtype), draw=drawing(2), surrogates=surrogates)
    assert asked[-1] == (8 if antithetic else 4)


def test_without_surrogates_directions_are_standard_normal():
    """At the first iteration there is neither an estimate nor an update to follow."""
    x = torch.ones(2, 5, dtype=torch.float64)

    def f(points):
        return points.square().sum(2)

    isotropic = RGE(q=4, mu=0.1, distribution="gaussian")(f, x, draw=drawing(2))
    for surrogates in (None, torch.zeros(2, 2, 5)):
        for scaling in ("original", "zo_l2l"):
            found = GuidedES(q=4, mu=0.1, scaling=scaling)(f, x, draw=drawing(2), surrogates=surrogates)
            assert torch.equal(found, isotropic)


def test_dependent_surrogates_count_once_whatever_their_lengths():
    g, h = drawing(1)((2, 7))[0].float()
    given = torch.stack([g * 1e3, h * 1e-6]), torch.stack([g, -1e-4 * g]), torch.stack([0 * g, h]), torch.zeros(2, 7)
    basis = orthonormal(torch.stack(given))
    products = basis @ basis.mT
    ranks = [2, 1, 1, 0]
    for product, rows, expected, rank in zip(products, basis, given, ranks, strict=True):
        kept = torch.zeros(2)
        kept[:rank] = 1
        torch.testing.assert_close(product, kept.diag(), atol=1e-5, rtol=0)
        torch.testing.assert_close(expected @ rows.T @ rows, expected, atol=1e-3, rtol=1e-3)
    with_one = directions(GuidedES(q=60_000, mu=1.0), torch.stack([g, -1e-4 * g]).unsqueeze(0).double())[0]
    along = with_one @ (g / g.norm()).double()
    assert float(along.square().mean()) == pytest.approx(0.5 + 0.5 * 7, rel=0.03)


def test_rows_are_estimated_apart_and_a_diverged_one_ends_none():
    surrogates = drawing(3, 1)((2, 8)).float()
    noise = {shape: drawing(3)(shape).float() for shape in ((4, 8), (4, 2))}

    def f(points):
        return points.square().sum(2)

    x = torch.ones(3, 8)
    whole = GuidedES(q=4, mu=0.1)(f, x, draw=noise.__getitem__, surrogates=surrogates)
    for row in range(3):
        one = slice(row, row + 1)
        alone = GuidedES(q=4, mu=0.1)(f, x[one], draw=lambda s, one=one: noise[s][one], surrogates=surrogates[one])
        assert torch.equal(alone[0], whole[row])
    surrogates[1, 0, 3] = torch.inf
    beside = GuidedES(q=4, mu=0.1)(f, x, draw=noise.__getitem__, surrogates=surrogates)
    assert torch.equal(beside[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": 0}, "q must be at least 1 direction, got 0"),
        ({"mu": 0.0}, "mu must be > 0, got 0.0"),
        ({"alpha": 0.0}, r"alpha, the share of the full space, must be in \(0, 1\], got 0.0"),
        ({"alpha": 1.5}, r"must be in \(0, 1\], got 1.5"),
        ({"scaling": "paper"}, "scaling must be 'original' or 'zo_l2l', got 'paper'"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        GuidedES(**{"q": 2, "mu": 0.1} | changes)
