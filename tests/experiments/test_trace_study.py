"""The trace of an optimizer: what it shows is what the optimizer did, to the number."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.building import build_cell
from experiments.experiment import Picture
from experiments.optimizations import iterates_figure, maps_figure
from experiments.pictures import draw_picture
from experiments.reconstructions import image_of
from experiments.studies.trace import PERTURBATION, VARIANCE, TraceCLI, TraceTask, scaled
from tests.experiments.published import study_experiment
from tests.runs import asked, counted, optimizer_checkpoint, run
from tests.victims import random_linear
from zeroth.estimators import RGE, LearnedSampling
from zeroth.networks import CheckpointQueryRNN, CheckpointUpdateRNN
from zeroth.optimizers import ZOSGD, LearnedOptimizer, ZOAdam

NET = random_linear(4, 16)
IMAGES = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
LABELS = NET(IMAGES).argmax(1)
LABELS[1] = (LABELS[1] + 1) % 4  # which the victim gets wrong
BATCH = {"image": IMAGES, "label": LABELS, "index": torch.arange(10, 14)}


@pytest.mark.parametrize("kind", [ZOSGD, ZOAdam])
def test_a_rule_makes_the_updates_that_are_told_of_it(kind):
    """At a learning rate of .01, which the trace leaves out."""
    task = TraceTask(NET, kind(delta=0.16, estimator=RGE(q=3, mu=1e-3)), iterations=6, c=0.1)
    found = task.predict_step(BATCH)
    name = {ZOSGD: "update by ZO-SGD", ZOAdam: "update by ZO-ADAM"}[kind]
    assert torch.allclose(found["update"], 0.01 * found[name]) and found["update"].shape == (3, 6)
    assert torch.allclose(found["update by ZO-SGD"], -found["gradient estimate"])
    assert found["index"].tolist() == [[10], [12], [13]] and VARIANCE not in found
    assert torch.equal(found["original"], IMAGES[[0, 2, 3]].flatten(1))
    assert task.queries == 4 + 3 * (6 * 4 + 1 + 7)  # and the labels at all seven points
    assert found["iterates"].shape == (3, 7, 16) and task.marks() == list(range(7))
    assert torch.allclose(found["iterates"][:, 0], found["original"], atol=1e-3)  # the start is within 1e-4 or so
    assert torch.equal(found["iterates"][:, -1] - found["original"], found[PERTURBATION])
    assert torch.equal(found["predicted"], NET(found["iterates"].view(-1, 1, 4, 4)).argmax(1).view(3, 7))
    # The pixel that is followed moves by its updates, from a start near zero, farther than any other.
    farthest = found[PERTURBATION].abs().max(1).values
    assert farthest.min() > 0.01 and farthest.max() < 0.3  # nothing is clamped
    assert torch.allclose(found["update"].sum(1).abs(), farthest, atol=1e-3)


def test_predicted_variances_keep_their_sum():
    """sigma has the norm sqrt(d): the mean of its squares is 1 in each iteration, and so over all."""
    networks = [kind(str(optimizer_checkpoint())) for kind in (CheckpointUpdateRNN, CheckpointQueryRNN)]
    estimator = LearnedSampling(q=3, mu=1e-3)
    rule = LearnedOptimizer(update=networks[0], query=networks[1], estimator=estimator)
    found = TraceTask(NET, rule, iterations=5, c=0.1).predict_step(BATCH)
    assert found[VARIANCE].mean(1).tolist() == pytest.approx([1.0] * 3, rel=1e-5)
    assert found[VARIANCE].std() > 0 and (found["predicted variance"] > 0).all()
    lines = ["predicted variance", "gradient estimate", "update", "update by ZO-SGD", "update by ZO-ADAM"]
    assert list(found) == ["index", "original", "iterates", "predicted", PERTURBATION, VARIANCE, *lines]


def test_values_are_divided_by_their_largest_magnitude():
    assert scaled(np.array([[1.0, -4.0], [0.0, 0.0]])).tolist() == [[0.25, -1.0], [0.0, 0.0]]


def test_the_command_tells_lines_and_maps_which_are_pictured(tmp_path):
    words = ["--rule", "ZOSGD", "--rule.delta", "1", "--rule.estimator", "RGE", "--rule.estimator.q", "2"]
    words += ["--rule.estimator.mu", "1e-3", "--iterations", "3", "--images.count", "4"]
    study = run(TraceCLI, *words, *counted(tmp_path / "log"))
    told = json.loads((study.folder / "study.json").read_text())
    assert told["queries"] == asked(tmp_path / "log") == 4 + told["n"] * (3 * 3 + 1 + 4)
    assert [line["name"] for line in told["lines"]] == [
        "gradient estimate",
        "update",
        "update by ZO-SGD",
        "update by ZO-ADAM",
    ]
    assert all(len(line["values"]) == 3 and max(map(abs, line["values"])) == 1 for line in told["lines"])
    examples = told["examples"]
    (changed,) = examples["maps"].values()
    assert len(examples["index"]) == len(changed) == told["n"]
    assert {float(abs(2 * image_of(text, (1, 8, 8)) - 1).max()) for text in changed} == {1.0}
    experiment, plan = study_experiment(
        tmp_path / "runs", **{key: told[key] for key in ("x", "y", "lines", "examples")}
    )
    cell = build_cell(experiment, plan, experiment.rows[0], tmp_path)
    figure = draw_picture(Picture("maps"), [cell, replace(cell, method="other")], tmp_path)
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == ["true image", f"loss against gamma,\n{PERTURBATION}", f"other,\n{PERTURBATION}"]
    assert len(figure.axes) == 3 * told["n"]
    figure = draw_picture(Picture("iterates"), [cell, replace(cell, method="other")], tmp_path)
    labels = told["examples"]["iterates"]["predicted"][0]
    assert [axes.get_xlabel() for axes in figure.axes] == [f"label {label}" for label in [*labels, *labels]]
    assert [axes.get_title() for axes in figure.axes] == ["iteration 0", "1", "2", "3", *[""] * 4]
    examples = {**cell.measured["examples"], "index": [0] * told["n"]}
    with pytest.raises(ValueError, match="other is not of the image that loss against gamma is of: measure it anew"):
        iterates_figure([cell, replace(cell, method="other", measured={**cell.measured, "examples": examples})])
    with pytest.raises(ValueError, match="other is not of the images that loss against gamma is of: measure it anew"):
        maps_figure([cell, replace(cell, method="other", measured={**cell.measured, "examples": examples})])
