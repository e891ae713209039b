"""Victims and surrogates that no stage trains: planned, hashed, run on a small class-folder tree, published."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from cli import AttackCLI
from experiments.cells import victim_named
from experiments.checks import check_published
from experiments.loading import load_experiment
from experiments.plan import Plan, make_plan
from experiments.publish import publish, refresh
from tests.experiments.tiny import tiny, written
from tests.runs import QUIET, run
from zeroth.records import read_records

DIGITS = {"victim": "DigitsCNN", "data": "Digits"}
CLASSES = {"victim.init_args.num_classes": 2}
DOWNLOAD = "torchvision.models._api.load_state_dict_from_url"
SURROGATE = {"class_path": "TorchvisionClassifier", "init_args": {"name": "inception_v3", "weights": "DEFAULT"}}


def planned(folder: Path, stages: dict[str, Any], **changes: Any) -> Plan:
    rows = [{"method": name, "stage": name} for name in stages if stages[name]["job"] == "attack"]
    file = written(folder, stages=stages, rows=rows, pictures=changes.pop("pictures", {}), **changes)
    return make_plan(load_experiment(file, "digits"), "digits", file=file, runs=folder / "runs")


def attack(options: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"job": "attack", "options": {"attack": "NESPGD", **options}, **fields}


def test_the_victim_is_in_the_command_and_in_the_hash(tmp_path):
    ways = {"plain": {}, "again": {}, "narrow": {"victim.init_args.width": 16}, "net": {"victim.output": "logits"}}
    plan = planned(tmp_path, {name: attack(DIGITS | more) for name, more in ways.items()})
    hashes = {stage.name: stage.hash for stage in plan.stages}
    assert hashes["plain"] == hashes["again"] == hashes["net"] != hashes["narrow"]
    for stage in plan.stages:
        words = stage.commands[0]
        assert stage.parents == [] and "--checkpoint" not in words
        assert words[words.index("--victim") + 1] == "DigitsCNN"
        assert stage.data["class_path"].endswith("Digits")


def test_weights_are_in_the_hash_and_planning_reads_none(tmp_path, monkeypatch):
    monkeypatch.setattr(DOWNLOAD, lambda *_, **__: pytest.fail("downloaded"))
    tree = {"victim": "resnet18", "data": "ImageFolder", "data.folder": "nowhere"}
    stages = {
        name: attack(tree | {"victim.weights": weights, "targeted": "all"})
        for name, weights in (("published", "DEFAULT"), ("first", "IMAGENET1K_V1"), ("random", None))
    }
    plan = planned(tmp_path, stages)
    assert len({stage.hash for stage in plan.stages}) == 3
    assert [stage.queries for stage in plan.stages] == [
        None
    ] * 3  # nobody knows the classes of a tree that is not there


def test_a_surrogate_that_no_stage_trains_is_given_as_it_is_and_hashed_by_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(DOWNLOAD, lambda *_, **__: pytest.fail("downloaded"))
    other = {**SURROGATE, "init_args": {"name": "inception_v3", "weights": None}}
    spelt = {**SURROGATE, "class_path": "zeroth.networks.TorchvisionClassifier"}
    ways = {"published": SURROGATE, "spelt": spelt, "random": other}
    stages = {
        name: attack(DIGITS | {"attack": "Transfer"}, models={"attack.surrogates": [network]})
        for name, network in ways.items()
    }
    published, again, random = planned(tmp_path, stages).stages
    assert published.hash == again.hash != random.hash
    words = published.commands[0]
    assert json.loads(words[words.index("--attack.surrogates") + 1]) == [SURROGATE]
    assert published.parents == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"attack": "NESPGD"}}, "stages.zo.victim must name a train stage"),
        (
            {"victim": "victim"},
            "stages.zo: its victim is given twice, as the train stage 'victim' and by the option vi",
        ),
        (
            {"options": {"attack": "NESPGD", "victim": "DigitsCNN"}},
            "stages.zo: option data is missing: without a train",
        ),
        ({"options": {"data": "Digits", "victim.weights": "DEFAULT"}}, "stages.zo: option victim is missing: without"),
        (
            {"options": {**DIGITS, "victim": "resnet19"}},
            "stages.zo: victim: unknown name 'resnet19'; give a torchvision",
        ),
        (
            {"options": {**DIGITS, "victim.weights": "DEFAULT"}},
            "stages.zo: victim.weights 'DEFAULT' is for torchvision's",
        ),
        (
            {"options": {**DIGITS, "victim": "resnet18", "victim.weights": "V3"}},
            "stages.zo: victim.weights 'V3': torchvision offers IMAGENET1K_V1, DEFAULT for resnet18",
        ),
        (
            {"options": {**DIGITS, "victim.init_args.wide": 3}},
            "stages.zo: victim DigitsCNN does not take victim.init_a",
        ),
        (
            {"models": {"attack.surrogates": [{**SURROGATE, "init_args": {"name": "vgg16", "weights": "V9"}}]}},
            "stages.zo: models: weights 'V9': torchvision offers IMAGENET1K_V1, IMAGENET1K_FEATURES, DEFAULT for vgg16",
        ),
        ({"models": {"attack.surrogates": [{"class_path": "DigitCNN"}]}}, "stages.zo: models: "),
    ],
    ids=lambda value: value[10:45] if isinstance(value, str) else "",
)
def test_a_wrong_victim_or_surrogate_is_told_while_planning(tmp_path, change, message):
    stages = tiny()["stages"]
    stages = {"victim": stages["victim"], "zo": {**attack(DIGITS), **change}}
    stages["zo"]["options"]["attack"] = "Transfer" if "models" in change else "NESPGD"
    with pytest.raises(ValueError) as told:
        planned(tmp_path, stages)
    assert str(told.value).startswith(f"{tmp_path / 'paper' / 'table.yaml'}: {message}")


def test_an_attack_is_tuned_on_the_victim_that_it_attacks(tmp_path):
    tune = {"job": "tune", "options": {**DIGITS, "attack": "NESPGD", "trials": 2, "budget": 50, "images.count": 5}}
    right = {"tune": tune, "tuned": {"job": "attack", "tuned": "tune", "options": DIGITS}}
    plan = planned(tmp_path, right)
    assert plan.stages[1].parents == ["tune"]
    right["tuned"]["options"] = {**DIGITS, "victim.init_args.width": 16}
    with pytest.raises(ValueError, match=r"stages\.tuned: victim\.init_args.*tune tunes on"):
        planned(tmp_path, right)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"victim.output": "logits", "victim.checkpoint_sha256": "0"}, None),
        (
            {"victim.name": "inception_v3", "victim.weights": "DEFAULT", "victim.init_args": {}},
            "inception_v3 (weights D",
        ),
        ({"victim.name": "resnet18", "victim.weights": None, "victim.init_args.width": 2}, "resnet18 (width 2, random"),
        ({"victim.name": "mine.net.Wide", "victim.weights": None}, "Wide"),
        ({"victim.name": "resnet18", "victim.state_dict_sha256": "0"}, "resnet18"),
    ],
)
def test_a_victim_is_called_by_what_it_was_made_of(settings, name):
    told = victim_named(settings)
    assert told == name or (told is not None and name is not None and "(" in name and told.startswith(name))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two pictures of 64 x 64 pixels, one of each class."""
    noise = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (tmp_path / "tree" / "test" / name).mkdir(parents=True)
        picture = to_pil_image(torch.rand(3, 64, 64, generator=noise))
        picture.save(tmp_path / "tree" / "test" / name / "0.png")
    return tmp_path / "tree"


def test_a_stage_of_a_torchvision_network_runs_and_is_published(tmp_path, tree, monkeypatch):
    """The mechanics of an ImageNet table: random weights, two pictures."""
    monkeypatch.setenv("ZEROTH_DATA", str(tmp_path))
    images = {"data": "ImageFolder", "data.folder": tree.name, "data.crop": 48, "images.count": 2}
    common = {"victim": "squeezenet1_1", **CLASSES, **images, "targeted": "next", "budget": 6}
    stages = {"nes": attack(common), "wide": attack({**common, "attack.epsilon": 0.9})}
    plan = planned(tmp_path, stages, dataset={"digits": "Pictures"}, columns=["success_rate", "linf"])
    for stage in plan.stages:
        run(AttackCLI, *stage.commands[0][2:], *QUIET)
        header, rows = read_records(next(stage.folder.glob("attack*.jsonl")))
        assert len(rows) == 2 and header.checkpoint_sha256 is None
    experiment = load_experiment(plan.file, "digits")
    folder = publish(experiment, plan, tmp_path / "results")
    cell = json.loads((folder / "nes.json").read_text())
    name = "squeezenet1_1 (num_classes 2, random weights)"
    assert cell["subject"] == {"name": name, "accuracy": None, "checkpoint_sha256": None}
    assert f"Victim: {name}." in (folder / "table.md").read_text()
    assert check_published(folder) == []
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refresh(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    cell["subject"]["name"] = "inception_v3 (weights DEFAULT)"
    (folder / "nes.json").write_text(json.dumps(cell))
    assert any("subject.name is not what records/nes.jsonl says" in fault for fault in check_published(folder))
