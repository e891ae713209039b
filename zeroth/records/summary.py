"""Numbers of a report: rates with intervals, queries, distances, certified accuracy.

Plain dictionaries, None for "no value". Tables of rows are what :func:`~zeroth.records.merge_records` returns;
certificates may as well be any table with Cohen's columns.
Shapes: N rows (images), M points of a curve.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from zeroth.records.schema import ABSTAIN

Norm = Literal["l0", "l1", "l2", "linf"]
# Reasons of images that left play at their first check: there was nothing to attack.
OUT_OF_PLAY = ("misclassified", "already_target")
# Distances are float32: an attack inside its ball of radius 0.2 may be recorded at 0.20000001.
ROUNDING = 1e-6
# An attacked image is asked at least once, its first check.
LEAST_QUERIES = 1.0


def attack_summary(df: pd.DataFrame, *, confidence: float = 0.95) -> dict[str, Any]:
    """Summarize attack rows.

    An image that the victim gets wrong from the start is not attacked: it is left out of the success rate and of the
    queries, and counts as lost in the robust accuracy. An image that was never asked (the cap on all queries was spent,
    ``predicted`` is -1) says nothing and is left out of everything but ``n`` and ``n_not_asked``.

    Args:
        df: (N, ...) attack rows.
        confidence: of all intervals. Rates have Wilson's, mean queries Student's t, whose lower end stays at 1 query or
            above: of a few images with very unequal queries it would lie below nothing. A closed form gives everybody
            the same digits, whatever the version of SciPy, which a bootstrap would not.

    Returns:
        ``n``, ``n_not_asked``, ``n_attacked``, ``n_success``; ``clean_accuracy`` (None in a targeted run, where wrongly
        classified images are attacked too), ``success_rate`` and ``robust_accuracy``, each ``{"value", "low",
        "high"}``; ``queries`` (spent on attacked images, failures included) and ``queries_to_success``, each ``{"mean",
        "median", "low", "high"}`` with the interval of the mean; ``l0`` ... ``linf`` of the adversarial images, each
        ``{"mean", "median"}``; ``reasons``, how many images left play for which reason.

    Raises:
        ValueError: confidence outside (0, 1).
    """
    _check_confidence(confidence)
    asked = df[df["predicted"] >= 0]
    attacked = attacked_rows(df)
    found = attacked[attacked["success"].astype(bool)]
    right = (asked["predicted"] == asked["label"]) & ~asked["success"].astype(bool)
    targeted = bool(df["target"].notna().any())
    clean = int((asked["fail_reason"] != "misclassified").sum())
    reasons = df.loc[df["fail_reason"] != "", "fail_reason"].value_counts().sort_index()
    return {
        "n": len(df),
        "n_not_asked": len(df) - len(asked),
        "n_attacked": len(attacked),
        "n_success": len(found),
        "clean_accuracy": None if targeted else _rate(clean, len(asked), confidence, "wilson"),
        "success_rate": _rate(len(found), len(attacked), confidence, "wilson"),
        "robust_accuracy": _rate(int(right.sum()), len(asked), confidence, "wilson"),
        "queries": _mean(attacked["queries"], confidence),
        "queries_to_success": _mean(found["queries_to_success"], confidence),
        **{norm: _centre(found[norm]) for norm in ("l0", "l1", "l2", "linf")},
        "reasons": {str(reason): int(count) for reason, count in reasons.items()},
    }


def mean_interval(values: ArrayLike, *, least: float, confidence: float = 0.95) -> dict[str, float | None]:
    """Return ``mean``, ``low`` and ``high`` of values (N,) by Student's t, the interval kept at ``least`` or above.

    Without a value all are None; a single one has no interval.
    """
    sample = np.asarray(values, float)
    if len(sample) < 2:
        return {"mean": float(sample[0]) if len(sample) else None, "low": None, "high": None}
    low, high = DescrStatsW(sample).tconfint_mean(1 - confidence)
    return {"mean": float(sample.mean()), "low": max(float(low), least), "high": float(high)}


def success_curve(df: pd.DataFrame, marks: Sequence[int]) -> list[float | None]:
    """Return the share of the attacked images with an adversarial image within each of M numbers of queries."""
    attacked = attacked_rows(df)
    first = attacked.loc[attacked["success"].astype(bool), "queries_to_success"].to_numpy()
    return [int((first <= mark).sum()) / len(attacked) if len(attacked) else None for mark in marks]


def attacked_rows(df: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of images that were attacked: asked at all, and not out of play at their first check."""
    return df[(df["predicted"] >= 0) & ~df["fail_reason"].isin(OUT_OF_PLAY)]


def distortion_quartiles(distances: ArrayLike) -> NDArray[np.float64]:
    """Return the lower quartile, median and upper quartile (3, M) of distances (M, B), those of B images at M marks.

    An image without an adversarial image is at infinite distance: a quartile that it takes part in is infinite.
    """
    values = np.asarray(distances, float)
    # Interpolating with inf gives NaN, even with weight 0: a stand-in far above all distances, then back.
    quartiles = np.quantile(np.minimum(values, 1e30), [0.25, 0.5, 0.75], axis=1)
    largest = np.where(np.isfinite(values), values, 0).max(initial=0)
    return np.where(quartiles > largest, np.inf, quartiles)


def distortion_summary(
    distances: ArrayLike, *, threshold: float | None = None, confidence: float = 0.95
) -> dict[str, Any]:
    """Summarize how near B attacked images have come within some number of queries.

    Args:
        distances: (B,), inf where there is no adversarial image yet.
        threshold: a distance that counts as won.
        confidence: of all intervals.

    Returns:
        ``n``, the images, and ``n_found``, those at a finite distance; ``median`` over all of them, inf where its
        images have none; ``mean``, ``low`` and ``high`` over those found, by Student's t; ``success``, the share of all
        images within the threshold as ``{"value", "low", "high"}`` by Wilson, None without one.
    """
    _check_confidence(confidence)
    values = np.asarray(distances, float)
    found = values[np.isfinite(values)]
    within = None
    if threshold is not None:
        within = _rate(int((values <= threshold + ROUNDING).sum()), len(values), confidence, "wilson")
    return {
        "n": len(values),
        "n_found": len(found),
        "median": float(distortion_quartiles(values[None])[1, 0]) if len(values) else None,
        **mean_interval(found, least=0.0, confidence=confidence),
        "success": within,
    }


def robust_accuracy_vs_epsilon(
    df: pd.DataFrame, norm: Norm, grid: Sequence[float], *, confidence: float = 0.95
) -> dict[str, list[float | None]]:
    """Accuracy under perturbations of at most each size, as far as the attack found them.

    Meant for attacks that minimize the distance. One that stops at its first success inside a ball gives distances near
    the ball's radius: its curve holds at that radius only, and is an upper bound elsewhere.

    Args:
        df: (N, ...) attack rows; images never asked are left out, wrongly classified ones are lost at any size.
        norm: column of the distance.
        grid: (M,) sizes in [0, 1] pixels.
        confidence: of Wilson's interval at each size.

    Returns:
        ``epsilon``, ``accuracy``, ``low``, ``high``, each (M,).
    """
    _check_confidence(confidence)
    asked = df[df["predicted"] >= 0]
    lost = (asked["predicted"] != asked["label"]) & ~asked["success"].astype(bool)
    # float first: l0 is a column of integers, which have no infinity.
    nearest = asked[norm].astype(float).where(asked["success"].astype(bool), np.inf).mask(lost, -np.inf).to_numpy()
    # A little more than the size, as the ball of the attack allows for rounding too.
    kept = len(asked) - np.searchsorted(np.sort(nearest), np.asarray(grid, float) + ROUNDING, side="right")
    return {"epsilon": [float(size) for size in grid], **_curve(kept, len(asked), confidence, "wilson")}


def certified_accuracy(
    df: pd.DataFrame, radii: Sequence[float], *, confidence: float = 0.95
) -> dict[str, list[float | None]]:
    r"""Share of images that are right and certified at each radius; an abstention is wrong.

    .. math:: CA(r) = \frac{1}{N} \sum_i \mathbb{1}[\text{correct}_i \wedge R_i \ge r]

    Args:
        df: (N, ...) rows with Cohen's columns.
        radii: (M,) in [0, 1] pixels, l2. A radius exactly at r counts.
        confidence: of the Clopper-Pearson interval at each radius (over the choice of images, not over the noise).

    Returns:
        ``radius``, ``accuracy``, ``low``, ``high``, each (M,).
    """
    _check_confidence(confidence)
    held = _held_radii(df)
    counts = len(df) - np.searchsorted(np.sort(held), np.asarray(radii, float), side="left")
    return {"radius": [float(radius) for radius in radii], **_curve(counts, len(df), confidence, "beta")}


def certificate_summary(df: pd.DataFrame, radii: Sequence[float], *, confidence: float = 0.95) -> dict[str, Any]:
    """Summarize certificates.

    Args:
        df: (N, ...) rows with Cohen's columns.
        radii: (M,) radii of the certified accuracy, in [0, 1] pixels, l2.
        confidence: of all intervals, Clopper-Pearson's.

    Returns:
        ``n``; ``accuracy`` of the smoothed classifier and ``abstention_rate``, each ``{"value", "low", "high"}``;
        ``acr``, the average certified radius, mean(correct x radius); ``certified_accuracy``, what
        :func:`certified_accuracy` returns.
    """
    held = _held_radii(df)
    return {
        "n": len(df),
        "accuracy": _rate(int((held >= 0).sum()), len(df), confidence, "beta"),
        "abstention_rate": _rate(int((df["predict"] == ABSTAIN).sum()), len(df), confidence, "beta"),
        "acr": float(np.maximum(held, 0).mean()) if len(df) else None,
        "certified_accuracy": certified_accuracy(df, radii, confidence=confidence),
    }


def _held_radii(df: pd.DataFrame) -> NDArray[np.float64]:
    """Radii (N,) of the right answers, -inf for wrong ones and abstentions, which hold at no radius, not even at 0."""
    right = df["correct"].astype(bool) & (df["predict"] != ABSTAIN)
    return df["radius"].where(right, -np.inf).to_numpy(float)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1 (say 0.95), got {confidence}")


def _rate(count: int, n: int, confidence: float, method: str) -> dict[str, float | None]:
    curve = _curve(np.array([count]), n, confidence, method)
    return {"value": curve["accuracy"][0], "low": curve["low"][0], "high": curve["high"][0]}


def _curve(counts: NDArray[np.int64], n: int, confidence: float, method: str) -> dict[str, list[float | None]]:
    if n == 0:
        return {name: [None] * len(counts) for name in ("accuracy", "low", "high")}
    share = counts / n
    low, high = proportion_confint(counts, n, alpha=1 - confidence, method=method)
    # Wilson's bounds miss 0 and 1 by rounding where all or none succeed.
    low, high = np.clip(low, 0, share), np.clip(high, share, 1)
    return {"accuracy": share.tolist(), "low": low.tolist(), "high": high.tolist()}


def _mean(values: pd.Series, confidence: float) -> dict[str, float | None]:
    return {**_centre(values), **mean_interval(values, least=LEAST_QUERIES, confidence=confidence)}


def _centre(values: pd.Series) -> dict[str, float | None]:
    if len(values) == 0:
        return {"mean": None, "median": None}
    return {"mean": float(values.mean()), "median": float(values.median())}
