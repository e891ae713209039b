"""Distances at numbers of queries: columns, ratios of medians, pictures, and what is refused."""

import dataclasses
from math import inf

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from callbacks.pieces import query_marks
from experiments import wording
from experiments.building import build_cell
from experiments.checks import check_published
from experiments.curves import curve_of, ratio_of_medians
from experiments.experiment import Picture, Ratio
from experiments.loading import load_experiment
from experiments.measuring import cell_rows
from experiments.page import read_page
from experiments.pictures import draw_picture, source_hash
from experiments.plan import make_plan
from experiments.publish import main, publish
from experiments.tables import attack_table
from tests.experiments.published import attack_experiment, read_json
from tests.experiments.test_measuring import every_target
from tests.experiments.test_wording import FILE, write
from tests.experiments.tiny import tiny, written
from zeroth.records import write_json

MARKS = [10, 30, 100]
# Image 3 is won at 10 queries, 5 at 30, 1 never; 7 is misclassified, so not attacked.
DISTANCES = {7: [inf] * 3, 3: [0.4, 0.4, 0.2], 5: [inf, 0.6, 0.5], 1: [inf] * 3}
AGAIN = "run reproduce.py on the table again"


def write_curve(folder, distances, marks=MARKS):
    """Write the pieces of a run in two batches; a key is an image, or an image and its target."""
    keys = [key if isinstance(key, tuple) else (key, -1) for key in distances]
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    nothing = np.empty(0, np.int64)
    for name, place in (("a", slice(0, 2)), ("b", slice(2, None))):
        piece = {
            "index": np.array([index for index, _ in keys[place]]),
            "target": np.array([target for _, target in keys[place]]),
            "marks": np.array(marks),
            "distance": np.array(list(distances.values())[place], np.float32),
            "image": np.empty((0, 1, 8, 8), np.float32),
            "adversarial": np.empty((0, 1, 8, 8), np.float32),
            **dict.fromkeys(("shown", "shown_target", "label", "predicted"), nothing),
        }
        save_file(piece, folder / "curves" / f"{name}.safetensors")


def with_marks(runs, marks=MARKS):
    """The two attacks with their curves, the second one twice as near."""
    experiment, plan = attack_experiment(runs)
    first, second = experiment.rows
    first = dataclasses.replace(first, reported={"median_at": {"100": 2.0, "4000": 1.5}, "success_at": {"30": 0.46}})
    second = dataclasses.replace(
        second, reported={"median_at": {"100": 1.0}}, ratio_to=Ratio("plain, all", "median_at")
    )
    folders = {stage.name: stage.folder for stage in plan.stages}
    write_curve(folders["plain-all"], DISTANCES, marks)
    write_curve(folders["tuned-all"], {key: [size / 2 for size in row] for key, row in DISTANCES.items()}, marks)
    experiment = dataclasses.replace(
        experiment,
        rows=[first, second],
        columns=["median_at", "mean_at", "success_at"],
        marks=MARKS,
        threshold=0.4,
        pictures={"distortion": Picture("distortion"), "within": Picture("within", ["plain, all"], threshold=0.4)},
    )
    return experiment, plan


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A checkout with an experiment file of marks, and the folder that was published from it."""
    monkeypatch.setattr(wording, "ROOT", tmp_path)
    experiment, plan = with_marks(tmp_path / "runs")
    write(tmp_path, experiment)
    return experiment, publish(experiment, plan, tmp_path / "results")


def test_distances_at_marks_stand_beside_the_papers(published):
    _, folder = published
    page, cells = read_page(folder)
    assert check_published(folder) == []
    # Three images attacked, 1, 2 and 2 of them found. Student's t with 1 degree of freedom is 12.7062: .5 +- 1.27 and
    # .35 +- 1.91, not below 0. Wilson's interval of 1 of 3.
    share = "33.3 [6.1, 79.2]"
    assert attack_table(cells, page.columns).iloc[0].to_dict() == {
        "method": "plain, all",
        "won / attacked": "2 / 3",
        "median l_inf at 10": "inf",
        "median l_inf at 30": "0.6",
        "median l_inf at 100": "0.5",
        "mean l_inf at 10 [95 % CI]": "0.4, n 1",
        "mean l_inf at 30 [95 % CI]": "0.5 [0, 1.77], n 2",
        "mean l_inf at 100 [95 % CI]": "0.35 [0, 2.26], n 2",
        **{f"success % at {mark}, l_inf <= 0.4 [95 % CI]": share for mark in MARKS},
        "median l_inf at 100 / that of plain, all [95 % CI]": "-",
        "paper: median l_inf at 100": "2",
        "paper: success % at 30, l_inf <= 0.4": "46.0",
        "paper: median l_inf at 100 / that of plain, all": "-",
        "paper: where": "Table 1",
    }
    second = attack_table(cells, page.columns).iloc[1]
    # The resampled medians are infinite too often for an interval.
    assert second["median l_inf at 100 / that of plain, all [95 % CI]"] == "0.5, n 3"
    assert second["paper: median l_inf at 100 / that of plain, all"] == "0.5"
    told = read_json(folder / "plain-all.json")["at"]
    assert told["threshold"] == 0.4 and told["marks"]["10"]["median"] is None and told["marks"]["10"]["n_found"] == 1
    assert "`curves/` holds" in (folder / "README.md").read_text()
    assert "medians are of all attacked" in (folder / "table.md").read_text()


def test_what_is_tampered_with_is_found(published):
    _, folder = published
    path = folder / "plain-all.json"
    told, changed = read_json(path), read_json(path)
    changed["at"]["marks"]["30"]["median"] = 0.1
    write_json(path, changed)
    assert any(f"{path}: at.marks.30.median is not what {FILE} says" in fault for fault in check_published(folder))
    write_json(path, told)
    curve = folder / "curves" / "plain-all.safetensors"
    pieces = load_file(curve)
    pieces["distance"][1] /= 2
    save_file(pieces, curve)
    faults = check_published(folder)
    assert f"{curve} is not the file that plain-all.json was made from: its sha256 differs" in faults
    curve.unlink()
    assert f"{curve} is missing: plain-all.json is made from it" in check_published(folder)


def test_other_marks_and_thresholds_need_no_run(published, tmp_path):
    experiment, folder = published
    write(tmp_path, dataclasses.replace(experiment, marks=[30], threshold=0.55))
    assert any("plain-all.json: at." in fault for fault in check_published(folder))
    main([str(folder)])
    assert check_published(folder) == []
    told = read_json(folder / "plain-all.json")["at"]
    assert list(told["marks"]) == ["30"] and told["marks"]["30"]["success"]["value"] == pytest.approx(1 / 3)
    write(tmp_path, dataclasses.replace(experiment, marks=[20]))
    (fault,) = check_published(folder)
    assert fault == f"{folder / 'experiment.json'}: marks: no distances were published at 20 queries: {AGAIN}"


@pytest.mark.usefixtures("published")
def test_a_table_that_was_published_without_curves_needs_a_run(tmp_path):
    plain, plan = attack_experiment(tmp_path / "other")
    folder = publish(plain, plan, tmp_path / "other")
    assert not {"curve", "at"} & set(read_json(folder / "plain-all.json")) and not (folder / "curves").exists()
    faults = check_published(folder)
    assert any(f"plain, all was published without its distances over queries: {AGAIN}" in fault for fault in faults)


@pytest.mark.parametrize(
    ("marks", "message"),
    [(None, "stage plain-all kept no curves in "), ([10, 30], "stage plain-all kept no distances at 100 queries in ")],
)
def test_a_run_without_the_distances_is_to_be_made_again(tmp_path, marks, message):
    experiment, plan = with_marks(tmp_path / "runs")
    run = next(stage.folder for stage in plan.stages if stage.name == "plain-all")
    for path in (run / "curves").iterdir():
        path.unlink()
    if marks is not None:
        write_curve(run, {key: row[:2] for key, row in DISTANCES.items()}, marks)
    with pytest.raises(FileNotFoundError, match=f"{message}.*: delete .* and give the same command again"):
        publish(experiment, plan, tmp_path / "results")


def test_curves_are_of_the_targets_of_a_case(tmp_path):
    experiment, plan = every_target(tmp_path / "runs")
    experiment = dataclasses.replace(experiment, columns=["median_at"], marks=[100])
    folder = next(stage.folder for stage in plan.stages if stage.name == "plain-all")
    write_curve(folder, {(3, 1): [0.5], (3, 2): [0.25], (5, 0): [1.0], (5, 2): [inf]}, [100])
    best, worst = (build_cell(experiment, plan, row, tmp_path) for row in experiment.rows)
    told = [curve_of(cell, cell_rows(cell, tmp_path), tmp_path)[100] for cell in (best, worst)]
    assert [one.index.tolist() for one in told] == [[(3, 2), (5, 0)], [(3, 1), (5, 2)]]
    assert told[0].tolist() == [0.25, 1.0] and told[1].tolist() == [0.5, inf]
    ratio = ratio_of_medians(told[0].to_frame(), told[1].to_frame(), 100, of_images=True)
    assert (ratio["n"], ratio["value"]) == (2, None)  # half of the baseline's images at infinity


def curve(values):
    keys = pd.MultiIndex.from_tuples([key if isinstance(key, tuple) else (key, -1) for key in values])
    return pd.DataFrame({5: list(values.values())}, index=keys.set_names(["index", "target"]))


def test_a_ratio_of_medians_resamples_images_with_all_their_targets():
    ones = curve({1: 1.0, 2: 1.0, 9: 7.0})
    # Resamples are (1, 1), (1, 9), (9, 9), whose medians are 1, 5, 9.
    told = ratio_of_medians(curve({2: 9.0, 1: 1.0}), ones, 5)
    assert told == {"n": 2, "value": 5.0, "low": 1.0, "high": 9.0}
    both = curve({(1, 0): 1.0, (1, 2): 1.0, (2, 0): 9.0, (2, 1): 9.0})
    assert ratio_of_medians(both, both / both, 5) == told | {"n": 4}
    uneven = curve({(1, 0): 2.0, (2, 0): 2.0, (2, 1): 2.0})
    assert ratio_of_medians(uneven, uneven / 4, 5) == {"n": 3, "value": 4.0, "low": 4.0, "high": 4.0}
    assert ratio_of_medians(curve({1: 3.0}), ones, 5) == {"n": 1, "value": 3.0, "low": None, "high": None}
    lost = curve(dict.fromkeys(range(3), 1.0) | {3: inf})
    assert ratio_of_medians(lost, curve(dict.fromkeys(range(4), 1.0)), 5)["value"] == 1.0
    with pytest.raises(ValueError, match="1 of 4 rows have none of the baseline's 3 beside them"):
        ratio_of_medians(lost, lost[:3], 5)


def test_pictures_of_curves_show_what_they_were_drawn_from(published):
    experiment, folder = published
    _, cells = read_page(folder)
    lines = draw_picture(experiment.pictures["distortion"], cells, folder).axes[0].lines
    assert [line.get_label() for line in lines] == ["plain, all (n = 3)", "tuned, all (n = 3)"]
    assert [np.nan_to_num(line.get_ydata(), nan=-1).round(6).tolist() for line in lines] == [
        [-1, 0.6, 0.5],
        [-1, 0.3, 0.25],
    ]
    axes = draw_picture(experiment.pictures["within"], cells, folder).axes[0]
    (line,) = axes.lines
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == (MARKS, [pytest.approx(1 / 3)] * 3)
    wider = draw_picture(Picture("within", ["plain, all"], threshold=0.5), cells, folder).axes[0].lines[0]
    assert wider.get_ydata().tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    first, second = cells
    other = dataclasses.replace(first, curve={**(first.curve or {}), "sha256": "0"})
    hashes = {
        source_hash(picture, drawn)
        for picture in (Picture("distortion"), *(Picture("within", threshold=size) for size in (0.4, 0.5)))
        for drawn in ([first, second], [other, second])
    }
    assert len(hashes) == 6


COLUMNS = {"columns": ["median_at", "success_at"], "marks": [20], "threshold": 0.5}
UNCOMMON = next(mark for mark in range(20, 40) if mark not in query_marks(40))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (COLUMNS, None),
        ({"marks": []}, "marks: column median_at needs the numbers of queries that it shows, e.g. [4000, 8000]"),
        ({"marks": [30, 20]}, "marks must be numbers of queries from 1, ascending, each once, got [30, 20]"),
        ({"marks": [0, 20]}, "marks must be numbers of queries from 1, ascending, each once, got [0, 20]"),
        ({"marks": ["many"]}, "marks"),
        (
            {"columns": ["queries"], "threshold": None},
            "marks: no column shows [20]: add median_at, mean_at, success_at",
        ),
        (
            {"threshold": None},
            "threshold: column success_at, and nothing else, has the distance that counts, above 0; got",
        ),
        ({"columns": ["median_at"]}, "threshold: column success_at, and nothing else, has the distance that counts"),
        ({"threshold": 0.0}, "threshold: column success_at, and nothing else, has the distance that counts"),
        (
            {"marks": [20, 50]},
            "marks: 50 is above the budget of stage nes, 40: raise that budget, or leave the mark out",
        ),
        (
            {"marks": [UNCOMMON]},
            f"marks: {UNCOMMON} is no point of the curve of stage nes: give a number of one signif",
        ),
        ({"pictures": {"p": {"kind": "within"}}}, "pictures.p.threshold: kind within, and no other, has the distance"),
        ({"pictures": {"p": {"kind": "success", "threshold": 1.0}}}, "pictures.p.threshold: kind within, and no other"),
        (
            {"rows": [{"method": "a", "stage": "nes", "reported": {"median_at": {4000: 1.5}}}], "pictures": {}},
            "rows[0].reported.median_at: a number of queries is in quotes, e.g. '4000', got 4000",
        ),
        (
            {"rows": [{"method": "a", "stage": "nes", "reported": {"success_at": {"4000": 46}}}], "pictures": {}},
            "rows[0].reported.success_at.4000 must be a fraction from 0 to 1, got 46",
        ),
        (
            {"stages": {"nes": {"attack": "CarliniWagner", "budget": 40}}},
            "marks: distances in one norm can be compared, these are of several (ZO-NGD in linf, NES-PGD in l2)",
        ),
    ],
    ids=str,
)
def test_marks_that_do_not_fit_are_told_before_any_work(tmp_path, change, message):
    values = {**COLUMNS, **change}
    stages = tiny()["stages"]
    for name, options in values.get("stages", {}).items():
        stages[name]["options"] = options
    file = written(tmp_path, **{**values, "stages": stages})
    if message is None:
        make_plan(load_experiment(file, "digits"), "digits", file=file, runs=tmp_path / "runs")
        return
    with pytest.raises(ValueError) as told:
        make_plan(load_experiment(file, "digits"), "digits", file=file, runs=tmp_path / "runs")
    assert str(told.value).startswith(f"{file}: {message}")
