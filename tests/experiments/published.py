"""Tiny finished runs, written as the programs write them, and the experiments that publish them."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from experiments.experiment import Experiment, Picture, Row, Stage
from experiments.plan import Plan, PlannedStage
from tests.records.examples import certificate, found, lost
from zeroth.records import RecordFile, RecordHeader, config_hash, flatten, record_path, write_json

WEIGHTS = b"weights"
SHA256 = sha256(WEIGHTS).hexdigest()
START = {
    "commit": "0123456789abcdef",
    "hardware": {"processor": "a processor", "cores": 2, "memory_gib": 8.0, "gpus": []},
    "versions": {"numpy": "2.4.6"},
    "python": "3.11.7",
    "command": ["attack.py", "--checkpoint", "/home/somebody/best.ckpt"],
    "started": "2026-01-01T00:00:00+00:00",
}
DATA = {"class_path": "datamodules.Digits", "init_args": {"seed": 0}}
# Of 4 images one is misclassified, two are won (at 10 and 30 queries, 12 and 30 spent) and one is lost at 100.
ATTACK_ROWS = [lost(7, 1, "misclassified", predicted=5), found(3, 10, spent=12), found(5, 30), lost(1, 100)]
# Radii at which reading and flooring again would lose the last digit.
CERTIFICATE_ROWS = [certificate(4, 0.3), certificate(0, 0.299999), certificate(2, 0.7, predict=9), certificate(6, 0)]


def settings(**more):
    images = {"split": "test", "count": 4, "start": 0, "stride": 2}
    return {
        "victim": {"output": "logits", "checkpoint_sha256": SHA256},
        "data": DATA,
        "images": images,
        "seed": 3,
    } | more


def attack_settings(epsilon=0.4, **more):
    init_args = {"epsilon": epsilon, "mu": 1.0, "accept": "all", **more}
    attack = {"class_path": "zeroth.attacks.ZONGD", "init_args": init_args}
    return settings(attack=attack, budget=100, targeted="none", total_queries=None)


def certify_settings(sigma=0.25):
    return settings(certify={"sigma": sigma, "n0": 100, "n": 1000, "alpha": 0.001})


def write_run(folder, job, told, rows, *, shards=1, ranks=1, report=None):
    """Write the run of an evaluation: rows dealt out to shards and ranks, lineage.json, report.json."""
    kind = {"attack": "attack", "certify": "certificate"}[job]
    header = RecordHeader(kind=kind, seed=told["seed"], checkpoint_sha256=SHA256, config=flatten(told))
    for number in range(shards * ranks):
        shard = None if shards == 1 else (number // ranks + 1, shards)
        with RecordFile(record_path(folder, kind, rank=number % ranks, shard=shard), header) as file:
            for row in rows[number :: shards * ranks]:
                file.append(row)
    parents = [{"path": "/home/somebody/best.ckpt", "sha256": SHA256}]
    lineage = {"job": job, "config_hash": header.config_hash, "parents": parents, "starts": [START], "settings": told}
    write_json(folder / "lineage.json", lineage)
    write_json(folder / "report.json", {"norm": "linf", "images": 4, **(report or {})})


def stages(runs: Path, planned: dict[str, str]) -> list[PlannedStage]:
    """Planned stages, name -> job, each with a hash of its own."""
    places = {"train": "train-victim"}
    return [
        PlannedStage(
            name=name,
            job=job,
            folder=runs
            / places.get(job, job)
            / f"{'digits' if job == 'train' else name}-{config_hash({'n': name})[:8]}",
            hash=config_hash({"n": name}),
            commands=[],
            parents=[],
        )
        for name, job in planned.items()
    ]


def write_checkpoint(folder: Path) -> None:
    """Write the victim that all runs are of."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "best.ckpt").write_bytes(WEIGHTS)


def write_victim(folder: Path) -> None:
    """Write a checkpoint, and the logs of three starts of its training: the last test tells."""
    write_checkpoint(folder)
    for number, accuracy in ((0, 0.5), (10, 0.75), (9, 0.25)):
        log = folder / "csv" / f"version_{number}" / "metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text(f"epoch,step,test_accuracy,val_accuracy\n0,9,,0.9\n1,19,{accuracy},\n")


def attack_experiment(runs: Path, **run) -> tuple[Experiment, Plan]:
    """Two attacks, one of them tuned; options of :func:`write_run` for the first one's run."""
    names = {"victim": "train", "tune": "tune", "plain-all": "attack", "tuned-all": "attack"}
    experiment = Experiment(
        title="Two attacks",
        paper="Somebody et al., 2020",
        text="What is shown.",
        dataset={"digits": "digits"},
        scales={"digits": {}},
        stages={
            "victim": Stage("train", {"config": "configs/victim/digits.yaml"}),
            "tune": Stage("tune", {"attack": "configs/attack/zo_ngd.yaml"}, victim="victim"),
            "plain-all": Stage("attack", {"attack": "configs/attack/zo_ngd_paper.yaml"}, victim="victim"),
            "tuned-all": Stage("attack", {"attack.epsilon": "2e-1"}, victim="victim", tuned="tune"),
        },
        kind="attack",
        rows=[
            Row("plain, all", "plain-all", {"success_rate": 0.987, "queries_to_success": 1243}, "Table 1", "Beware."),
            Row("tuned, all", "tuned-all"),
        ],
        pictures={"success": Picture("success", title="Success"), "over": Picture("queries_vs", [], "attack.epsilon")},
    )
    plan = Plan("paper/table", Path("configs/experiment/paper/table.yaml"), "digits", runs, stages(runs, names))
    folders = {stage.name: stage.folder for stage in plan.stages}
    write_victim(folders["victim"])
    trials = {"trials": 7, "seed": 5, "objective": "mean queries", "images": 30, "selection": {"split": "train"}}
    found = {"attack": "ZONGD", "given": {"epsilon": 0.4, "mu": 0.5, "accept": "all"}, "best": {"params": {"mu": 1.0}}}
    write_json(folders["tune"] / "trials.json", trials | found | {"victim": {"checkpoint_sha256": SHA256}})
    write_run(folders["plain-all"], "attack", attack_settings(), ATTACK_ROWS, **run)
    write_run(folders["tuned-all"], "attack", attack_settings(epsilon=0.2), ATTACK_ROWS[1:] + ATTACK_ROWS[:1])
    return experiment, plan


def certificate_experiment(runs: Path, **run) -> tuple[Experiment, Plan]:
    """Two noise levels; options of :func:`write_run` for the first one's run."""
    experiment = Experiment(
        title="Certificates",
        paper="Somebody et al., 2019",
        dataset={"digits": "digits"},
        scales={"digits": {}},
        stages={
            "victim": Stage("train", {"config": "configs/victim/digits.yaml"}),
            "sigma0.25": Stage("certify", {"certify.sigma": 0.25}, victim="victim"),
            "sigma0.5": Stage("certify", {"certify.sigma": 0.5}, victim="victim"),
        },
        kind="certificate",
        rows=[
            Row("sigma 0.25", "sigma0.25", {"certified_accuracy": {"0.25": 0.6}, "acr": 0.4}, "Table 2"),
            Row("sigma 0.5", "sigma0.5"),
        ],
        pictures={"certified": Picture("certified")},
        radii=[0.0, 0.25],
    )
    names = {"victim": "train", "sigma0.25": "certify", "sigma0.5": "certify"}
    plan = Plan("paper/certificates", Path("/elsewhere/certificates.yaml"), "digits", runs, stages(runs, names))
    folders = {stage.name: stage.folder for stage in plan.stages}
    write_checkpoint(folders["victim"])
    write_run(folders["sigma0.25"], "certify", certify_settings(), CERTIFICATE_ROWS, **run)
    write_run(
        folders["sigma0.5"], "certify", certify_settings(0.5), [*CERTIFICATE_ROWS[:3], certificate(6, 0, predict=-1)]
    )
    return experiment, plan


def study_experiment(runs: Path, **more: Any) -> tuple[Experiment, Plan]:
    """One study of three marks; further entries of its study.json."""
    experiment = Experiment(
        title="A study",
        paper="Somebody et al., 2020",
        dataset={"digits": "digits"},
        scales={"digits": {}},
        stages={
            "victim": Stage("train", {"config": "configs/victim/digits.yaml"}),
            "gamma": Stage("study", {}, victim="victim", study="damping"),
        },
        kind="study",
        rows=[Row("loss against gamma", "gamma")],
        pictures={"loss": Picture("study", title="The loss")},
    )
    plan = Plan(
        "paper/study",
        Path("configs/experiment/paper/study.yaml"),
        "digits",
        runs,
        stages(runs, {"victim": "train", "gamma": "study"}),
    )
    write_checkpoint(plan.stages[0].folder)
    folder = plan.stages[1].folder
    told = settings(iterations=2)
    lineage = {"config_hash": config_hash(flatten(told)), "parents": [{"sha256": SHA256}], "starts": [START]}
    write_json(folder / "lineage.json", {**lineage, "settings": told})
    lines = [{"name": "loss", "values": [3, 2, 1], "low": [2, 1.5, 1], "high": [4, 2.5, 1]}]
    study = {"kind": "lines", "x": {"name": "gamma", "values": [0.01, 0.1, 1], "log": True}, "y": {"name": "mean loss"}}
    told_of_run = {"seed": 3, "images": told["images"], "checkpoint_sha256": SHA256, "settings": told}
    write_json(
        folder / "study.json",
        {**study, **told_of_run, "lines": lines, "n": 3, "queries": 99, "notes": ["A note."], **more},
    )
    return experiment, plan


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())
