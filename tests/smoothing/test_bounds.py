"""The statistics against SciPy's own quantiles, closed forms and the definitions they invert."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, norm

from zeroth.smoothing import ABSTAIN, certified_radius, certify_counts, lower_confidence_bound, predict_counts


@st.composite
def experiments(draw: st.DrawFn) -> tuple[int, int]:
    trials = draw(st.integers(1, 200_000))
    return draw(st.integers(0, trials)), trials


@given(experiments(), st.floats(1e-4, 0.999))
def test_lower_bound_is_the_beta_quantile(experiment: tuple[int, int], alpha: float) -> None:
    k, n = experiment
    bound = float(lower_confidence_bound(k, n, alpha))
    expected = 0.0 if k == 0 else beta.ppf(alpha, k, n - k + 1)
    assert bound == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(experiments(), st.floats(1e-3, 0.5))
def test_lower_bound_inverts_the_binomial_tail(experiment: tuple[int, int], alpha: float) -> None:
    """Were the bound the truth, as many successes or more would come with probability alpha exactly."""
    k, n = experiment
    if k:
        assert binom.sf(k - 1, n, lower_confidence_bound(k, n, alpha)) == pytest.approx(alpha, rel=1e-5)


def test_lower_bound_is_one_sided_and_vectorised() -> None:
    bound = lower_confidence_bound([0, 60, 100], 100, 0.001)
    assert bound[0] == 0
    assert bound[2] == pytest.approx(0.001 ** (1 / 100), rel=1e-12)
    assert bound[1] == pytest.approx(beta.ppf(0.001, 60, 41), rel=1e-12)
    assert (np.diff(lower_confidence_bound(np.arange(101), 100, 0.05)) > 0).all()


@pytest.mark.parametrize(("n", "limit"), [(1_000, 0.25 * 2.4634), (10_000, 0.8), (100_000, 0.9535)])
def test_largest_radius(n: int, limit: float) -> None:
    """When all n votes agree the radius is sigma * Phi^-1(alpha^(1/n)); limits are the published ones, rounded up."""
    alpha, sigma = 0.001, 0.25
    prediction, radius = certify_counts([[0, 0, 100]], [[0, 0, n]], sigma, alpha)
    assert prediction.tolist() == [2]
    assert radius[0] == pytest.approx(sigma * norm.ppf(alpha ** (1 / n)), rel=1e-9)
    assert limit - 1e-3 < radius[0] <= limit


def test_radius_is_float64_and_zero_below_a_half() -> None:
    radius = certified_radius([0.0, 0.4999, 0.5, norm.cdf(1.0), norm.cdf(2.0)], 0.25)
    assert radius.dtype == np.float64
    np.testing.assert_allclose(radius, [0, 0, 0, 0.25, 0.5], rtol=1e-12)


def test_certify_counts_by_hand() -> None:
    """The class comes from the first sample alone, its bound from the second alone."""
    selection = [[3, 7], [5, 5], [9, 1], [0, 10]]
    estimation = [[990, 10], [990, 10], [990, 10], [480, 520]]
    prediction, radius = certify_counts(selection, estimation, 0.5, 0.001)
    # Row 0 chose class 1, which got 10 of 1,000; row 1 is a tie, the first class; row 3's 52 % prove nothing.
    assert prediction.tolist() == [ABSTAIN, 0, 0, ABSTAIN]
    np.testing.assert_allclose(radius, [0, *[0.5 * norm.ppf(beta.ppf(0.001, 990, 11))] * 2, 0], rtol=1e-12)


def test_predict_counts_by_hand() -> None:
    counts = [[0, 15, 5], [0, 14, 6], [6, 0, 14], [10, 10, 0], [15, 5, 80], [1, 0, 0]]
    # p-values: 15 of 20: .0414; 14 of 20: .1153; 10 of 20: 1; 80 of 95: ~0; 1 of 1: 1.
    assert predict_counts(counts, 0.05).tolist() == [1, ABSTAIN, ABSTAIN, ABSTAIN, 2, ABSTAIN]
    assert predict_counts(counts, 0.12).tolist() == [1, 1, 2, ABSTAIN, 2, ABSTAIN]


VOTES = st.lists(st.integers(0, 300), min_size=4, max_size=4).filter(any)


@given(st.lists(VOTES, min_size=1, max_size=5), st.floats(0.001, 0.5))
def test_predict_counts_against_one_at_a_time(counts: list[list[int]], alpha: float) -> None:
    for row, said in zip(counts, predict_counts(counts, alpha), strict=True):
        second, first = sorted(row)[-2:]
        told_apart = binomtest(first, first + second, 0.5).pvalue <= alpha
        assert said == (row.index(first) if told_apart else ABSTAIN)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lower_confidence_bound(5, 10, 0.0), "alpha must lie strictly between 0 and 1 .* got 0.0"),
        (lambda: lower_confidence_bound(5, 10, 1.0), "alpha .* got 1.0"),
        (lambda: lower_confidence_bound(11, 10, 0.1), "successes 11, trials 10"),
        (lambda: lower_confidence_bound(-1, 10, 0.1), "successes -1"),
        (lambda: lower_confidence_bound(0, 0, 0.1), "trials 0"),
        (lambda: certified_radius(0.9, 0.0), "sigma must be a positive .* got 0.0"),
        (lambda: certified_radius(0.9, float("nan")), "sigma .* got nan"),
        (lambda: certified_radius(1.1, 0.25), r"probability must lie in \[0, 1\], got 1.1"),
        (lambda: predict_counts([[3, 4]], 2.0), "alpha .* got 2.0"),
        (lambda: predict_counts([[3]], 0.1), r"\(B, K >= 2\), got \(1, 1\)"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
