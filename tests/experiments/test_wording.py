"""A published table follows the words of its experiment file, and is checked against them."""

import dataclasses
import re

import pytest
import yaml

from experiments import wording
from experiments.checks import check_published
from experiments.page import read_page
from experiments.publish import main, publish
from tests.experiments.published import attack_experiment

FILE = "configs/experiment/paper/table.yaml"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A checkout with an experiment file, and the folder that was published from it."""
    monkeypatch.setattr(wording, "ROOT", tmp_path)
    experiment, plan = attack_experiment(tmp_path / "runs")
    write(tmp_path, experiment)
    return experiment, publish(experiment, plan, tmp_path / "results")


def write(checkout, experiment):
    (checkout / FILE).parent.mkdir(parents=True, exist_ok=True)
    (checkout / FILE).write_text(yaml.safe_dump(dataclasses.asdict(experiment), sort_keys=False))


def row(experiment, place, **changes):
    rows = list(experiment.rows)
    rows[place] = dataclasses.replace(rows[place], **changes)
    return {"rows": rows}


@pytest.mark.parametrize(
    ("change", "file", "field"),
    [
        (lambda e: {"title": "Other"}, "experiment.json", "title"),
        (lambda e: {"text": "Other"}, "experiment.json", "text"),
        (lambda e: {"paper": "Other"}, "experiment.json", "paper"),
        (lambda e: {"pictures": {"over": e.pictures["over"]}}, "experiment.json", "pictures.success"),
        (lambda e: {"rows": e.rows[::-1]}, "experiment.json", "rows[0]"),
        (lambda e: {"dataset": {"digits": "Digits"}}, "plain-all.json", "dataset"),
        (lambda e: row(e, 1, method="found, all"), "tuned-all.json", "method"),
        (lambda e: row(e, 0, reported={"success_rate": 0.9}), "plain-all.json", "reported.queries_to_success"),
        (lambda e: row(e, 0, source="Table 2"), "plain-all.json", "source"),
        (lambda e: row(e, 0, note=None), "plain-all.json", "note"),
    ],
)
def test_other_words_are_found_and_taken_over(published, tmp_path, change, file, field):
    experiment, folder = published
    assert check_published(folder) == []
    measured = {cell.stage: cell.measured for cell in read_page(folder)[1]}
    write(tmp_path, dataclasses.replace(experiment, **change(experiment)))
    remedy = f"python -m experiments.publish {folder}"
    assert f"{folder / file}: {field} is not what {FILE} says: {remedy}" in check_published(folder)
    main([str(folder)])
    assert check_published(folder) == []
    assert {cell.stage: cell.measured for cell in read_page(folder)[1]} == measured


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda e: {"rows": e.rows[:1], "pictures": {}},
            r"has the lines \['plain-all'\], but published were \['plain-al",
        ),
        (lambda e: {"radii": [0.5]}, r"has the radii \[0.5\], but published were \[\]: python reproduce.py configs/"),
        (lambda e: {"scales": {"mnist": {}}}, r"table.yaml: scales has no 'digits'"),
    ],
)
def test_what_only_a_run_can_fill_is_left_to_one(published, tmp_path, change, message):
    experiment, folder = published
    write(tmp_path, dataclasses.replace(experiment, **change(experiment)))
    (fault,) = check_published(folder)
    assert fault.startswith(f"{folder / 'experiment.json'}: ") and re.search(message, fault)
    with pytest.raises(SystemExit):
        main([str(folder)])


def test_a_tuned_line_with_other_settings_than_its_tuning_found_is_named(published, tmp_path):
    experiment, folder = published
    other = dataclasses.replace(experiment.stages["tuned-all"], options={"attack.epsilon": 0.3})
    write(tmp_path, dataclasses.replace(experiment, stages=experiment.stages | {"tuned-all": other}))
    (fault,) = check_published(folder)
    named = f"attack.init_args.epsilon is not what tuning/tune.json and {FILE} say"
    assert fault == f"{folder / 'tuned-all.json'}: {named}"
