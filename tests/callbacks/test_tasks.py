"""One batch under attack.py and certify.py: where the victim is asked, what is kept, what is told."""

import inspect

import pytest
import torch

from callbacks.fit_evaluation import FitEvaluation
from callbacks.record_writer import AttackRecordWriter, RecordWriter
from callbacks.tasks import AttackTask, CertificationTask
from cli.evaluation import EvaluationCLI
from tests.victims import Logging, Scatter, random_linear
from zeroth.attacks import NESPGD
from zeroth.oracles import GradientOracle, Journal, Oracle, ScoreOracle, VictimError
from zeroth.records import RecordHeader
from zeroth.smoothing import SmoothedClassifier

BATCH = {
    "image": torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
    "label": torch.arange(4) % 3,
    "index": torch.arange(10, 14),
}
SAMPLES = {"n0": 20, "n": 80}


def certification(victim, classes=3, **more):
    return CertificationTask(victim, classes, sigma=0.25, **SAMPLES, **more)


def test_a_certification_is_that_of_the_library():
    got = certification(random_linear(3, 16), seed=5).predict_step(BATCH)
    expected = SmoothedClassifier(random_linear(3, 16), 3, 0.25).certify(
        BATCH["image"], **SAMPLES, seed=5, indices=BATCH["index"]
    )
    assert torch.equal(got.prediction, expected.prediction) and torch.equal(got.radius, expected.radius)


@pytest.mark.parametrize("job", ["attack", "certify"])
def test_a_victim_without_parameters_is_asked_where_the_images_are(job, monkeypatch):
    """The victim, a function, cannot tell: its oracle would take the CPU."""
    devices, begin = [], Oracle.__init__

    def noted(self, *rest, **options):
        devices.append(options["device"])
        begin(self, *rest, **options)

    monkeypatch.setattr(Oracle, "__init__", noted)
    victim = random_linear(3, 16).forward
    task = (
        AttackTask(victim, NESPGD(epsilon=0.1), num_classes=3, budget=20) if job == "attack" else certification(victim)
    )
    task.predict_step(BATCH)
    assert devices == [BATCH["image"].device]


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (5, ValueError, "victim Logging has 3 classes, the data has 5: choose other data"),
        (2, VictimError, r"a class outside 0..1 .* \(it returns 3 scores\)"),
    ],
)
def test_another_number_of_classes_is_told_after_the_first_request(classes, error, message):
    victim = Logging(random_linear(3, 16))
    with pytest.raises(error, match=message):
        certification(victim, classes, max_batch=7).predict_step(BATCH)
    assert victim.seen == 7


def test_progress_of_both_jobs_has_one_shape():
    told = []
    for task in (
        AttackTask(random_linear(3, 16), NESPGD(epsilon=0.1), num_classes=3, budget=20),
        certification(random_linear(3, 16), max_batch=100),
    ):
        task.progress = told.append
        task.predict_step(BATCH)
        assert {now.total for now in told} == {4}
    assert [now.queries for now in told[-4:]] == [100, 200, 300, 400]


def test_a_certification_replays_its_journal(tmp_path):
    expected = certification(random_linear(3, 16)).predict_step(BATCH)
    for asked in (400, 0):
        victim = Logging(random_linear(3, 16))
        task = certification(victim)
        task.journal = Journal.open(tmp_path / "j", {})
        assert task.keeps_journal
        got = task.predict_step(BATCH)
        task.journal.close()
        assert victim.seen == asked
        assert torch.equal(got.radius, expected.radius) and torch.equal(got.prediction, expected.prediction)


def test_gradients_are_not_journalled():
    class WhiteBox(NESPGD):
        oracle_type = GradientOracle

    kept = [
        AttackTask(random_linear(3, 16), attack(epsilon=0.1), num_classes=3, budget=20).keeps_journal
        for attack in (NESPGD, WhiteBox)
    ]
    assert kept == [True, False]


@pytest.mark.parametrize("base", [EvaluationCLI, RecordWriter, FitEvaluation])
def test_what_is_left_to_a_subclass_is_enforced(base):
    assert inspect.isabstract(base)


def test_an_attack_that_goes_on_after_its_success_is_no_failure(tmp_path):
    net = random_linear(3, 16)
    labels = net(BATCH["image"]).argmax(1)
    result = Scatter(scale=1.0, stop=False)(ScoreOracle(net), BATCH["image"], labels, budget=50, seed=0)
    assert result.success.any() and set(result.reason) == {"budget"}
    header = RecordHeader(kind="attack", config={}, checkpoint_sha256=None, seed=0)
    rows = AttackRecordWriter(tmp_path, header).rows(result, BATCH)
    assert [row.fail_reason for row in rows] == ["" if won else "budget" for won in result.success.tolist()]
