"""What is drawn against a setting, read back from the axes."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from zeroth.records.charts import bars_figure, setting_figure


def table(x, values, low=None, high=None):
    low, high = (values if ends is None else ends for ends in (low, high))
    return pd.DataFrame({"x": x, "value": values, "low": low, "high": high}, dtype=float)


def test_points_stand_in_order_with_their_intervals():
    rows = table([0.4, 0.1, 0.2], [0.9, 0.3, 0.5], [0.8, 0.1, np.nan], [1.0, 0.4, np.nan])
    axes = setting_figure({"ours": rows}, x="epsilon", y="rate", percent=True).axes[0]
    line, _, (bars,) = axes.containers[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.1, 0.2, 0.4], [0.3, 0.5, 0.9])
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert np.allclose(ends, [[0.1, 0.4], [0.5, 0.5], [0.8, 1.0]])
    assert axes.get_xticks().tolist() == [0.1, 0.2, 0.4]  # what was tried, and no more
    assert axes.get_ylim() == (0, 1.01)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours"]


def test_many_points_have_a_band():
    x = np.geomspace(0.01, 100, 11)
    axes = setting_figure({"loss": table(x, x, x / 2, 2 * x)}, x="gamma", y="loss", log_x=True, log_y=True).axes[0]
    corners = axes.collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0.005, 200)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


@pytest.mark.parametrize(("values", "bottom"), [([3.0, 5.0], 0.0), ([-1.0, 5.0], None)])
def test_an_axis_of_positive_values_begins_at_zero(values, bottom):
    axes = setting_figure({"a": table([1, 2], values)}, x="x", y="y").axes[0]
    assert axes.get_ylim()[0] == bottom if bottom is not None else axes.get_ylim()[0] < -1


@pytest.mark.parametrize("runs", [1, 3])
def test_bars_of_a_group_stand_side_by_side(runs):
    tables = {
        f"run {k}": table([1, 2], [k + 1.0, k + 2.0], [k + 0.5, k + 1.0], [k + 1.5, k + 4.0]) for k in range(runs)
    }
    figure = bars_figure(["first", "second"], tables, x="rank", y="share")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["first", "second"]
    drawn = list(axes.patches)
    assert [bar.get_height() for bar in drawn] == [height for k in range(runs) for height in (k + 1, k + 2)]
    edges = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in drawn)
    assert all(left[1] <= right[0] + 1e-9 for left, right in pairwise(edges))
    assert np.isclose(np.mean([bar.get_x() + bar.get_width() / 2 for bar in drawn]), 0.5)  # centred on 0 and 1
    assert (axes.get_legend() is None) == (runs == 1)
    assert [label.get_text() for label in axes.texts] == (["1", "2"] if runs == 1 else [])


def test_bars_of_several_magnitudes_can_be_told_apart():
    values = [0.98, 0.012, 0.0001]
    axes = bars_figure(["1", "2", "3"], {"p": table([1, 2, 3], values, 0, 1)}, x="rank", y="share", log_y=True).axes[0]
    assert axes.get_yscale() == "log" and axes.get_ylim()[0] < 0.0001
    assert [label.get_text() for label in axes.texts] == ["0.98", "0.012", "0.0001"]
