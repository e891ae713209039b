"""Trainings of a learned optimizer by train.py: an attack's UpdateRNN, then the QueryRNN beside it."""

import json

import pytest
import torch
import yaml

from cli import TrainCLI
from cli.victims import load_checkpoint
from tests.runs import QUIET, digits_checkpoint, optimizer_checkpoint, run
from zeroth.networks import CheckpointQueryRNN, CheckpointUpdateRNN, UpdateRNN
from zeroth.records.schema import file_sha256


def config_of(folder, name, **arguments):
    sampling = {"class_path": "LearnedSampling", "init_args": {"q": 2, "mu": 1e-5}}
    model = {
        "rule": {
            "class_path": "LearnedOptimizer",
            "init_args": {"update": {"class_path": "UpdateRNN", "init_args": {"hidden": 3}}, "estimator": sampling},
        },
        "horizon": 4,
        "window": 2,
        "slots": 3,
    }
    model["rule"]["init_args"] |= arguments.pop("rule", {})
    victim = {"class_path": "CheckpointClassifier", "init_args": {"checkpoint": str(digits_checkpoint())}}
    problems = {"data": {"class_path": "Digits"}, "victim": victim, "train": 5, "val": 2, "test": 2, "windows": 2}
    written = {
        "model": {"class_path": "OptimizerTraining", "init_args": {**model, **arguments}},
        "data": {"class_path": "AttackOptimizees", "init_args": problems},
        "trainer": {"max_epochs": 2, "gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
        "run": {"root": str(folder), "name": name},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(written))
    return folder / f"{name}.yaml"


def test_both_networks_are_trained_one_beside_the_other(tmp_path):
    first = run(TrainCLI, "--config", config_of(tmp_path, "first"), *QUIET)
    assert first.folder == tmp_path / "train-optimizer" / "first"
    best = first.folder / "checkpoints" / "best.ckpt"
    lineage = json.loads((first.folder / "lineage.json").read_text())
    assert lineage["job"] == "train-optimizer" and [parent["job"] for parent in lineage["parents"]] == ["train-victim"]
    update = CheckpointUpdateRNN(str(best))
    assert update.hidden == 3 and isinstance(update, UpdateRNN)
    with pytest.raises(ValueError, match="holds no QueryRNN"):
        CheckpointQueryRNN(str(best))
    with pytest.raises(ValueError, match="holds no UpdateRNN"):
        CheckpointUpdateRNN(str(digits_checkpoint()))
    parts = {
        "update": {"class_path": "CheckpointUpdateRNN", "init_args": {"checkpoint": str(best)}},
        "query": {"class_path": "QueryRNN", "init_args": {"hidden": 4}},
    }
    second = run(TrainCLI, "--config", config_of(tmp_path, "second", rule=parts, trained="query"), *QUIET)
    lineage = json.loads((second.folder / "lineage.json").read_text())
    assert [parent["job"] for parent in lineage["parents"]] == ["train-optimizer", "train-victim"]
    best.unlink()  # the second checkpoint needs it no more
    last = second.folder / "checkpoints" / "last.ckpt"
    module, _ = load_checkpoint(last)
    assert all(torch.equal(value, module.rule.update.state_dict()[name]) for name, value in update.state_dict().items())
    assert CheckpointQueryRNN(str(last)).hidden == 4
    # 2 epochs of 2 windows of 3 slots; values of q + 1 points and a gradient.
    asked = torch.load(last)["optimizer_training"]["queries"]
    training, validation = 4 * 3 * 2 * (2 + 1 + 1), 2 * 2 * (4 * 3 + 1)
    chosen = asked - training - validation  # the images that the victim was asked about, for both splits
    assert 14 <= chosen <= 40


def test_a_trained_optimizer_is_trained_on(tmp_path):
    """Finetuning: four steps of Adam at 1e-3 move no weight by more than .004, and the file is a parent."""
    start = {"update": {"class_path": "CheckpointUpdateRNN", "init_args": {"checkpoint": str(optimizer_checkpoint())}}}
    tuned = run(TrainCLI, "--config", config_of(tmp_path, "tuned", rule=start), *QUIET)
    before = CheckpointUpdateRNN(str(optimizer_checkpoint())).state_dict()
    after = CheckpointUpdateRNN(str(tuned.folder / "checkpoints" / "last.ckpt")).state_dict()
    moves = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert moves.mean() > 0 and moves.max() < 0.0041
    parents = json.loads((tuned.folder / "lineage.json").read_text())["parents"]
    assert parents[0]["sha256"] == file_sha256(optimizer_checkpoint())
