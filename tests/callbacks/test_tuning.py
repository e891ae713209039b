"""What a trial is worth, what the next one tries, and what W&B gets of it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from callbacks.tuning import TuningTrial, best_trial, measure, propose, read_trials, worst_value
from callbacks.tuning_report import log_trial


def outcome(*rows: tuple[str, bool, int, float]) -> SimpleNamespace:
    reason, success, queries, distance = zip(*rows, strict=True)
    tensors = {"success": torch.tensor(success), "queries": torch.tensor(queries), "distance": torch.tensor(distance)}
    return SimpleNamespace(reason=list(reason), **tensors)


def test_what_a_trial_is_worth():
    """Out of play: not counted. A failure costs the whole budget, also where it gave up early; a median may be inf."""
    inf = math.inf
    one = outcome(("success", True, 11, 0.25), ("misclassified", False, 1, inf), ("gave up", False, 40, inf))
    two = outcome(("success", True, 31, 0.75), ("already_target", False, 1, inf))
    assert measure([one, two], "queries", 100) == {
        "value": (11 + 100 + 31) / 3,
        "success_rate": pytest.approx(2 / 3),
        "mean_queries": (11 + 40 + 31) / 3,
        "total_queries": 84,
        "attacked": 3,
    }
    assert measure([one, two], "distance", 100)["value"] == 0.75
    assert measure([one], "distance", 100)["value"] == inf
    with pytest.raises(ValueError, match="none of the 1 images is left to attack"):
        measure([outcome(("misclassified", False, 1, inf))], "queries", 100)
    assert (worst_value("queries", 100), worst_value("distance", 100)) == (100.0, inf)


def trial(number: int, value: float, **params) -> TuningTrial:
    return TuningTrial(number, params, value, 1.0, value, 5, 0.1)


def test_the_earliest_of_equal_trials_is_the_best():
    assert best_trial([trial(0, 9.0), trial(1, 3.0), trial(2, 3.0)]).number == 1
    assert best_trial([trial(0, math.inf), trial(1, math.inf)]).number == 0


def test_proposals_depend_on_seed_and_trials_alone_and_find_a_minimum():
    space = {
        "cells": CategoricalDistribution([4, None]),
        "mu": FloatDistribution(0.01, 10, log=True),
        "n": IntDistribution(1, 50),
    }

    def search(count: int, seed: int, tried: list[TuningTrial]) -> list[TuningTrial]:
        for number in range(len(tried), count):
            params = propose(space, tried, seed=seed)
            value = abs(math.log(params["mu"])) + (params["cells"] is None) + params["n"] / 50
            tried = [*tried, trial(number, value if number % 5 else math.inf, **params)]
        return tried

    whole = search(40, 0, [])
    assert search(40, 0, whole[:17]) == whole
    assert search(3, 1, [])[0].params != whole[0].params
    for found in whole:
        assert 0.01 <= found.params["mu"] <= 10 and float(f"{found.params['mu']:.4g}") == found.params["mu"]
        assert isinstance(found.params["n"], int) and 1 <= found.params["n"] <= 50
    assert {found.params["cells"] for found in whole} == {4, None}
    # Random search of 40 trials rarely comes below .5: the mean of the last ten tells that the model is used.
    late = [found.value for found in whole[30:] if found.number % 5]
    assert np.mean(late) < 0.5 * np.mean([found.value for found in whole[:10] if found.number % 5])


def test_wandb_gets_numbers_over_the_trial():
    logged = []
    fake = SimpleNamespace(define_metric=lambda *_, **__: None, log=logged.append)
    log_trial([fake], TuningTrial(4, {"mu": 0.5, "cells": None, "step": "sign"}, math.inf, 0.25, 70.0, 9, 0.1))
    assert logged == [{"trial": 4, "success_rate": 0.25, "mean_queries": 70.0, "params/mu": 0.5}]


def test_a_damaged_trials_file_is_told(tmp_path):
    (tmp_path / "trials.json").write_text('{"results": [{"number": 0}]}')
    with pytest.raises(ValueError, match=r"trials\.json is damaged \(KeyError: 'value'\): restore it, or delete it"):
        read_trials(tmp_path / "trials.json")
