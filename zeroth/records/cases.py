"""Best, average and worst case over target classes: one row an image, out of a run that attacks every wrong class.

The cases are those of Carlini and Wagner (S&P 2017, section VI) and of EAD (Chen et al., AAAI 2018, section
"Evaluation Metrics").
"""

from typing import Literal, get_args

import numpy as np
import pandas as pd

from zeroth.records.summary import OUT_OF_PLAY, ROUNDING, Norm

Case = Literal["best", "average", "worst"]
CASES: tuple[Case, ...] = get_args(Case)


def random_target(label: int, index: int, *, num_classes: int, seed: int) -> int:
    """Draw a wrong class of an image, by (seed, dataset index) alone."""
    return (label + int(np.random.default_rng([seed, index]).integers(1, num_classes))) % num_classes


def select_case(rows: pd.DataFrame, case: Case, *, norm: Norm, seed: int) -> pd.DataFrame:
    """Choose the row of each image that a case is about, from the rows of a run with ``targeted: all``.

    A pair of an image and a target is the more difficult the larger its distance and, where attacks inside a ball give
    all the same one, the more queries its success took; one that was not won is more difficult than any that was.
    ``best`` takes the least difficult pair, so that an image is won if any pair is; ``worst`` the most difficult, so
    that it is won only if all are; of equally difficult pairs the lower target.
    ``average`` takes the target that a run with ``targeted: random`` and the same seed would have.

    A pair whose target the victim answers already is out of play and is chosen only where the image has no other, or
    by ``average``. Where the cap on all queries left a pair of an image unasked, best and worst case are unknown: that
    pair's row is chosen, which summaries leave out. Images of an unfinished run that lack rows are left out.

    Args:
        rows: (N x (K - 1), ...) attack rows, in any order.
        case: which.
        norm: the distance that measures difficulty; the papers' is the attack's own.
        seed: seed of the run; its draw is ``average``'s.

    Returns:
        (N, ...) rows by dataset index, as a run with one target an image has them. Queries are those of the chosen
        pair alone.

    Raises:
        ValueError: an unknown case, or rows of which no image has one for each wrong class.
    """
    if case not in CASES:
        raise ValueError(f"case must be one of {', '.join(CASES)}, got {case!r}")
    targeted = rows.dropna(subset="target")
    classes = int(targeted[["label", "target"]].max(axis=None)) + 1 if len(targeted) else 0
    whole = targeted[targeted.groupby("index")["target"].transform("nunique") == classes - 1]
    if len(whole) == 0:
        raise ValueError(
            f"case {case!r} needs an image with a row for each wrong class, and these {len(rows)} rows have none: "
            "take the rows of an attack with --targeted all"
        )
    if case == "average":
        pairs = zip(whole["label"].tolist(), whole["index"].tolist(), strict=True)
        drawn = [random_target(label, index, num_classes=classes, seed=seed) for label, index in pairs]
        chosen = whole[whole["target"] == drawn].sort_values("index")
    else:
        aside = whole["fail_reason"].isin(OUT_OF_PLAY).astype(int).mask(whole["predicted"] < 0, -1)
        # Whole roundings: distances on a ball's surface differ in the last digits of float32 alone.
        difficulty = (whole[norm].astype(float) / ROUNDING).round().where(whole["success"], np.inf)
        effort = whole["queries_to_success"].astype(float).where(whole["success"], np.inf)
        order = whole.assign(aside=aside, difficulty=difficulty, effort=effort).sort_values(
            ["index", "aside", "difficulty", "effort", "target"],
            ascending=[True, True, case == "best", case == "best", True],
        )
        chosen = order.drop_duplicates("index")[rows.columns]
    return chosen.reset_index(drop=True)
