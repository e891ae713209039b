"""Randomized smoothing (Cohen, Rosenfeld and Kolter, ICML 2019): predictions with a certified l_2 radius, from labels.

:class:`SmoothedClassifier` samples a black box; :func:`certify_counts` and :func:`predict_counts` are the same
decisions on counts that were taken elsewhere, :func:`lower_confidence_bound` and :func:`certified_radius` their bounds.
"""

from zeroth.smoothing.bounds import (
    ABSTAIN,
    certified_radius,
    certify_counts,
    lower_confidence_bound,
    predict_counts,
)
from zeroth.smoothing.classifier import Certificate, SmoothedClassifier
from zeroth.smoothing.votes import VoteOracle, count_votes

__all__ = [
    "ABSTAIN",
    "Certificate",
    "SmoothedClassifier",
    "VoteOracle",
    "certified_radius",
    "certify_counts",
    "count_votes",
    "lower_confidence_bound",
    "predict_counts",
]
