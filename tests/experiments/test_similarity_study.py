"""The study of estimates beside true gradients: cosines that are known, and what they cost."""

import json
import math

import pytest
import torch

from experiments.studies.similarity import SimilarityCLI, SimilarityTask
from tests.runs import asked, counted, run
from tests.victims import Linear
from zeroth.estimators import CGE, RGE
from zeroth.optimizers import ZOSGD

WEIGHT = torch.tensor([0.5, -0.25, 0.5, 0.25])


def net(bias: float) -> Linear:
    """Two classes whose margin is WEIGHT x - bias."""
    return Linear(torch.stack([WEIGHT, torch.zeros(4)]), torch.tensor([0.0, bias]))


def batch(count: int) -> dict[str, torch.Tensor]:
    """Images in the middle of the box."""
    images = torch.full((count, 1, 2, 2), 0.5)
    return {"image": images, "label": torch.zeros(count, dtype=torch.int64), "index": torch.arange(count)}


def test_exact_estimates_are_the_gradient_until_the_hinge_is_flat():
    """The margin .45 falls by .11 |w|^2 = .06875 an iteration: seven of them, after which both gradients are zero."""
    rule = ZOSGD(delta=4 * 0.11, estimator=CGE(mu=1e-2, scheme="forward"))
    task = SimilarityTask(net(0.05), rule, iterations=12, trials=2, c=0.0, start_scale=0.0)
    (row,) = task.measure(batch(1))
    assert row["cosines"] == pytest.approx([1.0] * 7 + [0.0] * 5, abs=1e-3) and row["first"] == [7, 7]
    assert row["queries"] == 1 + 2 * (12 * 5 + 1 + 12)  # the check; estimates, the last loss, true gradients
    found = task.predict_step(batch(1))
    assert float(found["cosine similarity"]) == pytest.approx(7 / 12, abs=1e-3)


@pytest.mark.parametrize("q", [2, 12])
def test_random_estimates_have_the_cosine_of_their_directions(q):
    """That of Z^T Z g and g for q normal directions Z, drawn anew here."""
    rule = ZOSGD(delta=1e-6, estimator=RGE(q=q, mu=1e-3, distribution="gaussian"))
    task = SimilarityTask(net(0.05), rule, iterations=20, trials=1, c=0.0)
    found = float(task.predict_step(batch(40))["cosine similarity"].mean())
    z = torch.randn(20_000, q, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimates = (z.mT @ (z @ WEIGHT.double().unsqueeze(1)))[..., 0]
    cosines = torch.nn.functional.cosine_similarity(estimates, WEIGHT.double().expand_as(estimates))
    assert abs(found - float(cosines.mean())) < 5 * float(cosines.std()) / math.sqrt(800)


def test_the_command_tells_the_similarity_beside_the_other_figures(tmp_path):
    words = ["--rule", "ZOSGD", "--rule.delta", "1", "--rule.estimator", "RGE", "--rule.estimator.q", "2"]
    words += ["--rule.estimator.mu", "1e-3", "--iterations", "3", "--trials", "1", "--images.count", "5"]
    study = run(SimilarityCLI, *words, *counted(tmp_path / "log"))
    told = json.loads((study.folder / "study.json").read_text())
    assert "similarity" in [part for part in study.folder.name.split("-")]
    assert {figure["name"] for figure in told["summary"]} >= {"final loss", "cosine similarity", "queries to success"}
    assert told["queries"] == asked(tmp_path / "log") == 5 + told["n"] * (3 * 3 + 1 + 3)
