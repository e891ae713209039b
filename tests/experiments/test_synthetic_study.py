"""The study of optimizers on synthetic problems: a closed form, what it asks, and that a killed one goes on."""

import json

import pytest
import torch

from datamodules.optimizees import ClassificationOptimizees, QuadraticOptimizees
from experiments.checks import check_published
from experiments.experiment import Experiment, Picture, Row, Stage
from experiments.page import read_page
from experiments.plan import Plan, PlannedStage
from experiments.publish import publish
from experiments.studies.image_rows import ImageRows
from experiments.studies.problem_rows import POINTS
from experiments.studies.synthetic import SyntheticCLI, SyntheticTask
from tests.runs import QUIET, run
from zeroth.estimators import CGE, RGE
from zeroth.optimizers import ZOSGD, ZOSignSGD
from zeroth.oracles.streams import derived_seed
from zeroth.problems import Quadratics

DATA = ClassificationOptimizees(dimension=4, samples=30, minibatch=5, train=3, val=2, test=4, batch_size=3)
SIZES = {"dimension": 4, "samples": 30, "minibatch": 5, "train": 3, "val": 2, "test": 4, "batch_size": 3}
BATCH = {"index": torch.arange(4)}


def test_descent_of_quadratics_is_known():
    """Central differences of a quadratic are its gradient, 2 W^T (W theta - y)."""
    data = QuadraticOptimizees(dimension=3, train=2, val=1, test=2)
    rule = ZOSGD(delta=3 * 0.05, estimator=CGE(mu=0.5, scheme="central"))
    task = SyntheticTask(data, rule, iterations=6, trials=2, seed=7)
    found = task.predict_step({"index": torch.tensor([1, 0])})
    assert found["index"].tolist() == [[1], [0]] and set(found) == {"index", "losses", "area under the loss"}
    for row, number in enumerate((4, 3)):  # the test problems come after two and one of the other splits
        known = torch.zeros(7, dtype=torch.float64)
        for trial in range(2):
            problem = Quadratics([number], dimension=3, seed=derived_seed(7, POINTS, trial))
            weight, target, theta = problem.weight[0].double(), problem.target[0].double(), problem.start[0].double()
            for t in range(7):
                known[t] += (weight @ theta - target).square().sum() / 2
                theta = theta - 0.05 * 2 * weight.T @ (weight @ theta - target)
        assert torch.allclose(found["losses"][row], known, rtol=1e-4)
        assert float(found["area under the loss"][row]) == pytest.approx(float(known.mean()), rel=1e-4)
    # Six values an iteration, and the loss at seven points beside them: central differences ask no point itself.
    assert task.queries == 2 * 2 * (6 * 6 + 7)


def test_a_stochastic_problem_costs_its_minibatches_and_all_losses():
    task = SyntheticTask(DATA, ZOSignSGD(delta=0.1, estimator=RGE(q=3, mu=1e-3)), iterations=5, trials=3)
    found = task.predict_step(BATCH)
    assert task.queries == 4 * 3 * (5 * 4 + 6) and task.asked(4).tolist() == [0, 4, 8, 12, 16, 20]
    other = SyntheticTask(DATA, ZOSGD(delta=0.1, estimator=RGE(q=2, mu=1e-3)), iterations=5, trials=3)
    assert torch.equal(found["losses"][:, 0], other.predict_step(BATCH)["losses"][:, 0])
    rows, alone = task.measure(BATCH), task.measure({"index": torch.tensor([2])})
    assert alone[0]["losses"] == pytest.approx(rows[2]["losses"], rel=1e-6)
    assert min(rows[2]["spread"]) > 0 and "first" not in rows[2]  # trials differ; there is no goal to reach


WORDS = ["--data", json.dumps({"class_path": "ClassificationOptimizees", "init_args": SIZES})]
WORDS += ["--rule", "ZOSGD", "--rule.delta", "100", "--rule.estimator", "RGE", "--rule.estimator.q", "2"]
WORDS += ["--rule.estimator.mu", "1e-3", "--iterations", "4", "--trials", "2"]
TUNED = ["--tuning.values", '{"delta": [0.1, 1.0]}', "--tuning.problems", "2"]


def test_the_command_tunes_on_training_problems_goes_on_and_is_published(tmp_path, monkeypatch):
    words = [*WORDS, *TUNED, "--run.root", tmp_path / "runs", *QUIET]
    study = run(SyntheticCLI, *words)
    whole = (study.folder / "study.json").read_bytes()
    told = json.loads(whole)
    assert study.folder.name == "ClassificationOptimizees-synthetic-ZOSGD" and told["images"] is None
    assert told["n"] == 4 and told["queries"] == 4 * 2 * (4 * 3 + 5) and told["asked"] == [0, 3, 6, 9, 12]
    assert [trial["queries"] for trial in told["tuning"]["trials"]] == [2 * (4 * 3 + 5)] * 3
    chosen = min(told["tuning"]["trials"], key=lambda trial: trial["loss"])
    assert told["tuning"]["chosen"] == chosen["arguments"]
    assert told["by_index"]["index"] == [0, 1, 2, 3] and list(told["by_index"])[1:] == [
        "final loss",
        "area under the loss",
    ]
    rows = (study.folder / "rows.jsonl").read_text().splitlines()
    (study.folder / "study.json").unlink()
    (study.folder / "rows.jsonl").write_text("\n".join(rows[:4]) + "\n{to")  # killed after the first batch of three
    measured = []
    monkeypatch.setattr(
        ImageRows, "append", lambda self, new, append=ImageRows.append: measured.append(len(new)) or append(self, new)
    )
    run(SyntheticCLI, *words)
    assert (study.folder / "study.json").read_bytes() == whole and measured == [1]
    folder = publish(*experiment_of(study.folder, tmp_path / "runs"), tmp_path / "results")
    page, (cell,) = read_page(folder)
    assert check_published(folder) == []
    assert cell.subject == {"name": None, "accuracy": None, "checkpoint_sha256": None} and cell.images == {"count": 4}
    table = page.table([cell])
    assert "4 problems of classification. 95 % intervals: bootstrap over the problems." in table
    assert "| SGD " in table and "Victim" not in table


def experiment_of(folder, runs) -> tuple[Experiment, Plan]:
    """The experiment of one study that has been made."""
    experiment = Experiment(
        title="Synthetic problems",
        paper="Somebody et al., 2020",
        dataset={"digits": "classification"},
        scales={"digits": {}},
        stages={"sgd": Stage("study", {}, study="synthetic")},
        kind="study",
        rows=[Row("SGD", "sgd")],
        pictures={"losses": Picture("losses", over="queries")},
    )
    stage = PlannedStage("sgd", "study", folder, "0", [[]], [])
    return experiment, Plan("paper/synthetic", runs / "synthetic.yaml", "digits", runs, [stage])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--data", "Digits", *WORDS[2:]],
            "data must be synthetic problems, e.g. ClassificationOptimizees, got Digits",
        ),
        (WORDS[2:], "give the problems by --data, e.g. --data ClassificationOptimizees"),
        ([*WORDS, *TUNED[:3], "4"], "tuning.problems must be at most data.train, 3, got 4"),
        (
            [*WORDS, "--tuning.values", '{"detla": [1.0]}', "--tuning.problems", "2"],
            "tuning.values.detla 1.0 is refused",
        ),
        ([*WORDS, "--trials", "0"], "trials must be at least 1, got 0"),
    ],
)
def test_bad_input_is_told_at_the_start(tmp_path, last_line, words, message):
    assert message in last_line(SyntheticCLI, *words, "--run.root", tmp_path, *QUIET)
    assert list(tmp_path.rglob("*.json*")) == []
