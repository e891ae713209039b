"""What a cell says of a run."""

import json

import pytest

from experiments.building import build_cell
from experiments.cells import machine_paths, read_cell
from tests.experiments.published import (
    ATTACK_ROWS,
    CERTIFICATE_ROWS,
    SHA256,
    START,
    attack_experiment,
    attack_settings,
    certificate_experiment,
    certify_settings,
    read_json,
    study_experiment,
    write_run,
)
from zeroth.records import attack_summary, certificate_summary, config_hash, file_sha256, flatten, plain, write_json
from zeroth.records.rows import to_frame


def cells_of(made, tmp_path):
    experiment, plan = made
    return [build_cell(experiment, plan, row, tmp_path / "out") for row in experiment.rows]


@pytest.fixture
def attacks(tmp_path):
    return cells_of(attack_experiment(tmp_path / "runs"), tmp_path)


def test_an_attack_says_what_was_measured_and_reported(attacks, tmp_path):
    cell = attacks[0]
    assert cell.measured == plain(attack_summary(to_frame("attack", ATTACK_ROWS)))
    assert (cell.measured["n_attacked"], cell.measured["n_success"], cell.measured["queries"]["median"]) == (3, 2, 30)
    assert cell.queries == 1 + 12 + 30 + 100  # what the victim was really asked, the misclassified image's check too
    assert cell.reported == {"success_rate": 0.987, "queries_to_success": 1243}
    assert (cell.source, cell.note, cell.kind, cell.norm) == ("Table 1", "Beware.", "attack", "linf")
    assert (cell.experiment, cell.scale, cell.dataset) == ("paper/table", "digits", "digits")
    assert cell.images == {"split": "test", "count": 4, "start": 0, "stride": 2}
    assert cell.records["sha256"] == file_sha256(tmp_path / "out" / "records" / "plain-all.jsonl")


def test_a_cell_says_where_its_numbers_come_from(attacks):
    cell = attacks[0]
    assert cell.seed == 3
    assert cell.config["path"] == "configs/attack/zo_ngd_paper.yaml"
    assert cell.config["hash"] == config_hash(flatten(attack_settings()))
    assert cell.config["settings"]["attack.init_args.epsilon"] == 0.4
    assert not any(key.startswith(("data", "images", "victim")) for key in cell.config["settings"])
    # The last start that tested the victim, of ten: version_10 comes after version_9.
    assert cell.subject == {"name": "digits", "accuracy": 0.75, "checkpoint_sha256": SHA256}
    for key in ("commit", "hardware", "versions", "python", "started"):
        assert getattr(cell, key) == START[key]
    assert cell.later_starts == []


def test_a_tuned_line_says_how_it_was_tuned(attacks, tmp_path):
    plain_cell, cell = attacks
    copy = tmp_path / "out" / "tuning" / "tune.json"
    assert plain_cell.tuning is None
    assert cell.tuning == {
        "trials": 7,
        "seed": 5,
        "objective": "mean queries",
        "images": 30,
        "split": "train",
        "file": "tuning/tune.json",
        "sha256": file_sha256(copy),
    }
    assert read_json(copy)["images"] == 30
    assert cell.config["path"] == "configs/attack/zo_ngd.yaml"  # what was tuned


def test_starts_under_another_commit_are_told(tmp_path):
    experiment, plan = attack_experiment(tmp_path / "runs")
    path = plan.stages[2].folder / "lineage.json"
    other = {**START, "commit": "fedcba", "started": "2026-01-02T00:00:00+00:00"}
    write_json(path, read_json(path) | {"starts": [START, other]})
    cell = cells_of((experiment, plan), tmp_path)[0]
    assert cell.commit == START["commit"]
    assert [start["commit"] for start in cell.later_starts] == ["fedcba"]
    assert "command" not in cell.later_starts[0]  # its paths are those of a machine


def test_a_certificate_is_measured_at_the_radii_of_the_table(tmp_path):
    cell, abstained = cells_of(certificate_experiment(tmp_path / "runs"), tmp_path)
    assert cell.measured == plain(certificate_summary(to_frame("certificate", CERTIFICATE_ROWS), [0.0, 0.25])) | {
        "acr": pytest.approx((0.299999 + 0.299998) / 4, abs=1e-6)
    }
    assert cell.measured["certified_accuracy"]["accuracy"] == [0.75, 0.5]
    assert abstained.measured["abstention_rate"]["value"] == 0.25
    assert cell.queries == 4 * (100 + 1000)
    assert cell.config["settings"] == flatten({"certify": certify_settings()["certify"]})
    assert (cell.kind, cell.norm, cell.subject["accuracy"]) == ("certificate", None, None)


def test_a_study_is_copied(tmp_path):
    (cell,) = cells_of(study_experiment(tmp_path / "runs"), tmp_path)
    assert cell.measured == read_json(tmp_path / "out" / "records" / "gamma.json")
    assert (cell.kind, cell.queries, cell.images["count"]) == ("study", 99, 3)
    assert cell.config["settings"] == {"iterations": 2}


@pytest.mark.parametrize(
    ("key", "value"), [("attack.epsilon", 0.4), ("attack.init_args.epsilon", None), ("budget", 100)]
)
def test_a_setting_is_found_by_the_key_of_its_option(attacks, key, value):
    if value is not None:
        assert attacks[0].setting(key) == value
        return
    with pytest.raises(ValueError, match=r"plain, all has no setting attack.init_args.epsilon, it has attack.accept, "):
        attacks[0].setting(key)


def test_a_cell_is_read_back(attacks, tmp_path):
    path = tmp_path / "cell.json"
    write_json(path, attacks[1].to_dict())
    assert read_cell(path, "do this") == attacks[1]
    for change in ({"schema_version": 0}, {"strange": 1}):
        write_json(path, attacks[1].to_dict() | change)
        with pytest.raises(ValueError, match=r"cell.json is no cell of this version .*: do this"):
            read_cell(path, "do this")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"cell.json is damaged \(Expecting .*\): do this"):
        read_cell(path, "do this")


def test_no_cell_tells_a_path_of_the_machine(tmp_path):
    made = [attack_experiment(tmp_path / "a"), certificate_experiment(tmp_path / "b"), study_experiment(tmp_path / "c")]
    cells = [cell for each in made for cell in cells_of(each, tmp_path)]
    assert len(cells) == 5
    for cell in cells:
        text = json.dumps(cell.to_dict())
        assert list(machine_paths(cell.to_dict())) == []
        assert str(tmp_path) not in text
        assert "somebody/" not in text


def test_a_path_of_the_machine_is_refused(tmp_path):
    experiment, plan = attack_experiment(tmp_path / "runs")
    experiment.stages["plain-all"].options["attack"] = "/home/somebody/mine.yaml"
    with pytest.raises(ValueError, match=r"stage plain-all would publish .*, config.path: /home/somebody/mine.yaml"):
        cells_of((experiment, plan), tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/root/x", True), ("~/x", True), ("C:\\x", True), ("--checkpoint=/tmp/x", True), ("see '/mnt/x'", True),
        ("configs/a.yaml", False), ("https://a.org/b", False), ("and/or", False), ("3 / 4", False), ("0.4", False),
    ],
)  # fmt: skip
def test_absolute_paths_are_told_from_other_text(text, found):
    assert list(machine_paths({"a": [{"b": text}]})) == ([f"a[0].b: {text}"] if found else [])


@pytest.mark.parametrize("count", [4, None])
def test_a_run_that_is_not_complete_is_refused(tmp_path, count):
    experiment, plan = attack_experiment(tmp_path / "runs")
    told = attack_settings()
    told["images"]["count"] = count  # of a whole split the report tells the size
    folder = plan.stages[2].folder
    (folder / "attack.jsonl").unlink()
    write_run(folder, "attack", told, ATTACK_ROWS[:3])
    with pytest.raises(
        ValueError, match=r"stage plain-all has 3 of 4 rows in (.*plain-all-.*): delete \1/done\* and give the same"
    ):
        cells_of((experiment, plan), tmp_path)


@pytest.mark.parametrize("missing", ["lineage.json", "report.json", "attack.jsonl"])
def test_a_run_that_is_not_there_is_named(tmp_path, missing):
    experiment, plan = attack_experiment(tmp_path / "runs")
    (plan.stages[2].folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=r"stage plain-all.*delete .*plain-all-.*/done\* and give the same"):
        cells_of((experiment, plan), tmp_path)


def test_a_path_in_a_copied_file_is_refused(tmp_path):
    experiment, plan = attack_experiment(tmp_path / "runs")
    trials = plan.stages[1].folder / "trials.json"
    write_json(trials, read_json(trials) | {"results": [{"failed": "no file /home/somebody/x"}]})
    with pytest.raises(ValueError, match=r"stage tune would publish .*, results\[0\].failed: no file /home"):
        cells_of((experiment, plan), tmp_path)


RETRAINED = "e" * 64


def retrain(plan):
    """The victim's stage was run again and gave other weights."""
    (plan.stages[0].folder / "checkpoints" / "best.ckpt").write_bytes(b"other weights")


@pytest.mark.parametrize("make", [attack_experiment, certificate_experiment, study_experiment])
def test_a_run_of_an_older_checkpoint_is_refused(tmp_path, make):
    experiment, plan = make(tmp_path / "runs")
    retrain(plan)
    stage, now = experiment.rows[0].stage, file_sha256(plan.stages[0].folder / "checkpoints" / "best.ckpt")
    with pytest.raises(
        ValueError, match=rf"stage {stage} is of the checkpoint with sha256 {SHA256}, but .* has {now}: d"
    ):
        cells_of((experiment, plan), tmp_path)


def test_a_victim_without_a_checkpoint_is_named(tmp_path):
    experiment, plan = attack_experiment(tmp_path / "runs")
    (plan.stages[0].folder / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match=r"stage victim has no .*best.ckpt: delete .*digits-.*/done\* and"):
        cells_of((experiment, plan), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"best": {"params": {"mu": 0.7}}},
            r"attack.init_args.mu = 1, but .*trials.json .* say 0.7: delete .*tuned-all",
        ),
        ({"attack": "NESPGD"}, r"attack.class_path = 'ZONGD', but .* say 'NESPGD'"),
        ({"given": {"epsilon": 0.4, "accept": "iterates"}}, r"attack.init_args.accept = 'all', but .* say 'iterates'"),
        ({"victim": {"checkpoint_sha256": RETRAINED}}, rf"stage tune is of the checkpoint with sha256 {RETRAINED}"),
    ],
)
def test_a_tuned_run_of_another_tuning_is_refused(tmp_path, change, message):
    experiment, plan = attack_experiment(tmp_path / "runs")
    trials = plan.stages[1].folder / "trials.json"
    write_json(trials, read_json(trials) | change)
    with pytest.raises(ValueError, match=message):
        cells_of((experiment, plan), tmp_path)


def test_the_options_of_a_tuned_line_win(tmp_path):
    experiment, plan = attack_experiment(tmp_path / "runs")
    experiment.stages["tuned-all"].options["attack.epsilon"] = 0.3
    with pytest.raises(ValueError, match=r"stage tuned-all ran with attack.init_args.epsilon = 0.2, but .* say 0.3"):
        cells_of((experiment, plan), tmp_path)
