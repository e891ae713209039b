"""What optimizers reached on the same problems: the table, its ratios, the pictures."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.building import build_cell
from experiments.checks import check_published
from experiments.experiment import Experiment, Picture, Ratio, Row
from experiments.optimizations import figures_table, losses_figure, ratio_of_figures
from experiments.page import read_page
from experiments.pictures import draw_picture, source_hash
from experiments.plan import Plan
from experiments.publish import publish
from experiments.tables import table_markdown
from tests.experiments.published import read_json, study_experiment
from zeroth.records import write_json


def measured(method, **losses):
    """A study of images by their numbers, e.g. ``i3=2.0``."""
    told = {"index": [int(name[1:]) for name in losses], "final loss": list(losses.values())}
    return SimpleNamespace(method=method, stage=method, measured={"by_index": told})


def test_a_ratio_of_figures_is_of_the_means_over_what_both_measured():
    sgd = measured("SGD", i9=1.0, i1=2.0, i2=2.0)  # image 7 diverged
    told = ratio_of_figures(measured("LSTM", i1=1.0, i2=9.0, i7=50.0), sgd, "final loss")
    # Resamples are (1, 1), (1, 9), (9, 9) over a baseline of 2: a quarter of them at either end.
    assert told == {"n": 2, "value": 2.5, "low": 0.5, "high": 4.5}
    paired = ratio_of_figures(measured("LSTM", i2=1.6, i1=1.6, i9=0.8), sgd, "final loss")
    assert paired == pytest.approx({"n": 3, "value": 0.8, "low": 0.8, "high": 0.8})  # whatever the images differ in
    nothing = {"n": 1, "value": None, "low": None, "high": None}
    assert ratio_of_figures(measured("LSTM", i1=1.0), measured("SGD", i1=0.0), "final loss") == nothing
    with pytest.raises(ValueError, match="the same images, but LSTM and SGD have none in common"):
        ratio_of_figures(measured("LSTM", i5=1.0), sgd, "final loss")
    with pytest.raises(ValueError, match=r"SGD does not tell 'success' by image: delete study\.json in the folder of"):
        ratio_of_figures(sgd, sgd, "success")


def two_studies(runs: Path) -> tuple[Experiment, Plan]:
    """Two optimizers on images 1 to 3, the second with half the loss of the first."""

    def told(scale: float) -> dict:
        figure = {"name": "final loss", "values": [2 * scale], "low": [scale], "high": [3 * scale]}
        return {"summary": [figure], "by_index": {"index": [1, 2, 3], "final loss": [scale, 2 * scale, 3 * scale]}}

    experiment, plan = study_experiment(runs, asked=[0, 21, 42], **told(1.0))
    first = plan.stages[1]
    second = replace(first, name="half", folder=first.folder.with_name("half"))
    shutil.copytree(first.folder, second.folder)
    write_json(second.folder / "study.json", read_json(second.folder / "study.json") | told(0.5))
    rows = [Row("SGD", "gamma"), Row("LSTM", "half", ratio_to=Ratio("SGD", "final loss"))]
    stages = experiment.stages | {"half": experiment.stages["gamma"]}
    return replace(experiment, stages=stages, rows=rows, pictures={}), replace(plan, stages=[*plan.stages, second])


def test_ratios_of_studies_are_published(tmp_path):
    folder = publish(*two_studies(tmp_path / "runs"), tmp_path / "results")
    page, (sgd, lstm) = read_page(folder)
    assert check_published(folder) == [] and sgd.ratio is None and "ratio" not in read_json(folder / "gamma.json")
    half = {"value": 0.5, "low": 0.5, "high": 0.5}
    assert lstm.ratio == {"row": "SGD", "of": "final loss", "n": 3, **half, "reported": None}
    head = "final loss / that of SGD [95 % CI]"
    assert figures_table([sgd, lstm])[head].tolist() == ["-", "0.5 [0.5, 0.5], n 3"]
    assert "bootstrap over the images; ratios are of the means over the n that both lines measured" in page.table(
        [sgd, lstm]
    )


def cell(method, loss, delta=None):
    line = {"name": "loss", "values": [2.0, loss], "low": [1.5, loss - 0.5], "high": [2.5, loss + 0.5]}
    figure = {"name": "final loss", "values": [loss], "low": [loss - 0.5], "high": [loss + 0.5]}
    told = {"n": 9, "lines": [line], "summary": [figure], "x": {"values": [0, 1]}, "asked": [0, 21]}
    return SimpleNamespace(method=method, ratio=None, measured=told | ({"tuning": {"chosen": delta}} if delta else {}))


def test_figures_stand_in_a_table_and_losses_in_a_picture():
    cells = [cell("ZO-LSTM", 1.0), cell("ZO-ADAM", 1.25, {"delta": 8.0, "betas": [0.9, 0.996]})]
    table = figures_table(cells)
    assert table.to_numpy().tolist() == [
        ["ZO-LSTM", "9", "1 [0.5, 1.5]", "-"],
        ["ZO-ADAM", "9", "1.25 [0.75, 1.75]", "delta 8, betas 0.9 0.996"],
    ]
    assert list(figures_table(cells[:1])) == ["method", "n", "final loss [95 % CI]"]
    for over, last in (("iterations", 1), ("queries", 21)):
        (axes,) = losses_figure(cells, over).get_axes()
        ends = {(float(line.get_xdata()[-1]), float(line.get_ydata()[-1])) for line in axes.get_lines()}
        assert ends >= {(last, 1.0), (last, 1.25)} and axes.get_yscale() == "linear"
    (axes,) = losses_figure([cell("far", 0.6)], "iterations").get_axes()  # from at most 2.5 to at least .1
    assert axes.get_yscale() == "log"
    (axes,) = losses_figure([cell("below", 0.25)], "iterations").get_axes()  # to at least -.25
    assert axes.get_yscale() == "linear"
    other = cell("other", 1.0)
    other.measured["summary"][0]["name"] = "area"
    with pytest.raises(ValueError, match="other has other figures than ZO-LSTM: measure it anew"):
        figures_table([cells[0], other])


def test_single_images_have_panels_of_their_own_with_what_trials_differ_by():
    one, two = cell("ZO-LSTM", 1.0), cell("ZO-ADAM", 1.25)
    for at, told in enumerate((one, two)):
        told.measured["single"] = {
            "index": [7, 9],
            "losses": [[4.0, 2.0 + at], [3.0, 1.0 + at]],
            "spread": [[0.0, 0.5], [0.0, 0.25]],
        }
    figure = losses_figure([one, two], "queries", 2)
    panels = {axes.get_ylabel(): axes for axes in figure.axes}
    assert list(panels) == ["loss, number 7", "loss, number 9"]
    drawn = panels["loss, number 9"].containers
    assert [container.lines[0].get_xydata().tolist() for container in drawn] == [
        [[0.0, 3.0], [21.0, 1.0 + at]] for at in (0, 1)
    ]
    whiskers = drawn[1].lines[2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in whiskers] == [[3.0, 3.0], [1.75, 2.25]]
    assert len(losses_figure([one, two], "iterations", 1).axes) == 1
    with pytest.raises(
        ValueError, match=r"ZO-LSTM tells the losses of \[7, 9\], of which the first 3 were to be those"
    ):
        losses_figure([one, two], "iterations", 3)
    two.measured["single"]["index"] = [7, 8]
    with pytest.raises(ValueError, match=r"ZO-ADAM tells the losses of \[7, 8\]"):
        losses_figure([one, two], "iterations", 2)


def study_cells(tmp_path):
    """Published studies of two optimizers at sizes of 4, 16 and 64 coordinates."""
    figures = [
        {"name": name, "values": [level], "low": [level - 0.1], "high": [level + 0.1]}
        for name, level in (("final loss", 2.0), ("success", 0.5))
    ]
    experiment, plan = study_experiment(tmp_path / "runs", summary=figures, asked=[0, 21, 42])
    base = build_cell(experiment, plan, experiment.rows[0], tmp_path)
    for name in ("SGD", "ADAM"):
        for side in (8, 2, 4):
            settings = {**base.config["settings"], "size": [side, side], "rule.class_path": name}
            yield replace(base, method=f"{name}, {side}", config={**base.config, "settings": settings})


def test_figures_are_drawn_against_a_size_and_losses_of_published_cells(tmp_path):
    cells = list(study_cells(tmp_path))
    figure = draw_picture(Picture("figures", over="size"), cells, tmp_path)
    assert [axes.get_ylabel() for axes in figure.axes] == ["final loss", "success"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SGD", "ADAM"]
    for axes, value in zip(figure.axes, (2.0, 0.5), strict=True):
        drawn = [line for line in axes.lines if line.get_marker() == "o"]
        assert [line.get_xdata().tolist() for line in drawn] == [[4, 16, 64]] * 2 and axes.get_xscale() == "log"
        assert {y for line in drawn for y in line.get_ydata()} == {value}
    picture = Picture("losses", over="queries")
    (axes,) = draw_picture(picture, cells[:1], tmp_path).axes
    assert axes.lines[0].get_xdata().tolist() == [0, 21, 42] and axes.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert source_hash(picture, cells[:1]) != source_hash(Picture("losses", over="iterations"), cells[:1])
    table = table_markdown("study", "Somebody", cells)
    assert "final loss [95 % CI]" in table and "2 [1.9, 2.1]" in table
    with pytest.raises(ValueError, match="size of SGD, 8 is 'small': only numbers can stand on an axis"):
        settings = {**cells[0].config["settings"], "size": "small"}
        wrong = replace(cells[0], config={**cells[0].config, "settings": settings})
        draw_picture(Picture("figures", over="size"), [wrong], tmp_path)
