"""Soundness: how often certificates and predictions are wrong, against rates enumerated exactly.

A linear model says class 1 where w.x + b > 0. Under noise it says its clean class with probability exactly
Phi(distance / sigma), and the smoothed class changes exactly at the distance |w.x + b| / ||w||. The rates must match
the enumeration and not only stay below alpha: a certifier that always abstains is never wrong.
"""

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, binomtest, norm
from torch import Tensor

from zeroth.smoothing import ABSTAIN, SmoothedClassifier

ALPHA, SIGMA, TRIALS = 0.05, 0.25, 10_000
WEIGHT = torch.tensor([1.0, -2.0, 0.5, 1.5])


def linear(images: Tensor) -> Tensor:
    """Scores (N, 2) of the half space through the centre of the unit cube."""
    side = (images.flatten(1) - 0.5) @ WEIGHT
    return torch.stack([-side, side], 1)


def at_distances(distances: np.ndarray) -> Tensor:
    """(B, 1, 2, 2) images at signed distances from the boundary; positive is class 1."""
    offset = torch.from_numpy(distances).float()[:, None] * WEIGHT / WEIGHT.norm()
    return (0.5 + offset).reshape(-1, 1, 2, 2)


def within_three_standard_errors(share: float, exact: np.ndarray) -> bool:
    """Whether a share of independent events agrees with their exact probabilities (trials,)."""
    return abs(share - exact.mean()) <= 3 * np.sqrt((exact * (1 - exact)).sum()) / len(exact)


def exact_certify_rates(p: float, true_class: int, n0: int, n: int) -> tuple[float, float]:
    """P(radius above the truth, or another class) and P(no abstention) of CERTIFY, by enumeration of both binomials.

    A radius is above the truth exactly where the bound is above p; the true radius of the other class is none.
    """
    k = np.arange(n + 1)
    bound = np.append(0.0, beta.ppf(ALPHA, k[1:], n - k[1:] + 1))
    says = binom.cdf(n0 // 2 - (1 if n0 % 2 == 0 else 0), n0, 1 - p)  # the other class has fewer than half the votes
    if n0 % 2 == 0 and true_class == 0:
        says += binom.pmf(n0 // 2, n0, p)  # ties go to class 0
    right, other = binom.pmf(k, n, p), binom.pmf(k, n, 1 - p)
    wrong = says * right[bound > max(p, 0.5)].sum() + (1 - says) * other[bound >= 0.5].sum()
    answered = says * right[bound >= 0.5].sum() + (1 - says) * other[bound >= 0.5].sum()
    return float(wrong), float(answered)


@pytest.mark.parametrize(("n0", "n"), [(10, 100), (7, 50)])
def test_certify_is_wrong_as_often_as_enumerated(n0: int, n: int) -> None:
    distances = np.resize([0.01, -0.01, 0.08, -0.08, 0.2, -0.35, 0.5], TRIALS)
    result = SmoothedClassifier(linear, 2, SIGMA, max_batch=4096).certify(at_distances(distances), n0, n, ALPHA, seed=1)
    prediction, radius = result.prediction.numpy(), result.radius.numpy()
    answered = prediction != ABSTAIN
    wrong = answered & ((prediction != (distances > 0)) | (radius > np.abs(distances)))

    cases = {d: exact_certify_rates(norm.cdf(abs(d) / SIGMA), int(d > 0), n0, n) for d in np.unique(distances)}
    exact = np.array([cases[d] for d in distances])  # (trials, 2)
    assert exact[:, 0].mean() > 0.01  # the comparison says something: wrong certificates do happen
    assert binomtest(int(wrong.sum()), TRIALS, ALPHA, alternative="greater").pvalue > 1e-3
    assert within_three_standard_errors(wrong.mean(), exact[:, 0])
    assert within_three_standard_errors(answered.mean(), exact[:, 1])
    assert (radius[~answered] == 0).all()


def exact_predict_rates(p: float, n: int) -> tuple[float, float]:
    """P(the other class) and P(the right class) of PREDICT."""
    k = np.arange(n + 1)  # votes of the true class
    told_apart = np.array([binomtest(int(votes), n, 0.5).pvalue <= ALPHA for votes in k])
    weight = binom.pmf(k, n, p) * told_apart
    return float(weight[k < n / 2].sum()), float(weight[k > n / 2].sum())


def test_predict_is_wrong_as_often_as_enumerated() -> None:
    n = 60
    distances = np.resize([0.001, -0.001, 0.01, -0.02, 0.15], TRIALS)
    smoothed = SmoothedClassifier(linear, 2, SIGMA, max_batch=4096)
    said = smoothed.predict(at_distances(distances), n, ALPHA, seed=2).numpy()
    right = said == (distances > 0)
    wrong = (said != ABSTAIN) & ~right

    cases = {d: exact_predict_rates(norm.cdf(abs(d) / SIGMA), n) for d in np.unique(distances)}
    exact = np.array([cases[d] for d in distances])
    assert exact[:, 0].mean() > 0.005
    assert binomtest(int(wrong.sum()), TRIALS, ALPHA, alternative="greater").pvalue > 1e-3
    assert within_three_standard_errors(wrong.mean(), exact[:, 0])
    assert within_three_standard_errors(right.mean(), exact[:, 1])
