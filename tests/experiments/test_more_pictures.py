"""Figures of distances over a setting, of transfer, and of example images."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.building import build_cell
from experiments.checks import check_published
from experiments.examples import read_examples
from experiments.experiment import Picture
from experiments.pictures import draw_picture, source_hash
from experiments.plan import Plan
from experiments.publish import publish
from tests.experiments.published import DATA, attack_experiment
from tests.experiments.test_pictures import at


@pytest.fixture
def cells(tmp_path):
    experiment, plan = attack_experiment(tmp_path / "runs")
    return [build_cell(experiment, plan, row, tmp_path) for row in experiment.rows]


def test_success_and_distances_over_a_setting_are_panels(cells, tmp_path):
    drawn = [
        at(cells[0], f"{rule}, beta {beta}", beta=beta, rule=rule) for rule in ("en", "l1") for beta in (0.1, 0.01)
    ]
    figure = draw_picture(Picture("lines", [], "attack.beta"), drawn, tmp_path)
    names = [axes.get_ylabel() for axes in figure.axes]
    assert names == ["attack success rate", *(f"$\\ell_{norm}$, mean" for norm in ("1", "2", "\\infty"))]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["en", "l1"]
    for axes, value in zip(figure.axes, (2 / 3, 2.0, 0.5, 0.125), strict=True):
        assert (axes.get_xscale(), axes.get_xlabel()) == ("log", "beta")
        lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker() == "o"]
        assert [line.get_xdata().tolist() for line in lines] == [[0.01, 0.1]] * 2
        assert np.concatenate([line.get_ydata() for line in lines]) == pytest.approx(value)


def tried_on(cell, victim, rate):
    measured = {**cell.measured, "success_rate": {"value": rate, "low": None, "high": None}}
    method = f"{cell.method.partition(',')[0]}, {victim}"
    return dataclasses.replace(cell, method=method, subject={**cell.subject, "name": victim}, measured=measured)


def test_transfer_is_a_line_a_method_and_a_column_a_victim(cells, tmp_path):
    drawn = [tried_on(cells[0], "own", 1.0), tried_on(cells[0], "other", 0.25), tried_on(cells[1], "own", 0.5)]
    axes = draw_picture(Picture("transfer"), drawn, tmp_path).axes[0]
    told = [[label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())]
    assert told == [["plain", "tuned, own"], ["own", "other"]]
    assert {(*text.get_position(), text.get_text()) for text in axes.texts} == {
        (0, 0, "100.0"), (1, 0, "25.0"), (0, 1, "50.0"),
    }  # fmt: skip
    with pytest.raises(ValueError, match="one rate a method and victim, but plain, own has several"):
        draw_picture(Picture("transfer"), [drawn[0], *drawn], tmp_path)
    renamed = [tried_on(cells[0], "elsewhere", 1.0), *drawn[1:]]
    assert source_hash(Picture("transfer"), drawn) != source_hash(Picture("transfer"), renamed)


def with_images(runs, targets=(-1,)) -> tuple:
    """The two attacks with their adversarial images, grey ones, and a picture of the first two."""
    experiment, plan = attack_experiment(runs)
    selection = {"split": "test", "count": 4, "start": 0, "stride": 1}
    plan = Plan(
        plan.experiment, plan.file, plan.scale, plan.runs,
        [dataclasses.replace(stage, data=DATA, images=selection) for stage in plan.stages],
    )  # fmt: skip
    indices = first_digits()
    for number, name in enumerate(("plain-all", "tuned-all")):
        folder = next(stage.folder for stage in plan.stages if stage.name == name) / "adversarial"
        folder.mkdir(parents=True)
        for batch in ([indices[2], indices[0]], [indices[1], indices[3]]):
            pairs = [(index, target) for index in batch for target in targets]
            piece = {
                "index": np.array([index for index, _ in pairs]),
                "target": np.array([target for _, target in pairs]),
                "label": np.array([index % 3 for index, _ in pairs]),
                "predicted": np.array([max(target, 0) for _, target in pairs]),
                "success": np.array([index != indices[1] for index, _ in pairs]),
                "adversarial": np.full((len(pairs), 1, 8, 8), 0.2 * (number + 1), np.float32),
            }
            save_file(piece, folder / f"{batch[0]}.safetensors")
    picture = Picture("strip", images=2, title="Images")
    return dataclasses.replace(experiment, pictures={"strip": picture}), plan


def first_digits() -> list[int]:
    from datamodules import Digits

    split = Digits(seed=0).dataset("test")
    return [int(split[place]["index"]) for place in range(4)]


def test_images_of_the_lines_are_published_and_drawn(tmp_path):
    experiment, plan = with_images(tmp_path / "runs")
    folder = publish(experiment, plan, tmp_path / "results")
    assert check_published(folder) == []
    told = read_examples(folder / "examples" / "tuned-all.safetensors")
    assert sorted(told["index"].tolist()) == sorted(first_digits()[:2])
    assert told["adversarial"] == pytest.approx(np.full((2, 1, 8, 8), 0.4)) and told["original"].max() > 0.9
    cells = [build_cell(experiment, plan, row, tmp_path / "again") for row in experiment.rows]
    figure = draw_picture(experiment.pictures["strip"], cells, tmp_path / "again")
    grid = np.array(figure.axes).reshape(3, 2)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["original", "plain, all", "tuned, all"]
    assert [len(axes.images) for axes in grid.flatten()].count(0) == 2  # the image that neither run won
    other = load_file(folder / "examples" / "plain-all.safetensors")
    other["adversarial"][:] = 7
    save_file(other, folder / "examples" / "plain-all.safetensors")
    assert any("examples/plain-all.safetensors is not the file" in fault for fault in check_published(folder))


def test_an_attack_on_all_targets_is_a_grid_of_images_and_classes(tmp_path):
    experiment, plan = with_images(tmp_path / "runs", targets=(3, 4))
    cells = [build_cell(experiment, plan, row, tmp_path / "out") for row in experiment.rows]
    figure = draw_picture(experiment.pictures["strip"], cells, tmp_path / "out")
    assert [block.get_suptitle() for block in figure.subfigs] == ["plain, all", "tuned, all"]
    grid = np.array(figure.subfigs[0].axes).reshape(2, 5)
    shown = np.array([[len(axes.images) for axes in line] for line in grid])
    labels = [index % 3 for index in sorted(first_digits()[:2])]
    won = [index != first_digits()[1] for index in sorted(first_digits()[:2])]
    for line, label, success in zip(shown, labels, won, strict=True):
        assert line[label] >= 1 and line[3] == line[4] == int(success) and line.sum() == line[label] + 2 * success


def test_a_run_that_kept_no_images_is_to_be_made_again(tmp_path):
    experiment, plan = with_images(tmp_path / "runs")
    folder = next(stage.folder for stage in plan.stages if stage.name == "plain-all")
    for path in (folder / "adversarial").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"plain-all kept no adversarial images of 2 images .*: delete "):
        publish(experiment, plan, tmp_path / "results")
