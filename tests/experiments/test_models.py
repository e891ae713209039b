"""Stages that are built on networks of earlier ones."""

import json

import pytest
import torch
from torch import nn

from callbacks.lineage import settings_hash
from experiments.experiment import Experiment
from experiments.loading import load_experiment
from experiments.plan import ROOT, Plan, make_plan
from experiments.resolving import resolve
from tests.experiments.tiny import tiny, written
from zeroth.attacks.attack import Attack
from zeroth.oracles import ScoreOracle, Trial


class Together(Attack):
    """An attack that takes one network, and several."""

    oracle_type = ScoreOracle
    norm = "linf"

    def __init__(self, *, first: nn.Module, others: list[nn.Module]) -> None:
        if not others:
            raise ValueError("others must name a network")
        self.first, self.others = first, others

    def run(self, trial: Trial) -> None:
        torch.manual_seed(0)


MODELS = {"attack.first": "victim", "attack.others": ["victim", "second"]}
TOGETHER = {"job": "attack", "victim": "victim", "models": MODELS, "options": {"attack": f"{__name__}.Together"}}


def loaded(folder, **changes) -> Experiment:
    longer = {"config": "configs/victim/digits.yaml", "trainer.max_epochs": changes.pop("epochs", 4)}
    stages = {"victim": tiny()["stages"]["victim"], "second": {"job": "train", "options": longer}}
    stages |= {"built": {**TOGETHER, **changes}}
    file = written(folder, stages=stages, rows=[{"method": "both", "stage": "built"}], pictures={})
    return load_experiment(file, "digits")


def planned(folder, **changes) -> Plan:
    experiment = loaded(folder, **changes)
    return make_plan(experiment, "digits", file=folder / "paper" / "table.yaml", runs=folder / "runs")


def test_networks_are_given_as_the_best_checkpoints_of_their_stages(tmp_path):
    plan = planned(tmp_path)
    victim, second, built = plan.stages
    assert built.parents == ["victim", "victim", "second"]
    words = built.commands[0]
    given = {option: json.loads(words[words.index(f"--{option}") + 1]) for option in MODELS}
    models = [
        {
            "class_path": "CheckpointClassifier",
            "init_args": {"checkpoint": str(stage.folder / "checkpoints" / "best.ckpt")},
        }
        for stage in (victim, second)
    ]
    assert given == {"attack.first": models[0], "attack.others": models}
    assert words.index("--attack") < words.index("--attack.first")


def test_the_hash_covers_how_a_network_came_about_and_not_where_it_lies(tmp_path):
    first, again, other = (planned(tmp_path, epochs=epochs).stages[2].hash for epochs in (4, 4, 5))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert first == again == planned(elsewhere).stages[2].hash
    assert first != other  # the second network is trained longer, and nothing else is changed


def test_a_training_may_follow_a_training(tmp_path):
    network = {"model.init_args.network": "victim"}
    stages = {"victim": tiny()["stages"]["victim"]}
    options = {"config": "configs/victim/digits.yaml"}
    stages |= {"student": {"job": "train", "options": options, "models": network}}
    stages |= {"zo": {**tiny()["stages"]["zo"], "victim": "student"}}
    file = written(tmp_path, stages=stages, rows=[{"method": "zo", "stage": "zo"}])
    victim, student, _ = make_plan(load_experiment(file, "digits"), "digits", file=file, runs=tmp_path).stages
    assert student.parents == ["victim"] and student.folder.name == f"digits-{student.hash[:8]}"
    assert student.folder != victim.folder


def test_a_stage_without_networks_has_the_hash_that_it_always_had(tmp_path):
    found = resolve(load_experiment(written(tmp_path), "digits"))
    settings, victim = found["zo"].settings, found["victim"].hash
    assert found["zo"].hash == settings_hash({"job": "attack", "settings": settings, "victim": victim, "tuned": None})


def test_runs_that_were_published_keep_their_folders(tmp_path):
    """These names stand in the lineage of results/zo_ngd: another hash would have them run again."""
    file = ROOT / "configs/experiment/zo_ngd/figure2_mnist.yaml"
    plan = make_plan(load_experiment(file, "mnist"), "mnist", file=file, runs=tmp_path)
    names = {stage.name: stage.folder.name for stage in plan.stages}
    assert names["victim"] == "mnist_cw-72271c3b" and names["tune_zo_ngd"] == "tune_zo_ngd-3382003e"
    assert names["zo_ngd_paper-iterates"] == "zo_ngd_paper-iterates-5bfc9113"
    assert names["zo_ngd_tuned-all"] == "zo_ngd_tuned-all-a17829b4"


def test_to_keep_the_images_of_a_picture_is_no_setting(tmp_path):
    strip = {"kind": "strip", "images": 3, "rows": ["NES-PGD"]}
    plans = []
    for pictures in ({}, {"strip": strip}):
        file = written(tmp_path, pictures=pictures)
        plans.append(make_plan(load_experiment(file, "digits"), "digits", file=file, runs=tmp_path / "runs"))
    one, other = ({stage.name: stage for stage in plan.stages} for plan in plans)
    assert {name: stage.hash for name, stage in one.items()} == {name: stage.hash for name, stage in other.items()}
    kept = [name for name, stage in other.items() if "--save_adversarial" in stage.commands[0]]
    assert kept == ["nes"] and not any("--save_adversarial" in stage.commands[0] for stage in one.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": {"attack.first": "third"}}, "stages.built.models.attack.first: 'third' is no train stage before"),
        ({"models": {"attack.others": ["built"]}}, "stages.built.models.attack.others: 'built' is no train stage"),
        ({"models": {"attack": "victim"}}, "stages.built: option attack is given twice, under options and under"),
    ],
)
def test_networks_of_no_earlier_training_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError) as told:
        loaded(tmp_path, **change)
    assert message in str(told.value)


def test_the_attacks_own_check_of_its_networks_comes_while_planning(tmp_path):
    with pytest.raises(ValueError, match=r"stages\.built: .*others must name a network"):
        planned(tmp_path, models={"attack.first": "victim", "attack.others": []})


def test_all_targets_cost_a_budget_each(tmp_path):
    stages = tiny()["stages"]
    stages["nes"]["options"]["targeted"] = "all"
    file = written(tmp_path, stages=stages)
    plan = make_plan(load_experiment(file, "digits"), "digits", file=file, runs=tmp_path / "runs")
    assert {stage.name: stage.queries for stage in plan.stages}["nes"] == 12 * 9 * 40
