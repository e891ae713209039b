"""Two runs over the same images, image by image: tests and intervals of the differences.

Rates have McNemar's test and Tango's score interval, means the BCa bootstrap.

Pairing takes the spread between images, which is far larger than that between methods, out of the comparison.
Plain dictionaries, None for "no value"; differences are B - A. Tables of rows are what
:func:`~zeroth.records.merge_records` returns. Shapes: N images, P images of them that both runs attacked.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar

from zeroth.records.schema import ABSTAIN, COLUMNS, Kind
from zeroth.records.summary import Norm, attacked_rows

# Numbers of a batch of resamples: 32 MiB, whatever the number of images.
BATCH_NUMBERS = 2**22
SHOWN_INDICES = 5
# Where no image differs, the equation of the interval is also solved by the difference itself.
APART = 1e-9


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How the intervals of means, above all those of paired differences, are drawn.

    Args:
        seed: of the resamples; the same seed gives the same interval.
        resamples: how many.
        confidence: of the intervals; those of paired rates, which are not drawn, have it too.

    Raises:
        ValueError: a setting out of its range.
    """

    seed: int = 0
    resamples: int = 9999
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie strictly between 0 and 1 (say 0.95), got {self.confidence}")
        if self.resamples < 1 or self.seed < 0:
            raise ValueError(f"resamples must be >= 1 and seed >= 0, got {self.resamples} and {self.seed}")

    def interval(self, differences: NDArray[np.float64]) -> tuple[float | None, float | None]:
        """Return the interval of the mean of differences, or other numbers, (P,): BCa, or percentile where that fails.

        To resample the differences is to resample the pairs. Fewer than two differences have no interval.
        """
        if len(differences) < 2:
            return None, None
        options = {
            "vectorized": True,
            "confidence_level": self.confidence,
            "batch": max(1, BATCH_NUMBERS // len(differences)),
            "rng": np.random.default_rng(self.seed),
        }
        # BCa measures skewness, which equal differences do not have. It also fails where all resamples lie on one side.
        method = "percentile" if np.ptp(differences) == 0 else "BCa"
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # scipy's words about the failure that is mended in the next lines
            found = bootstrap((differences,), np.mean, n_resamples=self.resamples, method=method, **options)
            if not np.isfinite(found.confidence_interval).all():
                options |= {"n_resamples": 0, "method": "percentile", "bootstrap_result": found}
                found = bootstrap((differences,), np.mean, **options)
        low, high = found.confidence_interval
        return float(low), float(high)


def paired_rate_interval(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's score interval of the difference of two paired rates, B - A (Statistics in Medicine 17, 1998).

    It holds what a score test does not refuse, as Wilson's does of one rate. It also has a width where no image
    differs, z^2 / (n + z^2) to either side, where a bootstrap would be certain of 0.

    Args:
        only_a: images that count in A alone.
        only_b: images that count in B alone.
        n: images, at least 1.
        confidence: of the interval.
    """
    z = float(ndtri((1 + confidence) / 2))
    return _lowest(only_b, only_a, n, z), -_lowest(only_a, only_b, n, z)


def _lowest(more: int, less: int, n: int, z: float) -> float:
    """The smallest difference from which (more - less) / n is z standard errors away."""
    measured = (more - less) / n
    if measured == -1:
        return -1.0

    def excess(true: float) -> float:
        half = (2 * n - more + less) * true - more - less
        # The likeliest share of those that are counted by ``less``, where the true difference is this.
        share = (math.sqrt(max(0.0, half * half + 8 * n * less * true * (1 - true))) - half) / (4 * n)
        return more - less - n * true - z * math.sqrt(max(0.0, n * (2 * share + true * (1 - true))))

    return float(brentq(excess, -1.0, measured - APART))


def compare_attacks(
    a: pd.DataFrame, b: pd.DataFrame, *, norms: Sequence[Norm] = ("linf",), resampling: Bootstrap | None = None
) -> dict[str, Any]:
    """Compare two attack runs over the same images.

    Only the P images that both runs attacked are compared: an image that a victim gets wrong from the start was not
    attacked (see :func:`~zeroth.records.attack_summary`), and runs against different victims differ in those.

    Args:
        a: (N, ...) attack rows of run A. Where an image has several, they are paired by index and target.
        b: (N, ...) attack rows of run B, in any order.
        norms: distances compared, in [0, 1] pixels.
        resampling: how intervals are drawn; default ``Bootstrap()``.

    Returns:
        ``n``, ``n_attacked`` (P) and ``left_out`` ``{"a", "b", "neither"}``, images attacked in A only, in B only and
        in neither; ``success`` ``{"n", "both", "only_a", "only_b", "neither", "p_value", "a", "b", "difference",
        "low", "high"}`` with exact McNemar's p-value, the rates, and the interval of :func:`paired_rate_interval`;
        ``queries`` (spent, failures included), ``queries_to_success`` and ``distance[norm]`` (the last two where both
        succeeded), each ``{"n", "n_differ", "a", "b", "difference", "low", "high"}`` with ``{"mean", "median"}`` of A
        and of B, the number of images in which they differ, and the difference of the means.

    Raises:
        ValueError: certificates, different images, or an image with different labels or targets; names the images.
    """
    resampling = resampling or Bootstrap()
    a, b = _paired(a, b, "attack")
    attacked_a, attacked_b = attacked_rows(a).index, attacked_rows(b).index
    both = attacked_a.intersection(attacked_b)
    played_a, played_b = a.loc[both], b.loc[both]
    success_a, success_b = (table["success"].to_numpy(bool) for table in (played_a, played_b))
    found_a, found_b = (table[success_a & success_b] for table in (played_a, played_b))
    return {
        "n": len(a),
        "n_attacked": len(both),
        "left_out": {
            "a": len(attacked_a) - len(both),
            "b": len(attacked_b) - len(both),
            "neither": len(a) - len(attacked_a.union(attacked_b)),
        },
        "success": _paired_rates(success_a, success_b, resampling),
        "queries": _paired_numbers(played_a["queries"], played_b["queries"], resampling),
        "queries_to_success": _paired_numbers(found_a["queries_to_success"], found_b["queries_to_success"], resampling),
        "distance": {norm: _paired_numbers(found_a[norm], found_b[norm], resampling) for norm in norms},
    }


def compare_certificates(
    a: pd.DataFrame, b: pd.DataFrame, *, radii: Sequence[float], resampling: Bootstrap | None = None
) -> dict[str, Any]:
    """Compare two certification runs over the same images.

    Args:
        a: (N, ...) rows of run A with Cohen's columns.
        b: (N, ...) rows of run B, in any order.
        radii: radii of the certified accuracy, in [0, 1] pixels, l2; at 0 it is the share of right answers.
        resampling: how intervals are drawn; default ``Bootstrap()``.

    Returns:
        ``n``; ``certified_accuracy``, for each radius what ``success`` of :func:`compare_attacks` has, and ``radius``;
        ``certified_radius``, 0 where the answer is wrong or abstains, what ``queries`` there has.

    Raises:
        ValueError: attacks, different images, or an image with different labels; names the images.
    """
    resampling = resampling or Bootstrap()
    a, b = _paired(a, b, "certificate")
    right_a, right_b = (t["correct"].astype(bool) & (t["predict"] != ABSTAIN) for t in (a, b))
    rates = [
        _paired_rates(
            (right_a & (a["radius"] >= radius)).to_numpy(), (right_b & (b["radius"] >= radius)).to_numpy(), resampling
        )
        for radius in radii
    ]
    return {
        "n": len(a),
        "certified_accuracy": [{"radius": float(r), **told} for r, told in zip(radii, rates, strict=True)],
        "certified_radius": _paired_numbers(a["radius"].where(right_a, 0), b["radius"].where(right_b, 0), resampling),
    }


def _paired(a: pd.DataFrame, b: pd.DataFrame, kind: Kind) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables by dataset index, in its order, or refuse them."""
    kinds = ["certificate" if "radius" in table else "attack" for table in (a, b)]
    if kinds != [kind, kind]:
        raise ValueError(f"A holds {kinds[0]} records and B {kinds[1]} records: compare two {kind} runs")
    key = COLUMNS[kind][:1]
    if a[key].duplicated().any() or b[key].duplicated().any():  # an image has a row for each of several targets
        key = ["index", "target"]
    a, b = (table.set_index(key, drop=len(key) == 1).sort_index() for table in (a, b))
    only_a, only_b = a.index.difference(b.index), b.index.difference(a.index)
    if len(only_a) or len(only_b):
        raise ValueError(
            f"A and B hold different images: {_listed(only_a)} only in A, {_listed(only_b)} only in B. "
            "Give both runs the same --images options, and let both end"
        )
    for column in ("label", "target") if kind == "attack" else ("label",):
        one, two = (
            table[column].fillna(-1) for table in (a, b)
        )  # no target; equal to itself, as missing values are not
        if len(unlike := a.index[one.ne(two).to_numpy(bool)]):
            first = unlike[0]
            raise ValueError(
                f"A and B differ in the {column} of {_listed(unlike)}: image {first} has {a.at[first, column]} in A, "
                f"{b.at[first, column]} in B. Compare runs over the same dataset, split and targets"
            )
    return a, b


def _paired_rates(a: NDArray[np.bool_], b: NDArray[np.bool_], resampling: Bootstrap) -> dict[str, Any]:
    n, both = len(a), int((a & b).sum())
    only_a, only_b = int(a.sum()) - both, int(b.sum()) - both
    neither = n - both - only_a - only_b
    # The exact test holds for any count and costs nothing, so there is no threshold for the chi-square approximation.
    p_value = float(mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue) if n else None
    low, high = paired_rate_interval(only_a, only_b, n, resampling.confidence) if n else (None, None)
    return {
        "n": n,
        "both": both,
        "only_a": only_a,
        "only_b": only_b,
        "neither": neither,
        "p_value": p_value,
        "a": (both + only_a) / n if n else None,
        "b": (both + only_b) / n if n else None,
        "difference": (only_b - only_a) / n if n else None,
        "low": low,
        "high": high,
    }


def _paired_numbers(a: pd.Series, b: pd.Series, resampling: Bootstrap) -> dict[str, Any]:
    one, two = a.to_numpy(float), b.to_numpy(float)
    low, high = resampling.interval(two - one)
    centres = [
        {"mean": float(x.mean()), "median": float(np.median(x))} if len(x) else {"mean": None, "median": None}
        for x in (one, two)
    ]
    difference = float((two - one).mean()) if len(one) else None
    return {
        "n": len(one),
        "n_differ": int((one != two).sum()),
        "a": centres[0],
        "b": centres[1],
        "difference": difference,
        "low": low,
        "high": high,
    }


def _listed(index: pd.Index) -> str:
    if not len(index):
        return "none"
    shown = ", ".join(map(str, index[:SHOWN_INDICES]))
    return f"{len(index)} ({shown}{', ...' if len(index) > SHOWN_INDICES else ''})"
