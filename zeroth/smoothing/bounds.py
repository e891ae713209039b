"""What counts of noisy votes prove: the statistics of CERTIFY and PREDICT (Cohen et al., ICML 2019, sect. 3.2).

Shapes: B images, K classes. Everything here is NumPy in float64: a radius in float32 could be rounded up.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm
from statsmodels.stats.proportion import proportion_confint

# The answer that is no class: the votes do not prove one at the asked confidence.
ABSTAIN = -1


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless ``alpha`` is a probability of error strictly between 0 and 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie strictly between 0 and 1 (the papers use 0.001), got {alpha}")


def check_sigma(sigma: float) -> None:
    """Raise ValueError unless ``sigma`` is a positive finite standard deviation."""
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma must be a positive standard deviation in [0, 1] pixels (say 0.25), got {sigma}")


def lower_confidence_bound(successes: ArrayLike, trials: ArrayLike, alpha: float) -> NDArray[np.float64]:
    r"""One-sided Clopper-Pearson bound: below the true probability in at least a share 1 - alpha of all experiments.

    .. math:: \underline{p} = B(\alpha;\ k,\ n - k + 1), \quad 0 \text{ at } k = 0, \quad \alpha^{1/n} \text{ at } k = n

    Args:
        successes: (...) counts k.
        trials: (...) counts n, broadcast against ``successes``.
        alpha: probability that the bound is wrong.

    Returns:
        (...) bounds.

    Raises:
        ValueError: alpha outside (0, 1), no trials, or more successes than trials.
    """
    check_alpha(alpha)
    k, n = np.broadcast_arrays(np.asarray(successes), np.asarray(trials))
    if k.size and (n.min() < 1 or k.min() < 0 or (k > n).any()):
        raise ValueError(
            f"need 0 <= successes <= trials and trials >= 1, got successes {successes!r}, trials {trials!r}"
        )
    if k.size == 0:
        return np.empty(k.shape)
    # 2 alpha: the interval is two-sided and only its lower end is used, so all of alpha is spent below.
    low, _ = proportion_confint(k, n, alpha=2 * alpha, method="beta")
    return np.asarray(low, dtype=np.float64)


def certified_radius(probability: ArrayLike, sigma: float) -> NDArray[np.float64]:
    r"""L2 radius in which a class stays on top of the smoothed classifier (Cohen et al., theorem 1 with p_B = 1 - p_A).

    .. math:: R = \sigma\, \Phi^{-1}(\underline{p_A}) \text{ if } \underline{p_A} \ge 1/2, \quad 0 \text{ otherwise}

    Args:
        probability: (...) lower bounds on the probability of the class under noise, in [0, 1].
        sigma: standard deviation of the noise, in [0, 1] pixels.

    Returns:
        (...) radii in [0, 1] pixels.
    """
    check_sigma(sigma)
    p = np.asarray(probability, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probability must lie in [0, 1], got {probability!r}")
    return sigma * norm.ppf(np.maximum(p, 0.5))


def certify_counts(
    selection: ArrayLike, estimation: ArrayLike, sigma: float, alpha: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """CERTIFY on counts: one sample chooses the class, a fresh one bounds its probability.

    Args:
        selection: (B, K) votes of the n0 samples.
        estimation: (B, K) votes of the n fresh samples. Votes that chose the class must not be among them: the bound
            would not hold.
        sigma: standard deviation of the noise, in [0, 1] pixels.
        alpha: probability, for each image, that its radius is too large.

    Returns:
        prediction (B,), :data:`ABSTAIN` where the bound is below 1/2, and radius (B,), 0 there.
    """
    chosen = np.asarray(selection).argmax(1)  # the first of equals, whichever device counted
    votes = np.asarray(estimation)
    bound = lower_confidence_bound(np.take_along_axis(votes, chosen[:, None], 1)[:, 0], votes.sum(1), alpha)
    return np.where(bound >= 0.5, chosen, ABSTAIN), certified_radius(bound, sigma)


@lru_cache(maxsize=2**16)  # thousands of images share few counts
def _p_value(first: int, both: int) -> float:
    return float(binomtest(first, both, 0.5, alternative="two-sided").pvalue)


def predict_counts(counts: ArrayLike, alpha: float) -> NDArray[np.int64]:
    """PREDICT on counts: the most voted class, if a two-sided binomial test tells it from the second.

    Args:
        counts: (B, K) votes, K >= 2.
        alpha: probability, for each image, of a class that is not the smoothed classifier's.

    Returns:
        (B,) classes, :data:`ABSTAIN` where the p-value is above alpha.
    """
    check_alpha(alpha)
    votes = np.asarray(counts)
    if votes.ndim != 2 or votes.shape[1] < 2:
        raise ValueError(f"counts must have shape (B, K >= 2), got {votes.shape}")
    order = np.argsort(-votes, axis=1, kind="stable")[:, :2]
    first, second = np.take_along_axis(votes, order, 1).T
    p_values = np.array([_p_value(int(a), int(a + b)) for a, b in zip(first, second, strict=True)])
    return np.where(p_values <= alpha, order[:, 0], ABSTAIN)
