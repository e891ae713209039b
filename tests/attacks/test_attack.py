"""Bad input to any attack, and what neighbours may not do to one another."""

import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.attacks import NESPGD, ZONGD, RGESign
from zeroth.oracles import GradientOracle, LabelOracle, ScoreOracle, VictimError

NET = random_linear(5, 16)
IMAGES = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = NET(IMAGES).argmax(1)
GOOD = {"images": IMAGES, "labels": LABELS, "budget": 50, "seed": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES * 255}, r"images must lie in \[0, 1\], got values in .*divide bytes by 255"),
        ({"images": IMAGES - 0.5}, r"images must lie in \[0, 1\]"),
        ({"images": IMAGES * torch.nan}, r"images must lie in \[0, 1\], got values in \[nan"),
        ({"images": (IMAGES * 255).byte()}, "images must be floating point"),
        ({"images": IMAGES[0]}, r"got torch.float32 of shape \(1, 4, 4\)|one an image"),
        ({"labels": LABELS.float()}, r"labels must be integers of shape \(4,\)"),
        (
            {"labels": LABELS[:3]},
            r"labels must be integers of shape \(4,\), one an image, got torch.int64 of shape \(3,\)",
        ),
        ({"labels": LABELS - 7}, "labels must be class numbers >= 0, got -"),
        ({"labels": LABELS + 9}, "labels must lie in 0..4, the victim has 5 classes, got"),
        ({"targets": LABELS}, "targets must differ from labels, got target"),
        ({"targets": LABELS + 9}, "targets must lie in 0..4, the victim has 5 classes, got"),
        ({"budget": 0}, "budget must be at least 1 query an image, got 0"),
        ({"budget": 1.5}, "budget must be integers"),
        ({"budget": torch.tensor([5, 6])}, r"budget must be integers of shape \(4,\), one an image, got"),
        ({"seed": -1}, "seed must be >= 0 and below 2.32, got -1"),
        ({"indices": [1, 1, 2, 3]}, "indices must be distinct"),
    ],
)
def test_bad_input_is_named_before_any_query_that_it_could_waste(change, message):
    victim = Logging(NET)
    with pytest.raises(ValueError, match=message):
        ZONGD()(ScoreOracle(victim), **GOOD | change)
    assert victim.seen in (0, 4)  # the number of classes is known from the first answer only


def test_the_wrong_kind_of_oracle_is_refused_and_more_access_is_taken():
    with pytest.raises(
        ValueError, match=r"ZONGD needs a ScoreOracle, got LabelOracle: wrap the model in ScoreOracle\(model\)"
    ):
        ZONGD()(LabelOracle(NET), **GOOD)
    victim = Logging(NET)
    result = ZONGD()(GradientOracle(victim), **GOOD)
    assert int(result.queries.sum()) == victim.seen


@pytest.mark.parametrize("attack", [ZONGD(), NESPGD(), RGESign()], ids=repr)
def test_hopeless_and_wrong_rows_leave_their_neighbours_alone(attack):
    class Partly(torch.nn.Module):
        """Answers a dark image with a constant; the others as the linear victim does."""

        def forward(self, images):
            logits = NET(images)
            dark = images.flatten(1).sum(1) < 6.4 * 16 / 16
            return torch.where(dark[:, None], torch.tensor([9.0, 0, 0, 0, 0], dtype=logits.dtype), logits)

    images = torch.cat([IMAGES * 0.3 + 0.6, torch.zeros(1, 1, 4, 4), IMAGES[:1] * 0.3 + 0.6])
    labels = Partly()(images).argmax(1)
    labels[5] = (labels[5] + 1) % 5
    budget = 200
    together = attack(ScoreOracle(Partly()), images, labels, budget=budget, seed=0)
    alone = attack(ScoreOracle(Partly()), images[:4], labels[:4], budget=budget, seed=0)
    assert torch.equal(together.queries[:4], alone.queries) and torch.equal(together.success[:4], alone.success)
    assert together.reason[5] == "misclassified" and int(together.queries[5]) == 1
    assert together.predicted[4] == 0
    single = attack(
        ScoreOracle(lambda x: torch.tensor([[9.0, 0, 0]]).expand(len(x), 3)),
        images[:1],
        torch.tensor([0]),
        budget=50,
        seed=0,
    )
    assert single.reason == ["budget"] and not single.success.any() and 48 <= int(single.queries) <= 50


def test_a_victim_that_breaks_midway_stops_the_attack_with_its_name():
    class Breaking(Logging):
        def forward(self, images):
            scores = super().forward(images)
            return scores * torch.nan if self.seen > 30 else scores

    with pytest.raises(VictimError, match="victim Breaking returned NaN scores"):
        RGESign(learning_rate=1e-3)(ScoreOracle(Breaking(NET)), **GOOD)


@pytest.mark.parametrize("attack", [ZONGD, NESPGD, RGESign])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, r"epsilon must be > 0 in \[0, 1\] pixels, got -0.1"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"cells": 0}, "cells must be at least 1, got 0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"kappa": -1}, "kappa must be >= 0, got -1"),
        ({"accept": "some"}, "accept must be 'all' or 'iterates', got 'some'"),
        ({"learning_rate": 0}, "got 0"),
    ],
)
def test_bad_hyperparameters_are_named(attack, options, message):
    with pytest.raises(ValueError, match=message):
        attack(**options)


def test_repr_shows_every_hyperparameter():
    assert repr(RGESign(samples=7)) == (
        "RGESign(epsilon=0.4, samples=7, mu=1.0, learning_rate=0.8, cells=7, iterations=None, kappa=0.0, accept='all')"
    )
