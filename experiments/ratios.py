"""What ratios to a baseline share: the same images on both sides, and an interval over them."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from zeroth.records import Bootstrap


def require_pairs(ours: pd.Index, theirs: pd.Index) -> None:
    """Raise ValueError where a baseline lacks an image or target of the rows that are compared with it."""
    if len(alone := ours.difference(theirs)):
        raise ValueError(
            f"a ratio is of the same images and targets, but {len(alone)} of {len(ours)} rows have none of the "
            f"baseline's {len(theirs)} beside them: give the baseline's stage all their images and targets"
        )


def ratio_interval(
    ratio: Callable[[Any], Any], images: int, resampling: Bootstrap, *, batch: int | None = None
) -> tuple[float | None, float | None]:
    """Percentile bootstrap of a ratio over images: both sides are resampled together, so what they share falls out.

    Args:
        ratio: places of drawn images (..., n) -> ratios (...).
        images: n; a single one has no interval.
        resampling: how many draws, their seed, and the confidence.
        batch: draws that are made and looked at at once; None for all.
    """
    if images < 2:
        return None, None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # equal ratios everywhere, an interval of no width; medians at infinity
        found = bootstrap(
            (np.arange(images),), lambda places, axis: ratio(np.asarray(places, int)), vectorized=True, batch=batch,
            n_resamples=resampling.resamples, method="percentile", confidence_level=resampling.confidence,
            rng=np.random.default_rng(resampling.seed),
        ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)
