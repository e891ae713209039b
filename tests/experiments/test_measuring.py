"""Distances, ratios and cases of published attacks."""

import dataclasses

import numpy as np
import pytest

from experiments.checks import check_published
from experiments.experiment import Experiment, Picture, Ratio, Row, Stage
from experiments.measuring import mean_distance, paired_ratio
from experiments.page import read_page
from experiments.plan import Plan
from experiments.publish import main, publish
from experiments.tables import attack_table
from tests.experiments.published import attack_experiment, attack_settings, read_json, write_run
from tests.records.examples import attacks, found, lost


def test_the_interval_of_a_mean_distance_is_students():
    rows = attacks(*(found(index, l2=size) for index, size in enumerate((0.1, 0.2, 0.6))), lost(3))
    # Mean .3 and standard error sqrt(.07 / 3); the 97.5 % quantile of t with 2 degrees of freedom is 4.3026527.
    error = 4.302652729911275 * np.sqrt(0.07 / 3)
    assert mean_distance(rows, "l2") == {"mean": pytest.approx(0.3), "low": 0.0, "high": pytest.approx(0.3 + error)}
    assert mean_distance(rows[:1], "l1") == {"mean": pytest.approx(0.4), "low": None, "high": None}
    assert mean_distance(rows[3:], "l2") == {"mean": None, "low": None, "high": None}


def test_a_ratio_is_of_the_means_over_what_both_won():
    baseline = attacks(found(4, l2=1.0), found(2, l2=3.0), found(1, l2=9.0), lost(3), found(7, l2=50.0))
    rows = attacks(found(1, l2=4.5), found(2, l2=1.5), found(3, l2=7.0), lost(4))
    told = paired_ratio(rows, baseline, "l2")
    # Images 1 and 2; every resample of two pairs at half the distance gives a half.
    assert told == {"n": 2, "value": 0.5, "low": pytest.approx(0.5), "high": pytest.approx(0.5)}
    unequal = paired_ratio(attacks(found(1, l2=1.0), found(2, l2=9.0)), attacks(found(1), found(2)), "l2")
    # Resamples are (1, 1), (1, 9), (9, 9) over a baseline of .5: a quarter of them at either end.
    assert unequal == {"n": 2, "value": 10.0, "low": 2.0, "high": 18.0}
    assert paired_ratio(rows[2:], baseline, "l2")["value"] is None


def test_the_interval_of_a_ratio_resamples_images_with_all_their_targets():
    rng = np.random.default_rng(0)
    sizes, bases = rng.uniform(1, 2, 6), rng.uniform(2, 3, 6)
    once, base = (attacks(*(found(i, target=1, l2=x[i]) for i in range(6))) for x in (sizes, bases))
    thrice, bases3 = (
        attacks(*(found(i, target=k, l2=x[i]) for i in range(6) for k in (1, 2, 3))) for x in (sizes, bases)
    )
    pairs = paired_ratio(thrice, bases3, "l2", keys=["index", "target"])
    images = paired_ratio(once, base, "l2", keys=["index", "target"])
    # Three equal pairs of an image tell no more than one.
    assert (pairs.pop("n"), images.pop("n")) == (18, 6) and pairs == pytest.approx(images)


def test_a_ratio_to_other_images_or_targets_is_refused():
    rows = attacks(found(1, target=3), found(1, target=4))
    with pytest.raises(ValueError, match="1 of 2 rows have none of the baseline's 1 beside them"):
        paired_ratio(rows, rows[:1], "l2", keys=["index", "target"])


def with_distances(made) -> tuple[Experiment, Plan]:
    experiment, plan = made
    first, second = experiment.rows
    first = dataclasses.replace(first, reported={**first.reported, "l2": 2.0})
    second = dataclasses.replace(second, reported={"l2": 1.0}, ratio_to=Ratio("plain, all", "l2"))
    return dataclasses.replace(experiment, columns=["success_rate", "l2"], rows=[first, second]), plan


def test_distances_and_ratios_are_published_beside_the_papers(tmp_path):
    folder = publish(*with_distances(attack_experiment(tmp_path / "runs")), tmp_path / "results")
    page, cells = read_page(folder)
    assert check_published(folder) == [] and page.columns == ["success_rate", "l2"]
    half = {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert [cell.distances for cell in cells] == [{"l2": half}] * 2
    line = attack_table(cells, page.columns).iloc[1].to_dict()
    assert line == {
        "method": "tuned, all",
        "won / attacked": "2 / 3",
        "success % [95 % CI]": "66.7 [20.8, 93.9]",
        "l_2 [95 % CI]": "0.5 [0.5, 0.5]",
        "l_2 / that of plain, all [95 % CI]": "1 [1, 1], n 2",
        "paper: success %": "-",
        "paper: l_2": "1",
        "paper: l_2 / that of plain, all": "0.5",
        "paper: where": "-",
    }
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    main([str(folder)])
    assert {path: path.read_bytes() for path in before} == before


def test_a_table_that_shows_no_distance_has_the_files_that_it_always_had(tmp_path):
    folder = publish(*attack_experiment(tmp_path / "runs"), tmp_path / "results")
    assert not {"case", "distances", "ratio", "examples"} & set(read_json(folder / "plain-all.json"))
    told = read_json(folder / "experiment.json")
    assert "columns" not in told and set(told["pictures"]["over"]) == {"kind", "rows", "over", "title"}


def every_target(runs, cases=("best", "worst")) -> tuple[Experiment, Plan]:
    """Two images of three classes, attacked towards both of the wrong ones."""
    experiment, plan = attack_experiment(runs)
    experiment = dataclasses.replace(
        experiment,
        stages=experiment.stages | {"plain-all": Stage("attack", {"targeted": "all"}, victim="victim")},
        rows=[Row(f"plain, {case}", "plain-all", case=case) for case in cases],
        pictures={"over": Picture("success_vs", [f"plain, {cases[0]}"], "attack.epsilon")},
        columns=["success_rate", "l2"],
    )
    rows = [
        found(3, label=0, target=1, predicted=1, l2=0.5),
        found(3, label=0, target=2, predicted=2, l2=0.25),
        found(5, label=1, target=0, predicted=0, l2=1.0),
        lost(5, label=1, target=2, predicted=1),
    ]
    told = attack_settings() | {"targeted": "all"}
    told["images"] = {**told["images"], "count": 2}
    folder = next(stage.folder for stage in plan.stages if stage.name == "plain-all")
    for path in folder.glob("attack*"):
        path.unlink()
    write_run(folder, "attack", told, rows)
    return experiment, plan


def test_the_cases_of_a_run_are_lines_of_one_record_file(tmp_path):
    folder = publish(*every_target(tmp_path / "runs"), tmp_path / "results")
    assert check_published(folder) == []
    _, (best, worst) = read_page(folder)
    assert [path.name for path in sorted((folder / "records").iterdir())] == ["plain-all.jsonl"]
    assert (best.name, worst.name) == ("plain-all-best", "plain-all-worst")
    # The nearer target of each image; the farther one, and the one that was not reached.
    assert best.distances is not None and worst.distances is not None
    assert (best.measured["n_success"], best.distances["l2"]["mean"]) == (2, 0.625)
    assert (worst.measured["n_success"], worst.distances["l2"]["mean"]) == (1, 0.5)
    assert best.images["count"] == 2 and best.queries == worst.queries == 130
    assert "wanted class: each wrong one" in (folder / "table.md").read_text()
