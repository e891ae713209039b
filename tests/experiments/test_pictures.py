"""Figures drawn from cells."""

import dataclasses

import pytest

from experiments.building import build_cell
from experiments.experiment import Picture
from experiments.pictures import draw_picture, drawn_from, save_picture, setting_lines, source_hash, spans_decade
from tests.experiments.published import attack_experiment, certificate_experiment, study_experiment


def cells_of(made, tmp_path):
    experiment, plan = made
    return [build_cell(experiment, plan, row, tmp_path) for row in experiment.rows]


@pytest.fixture
def attacks(tmp_path):
    return cells_of(attack_experiment(tmp_path / "runs"), tmp_path)


def at(cell, method, **settings):
    """The cell of another method, with other settings of its attack."""
    changed = {f"attack.init_args.{key}": value for key, value in settings.items()}
    settings = cell.config["settings"] | changed
    return dataclasses.replace(cell, method=method, config={**cell.config, "settings": settings})


def test_success_is_drawn_up_to_the_budget(attacks, tmp_path):
    axes = draw_picture(Picture("success", ["tuned, all"]), attacks, tmp_path).axes[0]
    (line,) = axes.lines
    assert (line.get_xdata().tolist(), line.get_ydata()[-1]) == ([1, 10, 30, 100], pytest.approx(2 / 3))
    assert line.get_label() == "tuned, all (n = 3)"
    assert len(draw_picture(Picture("success"), attacks, tmp_path).axes[0].lines) == 2


def test_certified_accuracy_is_drawn_for_each_line(tmp_path):
    cells = cells_of(certificate_experiment(tmp_path / "runs"), tmp_path)
    lines = draw_picture(Picture("certified"), cells, tmp_path).axes[0].lines
    assert [line.get_ydata()[0] for line in lines] == [0.75, 0.5]


def test_rows_that_differ_in_one_setting_make_a_line(attacks):
    base = attacks[0]
    cells = [
        at(base, "paper's, mu 1, epsilon 0.4", mu=1),
        at(base, "paper's, mu 0.01, epsilon 0.4", mu=0.01),
        at(base, "ours, mu 1, epsilon 0.4", mu=1, accept="iterates"),
        at(base, "ours, mu 0.1, epsilon 0.4", mu=0.1, accept="iterates"),
        at(base, "ours, mu 1, epsilon 0.2", mu=1, accept="iterates", epsilon=0.2),
    ]
    lines = setting_lines(Picture("queries_vs", [], "attack.mu"), cells)
    assert {name: table["x"].tolist() for name, table in lines.items()} == {
        "paper's, epsilon 0.4": [1, 0.01],
        "ours, epsilon 0.4": [1, 0.1],
        "ours, mu 1, epsilon 0.2": [1],
    }
    queries = base.measured["queries"]
    assert lines["ours, mu 1, epsilon 0.2"].iloc[0].tolist() == [1, queries["mean"], queries["low"], queries["high"]]
    rates = setting_lines(Picture("success_vs", [], "attack.mu"), cells)
    assert rates["ours, epsilon 0.4"]["low"].tolist() == [base.measured["success_rate"]["low"]] * 2


def test_a_decade_of_the_setting_has_a_logarithmic_axis(attacks, tmp_path):
    base = attacks[0]
    picture = Picture("success_vs", [], "attack.mu")
    for small, scale in ((0.1, "log"), (0.2, "linear")):
        cells = [at(base, "a, 1", mu=1), at(base, "a, 2", mu=small)]
        axes = draw_picture(picture, cells, tmp_path).axes[0]
        assert (axes.get_xscale(), axes.get_xlabel()) == (scale, "mu")
        assert axes.get_xticks().tolist() == [small, 1]
    assert not spans_decade([0.0, 1.0])


def test_a_study_is_drawn_as_it_says(tmp_path):
    cells = cells_of(study_experiment(tmp_path / "runs"), tmp_path)
    axes = draw_picture(Picture("study"), cells, tmp_path).axes[0]
    assert axes.containers[0][0].get_ydata().tolist() == [3, 2, 1]
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "gamma", "mean loss")
    lines = [{"name": "loss", "values": [3, 2, 1]}]  # without intervals
    bars = dataclasses.replace(cells[0], measured=cells[0].measured | {"kind": "bars", "lines": lines})
    axes = draw_picture(Picture("study"), [bars], tmp_path).axes[0]
    assert [patch.get_height() for patch in axes.patches] == [3, 2, 1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.01", "0.1", "1"]


def test_a_picture_tells_what_it_was_drawn_from(attacks, tmp_path):
    picture = Picture("success", ["tuned, all"])
    save_picture(picture, attacks, tmp_path, "a")
    assert drawn_from(tmp_path / "a.png") == source_hash(picture, attacks)
    first, second = attacks
    changed = dataclasses.replace(second, records={**second.records, "sha256": "0"})
    hashes = {
        source_hash(picture, cells)
        for cells in ([first, second], [first, changed], [first, at(second, "tuned, all", mu=7)])
    }
    assert len(hashes | {source_hash(Picture("success"), attacks)}) == 4
    untouched = dataclasses.replace(first, records={**first.records, "sha256": "0"})
    assert source_hash(picture, [untouched, second]) == source_hash(picture, attacks)  # not drawn


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Picture("success", ["nobody"]), r"names the rows \['nobody'\]"),
        (Picture("success_vs"), "needs over"),
        (Picture("success_vs", [], "attack.accept"), "attack.accept of plain, all is 'all': only numbers"),
        (Picture("queries_vs", [], "attack.samples"), "plain, all has no setting attack.samples"),
        (Picture("study"), "draws one study row, got plain, all, tuned, all"),
    ],
)
def test_a_picture_that_cannot_be_drawn_says_why(attacks, tmp_path, picture, message):
    with pytest.raises(ValueError, match=message):
        draw_picture(picture, attacks, tmp_path)
