"""What Weights & Biases and the CSV file were given, read back from disk."""

import json
import struct

import numpy as np
import pandas as pd
import pytest
import wandb
import yaml
from wandb.proto import wandb_internal_pb2

from callbacks.loggers import artifact_name, parent_artifacts
from callbacks.pieces import load_pieces
from cli import AttackCLI, CertifyCLI, TrainCLI
from cli.folders import RunOptions
from tests.runs import run
from zeroth.records import attack_summary, attacked_rows, merge_records, success_curve

OFFLINE = (
    "--run.wandb",
    "offline",
    "--trainer.enable_progress_bar",
    "false",
    "--run.group",
    "grid",
    "--run.tags",
    "[paper, digits]",
)


BLOCK, HEADER = (
    32768,
    struct.Struct("<IHB"),
)  # LevelDB's log format: checksum, length, kind (1 whole, 2 first, 3 middle, 4 last)


def records(path):
    """The records of a .wandb file, behind its own 7 bytes of header."""
    data, place, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + HEADER.size <= len(data):
        if BLOCK - place % BLOCK < HEADER.size:  # too short for a header: padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, place)
        place += HEADER.size
        parts += data[place : place + length]
        place += length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


class Logged:
    """One offline run, as its .wandb file tells it."""

    def __init__(self, folder):
        (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
        self.history, self.summary, self.config, self.metrics, self.artifacts = [], {}, {}, {}, {}
        for record in records(file):
            self.take(record)

    def take(self, record):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            self.run = record.run
            self.take_config(record.run.config)
        elif kind == "config":
            self.take_config(record.config)
        elif kind == "history":
            self.history.append(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            )
        elif kind == "summary":
            self.summary |= {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update
            }
        elif kind == "metric":
            self.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "request" or kind == "artifact":
            artifact = record.artifact if kind == "artifact" else record.request.log_artifact.artifact
            if artifact.name:
                self.artifacts[artifact.name] = artifact

    def take_config(self, config):
        self.config |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in config.update}

    def curve(self, x, y):
        points = [(row[x], row[y]) for row in self.history if x in row and y in row]
        return [list(column) for column in zip(*points, strict=True)]


def keys(value):
    if isinstance(value, dict):
        for key, entry in value.items():
            yield key
            yield from keys(entry)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    wandb.finish()
    told = []
    words = ("--run.root", root, *OFFLINE)
    told.append(run(TrainCLI, "--trainer.max_epochs", "2", "--run.name", "small", *words).folder)
    wandb.finish()
    victim = ("--checkpoint", told[0] / "checkpoints" / "best.ckpt", *words)
    attack = ("--attack", "configs/attack/zo_ngd.yaml", "--budget", "100", "--images.count", "30")
    told.append(run(AttackCLI, *victim, *attack).folder)
    wandb.finish()
    told.append(run(CertifyCLI, *victim, "--certify.n", "100", "--images.count", "10").folder)
    wandb.finish()
    return dict(zip(("train", "attack", "certify"), told, strict=True))


@pytest.fixture(scope="module")
def logged(folders):
    return {job: Logged(folder) for job, folder in folders.items()}


def test_the_run_is_named_and_grouped(logged):
    assert [logged[job].run.job_type for job in logged] == ["train-victim", "attack", "certify"]
    assert [logged[job].run.display_name for job in logged] == ["small", "small-zo_ngd", "small-sigma0.25"]
    assert {(told.run.run_group, told.run.project, tuple(sorted(told.run.tags))) for told in logged.values()} == {
        ("grid", "zeroth", ("digits", "paper"))
    }


@pytest.mark.parametrize("job", ["train", "attack", "certify"])
def test_the_config_is_that_of_the_run_folder_without_points_in_keys(folders, logged, job):
    saved = yaml.safe_load((folders[job] / "config.yaml").read_text())
    told = {key: logged[job].config[key] for key in saved}
    assert told == saved
    assert not any("." in key for key in keys({k: v for k, v in logged[job].config.items() if k != "_wandb"}))


def test_curves_have_axes_of_their_own(folders, logged):
    assert logged["attack"].metrics["success_rate"] == "queries"
    assert logged["attack"].metrics["robust_accuracy"] == "epsilon"
    assert logged["certify"].metrics["certified_accuracy"] == "radius"
    rows = merge_records(folders["attack"])
    marks, rates = logged["attack"].curve("queries", "success_rate")
    assert marks[0] == 1 and marks[-1] == 100
    assert rates == pytest.approx(success_curve(rows, marks))
    pieces = load_pieces(folders["attack"])
    played = pieces.distance[[index in set(attacked_rows(rows)["index"]) for index, _ in pieces.keys]].numpy()
    report = json.loads((folders["attack"] / "report.json").read_text())["distortion_curve"]
    assert report["queries"] == pieces.marks.tolist() == marks
    for name, share in (("distance_q25", 0.25), ("distance_median", 0.5), ("distance_q75", 0.75)):
        assert logged["attack"].metrics[name] == "queries"
        at = np.quantile(played, share, axis=0, method="higher")  # no interpolation with inf
        assert [value is None for value in report[name]] == np.isinf(at).tolist()
        known = [(mark, value) for mark, value in zip(marks, report[name], strict=True) if value is not None]
        x, y = (list(column) for column in zip(*known, strict=True))
        assert logged["attack"].curve("queries", name) == [x, y]
        assert y[-1] == pytest.approx(np.quantile(played[:, -1], share))
    radii, accuracies = logged["certify"].curve("radius", "certified_accuracy")
    held = merge_records(folders["certify"])
    expected = [(held["correct"] & (held["radius"] >= radius)).mean() for radius in radii]
    assert accuracies == pytest.approx(expected) and len(radii) == 101


def test_the_numbers_are_those_of_the_report(folders, logged):
    report = json.loads((folders["attack"] / "report.json").read_text())
    assert report["success_rate"]["value"] == attack_summary(merge_records(folders["attack"]))["success_rate"]["value"]
    assert logged["attack"].summary["success_rate/value"] == report["success_rate"]["value"]
    csv = pd.read_csv(folders["attack"] / "csv" / "version_0" / "metrics.csv")
    assert csv["success_rate/value"].tolist() == [report["success_rate"]["value"]]
    assert csv["queries/mean"].tolist() == pytest.approx([report["queries"]["mean"]])
    trained = pd.read_csv(folders["train"] / "csv" / "version_0" / "metrics.csv")
    accuracy = [row["val_accuracy"] for row in logged["train"].history if "val_accuracy" in row]
    assert accuracy == pytest.approx(trained["val_accuracy"].dropna().tolist()) and len(accuracy) == 2


def test_there_is_a_table_of_images_and_every_picture(folders, logged):
    media = {
        name: value
        for row in logged["attack"].history
        for name, value in row.items()
        if name.endswith(("/path", "/_type"))
    }
    assert media["images/_type"] == "table-file"
    (run,) = (folders["attack"] / "wandb").glob("offline-run-*")
    table = json.loads((run / "files" / media["images/path"]).read_text())
    rows = merge_records(folders["attack"]).astype(object)
    assert table["columns"] == list(rows.columns)
    assert table["data"] == rows.where(rows.notna(), None).to_numpy().tolist()
    pictures = {path.stem for path in folders["attack"].glob("*.png")}
    assert pictures == {
        "success_vs_queries",
        "robust_accuracy_vs_epsilon",
        "distortion_vs_queries",
        "adversarial_examples",
    }
    assert {name for name in media if name.startswith("pictures/")} >= {f"pictures/{name}/path" for name in pictures}


def test_artifacts_and_lineage_tell_the_chain(folders, logged):
    kinds = {
        job: {name: a.type for name, a in told.artifacts.items() if not name.startswith("run-")}
        for job, told in logged.items()
    }
    assert kinds["train"] == {"victim-small": "model"}
    assert kinds["attack"] == {"attack-small-zo_ngd": "report"}
    assert kinds["certify"] == {"certificate-small-sigma0.25": "report"}
    lineage = {job: json.loads((folder / "lineage.json").read_text()) for job, folder in folders.items()}
    sha256 = lineage["train"]["checkpoints"]["best"]["sha256"]
    for job in ("attack", "certify"):
        (parent,) = lineage[job]["parents"]
        assert parent["sha256"] == sha256
        assert parent["config_hash"] == lineage["train"]["config_hash"]
        assert parent_artifacts([parent]) == ["victim-small"]
    assert json.loads(logged["attack"].artifacts["attack-small-zo_ngd"].metadata)["parents"] == [sha256]
    header = json.loads((folders["attack"] / "attack.jsonl").read_text().splitlines()[0])
    assert (header["config_hash"], header["checkpoint_sha256"]) == (lineage["attack"]["config_hash"], sha256)


def test_curves_leave_out_what_is_unknown():
    from callbacks.loggers import log_curve

    class Run:
        rows, axes = [], {}

        def define_metric(self, name, step_metric=None):
            self.axes[name] = step_metric

        def log(self, row):
            self.rows.append(row)

    log_curve([Run()], "x", [1, 2, 3], {"y": [0.5, None, np.inf], "z": [1.0, 2.0, float("nan")]})
    assert Run.rows == [{"x": 1, "y": 0.5, "z": 1.0}, {"x": 2, "z": 2.0}]
    assert Run.axes == {"x": None, "y": "x", "z": "x"}


def test_wandb_is_not_given_what_it_warns_of(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr("wandb.init", lambda **settings: given.update(settings))
    *_, logger = RunOptions(wandb="offline", root=str(tmp_path)).loggers("attack", tmp_path / "run")
    _ = logger.experiment
    assert given["name"] == "run" and "anonymous" not in given


def test_artifact_names_are_what_wandb_takes():
    assert artifact_name("victim-a b/c:d") == "victim-a_b_c_d"
